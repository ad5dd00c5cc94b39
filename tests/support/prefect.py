"""An HTTP client for a Prefect server that retries while the server is busy, like Prefect's own client."""

from __future__ import annotations

import json
import time

import httpx

_BUSY = 503
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.2


class _Patient(httpx.HTTPTransport):
    """Retries while the server answers 503: its SQLite allows one writer at a time."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while (
            response := super().handle_request(request)
        ).status_code == _BUSY and time.monotonic() < give_up_at:
            response.close()
            time.sleep(_PAUSE_SECONDS)
        return response


def patient_client(api_url: str, **options) -> httpx.Client:
    """Return a client that waits while the server is busy, and raises on error statuses unless ``event_hooks`` is empty."""
    hooks = {"response": [httpx.Response.raise_for_status]}
    given = {"timeout": 30, "event_hooks": hooks} | options
    return httpx.Client(base_url=api_url, transport=_Patient(), **given)


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
