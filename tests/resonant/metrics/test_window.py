"""The statistics of a sliding window are those of the whole window read anew, whatever happened between two exports."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from resonant.dead_letters import operations
from resonant.delivery.retry import GiveUp, Park
from resonant.events import Attempt, Event
from resonant.metrics import snapshot, window
from resonant.metrics.snapshot import Run, read_totals
from resonant.metrics.statistics import statistics
from resonant.metrics.window import measure_sliding
from resonant.metrics.window.quantiles import quantiles_of
from resonant.metrics.window.watching import appeared
from resonant.store import Outcome, open_store, schema
from resonant.store.outcomes import record
from resonant.store.selection import Selection
from resonant.testing import FixedClock
from support.examples import examples
from support.metrics import measure

HOUR = 3600
WINDOW_HOURS = 3
START = 472_222 * HOUR + 1_700.0
MANIFEST = "window.json"


class Shop:
    """A store in which things happen, and the exports of it."""

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
        """Claim, and let each attempt end as its result says; "hang" leaves the lease to run out."""
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
        """Take back what hangs, and then let its worker say that it has delivered: too late."""
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
        """Return what an export finds, and what is found when all is read anew."""
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


ENDPOINTS = st.sampled_from(["orders", "crm"])
RESULTS = st.tuples(
    st.sampled_from(["delivered", "delivered", "park", "exhausted", "permanent", "hang"]),
    st.sampled_from([0.0, 0.1, 0.25, 2.0, 14.0, 4_000.0]),
)
STEPS = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(1, 5), ENDPOINTS),
    st.tuples(st.just("send"), st.lists(RESULTS, min_size=1, max_size=6), ENDPOINTS),
    st.tuples(st.just("send"), st.lists(RESULTS, min_size=1, max_size=6), ENDPOINTS),
    st.tuples(st.just("rescue")),
    st.tuples(st.just("replay"), st.integers(1, 3)),
    st.tuples(st.just("cancel"), st.integers(1, 2)),
    st.tuples(st.just("purge"), st.sampled_from([0.0, 1_800.0, 5 * HOUR])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 61.0, 1_500.0, HOUR, 2.5 * HOUR, -HOUR])),
    st.tuples(st.just("export")),
    st.tuples(st.just("export")),
)


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


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=5, max_size=30))
async def test_exports_find_what_the_whole_window_read_anew_says(steps):
    with tempfile.TemporaryDirectory() as folder:
        await live(Shop(f"sqlite:///{folder}/store.db", Path(folder) / "window"), steps)


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


async def test_it_is_the_same_on_both_databases(store_url, tmp_path):
    await live(Shop(store_url, tmp_path / "window"), BUSY)


async def test_what_is_purged_within_the_window_is_gone_from_it(tmp_path):
    steps = [*BUSY, ("wait", 1.0), ("purge", 0.0), ("export",), ("send", [("delivered", 0.1)], "orders")]
    await live(Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window"), steps)


async def exported_after(shop, change):
    """Export, change what was kept, go on, and compare the next export."""
    await live(shop, BUSY)
    change(shop.folder)
    await live(shop, [("send", [("delivered", 0.1)], "orders")])


def remove(folder):
    (folder / MANIFEST).unlink()


def scribble(folder):
    (folder / MANIFEST).write_text('{"format": 1, "store"')


def of_another_format(folder):
    path = folder / MANIFEST
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"format": document["format"] - 1}))


def of_another_store(folder):
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"store": "sqlite', '"store": "other'))


def truncate(folder):
    for path in folder.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-8])


def remove_parts(folder):
    for path in folder.glob("*.npy"):
        path.unlink()


def empty_parts(folder):
    for path in folder.glob("*.npy"):
        path.write_bytes(b"")


def spoil(folder):
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(document | {"since": None, "purged": "?"}))


@pytest.mark.parametrize(
    "change",
    [remove, scribble, of_another_format, of_another_store, truncate, remove_parts, empty_parts, spoil],
)
async def test_what_was_kept_and_cannot_be_used_is_read_anew(tmp_path, change):
    shop = Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window")
    await exported_after(shop, change)


async def test_a_store_that_was_made_anew_in_the_same_place_is_told_apart(tmp_path):
    url, folder = f"sqlite:///{tmp_path}/store.db", tmp_path / "window"
    await live(Shop(url, folder), BUSY)
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    await live(Shop(url, folder), [("wait", 5.0), *BUSY])


async def test_where_nothing_can_be_kept_the_export_goes_on(tmp_path):
    (tmp_path / "file").write_text("no folder")
    await live(Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "file" / "window"), BUSY)


async def test_what_is_kept_is_for_its_owner_alone_and_nothing_is_left_behind(tmp_path):
    folder = tmp_path / "window"
    await live(Shop(f"sqlite:///{tmp_path}/store.db", folder), BUSY)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    text = (folder / MANIFEST).read_text()
    kept = {path.name for path in folder.glob("*.npy") if path.name in text}
    for path in folder.glob("*.npy"):
        os.utime(path, (1.0, 1.0))  # long ago: no other exporter is about to name it
    await live(Shop(f"sqlite:///{tmp_path}/store.db", folder), [])
    assert kept >= {path.name for path in folder.glob("*.npy") if path.stat().st_mtime < 2}


async def test_what_may_have_been_missed_is_read_again_after_a_day(tmp_path):
    shop = await Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window").open()
    await shop.enqueue(3, "orders")
    await shop.send([("delivered", 0.1)] * 3, "orders")
    await shop.export()
    await shop.store.write(
        lambda connection: connection.execute(delete(schema.attempts).where(schema.attempts.c.id == 1))
    )
    (_, found), (_, expected) = await shop.export()
    assert (found.overall.attempts.total, expected.overall.attempts.total) == (3, 2)
    shop.clock.advance(86_400)
    (_, found), (_, expected) = await shop.export(hours=48)
    assert found.overall.attempts.total == expected.overall.attempts.total == 2
    await shop.store.close()


class LateShop(Shop):
    """A shop on PostgreSQL in which one attempt is written, gets its id, and is committed only when a test says so."""

    def __init__(self, url, folder):
        super().__init__(url, folder)
        self.read_ids = []

    async def start(self, monkeypatch, result="delivered", started_ago=0.1):
        """Hold back an attempt at crm; those at orders get higher ids."""
        await self.open()
        each_recorded = snapshot.each_recorded

        def noted(*arguments, **options):
            for page in each_recorded(*arguments, **options):
                self.read_ids += [row.id for row in page]
                yield page

        monkeypatch.setattr(snapshot, "each_recorded", noted)
        await self.enqueue(6, "orders")
        await self.enqueue(3, "crm")
        await self.send([("delivered", 0.1), ("exhausted", 0.2)], "orders")
        [lease] = await self.store.claim("crm", owner="slow worker", limit=1)
        await self.store.begin([lease])
        self.transaction = self.store.transaction()
        writing = await self.transaction.__aenter__()
        outcome = self.outcome(lease, result, started_ago)
        await writing.run_sync(record, [outcome], now=self.clock())
        await self.send([("delivered", 0.3)], "orders")

    async def commit(self):
        await self.transaction.__aexit__(None, None, None)

    async def export_all(self):
        """Export, and say of how many attempts; it must be what the store has."""
        outcome = await self.export()
        assert_same(*outcome)
        return outcome[0][1].overall.attempts.total


@pytest.fixture
def late_shop(postgresql_url, tmp_path):
    return LateShop(postgresql_url, tmp_path / "window")


@pytest.mark.parametrize("seconds", [0.0, 60.0, 299.0])
@pytest.mark.parametrize("started_ago", [0.1, 4_000.0])
async def test_an_attempt_that_is_committed_late_is_found_by_the_next_export(
    late_shop, monkeypatch, seconds, started_ago
):
    """However long ago it began: one that was lost began an hour before it is written."""

    await late_shop.start(monkeypatch, started_ago=started_ago)
    assert await late_shop.export_all() == 3
    await late_shop.wait(seconds)
    assert await late_shop.export_all() == 3
    await late_shop.send([("delivered", 0.3)], "orders")
    await late_shop.commit()
    await late_shop.wait(301.0 - seconds)
    assert await late_shop.export_all() == 5
    await late_shop.wait(400.0)
    assert await late_shop.export_all() == 5
    assert sorted(late_shop.read_ids) == [1, 2, 3, 4, 5], "and none of them was read twice"
    await late_shop.store.close()


async def test_an_attempt_whose_transaction_takes_longer_than_five_minutes_is_found_within_a_day(
    late_shop, monkeypatch
):
    await late_shop.start(monkeypatch)
    await late_shop.export_all()
    await late_shop.wait(301.0)
    await late_shop.export_all()
    await late_shop.commit()
    (_, found), (_, expected) = await late_shop.export()
    assert (found.overall.attempts.total, expected.overall.attempts.total) == (3, 4)
    late_shop.clock.advance(86_400 - 301.0)
    (_, found), (_, expected) = await late_shop.export(hours=48)
    assert found.overall.attempts.total == expected.overall.attempts.total == 4
    await late_shop.store.close()


async def test_a_clock_that_is_put_back_settles_nothing_too_early(late_shop, monkeypatch):
    await late_shop.start(monkeypatch)
    await late_shop.export_all()  # all is read here: from before it, all would be read anew
    await late_shop.wait(200.0)
    await late_shop.send([("delivered", 0.3)], "orders")
    await late_shop.export_all()
    await late_shop.wait(-150.0)
    assert await late_shop.export_all() == 4
    await late_shop.wait(299.0)
    await late_shop.export_all()
    kept = json.loads((late_shop.folder / MANIFEST).read_text())
    assert (kept["settled"], [at - START for _, at in kept["sights"]]) == (4, [50.0])
    await late_shop.commit()
    await late_shop.store.close()


async def test_of_a_very_large_store_only_the_newest_ids_are_watched(late_shop, monkeypatch):
    """Of so many that nobody could have written them in five minutes, the first ones are settled."""
    monkeypatch.setattr(window, "MOST_WATCHED", 1)

    await late_shop.start(monkeypatch)
    assert await late_shop.export_all() == 3
    assert json.loads((late_shop.folder / MANIFEST).read_text())["runs"] == [[4, 4]]
    await late_shop.send([("delivered", 0.3)], "orders")
    assert await late_shop.export_all() == 4
    await late_shop.commit()
    await late_shop.store.close()


async def test_with_one_writer_no_id_is_watched(tmp_path):
    await live(Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window"), BUSY)
    kept = json.loads((tmp_path / "window" / MANIFEST).read_text())
    assert (kept["settled"], kept["runs"], kept["sights"]) == (0, [], [])


@given(st.sets(st.integers(1, 40)), st.sets(st.integers(1, 40)), st.integers(0, 45))
def test_what_appeared_is_what_was_not_there_before(before, more, until):
    def runs(ids):
        each = sorted(ids)
        starts = [n for n in each if n - 1 not in ids]
        return [
            Run(first, last)
            for first, last in zip(starts, [n for n in each if n + 1 not in ids], strict=True)
        ]

    before = {n for n in before if n <= until}
    found = appeared(runs(before), runs(before | more), until=until)
    ids = [n for run in found for n in range(run.first, run.last + 1)]
    assert ids == sorted({n for n in more if n <= until} - before)


async def test_delivered_rows_are_counted_and_not_derived_from_a_ledger(tmp_path):
    shop = await Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window").open()
    await shop.enqueue(3, "orders")
    await shop.send([("delivered", 0.1)] * 2, "orders")
    await shop.export()
    await shop.send([("delivered", 0.1)], "orders")
    (totals, _), _ = await shop.export()
    assert totals == await shop.store.read(read_totals, now=shop.clock())
    assert totals.deliveries["orders", "delivered"] == 3
    await shop.store.close()


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.integers(1, 400)), min_size=1, max_size=8),
    st.integers(0, 2**32 - 1),
)
def test_percentiles_over_many_runs_are_those_of_numpy(sizes, seed):
    """Also of values of which many are the same."""
    random = np.random.default_rng(seed)
    runs = [np.sort(random.integers(0, kinds, size) / 7) for size, kinds in sizes if size]
    if runs:
        expected = np.percentile(np.concatenate(runs), [50, 95, 99])
        assert quantiles_of(runs, (0.5, 0.95, 0.99)) == pytest.approx(expected)
