"""Who changed what."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem


def audit(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")
