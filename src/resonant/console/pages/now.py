"""The first page: what needs a person, then the balance and each endpoint."""

from sqlalchemy import Connection

from resonant import documents
from resonant.console.asked import Asked, Page
from resonant.store.views import reads


def now(connection: Connection, asked: Asked) -> Page:
    """Show what needs a person, in order of urgency, then the balance and each endpoint."""
    found = reads.status(connection, now=asked.now)
    return Page("now.html", documents.status(found, now=asked.now), {"found": found})


def status(connection: Connection, asked: Asked) -> Page:
    """Show the document of ``resonant status --json``."""
    return now(connection, asked)
