"""Runs the console as an HTTP server."""

import socket
from collections.abc import Callable

from resonant.console.access import Access
from resonant.console.app import create_app
from resonant.console.asked import Console
from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.serving.server import serve

# Operators are few; the store answers a page in much less.
_LIMITS = IntakeLimits(connections=200, waiting=50)


async def run(
    console: Console, access: Access, listener: socket.socket, *, on_start: Callable[[], None]
) -> None:
    """Serve the console until a signal; ``on_start`` is called when it accepts connections."""
    try:
        app = create_app(console, access)
        await serve(app, listener, limits=_LIMITS, meters=Meters(), on_start=on_start)
    finally:
        await console.plans.stop()
