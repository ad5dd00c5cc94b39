"""The dead-letter queue by cause, and the dead letters of one cause."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem


def groups(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")


def of_cause(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")
