"""Pause, resume and test an endpoint."""

from resonant.console.asked import Asked, Done
from resonant.intake.problems import Problem


async def pause(asked: Asked) -> Done:
    """Not built yet."""
    raise Problem(404, "not built yet")


async def resume(asked: Asked) -> Done:
    """Not built yet."""
    raise Problem(404, "not built yet")


async def test(asked: Asked) -> Done:
    """Not built yet."""
    raise Problem(404, "not built yet")
