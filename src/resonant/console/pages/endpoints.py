"""Endpoints: a list, and one with its history."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem


def endpoints(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")


def endpoint(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")
