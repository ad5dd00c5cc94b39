"""Who gets what, and what would happen to an event."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem


def subscriptions(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")
