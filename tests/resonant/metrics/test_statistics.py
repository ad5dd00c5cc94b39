"""Statistics of known facts: percentiles near those of numpy, rates per event and per attempt."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from resonant.metrics.percentiles import Spread
from resonant.metrics.statistics import unfinished_entry
from resonant.store.counts.counters import DelayOf
from support.metrics import HOUR, START, Facts


def numbers(document):
    if isinstance(document, dict):
        document = document.values()
    elif not isinstance(document, list | tuple):
        return [document] if isinstance(document, float) else []
    return [number for each in document for number in numbers(each)]


def test_end_to_end_is_from_acceptance_to_delivery_and_of_delivered_events_alone():
    facts = Facts().delivered(2.0).delivered(4.0).dead("exhausted", took=900.0)
    found = facts.statistics().overall.end_to_end
    assert (found.min, found.avg, found.max) == (2, 3, 4)


def test_the_time_to_the_first_attempt_has_its_own_figures():
    facts = Facts().attempt().first_attempt(0.1).attempt(endpoint="crm").first_attempt(0.3, endpoint="crm")
    found = facts.statistics()
    assert (found.overall.first_attempt.min, found.overall.first_attempt.max) == (0.1, 0.3)
    assert {name: each.first_attempt.p50 for name, each in found.by_endpoint.items()} == {
        "crm": 0.3,
        "orders": 0.1,
    }


def test_an_event_that_was_retried_is_one_event_and_several_attempts():
    found = Facts().failed().failed().attempt().delivered(attempts=3).statistics().overall
    assert (found.events.total, found.events.success_rate) == (1, 1.0)
    assert (found.attempts.total, found.attempts.error_rate) == (3, pytest.approx(2 / 3))


def test_the_success_rate_is_of_events_that_ended():
    facts = Facts()
    for _ in range(6):
        facts.delivered()
    facts.dead("permanent").dead("exhausted")
    facts.unfinished = [unfinished_entry("orders", "t", 0, 1), unfinished_entry("orders", "t", 1, 1)]
    events = facts.statistics().overall.events
    assert asdict(events) == {"total": 10, "success": 6, "dead_letter": 2, "failed": 1, "unfinished": 2}
    assert events.success_rate == 0.75


def test_a_dead_letter_that_was_replayed_counts_by_its_new_end_only():
    facts = Facts().dead("permanent", attempts=4).dead("expired").replayed("permanent", attempts=4)
    found = facts.statistics().overall
    assert asdict(found.events) == {"total": 1, "success": 0, "dead_letter": 1, "failed": 0, "unfinished": 0}
    assert (found.retries.total, found.reasons) == (0, {"expired": 1})
    found = facts.delivered(attempts=5, at=START + HOUR).statistics(until=START + 2 * HOUR)
    assert found.overall.events.success_rate == 0.5
    assert asdict(found.overall.retries) == {"total": 4, "avg": 2.0, "max": 4}
    assert [hour.figures.events.dead_letter for hour in found.hourly] == [1, 0, 0]


def test_a_replay_of_a_dead_letter_that_was_not_counted_is_not_subtracted_from_others():
    facts = Facts().dead("expired", at=START + HOUR, attempts=3).dead("permanent", attempts=2)
    facts = (
        facts.replayed("expired", attempts=3)
        .replayed("permanent", attempts=2)
        .replayed("permanent", attempts=2)
    )
    found = facts.statistics(until=START + 2 * HOUR)
    assert found.overall.reasons == {"expired": 1}
    assert found.overall.retries.total == 2
    assert [hour.figures.events.dead_letter for hour in found.hourly] == [1, 0]


def test_retries_are_the_attempts_after_the_first_of_events_that_were_tried():
    facts = Facts().delivered(attempts=1).delivered(attempts=4)
    facts.unfinished = [unfinished_entry("orders", "t", 0, 1)]
    assert asdict(facts.statistics().overall.retries) == {"total": 3, "avg": 1.5, "max": 3}
    facts.unfinished = [unfinished_entry("orders", "t", 6, 2)]
    assert asdict(facts.statistics().overall.retries) == {"total": 13, "avg": 3.25, "max": 5}


def test_failures_are_counted_by_kind_the_most_frequent_first():
    facts = Facts().attempt().failed(category="permanent", code="http_400").failed()
    facts.failed(error_type="ConnectError", code="connect_refused")
    found = facts.dead("exhausted").dead("exhausted").dead("expired").statistics().overall
    assert list(found.error_categories.items()) == [("transient", 2), ("permanent", 1)]
    assert list(found.error_codes.items()) == [("connect_refused", 1), ("http_400", 1), ("http_503", 1)]
    assert list(found.error_types.items()) == [("UnexpectedStatus", 2), ("ConnectError", 1)]
    assert list(found.reasons.items()) == [("exhausted", 2), ("expired", 1)]


def test_a_lost_attempt_counts_as_an_error_and_has_no_latency():
    found = Facts().attempt(0.5).lost().statistics().overall
    assert found.attempts.error_rate == 0.5
    assert found.latency.min == 0.5
    assert found.error_codes == {"worker_lost": 1}


def test_each_endpoint_has_its_own_figures():
    facts = Facts().attempt(1.0).attempt(3.0).failed(9.0, endpoint="crm")
    facts.delivered().delivered().dead("permanent", endpoint="crm")
    facts.unfinished = [unfinished_entry("new", "t", 0, 1)]
    found = facts.statistics().by_endpoint
    assert list(found) == ["crm", "new", "orders"]
    assert (found["orders"].latency.p50, found["crm"].latency.p50) == (2.0, 9.0)
    assert found["new"].latency == Spread()
    assert [each.events.success_rate for each in found.values()] == [0.0, None, 1.0]


def test_delays_are_spread_by_the_attempt_of_the_round_that_they_followed():
    facts = Facts().delay(0.9).delay(1.0).delay(1.2).delay(3.1, after=2)
    first, second = facts.statistics().delays
    assert (first.endpoint, first.key, first.count) == ("orders", DelayOf(1, False, None), 3)
    assert (second.endpoint, second.key, second.count) == ("orders", DelayOf(2, False, None), 1)
    assert (first.spread.min, first.spread.p50, first.spread.max) == (0.9, pytest.approx(1.0, rel=0.01), 1.2)
    assert (second.spread.min, second.spread.p50, second.spread.max) == (3.1, 3.1, 3.1)


def test_delays_by_another_policy_or_asked_for_by_the_endpoint_are_not_mixed_in():
    facts = Facts().delay(4.0, policy="patient").delay(4.0, asked=True).delay(4.0).delay(4.0, endpoint="crm")
    assert [(each.endpoint, each.key.policy, each.key.asked) for each in facts.statistics().delays] == [
        ("crm", None, False),
        ("orders", None, False),
        ("orders", None, True),
        ("orders", "patient", False),
    ]


def test_each_event_type_has_its_own_figures():
    facts = Facts().attempt(event_type="order.paid").attempt(event_type="order.refunded")
    found = facts.attempt(event_type="order.paid").statistics().by_event_type
    assert {name: each.attempts.total for name, each in found.items()} == {
        "order.paid": 2,
        "order.refunded": 1,
    }


def test_quiet_hours_are_rows_too_but_not_those_before_the_first_fact():
    facts = Facts().attempt(2.0, at=START + 2 * HOUR + 5).failed(4.0, at=START + 2 * HOUR + 66)
    facts.delivered(at=START + 4 * HOUR).dead("expired", at=START + 2 * HOUR)
    found = facts.statistics(until=START + 5 * HOUR + 60)
    assert [(hour.start - START) / HOUR for hour in found.hourly] == [2, 3, 4, 5]
    assert [hour.figures.attempts.total for hour in found.hourly] == [2, 0, 0, 0]
    assert [hour.figures.attempts.failed for hour in found.hourly] == [1, 0, 0, 0]
    assert [hour.figures.events.success for hour in found.hourly] == [0, 0, 1, 0]
    assert [hour.figures.events.dead_letter for hour in found.hourly] == [1, 0, 0, 0]
    assert [hour.figures.latency.p50 for hour in found.hourly] == [3.0, None, None, None]


def test_the_hour_in_which_the_window_begins_is_shown():
    found = Facts().attempt(at=START + 1900).statistics(since=START + 1800, until=START + 2000)
    assert [hour.start for hour in found.hourly] == [START]


def test_a_clock_that_was_put_back_makes_no_negative_time():
    found = Facts().attempt(-1.0).attempt(2.0).delivered(-3600.0).statistics().overall
    assert (found.latency.min, found.latency.avg, found.end_to_end.min) == (0, 1.0, 0)


@pytest.mark.parametrize(
    "facts",
    [
        Facts(),
        Facts().failed(),
        Facts().lost().dead("crashed"),
        Facts().dead("cancelled", attempts=0),
        Facts().dead("permanent").replayed("permanent"),
    ],
)
def test_values_without_data_are_none_and_never_nan(facts):
    assert not [number for number in numbers(asdict(facts.statistics())) if not math.isfinite(number)]


def test_an_empty_window_has_no_rates_no_hours_and_no_endpoints():
    found = Facts().statistics()
    assert (found.overall.events.success_rate, found.overall.attempts.error_rate) == (None, None)
    assert found.overall.latency == found.overall.end_to_end == Spread()
    assert (found.hourly, found.by_endpoint, found.delays) == ((), {}, ())
