"""Prefect servers, and an HTTP client that retries while one is busy, like Prefect's own client."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from prefect.events import Event
from prefect.logging.handlers import APILogWorker

from resonant.local.server import ServerProcess, api_url_at, kept_server, send_events
from resonant.settings import Settings
from support.failures import show_on_failure
from support.ports import free_port
from support.prefect_database import give_prefect_database
from support.waiting import PATIENCE_SECONDS, wait_until

T = TypeVar("T")

_BUSY = 503
_START_SECONDS = 240.0
_PAUSE_SECONDS = 0.2


@contextmanager
def running_server(
    home: Path, *, port: int | None = None, ui: bool = False, **variables: str
) -> Iterator[tuple[str, ServerProcess]]:
    """Run a Prefect server with the shipped settings and its own home, without a password; yield the URL of its API too."""
    port = port or free_port()
    give_prefect_database(home)
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("resonant.local.server.START_SECONDS", _START_SECONDS)
            patch.setenv("PREFECT_HOME", str(home))
            patch.delenv("PREFECT_API_URL", raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            server = kept_server(Settings(home=home / "resonant"), port=port, ui=ui)
            started = stack.enter_context(server)
            show_on_failure("the Prefect server", started.log)
        yield api_url_at(port), started


def forget_server(api_url: str) -> None:
    """Send what Prefect's client in this process still has for a server that is about to end: later it would try for minutes."""
    send_events(api_url)
    APILogWorker.drain_all(at_exit=False)


class _Patient(httpx.HTTPTransport):
    """Retries while the server answers 503: its SQLite allows one writer at a time."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while (
            response := super().handle_request(request)
        ).status_code == _BUSY and time.monotonic() < give_up_at:
            response.close()
            time.sleep(_PAUSE_SECONDS)
        return response


def patient_client(api_url: str, **options) -> httpx.Client:
    """Return a client that waits while the server is busy, and raises on error statuses unless ``event_hooks`` is empty."""
    hooks = {"response": [httpx.Response.raise_for_status]}
    given = {"timeout": PATIENCE_SECONDS, "event_hooks": hooks} | options
    return httpx.Client(base_url=api_url, transport=_Patient(), **given)


def post_until(api: httpx.Client, condition: Callable[[], T], event: str, **payload: str) -> tuple[T, int]:
    """Post an event with this name each second until the condition is truthy; return its result, and the number of events.

    Prefect's server loads an automation after it has answered that it is saved, so an event may reach the old one, or none.
    """
    posted = 0

    def post() -> T:
        nonlocal posted
        new = Event(event=event, resource={"prefect.resource.id": "example"}, payload=payload)
        api.post("/events", json=[new.model_dump(mode="json")])
        posted += 1
        return condition()

    return wait_until(post, every=1), posted


def everything_on(api_url: str, **options) -> bytes:
    """Read all runs, logs, artifacts, blocks, variables and deployments from the API."""
    kinds = ("flow_runs", "task_runs", "logs", "artifacts", "block_documents", "variables", "deployments")
    found = b""
    with patient_client(api_url, **options) as client:
        for kind in kinds:
            rows: list[dict] = []
            while page := client.post(f"/{kind}/filter", json={"limit": 200, "offset": len(rows)}).json():
                rows += page
            found += json.dumps(rows, ensure_ascii=False).encode()
    return found
