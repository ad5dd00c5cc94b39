"""Drains report that they are alive, and count the younger ones."""

from __future__ import annotations

import pytest

from resonant.store.shared import drains
from resonant.store.shared.drains import LIVE_SECONDS

NOW = 1_000.0


@pytest.fixture
def beat(desk):
    def report(key=None, *, endpoint=None, now=NOW):
        return desk.write(drains.beat, key, owner="run", endpoint=endpoint, clock=lambda: now)

    return report


def test_a_drain_counts_the_younger_ones_that_are_alive(beat):
    first, second, third = (beat().key for _ in range(3))
    assert [beat(key).younger for key in (first, second, third)] == [2, 1, 0]


def test_one_that_is_silent_for_long_does_not_count(beat):
    first = beat().key
    second = beat().key
    later = NOW + LIVE_SECONDS
    assert beat(first, now=later).younger == 0

    beat(second, now=later)
    assert beat(first, now=later).younger == 1


def test_drains_of_other_endpoints_do_not_count(beat):
    first, of_orders = beat().key, beat(endpoint="orders").key
    beat(endpoint="orders")
    beat(endpoint="billing")
    assert beat(first).younger == 0
    assert beat(of_orders, endpoint="orders").younger == 1


def test_one_whose_report_was_removed_meanwhile_is_the_youngest(beat):
    asleep = beat().key
    awake = beat(now=NOW + 10_000)
    assert awake.younger == 0

    again = beat(asleep, now=NOW + 10_000)
    assert again.key > awake.key
    assert beat(awake.key, now=NOW + 10_000).younger == 1


def test_one_that_has_left_does_not_count(beat, desk):
    first, second = beat().key, beat().key
    desk.write(drains.leave, second)
    assert beat(first).younger == 0


def test_one_that_reported_before_the_clock_was_set_back_does_not_count(beat):
    first = beat().key
    beat(now=NOW + 3_600)
    assert beat(first).younger == 0
