"""Fixtures of the dispatcher's tests."""

import pytest

from resonant.gate.permission import SEND
from support.dispatching import Scene
from support.simulated_time import SimulatedLoop

# The fixtures of tests that need real time.
REAL_TIME = {"real_time", "postgresql", "postgresql_url", "store_url", "receiver"}


@pytest.fixture
def real_time():
    """Let a test use sockets or other threads."""


@pytest.fixture
def anyio_backend(request):
    """Run tests in simulated time, except those that use sockets or other threads."""
    if REAL_TIME.intersection(request.fixturenames):
        return "asyncio"
    return "asyncio", {"loop_factory": SimulatedLoop}


@pytest.fixture(params=[0, 3], ids=["task lane", "bulk lane"])
def lane(request, monkeypatch):
    """Run a test once in each lane."""
    monkeypatch.setattr(Scene, "chunk_size", request.param)


@pytest.fixture
def quick_look(monkeypatch):
    """Let the dispatcher look for due deliveries many times a second."""
    monkeypatch.setattr("resonant.dispatch.claim.poll_times.POLL_SECONDS", 0.02)


@pytest.fixture
def without_polls(monkeypatch):
    """Let the dispatcher look for due deliveries only when it has another reason than the time since the last look."""
    monkeypatch.setattr("resonant.dispatch.claim.poll_times.POLL_SECONDS", 3600.0)


@pytest.fixture
def warm(monkeypatch):
    """Let everything be sent at once, though the process knows nothing of the endpoint yet."""
    monkeypatch.setattr("resonant.gate.measurements.Measurements.may_send", lambda *_: SEND)
