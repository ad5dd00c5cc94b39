"""An example of a custom endpoint without HTTP: it appends events to a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from blocks.endpoint import DOCUMENTATION_URL, SinkBlock

if TYPE_CHECKING:
    from resonant.events import Event


class FileEndpoint(SinkBlock):
    """Appends each event's data to a file, one JSON document per line."""

    _block_type_name = "File Endpoint"
    _block_type_slug = "file-endpoint"
    _description = "Appends events to a file; an example of an endpoint without HTTP."
    _documentation_url = DOCUMENTATION_URL

    path: Path = Field(description="File to append to; its folder must exist.")

    async def deliver(self, event: Event) -> None:
        """Append the event's data and sync the file; an ``OSError`` is classified."""
        await asyncio.to_thread(self._append, event.body + b"\n")

    def _append(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
