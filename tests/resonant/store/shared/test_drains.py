"""Drains report that they are alive, and count the younger ones."""

import itertools

import pytest

from resonant.store.queue.leases import lease_owners
from resonant.store.shared import drains
from resonant.store.shared.drains import LIVE_SECONDS

NOW = 1_000.0


@pytest.fixture
def beat(desk):
    numbers = itertools.count()

    def report(key=None, *, owner=None, endpoint=None, now=NOW, process=None, clock_ahead=0.0):
        facts = {"owner": owner or f"run {next(numbers)}", "endpoint": endpoint, "process": process}
        return desk.write(drains.beat, key, clock=lambda: now, clock_ahead=clock_ahead, **facts)

    return report


def test_a_drain_counts_the_younger_ones_that_are_alive_and_have_not_left(beat, desk):
    first, second, third = (beat().key for _ in range(3))
    assert [beat(key).younger for key in (first, second, third)] == [2, 1, 0]
    desk.write(drains.leave, third)
    assert beat(first).younger == 1
    later = NOW + LIVE_SECONDS
    assert beat(first, now=later).younger == 0
    beat(second, now=later)
    assert beat(first, now=later).younger == 1


def test_an_owner_may_be_alive_for_a_lease_after_its_last_report(desk, beat):
    """An outage of the store may have kept it from reporting."""
    beat(owner="one")
    found = [
        desk.read(drains.live_owners, now=NOW + passed, lease_seconds=lease)
        for passed, lease in ((59, 60.0), (61, 60.0), (9, 1.0), (11, 1.0))
    ]
    assert found == [{"one"}, set(), {"one"}, set()]


def test_drains_of_other_endpoints_and_runs_that_are_no_drains_do_not_count(beat):
    first, of_orders = beat().key, beat(endpoint="orders").key
    for endpoint in ("orders", "billing", drains.NO_DRAIN):
        beat(endpoint=endpoint)
    assert beat(first).younger == 0
    assert beat(of_orders, endpoint="orders").younger == 1


def test_one_whose_report_was_removed_meanwhile_is_the_youngest(beat):
    asleep = beat().key
    awake = beat(now=NOW + 10_000)
    assert awake.younger == 0

    again = beat(asleep, now=NOW + 10_000)
    assert again.key > awake.key
    assert beat(awake.key, now=NOW + 10_000).younger == 1


def test_endpoints_are_drained_by_one_drain_of_all_or_by_a_drain_each(beat, desk):
    def are_drained(*endpoints):
        return desk.read(drains.are_drained, endpoints, now=NOW)

    beat(endpoint=drains.NO_DRAIN)
    beat(now=NOW - LIVE_SECONDS)
    beat(endpoint="orders")
    assert [are_drained("orders"), are_drained("orders", "billing")] == [True, False]
    beat()
    assert are_drained("orders", "billing")


def test_one_that_reported_before_the_clock_was_set_back_does_not_count(beat):
    first = beat().key
    beat(now=NOW + 3_600)
    assert beat(first).younger == 0


def test_the_clock_of_the_live_run_that_differs_most_is_found(beat, desk):
    assert desk.read(drains.farthest_clock, now=NOW) == 0.0
    beat(clock_ahead=99.0, now=NOW - LIVE_SECONDS)
    first = beat(clock_ahead=3.0).key
    beat(clock_ahead=-40.0)
    beat(first, clock_ahead=7.0)
    assert desk.read(drains.farthest_clock, now=NOW) == -40.0


def rescue_ended(desk, *ended):
    return desk.run(desk.store.rescue_ended(lambda process: process in ended))


def leased_by(desk, *owners):
    """Let each of these owners claim a delivery."""
    for owner in owners:
        desk.enqueue(f"of-{owner}")
        desk.claim_one(owner=owner)


class TestKilledDrains:
    def test_only_the_leases_of_ended_processes_are_rescued(self, desk, beat):
        leased_by(desk, "killed", "alive", "unknown")
        beat(owner="killed", process="1")
        beat(owner="alive", process="2")
        beat(owner="unknown")
        assert rescue_ended(desk, "1") == 1
        assert sorted(desk.read(lease_owners)) == ["alive", "unknown"]

    def test_a_run_that_was_started_again_keeps_its_leases(self, desk, beat):
        beat(owner="run", process="1")
        beat(owner="run", process="2")
        leased_by(desk, "run")
        assert rescue_ended(desk, "1") == 0

    def test_a_claim_that_the_server_commits_after_the_death_is_rescued_too(self, desk, beat):
        beat(owner="killed", process="1", now=desk.clock())
        assert rescue_ended(desk, "1") == 0
        leased_by(desk, "killed")
        assert rescue_ended(desk, "1") == 1

        desk.clock.advance(LIVE_SECONDS + 1)
        rescue_ended(desk, "1")
        assert desk.read(drains.ended_owners, lambda _: True) == [], "it is forgotten"
