"""The errors of `resonant up` before it starts anything, and its list of the running parts."""

import socket
import sys
from itertools import chain

import pytest

from resonant.cli.run.up import write_what_runs
from resonant.local.parts import Part, Parts
from resonant.local.server import Server
from resonant.local.stack import Stack
from resonant.settings import load_settings
from support.ports import free_port
from support.sources import declare, row


@pytest.fixture(autouse=True)
def no_server(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.mark.parametrize("option", ["--port", "--serve", "--console"])
def test_a_port_that_is_taken_is_one_line(resonant, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": free_port()} | {option: port}  # that of the server is checked first
        refused = resonant.refused("up", *map(str, chain(*ports.items())))
    assert f"port {port} is in use" in refused
    assert f"{option} {port + 1}" in refused
    same = resonant.refused("up", "--port", "4300", "--serve", "4300", code=2)
    assert same == "--serve 4300 is the port of the server: choose another"
    for other in ("--port", "--serve"):
        same = resonant.refused("up", other, "4300", "--console", "4300", code=2)
        assert same == "--console 4300 is the port of another part: choose another"


def test_an_empty_password_is_refused_before_anything_starts(resonant, monkeypatch):
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "resonant:")
    refused = resonant.refused("up", "--port", str(free_port()), "--console", str(free_port()))
    assert refused.startswith("PREFECT_SERVER_API_AUTH_STRING has no password")


def test_sources_need_a_port_and_a_file_without_mistakes(resonant, tmp_path):
    file = declare(tmp_path, row("github", verfy="x"))
    said = resonant.refused("up", "--sources", str(file), code=2)
    assert said == "--sources needs --serve PORT: the port that accepts webhooks"
    said = resonant.refused("up", "--serve", "4301", "--sources", str(file), code=2)
    assert said == f"{file}: source 'github': unknown setting 'verfy': did you mean verify?"


OTHER = "http://prefect.example/api"
CLOUD = "https://api.prefect.cloud/api/accounts/a/workspaces/w"
NOT_SUPPORTED = f"{CLOUD} is Prefect Cloud, which Resonant does not support: use `resonant up`"


@pytest.mark.parametrize(
    ("configured", "command", "said"),
    [
        (OTHER, "up", OTHER),
        (OTHER, "up", "prefect worker start --pool resonant"),
        (CLOUD, "up", NOT_SUPPORTED),
        (CLOUD, "endpoint list", NOT_SUPPORTED),
    ],
)
def test_with_another_server_configured_the_error_names_the_remedy(
    resonant, monkeypatch, configured, command, said
):
    monkeypatch.setenv("PREFECT_API_URL", configured)
    assert said in resonant.refused(*command.split())


def test_on_a_terminal_paths_and_names_are_not_broken(tmp_path, monkeypatch, capsys):
    for name, value in (("FORCE_COLOR", "1"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    names = [f"{flow}/{flow}" for flow in ("collect-dead-letters", "pause-endpoint", "replay-dead-letters")]
    log = tmp_path / "prefect-server.log"
    parts = Parts()
    parts.start(Part("Prefect server", log, [sys.executable, "-c", ""], {}, start_seconds=60))
    parts.end()
    stack = Stack(Server("http://127.0.0.1:4200/api"), names, parts, False, bool, "http://127.0.0.1:4201")

    sources = ("github", "billing")
    write_what_runs(stack, "sqlite:///resonant.db", load_settings(), intake_port=8080, sources=sources)

    shown = capsys.readouterr().out
    assert "\nconsole      http://127.0.0.1:4201\n" in shown
    to_paste = "http://127.0.0.1:8080/sources"
    assert f"\nsources      {to_paste}/github\n             {to_paste}/billing\n" in shown
    assert "\ndeployments  collect-dead-letters/collect-dead-letters,\n" in shown
    pages = [
        f"http://127.0.0.1:4200/artifacts/key/{key}"
        for key in ("dead-letter-triage", "held-endpoints", "metrics")
    ]
    assert all(name in shown for name in (*names, *pages, str(log)))
