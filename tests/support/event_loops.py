"""The event loops that a program may run Resonant on."""

import pytest

try:
    from resonant.dispatch.run.uv_loop import UvLoop
except ImportError:
    UvLoop = None

needs_uvloop = pytest.mark.skipif(UvLoop is None, reason="uvloop is not available for this Python")

LOOP_FACTORIES = [pytest.param(None, id="asyncio"), pytest.param(UvLoop, id="uvloop", marks=needs_uvloop)]
ON_BOTH_LOOPS = pytest.mark.parametrize("loop_factory", LOOP_FACTORIES)
