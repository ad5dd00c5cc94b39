"""The receiver's journal: requests as scripts see them, and journal lines."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a script sees it.

    Attributes:
        webhook_id: the header ``webhook-id``; empty if it is missing.
        try_number: counts the requests with this webhook-id, from 1.
        path: the path and query, as sent.
        headers: the headers, with names in lower case.
        received_at: seconds since the epoch.
    """

    webhook_id: str
    try_number: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    received_at: float

    @property
    def event_type(self) -> str:
        """The CloudEvents ``type``, of the header or of a structured event; empty if there is none."""
        if self.headers.get("content-type", "").startswith("application/cloudevents+json"):
            with contextlib.suppress(ValueError):
                event = json.loads(self.body)
                return str(event.get("type", "")) if isinstance(event, dict) else ""
        return self.headers.get("ce-type", "")


@dataclass(frozen=True, slots=True)
class Received(Request):
    """One line of the journal: a request and its answer.

    Attributes:
        action: the action's name, e.g. ``respond`` or ``reset_mid_response``.
        status: the status that the action begins to send, if any.
    """

    action: str
    status: int | None

    def to_json(self) -> str:
        """Return one line of JSON, with the body in base64 and its SHA-256 in hex for quick comparison."""
        fields = asdict(self) | {
            "body": base64.b64encode(self.body).decode(),
            "sha256": hashlib.sha256(self.body).hexdigest(),
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str) -> "Received":
        """Parse a line from ``to_json``."""
        fields = json.loads(line)
        del fields["sha256"]
        return cls(**fields | {"body": base64.b64decode(fields["body"])})


def read_journal(path: Path | str) -> list[Received]:
    """Read a receiver's journal, even while it is being written: an incomplete last line is skipped."""
    lines = Path(path).read_text().splitlines(keepends=True)
    return [Received.from_json(line) for line in lines if line.endswith("\n")]
