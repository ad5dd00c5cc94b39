"""The counters behind the metrics: they equal the facts in the rows, and outlive them."""

from dataclasses import replace
from itertools import pairwise

import pytest

from resonant.dead_letters.triage import triage
from resonant.delivery.retry import GiveUp
from resonant.metrics.prometheus import registry_of
from resonant.metrics.statistics import read_statistics
from resonant.metrics.totals import measure, read_totals
from resonant.store import schema
from resonant.store.shared.acknowledgements import acknowledge
from resonant.store.shared.gates import KEPT_SECONDS, FailingType, Gate, GateChange, change_gate
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
    return registry_of(*desk.run(measure(desk.store, hours=24)))


def totals(desk):
    return desk.read(read_totals, now=desk.clock())


def samples(registry, *kinds):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in registry.collect()
        if family.type in kinds
        for sample in family.samples
    }


def test_counters_and_statistics_survive_a_purge_a_restart_and_a_compaction(busy, open_desk, store_url):
    busy.deliver(*busy.claim())
    busy.fail(busy.claim_one(endpoint="crm"), GiveUp("expired"))
    busy.clock.advance(50)
    kinds = ("counter", "histogram")
    before, counted = statistics_of(busy), samples(registry(busy), *kinds)
    for outcome in ("dead_letter", "delivered"):  # the replayed one ended twice
        label = ("resonant_delivery_outcomes_total", ("endpoint", "crm"), ("outcome", outcome))
        assert counted[label] == {"dead_letter": 2, "delivered": 1}[outcome]
    assert counted["resonant_dead_letter_replays_total", ("endpoint", "crm")] == 1

    busy.purge()
    assert busy.status().purged > 0
    again = open_desk(store_url)
    again.run(again.store.compact())

    purged = {("resonant_dead_letter_purges_total", ("endpoint", name)): 1 for name in ("crm", "orders")}
    assert samples(registry(again), *kinds) == counted | purged
    assert plain(statistics_of(again)) == plain(before)


@pytest.mark.parametrize("during", [False, True], ids=["between deliveries", "while one is sent"])
def test_a_clock_that_jumps_back_an_hour_lowers_no_counter(desk, during):
    seen = []

    def deliver(event_id, jump=0.0):
        desk.enqueue(event_id)
        lease = desk.claim_one()
        desk.run(desk.store.note_claims())
        desk.begin(lease)
        desk.clock.advance(jump)
        desk.record(desk.delivered(lease))
        seen.append(samples(registry(desk), "counter", "histogram"))

    claimed_at = desk.clock()
    deliver("evt_1")
    if not during:
        desk.clock.advance(-HOUR)
    deliver("evt_2", jump=-HOUR if during else 0.0)
    deliver("evt_3")
    desk.clock.advance(72 * HOUR)
    desk.run(desk.store.compact())
    seen.append(samples(registry(desk), "counter", "histogram"))

    for before, after in pairwise(seen):
        assert {key: max(after[key], value) for key, value in before.items()}.items() <= after.items()
    assert min(each.total for each in desk.counters().values()) >= 0
    assert totals(desk).last_seen_at == {"orders": claimed_at}, "the latest, as it was seen"


def test_gauges_agree_with_the_rows(busy):
    found = totals(busy)
    assert found.endpoints == ("crm", "orders")
    assert found.deliveries == {
        ("orders", "delivered"): 2,
        ("orders", "retrying"): 2,
        ("orders", "pending"): 1,
        ("orders", "dead_letter"): 1,
        ("crm", "delivered"): 1,
        ("crm", "pending"): 1,
    }
    assert found.dead_letters == {("orders", "permanent", "permanent"): 1}
    assert found.oldest_dead_at == {"orders": busy.row("evt_3")["finished_at"]}
    assert found.oldest_due_at.keys() == {"orders", "crm"}
    assert found.oldest_due_at["orders"] == busy.row("evt_5")["next_attempt_at"]
    busy.purge()
    after = totals(busy)
    assert (after.dead_letters, after.oldest_dead_at) == ({}, {})
    assert after.last_seen_at == found.last_seen_at


def test_the_oldest_dead_letter_excludes_cancelled_deliveries_and_acknowledged_causes(desk):
    def cancel():
        desk.cancel(endpoint="orders")
        desk.clock.advance(HOUR)

    desk.enqueue("evt_1")
    cancel()
    found = totals(desk)
    assert (found.oldest_dead_at, found.dead_letters) == ({}, {("orders", "unknown", "cancelled"): 1})
    desk.enqueue("evt_2")
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    died_at = desk.clock()
    desk.clock.advance(HOUR)
    desk.enqueue("evt_3")
    cancel()
    assert totals(desk).oldest_dead_at == {"orders": died_at}

    [group] = desk.read(triage, Selection(code="http_503"))
    later = desk.clock()
    desk.bury("evt_4", code="http_500", apart=HOUR)
    desk.write(acknowledge, group.fingerprint, who="ann", note=None, now=desk.clock())
    assert totals(desk).oldest_dead_at == {"orders": later}


def set_gate(desk, state, **fields):
    """Write a gate of the endpoint ``orders``."""
    before = Gate("orders")
    change = GateChange(before, replace(before, state=state, since=desk.clock(), **fields))
    assert desk.write(change_gate, change)
    return change.result


@pytest.mark.parametrize("state", ["probing", "paced", "paused"])
def test_deliveries_that_are_due_at_an_endpoint_that_is_not_normal_are_held(desk, state):
    desk.enqueue("due", "parked", "sending")
    desk.enqueue("other", endpoint="crm")
    leases = {lease.event.id: lease for lease in desk.claim()}
    desk.fail(leases["parked"], desk.park_for(60))
    desk.run(desk.store.release([leases["due"]]))
    before = totals(desk)
    assert (before.held, before.gates) == ({}, {})

    written = set_gate(desk, state)

    found = totals(desk)
    assert (found.held, found.gates) == ({"orders": 1}, {"orders": written})


def test_a_retry_after_holds_due_events_until_it_ends(desk):
    desk.enqueue("evt_1")
    desk.enqueue("evt_2", policy="patient")
    set_gate(desk, "normal", not_before=desk.clock() + 30)
    found = totals(desk)
    assert (found.held, found.deliveries) == ({"orders": 2}, {("orders", "pending"): 2}), "of all policies"
    desk.clock.advance(30)
    assert totals(desk).held == {}


def test_the_oldest_round_is_known_by_endpoint_and_policy(desk):
    start = desk.clock()
    desk.enqueue("evt_1", policy="patient")
    desk.clock.advance(10)
    desk.enqueue("evt_2")
    desk.clock.advance(10)
    desk.enqueue("evt_3", "evt_4")
    desk.enqueue("evt_1", endpoint="crm")
    assert totals(desk).oldest_round_at == {
        ("orders", "patient"): start,
        ("orders", None): start + 10,
        ("crm", None): start + 20,
    }

    desk.deliver(desk.claim_one())

    assert ("orders", "patient") not in totals(desk).oldest_round_at


def test_the_oldest_held_round_is_that_of_the_types_that_fail_at_this_time(desk):
    start = desk.clock()
    types = [
        FailingType("bad", start, "http 500", start + 120, start + 60),
        FailingType("forgotten", start, "http 500", start + 120, start + 60 - KEPT_SECONDS),
    ]
    desk.enqueue("evt_0", policy="fast")
    desk.enqueue(desk.make("evt_1"), desk.make("evt_2", event_type="forgotten"))
    desk.clock.advance(10)
    desk.enqueue(desk.make("evt_3", event_type="bad"), policy="patient")
    desk.clock.advance(10)
    desk.enqueue(desk.make("evt_4", event_type="bad"))
    desk.enqueue(desk.make("evt_5", event_type="bad"), endpoint="crm")
    desk.clock.advance(40)
    set_gate(desk, "normal", failing=tuple(types))

    found = totals(desk)

    assert found.oldest_held_round_at == {("orders", "patient"): start + 10, ("orders", None): start + 20}
    assert found.held == {"orders": 2}
    assert found.oldest_due_at["orders"] == start


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
