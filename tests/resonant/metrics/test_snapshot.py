"""What metrics are made of: counters equal the facts in the rows, and outlive them."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from resonant.dead_letters import operations
from resonant.delivery.retry import GiveUp, Park
from resonant.metrics.prometheus import registry_of
from resonant.metrics.snapshot import read_window
from resonant.metrics.statistics import statistics
from resonant.metrics.totals import read_totals
from resonant.store import schema
from resonant.store.counter_compaction import compact
from resonant.store.selection import Selection
from support.metrics import measure

HOUR = 3600.0


@pytest.fixture
def busy(desk):
    """A store in which everything has happened: deliveries, retries, dead letters, a replay, a crash, a late attempt."""
    desk.enqueue(*(f"evt_{n}" for n in range(6)))
    desk.enqueue("evt_0", "evt_crm", endpoint="crm")
    first, second, third, fourth, fifth, _ = desk.claim()
    desk.clock.advance(3)
    desk.deliver(first)
    retry = desk.retry_in(2)
    desk.fail(second, retry, duration=0.3)
    desk.deliver(desk.counted_on(second, retry))
    desk.fail(third, desk.park_for(40), duration=16.0)
    desk.fail(fourth, GiveUp("permanent"), category="permanent", code="http_400")
    desk.begin(fifth)
    desk.clock.advance(61)
    desk.rescue()
    desk.record(desk.delivered(fifth))  # too late: it is in the history, and counts nowhere
    [lease] = desk.claim(endpoint="crm", limit=1)
    desk.fail(lease, GiveUp("exhausted"))
    desk.clock.advance(1)
    replayed = desk.write(
        operations.replay,
        Selection(endpoint="crm"),
        died_before=desk.clock(),
        limit=10,
        owner="replay",
        now=desk.clock(),
        lease_seconds=60,
    )
    desk.deliver(*replayed.leases)
    return desk


def registry(desk, *, since=0.0):
    now = desk.clock()
    totals, window = desk.read(measure, now=now, since=since)
    return registry_of(totals, statistics(window.attempts, window.deliveries, since=since, until=now))


def samples(registry, *kinds):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        if family.type in kinds
        for sample in family.samples
    }


def purge_everything(desk):
    def purge(connection):
        for status in ("dead_letter", "delivered"):
            conditions = operations.purgeable(status, finished_before=desk.clock())
            picked = operations.pick_final(connection, conditions, limit=1_000)
            operations.purge(connection, [key.id for key in picked], now=desk.clock())

    desk.write(purge)


def facts(desk):
    """Count from the rows, before anything is purged, what the counters should say."""
    deliveries = {row["id"]: row for row in desk.rows(schema.deliveries)}
    attempts = [row for row in desk.rows(schema.attempts) if not row["late"]]
    by_attempt = Counter(
        (deliveries[row["delivery_id"]]["endpoint"], row["result"], row["category"] or "", row["code"] or "")
        for row in attempts
    )
    durations = defaultdict(list)
    for row in attempts:
        if row["result"] != "lost":
            durations[deliveries[row["delivery_id"]]["endpoint"]].append(row["duration"])
    return Counter(row["endpoint"] for row in deliveries.values()), by_attempt, durations


def test_counters_are_the_facts_counted_from_the_rows(busy):
    accepted, attempts, durations = facts(busy)
    found = registry(busy)
    for endpoint in ("orders", "crm"):
        labels = {"endpoint": endpoint}
        assert found.get_sample_value("resonant_events_accepted_total", labels) == accepted[endpoint]
    exposed = {
        tuple(dict(key[1:])[label] for label in ("endpoint", "result", "category", "code")): number
        for key, number in samples(found, "counter").items()
        if key[0] == "resonant_delivery_attempts_total"
    }
    assert exposed == attempts
    name = "resonant_delivery_attempt_duration_seconds"
    for endpoint, measured in durations.items():
        labels = {"endpoint": endpoint}
        assert found.get_sample_value(f"{name}_count", labels) == len(measured)
        assert found.get_sample_value(f"{name}_sum", labels) == pytest.approx(sum(measured), rel=1e-3)
        for bound in (0.025, 0.5, 15.0, 30.0):
            below = sum(duration <= bound for duration in measured)
            assert found.get_sample_value(f"{name}_bucket", {**labels, "le": str(bound)}) == below


def test_a_replayed_dead_letter_ends_twice_and_is_accepted_once(busy):
    found = registry(busy)
    name = "resonant_delivery_outcomes_total"
    for outcome in ("dead_letter", "delivered"):
        assert found.get_sample_value(name, {"endpoint": "crm", "outcome": outcome}) == 1
    assert found.get_sample_value("resonant_dead_letter_replays_total", {"endpoint": "crm"}) == 1


def test_no_counter_falls_over_a_purge_and_a_restart(busy, open_desk, store_url):
    kinds = ("counter", "histogram")
    before = samples(registry(busy), *kinds)
    purge_everything(busy)
    purges = ("resonant_dead_letter_purges_total", ("endpoint", "orders"))
    after = samples(registry(busy), *kinds)
    assert after == before | {purges: 1}
    assert samples(registry(open_desk(store_url)), *kinds) == after


def test_counters_are_the_same_whether_they_are_rollups_or_totals(busy):
    before = sorted(busy.read(read_totals, now=0).counted)
    busy.clock.advance(HOUR)
    busy.run(compact(busy.store))
    assert busy.rows(schema.rollups) == []
    assert sorted(busy.read(read_totals, now=0).counted) == before


def test_gauges_follow_the_rows(busy):
    totals = busy.read(read_totals, now=busy.clock())
    assert totals.endpoints == ("crm", "orders")
    assert totals.deliveries == {
        ("orders", "delivered"): 2,
        ("orders", "retrying"): 2,
        ("orders", "pending"): 1,
        ("orders", "dead_letter"): 1,
        ("crm", "delivered"): 1,
        ("crm", "pending"): 1,
    }
    assert totals.dead_letters == {("orders", "permanent", "permanent"): 1}
    assert totals.oldest_dead_at == {"orders": busy.row("evt_3")["finished_at"]}
    assert totals.oldest_due_at.keys() == {"orders", "crm"}
    assert totals.oldest_due_at["orders"] == busy.row("evt_5")["next_attempt_at"]
    purge_everything(busy)
    after = busy.read(read_totals, now=busy.clock())
    assert (after.dead_letters, after.oldest_dead_at) == ({}, {})
    assert after.last_seen_at == totals.last_seen_at


def test_the_oldest_dead_letter_is_one_that_nobody_cancelled(desk):
    def cancel():
        desk.write(operations.cancel, Selection(endpoint="orders"), limit=10, now=desk.clock())
        desk.clock.advance(HOUR)

    desk.enqueue("evt_1")
    cancel()
    assert desk.read(read_totals, now=desk.clock()).oldest_dead_at == {}
    desk.enqueue("evt_2")
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    died_at = desk.clock()
    desk.clock.advance(HOUR)
    desk.enqueue("evt_3")
    cancel()

    assert desk.read(read_totals, now=desk.clock()).oldest_dead_at == {"orders": died_at}


def test_a_dead_letter_cancelled_before_its_first_attempt_is_of_category_unknown(desk):
    desk.enqueue("evt_1")
    desk.write(operations.cancel, Selection(endpoint="orders"), limit=10, now=desk.clock())
    assert desk.read(read_totals, now=desk.clock()).dead_letters == {("orders", "unknown", "cancelled"): 1}


def test_a_claim_is_the_sign_of_a_worker(desk):
    desk.enqueue("evt_1")
    assert desk.read(read_totals, now=desk.clock()).last_seen_at == {}
    claimed_at = desk.clock()
    desk.begin(*desk.claim())
    desk.clock.advance(61)
    desk.rescue()
    assert desk.read(read_totals, now=desk.clock()).last_seen_at == {"orders": claimed_at}


def test_the_window_has_what_ended_or_began_in_it_and_all_that_is_unfinished(desk):
    start = desk.clock()
    desk.enqueue("evt_old", "evt_long", "evt_waits", "evt_new")
    old, long, _, new = sorted(desk.claim(), key=lambda lease: "old long waits new".index(lease.event.id[4:]))
    desk.deliver(old)
    desk.clock.advance(HOUR)
    desk.record(desk.delivered(new, started_at=desk.clock()), desk.delivered(long, started_at=start))
    window = desk.read(read_window, now=desk.clock(), since=start + 1)
    assert sorted(window.deliveries["status"]) == ["delivered", "delivered", "pending"]
    assert list(window.attempts["started_at"]) == [start + HOUR]


def test_a_delay_is_known_by_the_attempt_of_its_round_also_after_a_crash_and_a_replay(desk):
    """A lost attempt has a number, and the policy does not count it; a replay begins to count anew."""
    start = desk.clock()
    desk.enqueue("evt_1", policy="patient")

    def go_on(seconds):
        desk.clock.advance(seconds)
        return desk.claim_one()

    desk.fail(desk.claim_one(), desk.park_for(2), started_at=desk.clock())
    desk.begin(go_on(2))
    desk.clock.advance(61)
    desk.rescue()
    desk.fail(desk.claim_one(), desk.park_for(7), started_at=desk.clock(), retry_after=6.0)
    desk.fail(go_on(7), GiveUp("exhausted"), started_at=desk.clock())
    desk.clock.advance(1)
    now = desk.clock()
    desk.write(
        operations.replay,
        Selection(endpoint="orders"),
        died_before=now,
        limit=10,
        owner="replay",
        now=now,
        lease_seconds=60,
    )
    desk.clock.advance(61)
    desk.rescue()
    desk.fail(desk.claim_one(), desk.park_for(3), started_at=desk.clock())

    def retries(since):
        attempts = desk.read(read_window, now=desk.clock(), since=since).attempts
        names = ["number", "round_attempt", "delay", "retry_after", "policy"]
        return sorted(attempts[attempts["delay"].notna()][names].fillna(0).to_numpy().tolist())

    every = [[1, 1, 2, 0, "patient"], [3, 2, 7, 6, "patient"], [5, 1, 3, 0, "patient"]]
    assert retries(start) == every
    assert retries(start + 1) == every[1:]


def test_early_attempts_do_not_move_a_retry_along_the_curve_of_its_policy(desk):
    desk.enqueue("evt_1")
    for early in (False, True, True, False):
        lease, now = desk.claim_one(), desk.clock()
        own = lease.backoff_until if early else now + 3
        desk.fail(lease, Park(1.0, now + 1, backoff_until=own, charged=not early), started_at=now)
        desk.clock.advance(1)
    attempts = desk.read(read_window, now=desk.clock(), since=0.0).attempts
    assert sorted(attempts[["number", "round_attempt"]].to_numpy().tolist()) == [
        [1, 1],
        [2, 1],
        [3, 1],
        [4, 2],
    ]


def test_late_attempts_are_in_no_statistics(busy):
    assert sum(row["late"] for row in busy.rows(schema.attempts)) == 1
    window = busy.read(read_window, now=busy.clock(), since=0.0)
    assert len(window.attempts) == len(busy.rows(schema.attempts)) - 1


def test_statistics_of_the_store_say_what_happened(busy):
    window = busy.read(read_window, now=busy.clock(), since=0.0)
    found = statistics(window.attempts, window.deliveries, since=0.0, until=busy.clock())
    events = found.overall.events
    assert (events.total, events.success, events.dead_letter, events.failed) == (8, 3, 1, 1)
    assert found.overall.attempts.total == 8
    assert found.overall.attempts.failed == 5
    assert found.overall.latency.max == 16.0
    assert found.overall.retries.total == 2
    assert found.overall.error_codes == {"http_503": 3, "http_400": 1, "worker_lost": 1}
    assert found.by_endpoint["crm"].events.success_rate == 1.0


def test_an_empty_store_has_no_samples_but_the_time_of_the_export(desk):
    assert samples(registry(desk), "counter", "histogram", "gauge") == {
        ("resonant_last_export_timestamp_seconds",): desk.clock()
    }
