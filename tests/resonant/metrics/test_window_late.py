"""Attempts that appear in the store later than others, and runs of ids."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resonant.metrics import snapshot, window
from resonant.metrics.snapshot import Run
from resonant.metrics.totals import read_totals
from resonant.metrics.window.quantiles import quantiles_of
from resonant.metrics.window.watching import appeared
from resonant.store.outcomes import record
from support.exports import BUSY, MANIFEST, START, Shop, assert_same, live


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
