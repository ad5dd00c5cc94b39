"""Statistics of known data: percentiles as numpy computes them, rates that say what they are of."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonant.metrics.statistics import Delays, Spread, statistics

HOUR = 3600
START = 472_222 * HOUR + 0.0  # on an hour
ATTEMPT_COLUMNS = (
    *("endpoint", "event_type", "number", "started_at", "duration", "result"),
    *("category", "code", "error_type"),
    *("policy", "delay", "retry_after", "round_attempt"),
)
DELIVERY_COLUMNS = ("endpoint", "event_type", "status", "reason", "accepted_at", "finished_at", "attempts")


def attempt(
    duration=0.1, *, number=1, at=START, result="delivered", endpoint="orders", event_type="t", **failure
):
    names = ("category", "code", "error_type", "policy", "delay", "retry_after", "round_attempt")
    return (endpoint, event_type, number, at, duration, result, *(failure.get(name) for name in names))


def failed(duration=0.1, *, category="transient", code="http_503", error_type="UnexpectedStatus", **rest):
    failure = {"category": category, "code": code, "error_type": error_type}
    return attempt(duration, **{"result": "failed"} | failure | rest)


def delivery(status="delivered", reason=None, *, took=1.0, attempts=1, endpoint="orders", at=START):
    ended = at + took if status in ("delivered", "dead_letter") else None
    return (endpoint, "t", status, reason, at, ended, attempts)


def of(attempts=(), deliveries=(), *, since=START, until=START + 1800):
    times = {"accepted_at": "float64", "finished_at": "float64"}
    return statistics(
        pd.DataFrame(list(attempts), columns=ATTEMPT_COLUMNS).astype(
            dict.fromkeys(("started_at", "duration", "delay", "retry_after", "round_attempt"), float)
        ),
        pd.DataFrame(list(deliveries), columns=DELIVERY_COLUMNS).astype(times),
        since=since,
        until=until,
    )


def numbers(document):
    if isinstance(document, dict):
        document = document.values()
    elif not isinstance(document, list | tuple):
        return [document] if isinstance(document, float) else []
    return [number for each in document for number in numbers(each)]


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=60))
def test_percentiles_are_those_of_numpy(durations):
    latency = of([attempt(duration) for duration in durations]).overall.latency
    p50, p95, p99 = np.percentile(durations, [50, 95, 99])
    expected = (min(durations), np.mean(durations), p50, p95, p99, max(durations))
    assert tuple(asdict(latency).values()) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_end_to_end_is_from_acceptance_to_delivery_and_of_delivered_events_alone():
    found = of([], [delivery(took=2.0), delivery(took=4.0), delivery("dead_letter", "exhausted", took=900.0)])
    assert (found.overall.end_to_end.min, found.overall.end_to_end.avg, found.overall.end_to_end.max) == (
        2,
        3,
        4,
    )


def test_an_event_that_was_retried_is_one_event_and_several_attempts():
    found = of([failed(), failed(number=2), attempt(number=3)], [delivery(attempts=3)]).overall
    assert (found.events.total, found.events.success_rate) == (1, 1.0)
    assert (found.attempts.total, found.attempts.error_rate) == (3, pytest.approx(2 / 3))


def test_the_success_rate_is_of_events_that_ended():
    events = of(
        [],
        [
            *(delivery() for _ in range(6)),
            delivery("dead_letter", "permanent"),
            delivery("dead_letter", "exhausted"),
            delivery("pending", attempts=0),
            delivery("retrying"),
        ],
    ).overall.events
    assert (events.total, events.success, events.dead_letter, events.failed, events.unfinished) == (
        10,
        6,
        2,
        1,
        2,
    )
    assert events.success_rate == 0.75


def test_retries_are_the_attempts_after_the_first_of_events_that_were_tried():
    retries = of(
        [], [delivery(attempts=1), delivery(attempts=4), delivery("pending", attempts=0)]
    ).overall.retries
    assert (retries.total, retries.avg, retries.max) == (3, 1.5, 3)


def test_failures_are_counted_by_kind_the_most_frequent_first():
    found = of(
        [
            attempt(),
            failed(category="permanent", code="http_400"),
            failed(),
            failed(error_type="ConnectError", code="connect_refused"),
        ],
        [
            delivery("dead_letter", "exhausted"),
            delivery("dead_letter", "exhausted"),
            delivery("dead_letter", "expired"),
        ],
    ).overall
    assert list(found.error_categories.items()) == [("transient", 2), ("permanent", 1)]
    assert list(found.error_codes.items()) == [("connect_refused", 1), ("http_400", 1), ("http_503", 1)]
    assert list(found.error_types.items()) == [("UnexpectedStatus", 2), ("ConnectError", 1)]
    assert list(found.reasons.items()) == [("exhausted", 2), ("expired", 1)]


def test_a_lost_attempt_counts_as_an_error_and_has_no_latency():
    lost = failed(0.0, result="lost", category="unknown", code="worker_lost", error_type="WorkerLost")
    found = of([attempt(0.5), lost]).overall
    assert found.attempts.error_rate == 0.5
    assert found.latency.min == 0.5
    assert found.error_codes == {"worker_lost": 1}


def test_each_endpoint_has_its_own_figures():
    found = of(
        [attempt(1.0), attempt(3.0), failed(9.0, endpoint="crm")],
        [
            delivery(),
            delivery(),
            delivery("dead_letter", "permanent", endpoint="crm"),
            delivery("pending", endpoint="new"),
        ],
    )
    assert list(found.by_endpoint) == ["crm", "new", "orders"]
    assert (found.by_endpoint["orders"].latency.p50, found.by_endpoint["crm"].latency.p50) == (2.0, 9.0)
    assert found.by_endpoint["new"].latency == Spread()
    assert [each.events.success_rate for each in found.by_endpoint.values()] == [0.0, None, 1.0]


def test_delays_are_spread_by_the_attempt_of_the_round_that_they_followed():
    found = of(
        [
            *(failed(delay=delay, round_attempt=1) for delay in (0.9, 1.0, 1.2)),
            failed(number=5, delay=3.1, round_attempt=2),
            failed(number=6),
        ]
    )
    assert found.delays == (
        Delays("orders", None, after=1, asked=False, count=3, min=0.9, median=1.0, max=1.2),
        Delays("orders", None, after=2, asked=False, count=1, min=3.1, median=3.1, max=3.1),
    )


def test_delays_by_another_policy_or_asked_for_by_the_endpoint_are_not_mixed_in():
    after_first = {"delay": 4.0, "round_attempt": 1}
    found = of(
        [
            failed(**after_first, policy="patient"),
            failed(**after_first, retry_after=0.0),
            failed(**after_first),
            failed(**after_first, endpoint="crm"),
        ]
    )
    assert [(each.endpoint, each.policy, each.asked) for each in found.delays] == [
        ("crm", None, False),
        ("orders", None, False),
        ("orders", None, True),
        ("orders", "patient", False),
    ]


def test_each_event_type_has_its_own_figures():
    found = of(
        [
            attempt(event_type="order.paid"),
            attempt(event_type="order.refunded"),
            attempt(event_type="order.paid"),
        ]
    )
    assert {name: each.attempts.total for name, each in found.by_event_type.items()} == {
        "order.paid": 2,
        "order.refunded": 1,
    }


def test_quiet_hours_are_rows_too_but_not_those_before_the_first_fact():
    found = of(
        [attempt(2.0, at=START + 2 * HOUR + 5), failed(4.0, at=START + 2 * HOUR + 6)],
        [delivery(at=START + 4 * HOUR, took=10), delivery("dead_letter", "expired", at=START, took=2 * HOUR)],
        until=START + 5 * HOUR + 60,
    )
    assert [(hour.start - START) / HOUR for hour in found.hourly] == [2, 3, 4, 5]
    assert [hour.attempts for hour in found.hourly] == [2, 0, 0, 0]
    assert [hour.failed_attempts for hour in found.hourly] == [1, 0, 0, 0]
    assert [hour.success for hour in found.hourly] == [0, 0, 1, 0]
    assert [hour.dead_letter for hour in found.hourly] == [1, 0, 0, 0]
    assert [hour.latency.p50 for hour in found.hourly] == [3.0, None, None, None]


def test_the_hour_in_which_the_window_begins_is_shown():
    found = of([attempt(at=START + 1900)], since=START + 1800, until=START + 2000)
    assert [hour.start for hour in found.hourly] == [START]


def test_a_clock_that_is_years_ahead_makes_no_row_of_every_hour_until_then():
    found = of([attempt(at=START), attempt(at=START + 1e9)])
    assert len(found.hourly) == 1
    assert found.overall.attempts.total == 2


def test_a_clock_that_was_put_back_makes_no_negative_time():
    assert of([attempt(-1.0)], [delivery(took=-3600)]).overall.end_to_end.min == 0
    assert of([attempt(-1.0)]).overall.latency.min == 0


@pytest.mark.parametrize(
    ("attempts", "deliveries"),
    [
        ([], []),
        ([], [delivery("pending", attempts=0)]),
        ([failed()], []),
        ([failed(result="lost")], [delivery("dead_letter", "crashed")]),
        ([], [delivery("dead_letter", "cancelled", attempts=0)]),
    ],
)
def test_where_there_is_nothing_there_is_none_and_never_nan(attempts, deliveries):
    found = asdict(of(attempts, deliveries))
    assert not [number for number in numbers(found) if not math.isfinite(number)]


def test_an_empty_window_has_no_rates_no_hours_and_no_endpoints():
    found = of()
    assert (found.overall.events.success_rate, found.overall.attempts.error_rate) == (None, None)
    assert found.overall.latency == found.overall.end_to_end == Spread()
    assert (found.hourly, found.by_endpoint, found.delays) == ((), {}, ())
