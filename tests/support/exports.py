"""A shop whose deliveries are exported again and again."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from resonant.dead_letters import operations
from resonant.delivery.retry import GiveUp, Park
from resonant.events import Attempt, Event
from resonant.metrics.statistics import statistics
from resonant.metrics.window import measure_sliding
from resonant.store import Outcome, open_store
from resonant.store.selection import Selection
from resonant.testing import FixedClock
from support.metrics import measure

HOUR = 3600
WINDOW_HOURS = 3
START = 472_222 * HOUR + 1_700.0
MANIFEST = "window.json"


class Shop:
    """A store with activity, and its exports."""

    def __init__(self, url, folder):
        self.clock = FixedClock(START)
        self.folder = folder
        self.url = url
        self.number = 0
        self.held = []

    async def open(self):
        self.store = await open_store(self.url, clock=self.clock)
        return self

    async def enqueue(self, count, endpoint):
        kinds = ("paid", "refunded")
        events = [
            Event(id=f"evt_{self.number + n}", type=kinds[n % 2], source="/s", data=n) for n in range(count)
        ]
        self.number += count
        await self.store.enqueue(events, endpoint, policy="patient" if count % 2 else None)

    async def send(self, results, endpoint):
        """Claim, and end each attempt with its result; "hang" lets the lease expire."""
        leases = await self.store.claim(endpoint, owner="worker", limit=len(results))
        await self.store.begin(leases)
        ends = list(zip(leases, results, strict=False))
        self.held += [lease for lease, (result, _) in ends if result == "hang"]
        await self.store.record([self.outcome(lease, *each) for lease, each in ends if each[0] != "hang"])

    def outcome(self, lease, result, duration):
        common = {"started_at": self.clock() - duration, "duration": duration, "owner": "worker"}
        attempt = Attempt(lease.attempts + 1, lease.round, result="delivered", **common)
        if result == "delivered":
            return Outcome(lease, attempt, None)
        code = "http_400" if result == "permanent" else "http_503"
        failure = {"category": "transient", "code": code, "error_type": "UnexpectedStatus"}
        if result == "park":
            decision = Park(5.0 * duration, self.clock() + 5 * duration)
            failure |= {
                "decision": "park",
                "delay": decision.delay,
                "retry_after": 1.0 if duration > 1 else None,
            }
        else:
            decision = GiveUp(result)
        return Outcome(lease, replace(attempt, result="failed", **failure), decision)

    async def rescue(self):
        """Rescue hanging deliveries, and then let their worker record a delivery too late."""
        await self.store.rescue()
        late, self.held = self.held, []
        await self.store.record([self.outcome(lease, "delivered", 0.5) for lease in late])

    async def replay(self, limit):
        now = self.clock()
        await self.store.write(
            operations.replay,
            Selection(),
            died_before=now + 2 * HOUR,
            include_permanent=True,
            limit=limit,
            owner="replay",
            now=now,
            lease_seconds=60,
        )

    async def cancel(self, limit):
        await self.store.write(operations.cancel, Selection(), limit=limit, now=self.clock())

    async def purge(self, age):
        def purge(connection):
            for status in ("dead_letter", "delivered"):
                conditions = operations.purgeable(status, finished_before=self.clock() - age)
                picked = operations.pick_final(connection, conditions, limit=3)
                operations.purge(connection, [key.id for key in picked], now=self.clock())

        await self.store.write(purge)

    async def wait(self, seconds):
        self.clock.advance(seconds)

    async def export(self, hours=WINDOW_HOURS):
        """Return an export's statistics, and those computed from all rows anew."""
        now = self.clock()
        since = now - hours * HOUR
        totals, found = await measure_sliding(self.store, hours=hours, folder=self.folder)
        expected_totals, window = await self.store.read(measure, now=now, since=since)
        return (
            (totals, found),
            (expected_totals, statistics(window.attempts, window.deliveries, since=since, until=now)),
        )


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert_near(asdict(found[1]), asdict(expected[1]))
    assert [list(each.error_codes) for each in found[1].by_endpoint.values()] == [
        list(each.error_codes) for each in expected[1].by_endpoint.values()
    ]


def assert_near(found, expected):
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_near(found[key], value)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_near(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert found == expected


async def live(shop, steps):
    await shop.open()
    try:
        await shop.enqueue(6, "orders")
        for name, *arguments in [*steps, ("export",)]:
            outcome = await getattr(shop, name)(*arguments)
            if name == "export":
                assert_same(*outcome)
    finally:
        await shop.store.close()


BUSY = [
    ("send", [("exhausted", 0.1), ("park", 0.2), ("delivered", 2.0)], "orders"),
    ("wait", 1.0),
    ("export",),
    ("replay", 1),
    ("wait", 61.0),
    ("rescue",),
    ("send", [("delivered", 0.1), ("delivered", 0.2), ("permanent", 2.0)], "orders"),
    ("export",),
    ("enqueue", 3, "crm"),
    ("send", [("permanent", 0.1), ("delivered", 0.2)], "crm"),
    ("cancel", 1),
    ("export",),
]
