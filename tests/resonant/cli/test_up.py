"""What `resonant up` refuses before it starts anything."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture(autouse=True)
def no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def test_a_port_that_is_taken_is_one_line(resonant):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = resonant("up", "--port", str(port), code=1)
    assert refused.err.count("\n") == 1
    assert f"port {port} is in use" in refused.err
    assert f"--port {port + 1}" in refused.err


def test_with_another_server_configured_it_says_how_to_use_that_one(resonant, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    refused = resonant("up", code=1)
    assert refused.err.count("\n") == 1
    assert "http://prefect.example/api" in refused.err
    assert "prefect worker start --pool resonant" in refused.err
