"""Deliveries by any filter, and their export."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem


def deliveries(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")


def export(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")
