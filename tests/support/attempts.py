"""Attempts for tests."""

import random

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.retry import RetryPolicy
from resonant.errors import UnexpectedStatus, UnknownPolicy
from resonant.events import Event, Lease
from resonant.sinks.base import CallableSink
from resonant.testing import FixedClock

START = 1_800_000_000.0
EVENT = Event(type="order.paid", source="/orders", data={"order": 42}, id="evt_1")
LEASE = Lease(7, 3, "me", EVENT, "orders", round_started_at=START, accepted_at=START)
POLICIES = {
    name: RetryPolicy(max_attempts=attempts, jitter="none", base=float(attempts))
    for name, attempts in (("run", 2), ("delivery", 3), ("endpoint", 4), ("default", 5))
}


def policy(name):
    try:
        return POLICIES["default" if name is None else name]
    except KeyError:
        raise UnknownPolicy(f"no retry policy is named {name!r}") from None


def attempt_runner(**fields):
    return AttemptRunner(**{"clock": FixedClock(START), "rng": random.Random(7), "policy": policy} | fields)


def destination(function, **fields):
    async def close():
        return None

    given = {"describe": lambda error: f"{type(error).__name__}: {error}", "close": close}
    return Destination(name="orders", sink=CallableSink(function), **given | fields)


async def attempt(function, *, lease=LEASE, by=None, options=None, **fields):
    made_by = attempt_runner() if by is None else by
    return await made_by.attempt(lease, destination(function, **fields), **options or {})


def failing(error):
    async def send(_event):
        raise error

    return send


refuse = failing(UnexpectedStatus(503))
