"""A Resonant endpoint that writes each event to a separate file, for programs that watch a folder."""

import asyncio
import hashlib
from pathlib import Path

from pydantic import Field

from resonant import Event
from resonant.blocks import SinkBlock


class SpoolEndpoint(SinkBlock):
    """Writes each event's data to a file; a second attempt of the same event replaces the file."""

    _block_type_name = "Spool Endpoint"
    _block_type_slug = "spool-endpoint"
    _description = "Writes each event to a separate file."

    folder: Path = Field(description="Folder for the files; it must exist.")

    async def deliver(self, event: Event) -> None:
        """Write the file atomically; an ``OSError`` is classified."""
        name = hashlib.sha256((event.webhook_id or event.id).encode()).hexdigest()
        await asyncio.to_thread(_write, self.folder / f"{name}.json", event.body)


def _write(path: Path, body: bytes) -> None:
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(body)
    unfinished.replace(path)
