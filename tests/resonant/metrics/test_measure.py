"""The counters behind the metrics: they equal the facts in the rows, and outlive them."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from resonant.delivery.retry import GiveUp
from resonant.metrics.prometheus import registry_of
from resonant.metrics.statistics import read_statistics
from resonant.metrics.totals import measure, read_totals
from resonant.store import schema
from resonant.store.views.selection import Selection
from support.metrics import plain

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
    desk.deliver(*desk.replay(Selection(endpoint="crm")).leases)
    return desk


def registry(desk):
    totals, found = desk.run(measure(desk.store, hours=24))
    return registry_of(totals, found)


def samples(registry, *kinds):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        if family.type in kinds
        for sample in family.samples
    }


def facts(desk):
    """Count the expected counters from the rows, before anything is purged."""
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
    busy.purge()
    purges = ("resonant_dead_letter_purges_total", ("endpoint", "orders"))
    after = samples(registry(busy), *kinds)
    assert after == before | {purges: 1}
    assert samples(registry(open_desk(store_url)), *kinds) == after


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
    busy.purge()
    after = busy.read(read_totals, now=busy.clock())
    assert (after.dead_letters, after.oldest_dead_at) == ({}, {})
    assert after.last_seen_at == totals.last_seen_at


def test_the_oldest_dead_letter_is_one_that_nobody_cancelled(desk):
    def cancel():
        desk.cancel(endpoint="orders")
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
    desk.cancel(endpoint="orders")
    assert desk.read(read_totals, now=desk.clock()).dead_letters == {("orders", "unknown", "cancelled"): 1}


def test_a_claim_is_the_sign_of_a_worker(desk):
    desk.enqueue("evt_1")
    assert desk.read(read_totals, now=desk.clock()).last_seen_at == {}
    claimed_at = desk.clock()
    desk.begin(*desk.claim())
    desk.clock.advance(61)
    desk.rescue()
    assert desk.read(read_totals, now=desk.clock()).last_seen_at == {"orders": claimed_at}


def statistics_of(desk, hours=24):
    return desk.read(read_statistics, now=desk.clock(), since=desk.clock() - hours * HOUR)


def test_statistics_of_the_store_agree_with_its_history(busy):
    statistics = statistics_of(busy)
    [found] = statistics.overall.itertuples()
    assert (found.events, found.success, found.dead_letter, found.failed) == (8, 3, 1, 1)
    assert sum(row["late"] for row in busy.rows(schema.attempts)) == 1, "late attempts are in no statistics"
    assert (found.attempts, found.failed_attempts, found.latency_max, found.retries) == (8, 5, 16.0, 2)
    assert statistics.count("code") == {"http_503": 3, "http_400": 1, "worker_lost": 1}
    assert statistics.by_endpoint["success_rate"]["crm"] == 1.0


def test_statistics_survive_a_purge_a_restart_and_a_compaction(busy, open_desk, store_url):
    busy.deliver(*busy.claim())
    busy.fail(busy.claim_one(endpoint="crm"), GiveUp("expired"))
    busy.clock.advance(50)
    before = statistics_of(busy)
    busy.purge()
    assert busy.status().purged > 0
    again = open_desk(store_url)
    again.clock.advance(busy.clock() - again.clock())
    again.run(again.store.compact())
    assert plain(statistics_of(again)) == plain(before)


def test_the_window_has_the_deliveries_that_ended_in_it_and_all_unfinished_ones(desk):
    desk.enqueue("evt_old", "evt_new", "evt_waits")
    old, new, _ = desk.claim()
    desk.deliver(old)
    desk.clock.advance(2 * HOUR)
    desk.deliver(new)
    [found] = statistics_of(desk, hours=0.5).overall.itertuples()
    assert (found.attempts, found.events) == (1, 2)
    assert statistics_of(desk).overall["events"].to_list() == [3]


def test_a_short_window_begins_with_a_minute_and_a_long_one_with_an_hour(desk):
    now = desk.clock()
    assert statistics_of(desk, hours=0.5).since == (now - 0.5 * HOUR) // 60 * 60
    assert statistics_of(desk, hours=24).since == (now - 24 * HOUR) // HOUR * HOUR
    days = 86_400
    assert statistics_of(desk, hours=90 * 24).since == (now - 90 * days) // days * days


def test_an_empty_store_has_no_samples_but_the_time_of_the_export(desk):
    assert samples(registry(desk), "counter", "histogram", "gauge") == {
        ("resonant_last_export_timestamp_seconds",): desk.clock()
    }
