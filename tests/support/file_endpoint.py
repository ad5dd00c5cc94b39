"""An endpoint without HTTP: it appends each event's data to a file."""

from pathlib import Path

from resonant.blocks.endpoint import SinkBlock


class FileEndpoint(SinkBlock):
    _block_type_name = "File Endpoint"
    _block_type_slug = "file-endpoint"

    path: Path

    async def deliver(self, event):
        with self.path.open("ab") as file:
            file.write(event.body + b"\n")
