"""The artifacts about undelivered events, and the addresses of their pages, which Prefect's menu does not show."""

import os

from resonant.local.note import is_held, lock_of_up, read_note
from resonant.local.server import Server, configured_url
from resonant.settings import Settings

TRIAGE_ARTIFACT, GATES_ARTIFACT, METRICS_ARTIFACT = "dead-letter-triage", "held-endpoints", "metrics"


def page(ui_url: str, artifact: str) -> str:
    """Return the address of an artifact in a UI."""
    return f"{ui_url.rstrip('/')}/artifacts/key/{artifact}"


def known_page(settings: Settings, artifact: str) -> str | None:
    """Return the address of an artifact on the configured server, or on that of ``resonant up``; None without one.

    No request is sent.
    """
    ui_url, api_url = os.environ.get("PREFECT_UI_URL"), configured_url()
    if api_url is None and is_held(lock_of_up(settings)) and (note := read_note(settings)):
        api_url = note.api_url
    if not ui_url and api_url:
        ui_url = Server(api_url.rstrip("/")).ui_url
    return page(ui_url, artifact) if ui_url else None
