"""Acknowledge causes of dead letters."""

from resonant.console.asked import Asked, Done
from resonant.intake.problems import Problem


async def acknowledge(asked: Asked) -> Done:
    """Not built yet."""
    raise Problem(404, "not built yet")
