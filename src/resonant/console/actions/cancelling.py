"""Cancel unfinished deliveries."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Done, Page
from resonant.intake.problems import Problem


def plan(connection: Connection, asked: Asked) -> Page:
    """Not built yet."""
    raise Problem(404, "not built yet")


async def cancel(asked: Asked) -> Done:
    """Not built yet."""
    raise Problem(404, "not built yet")
