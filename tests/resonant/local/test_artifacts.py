"""The pages of artifacts, on the configured Prefect server or on that of a running `resonant up`; neither is asked."""

import json

import pytest

from resonant.local import stack
from resonant.local.artifacts import TRIAGE_ARTIFACT, known_page
from resonant.local.note import note_of_up
from resonant.settings import Settings


@pytest.fixture(autouse=True)
def nothing_configured(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_UI_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


def page(settings):
    return known_page(settings, TRIAGE_ARTIFACT)


def test_it_is_on_the_configured_server(settings, monkeypatch):
    assert page(settings) is None
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api/")
    assert page(settings) == "https://prefect.example/artifacts/key/dead-letter-triage"
    monkeypatch.setenv("PREFECT_UI_URL", "https://ui.example/")
    assert page(settings) == "https://ui.example/artifacts/key/dead-letter-triage"


def test_it_is_on_the_server_of_a_running_up(settings):
    noted = {"api_url": "http://127.0.0.1:1/api", "pid": 1, "has_password": True}
    with stack._only_one(settings):
        note_of_up(settings).write_text(json.dumps(noted))
        assert page(settings) == "http://127.0.0.1:1/artifacts/key/dead-letter-triage"
    assert page(settings) is None
