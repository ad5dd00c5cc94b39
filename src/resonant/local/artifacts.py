"""The artifacts about undelivered events, and the addresses of their pages, which Prefect's menu does not show."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from resonant.local.note import is_held, lock_of_up, read_note
from resonant.local.server import Server, configured_url
from resonant.settings import Settings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import ArtifactCollection

TRIAGE_ARTIFACT, GATES_ARTIFACT, METRICS_ARTIFACT = "dead-letter-triage", "held-endpoints", "metrics"
# With the deployments whose runs write them.
PAGES = {
    TRIAGE_ARTIFACT: "collect-dead-letters",
    GATES_ARTIFACT: "collect-dead-letters",
    METRICS_ARTIFACT: "export-metrics",
}


def page(ui_url: str, artifact: str) -> str:
    """Return the address of an artifact in a UI."""
    return f"{ui_url.rstrip('/')}/artifacts/key/{artifact}"


def known_page(settings: Settings, artifact: str) -> str | None:
    """Return the address of an artifact in the known UI; None without one."""
    ui_url = known_ui(settings)
    return page(ui_url, artifact) if ui_url else None


def known_ui(settings: Settings) -> str | None:
    """Return the address of the UI of the configured server, or of ``resonant up``, without a password; None without one.

    No request is sent.
    """
    ui_url, api_url = os.environ.get("PREFECT_UI_URL"), configured_url()
    if api_url is None and is_held(lock_of_up(settings)) and (note := read_note(settings)):
        api_url = note.api_url
    if not ui_url and api_url:
        ui_url = Server(api_url.rstrip("/")).ui_url
    if not ui_url:
        return None
    parts = urlsplit(ui_url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


async def read_pages(client: PrefectClient) -> list[ArtifactCollection]:
    """Return those artifacts that exist, in their newest version."""
    from prefect.client.schemas.filters import ArtifactCollectionFilter

    of_keys = ArtifactCollectionFilter.model_validate({"key": {"any_": [*PAGES]}})
    return await client.read_latest_artifacts(artifact_filter=of_keys)


async def create_missing() -> None:
    """Create the artifacts that Prefect's server lacks, so that their pages exist before the first run writes them."""
    from prefect.client.orchestration import get_client

    async with get_client() as client:
        found = {each.key for each in await read_pages(client)}
        for key, writer in PAGES.items():
            if key not in found:
                text = f"Nothing yet: the next run of `{writer}` writes this page."
                # The page shows the description, and a link to each version's data.
                new = {"key": key, "type": "markdown", "description": text, "data": text}
                # The client's own method also emits an event, which fails behind a proxy without websockets.
                await client.request("POST", "/artifacts/", json=new)
