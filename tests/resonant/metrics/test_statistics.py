"""Statistics of known facts: rates per event and per attempt, by endpoint, event type and hour."""

import json

import pytest

from resonant import documents
from resonant.metrics.report import tables
from resonant.metrics.statistics import Unfinished
from support.metrics import HOUR, START, Facts, plain


def overall(facts, **options):
    """Return the one row of the statistics of all endpoints; NaN is None."""
    [row] = plain(facts.statistics(**options))["overall"].values()
    return row


def values(row, *names):
    return tuple(row[name] for name in names)


def test_end_to_end_is_from_acceptance_to_delivery_of_delivered_events():
    found = overall(Facts().delivered(2.0).delivered(4.0).dead("exhausted", took=900.0))
    assert values(found, "end_to_end_min", "end_to_end_avg", "end_to_end_max") == (2, 3, 4)


def test_the_time_to_the_first_attempt_has_its_own_durations():
    facts = Facts().attempt().first_attempt(0.1).attempt(endpoint="crm").first_attempt(0.3, endpoint="crm")
    assert values(overall(facts), "first_attempt_min", "first_attempt_max") == (0.1, 0.3)
    assert facts.statistics().by_endpoint["first_attempt_p50"].to_dict() == {"crm": 0.3, "orders": 0.1}


def test_an_event_that_was_retried_is_one_event_and_several_attempts():
    found = overall(Facts().failed().failed().attempt().delivered(attempts=3))
    assert values(found, "events", "success_rate", "attempts", "failed_attempts") == (1, 1.0, 3, 2)
    assert found["error_rate"] == pytest.approx(2 / 3)


def test_the_success_rate_is_of_events_that_ended():
    facts = Facts()
    for _ in range(6):
        facts.delivered()
    facts.dead("permanent").dead("exhausted")
    facts.unfinished = [Unfinished("orders", "t", 0, 1), Unfinished("orders", "t", 1, 1)]
    found = overall(facts)
    assert values(found, "events", "success", "dead_letter", "failed", "unfinished") == (10, 6, 2, 1, 2)
    assert found["success_rate"] == 0.75


def test_a_dead_letter_that_was_replayed_counts_by_its_new_outcome():
    facts = Facts().dead("permanent", attempts=4).dead("expired").replayed("permanent", attempts=4)
    found = overall(facts)
    assert values(found, "events", "success", "dead_letter", "failed", "retries") == (1, 0, 1, 0, 0)
    assert facts.statistics().count("reason") == {"expired": 1}
    facts.delivered(attempts=5, at=START + HOUR)
    found = overall(facts, until=START + 2 * HOUR)
    assert values(found, "success_rate", "retries", "retries_avg", "retries_max") == (0.5, 4, 2.0, 4)
    assert facts.statistics(until=START + 2 * HOUR).hourly["dead_letter"].to_list() == [1, 0, 0]


@pytest.mark.parametrize(
    ("unfinished", "expected"),
    [(Unfinished("orders", "t", 0, 1), (3, 1.5, 3)), (Unfinished("orders", "t", 6, 2), (13, 3.25, 5))],
)
def test_retries_are_the_attempts_after_the_first_of_events_that_were_tried(unfinished, expected):
    facts = Facts().delivered(attempts=1).delivered(attempts=4)
    facts.unfinished = [unfinished]
    assert values(overall(facts), "retries", "retries_avg", "retries_max") == expected


def test_failures_are_counted_by_kind_the_most_frequent_first():
    facts = Facts().attempt().failed(category="permanent", code="http_400", event_type="other").failed()
    facts.failed(error_type="ConnectError", code="connect_refused")
    found = facts.dead("exhausted").dead("exhausted").dead("expired").statistics()
    assert list(found.count("category").items()) == [("transient", 2), ("permanent", 1)]
    assert list(found.count("code").items()) == [("connect_refused", 1), ("http_400", 1), ("http_503", 1)]
    assert list(found.count("error_type").items()) == [("UnexpectedStatus", 2), ("ConnectError", 1)]
    assert list(found.count("reason").items()) == [("exhausted", 2), ("expired", 1)]
    assert found.count("category", "other") == {"permanent": 1}


def test_a_lost_attempt_counts_as_an_error_and_has_no_latency():
    facts = Facts().attempt(0.5).lost()
    assert values(overall(facts), "error_rate", "latency_min", "latency_avg") == (0.5, 0.5, 0.5)
    assert facts.statistics().count("code") == {"worker_lost": 1}


def test_each_endpoint_and_each_event_type_has_a_row():
    facts = Facts().attempt(1.0).attempt(3.0).failed(9.0, endpoint="crm", event_type="order.paid")
    facts.delivered().delivered().dead("permanent", endpoint="crm")
    facts.unfinished = [Unfinished("new", "order.refunded", 0, 1)]
    found = plain(facts.statistics())
    assert {
        name: values(row, "latency_p50", "success_rate") for name, row in found["by_endpoint"].items()
    } == {
        "crm": (9.0, 0.0),
        "new": (None, None),
        "orders": (2.0, 1.0),
    }
    assert {name: values(row, "attempts", "events") for name, row in found["by_event_type"].items()} == {
        "order.paid": (1, 0),
        "order.refunded": (0, 1),
        "t": (2, 3),
    }


def test_delays_are_summed_up_by_policy_retry_after_and_attempt_of_the_round():
    facts = Facts().delay(0.9).delay(1.0).delay(1.2).delay(3.1, after=2)
    facts.delay(4.0, policy="patient").delay(4.0, asked=True).delay(4.0, endpoint="crm")
    found = facts.statistics().delays
    columns = ["endpoint", "policy", "asked", "after", "count", "least", "median", "most"]
    assert list(found[columns].itertuples(index=False, name=None)) == [
        ("crm", "", False, 1, 1, 4.0, 4.0, 4.0),
        ("orders", "", False, 1, 3, 0.9, pytest.approx(1.0, rel=0.01), 1.2),
        ("orders", "", False, 2, 1, 3.1, 3.1, 3.1),
        ("orders", "", True, 1, 1, 4.0, 4.0, 4.0),
        ("orders", "patient", False, 1, 1, 4.0, 4.0, 4.0),
    ]


def test_quiet_hours_are_rows_too_but_not_those_before_the_first_fact():
    facts = Facts().attempt(2.0, at=START + 2 * HOUR + 5).failed(4.0, at=START + 2 * HOUR + 66)
    facts.delivered(at=START + 4 * HOUR).dead("expired", at=START + 2 * HOUR)
    found = plain(facts.statistics(until=START + 5 * HOUR + 60))["hourly"]
    names = ("attempts", "failed_attempts", "success", "dead_letter", "latency_p50")
    assert {(start - START) / HOUR: values(row, *names) for start, row in found.items()} == {
        2: (2, 1, 0, 1, 3.0),
        3: (0, 0, 0, 0, None),
        4: (0, 0, 1, 0, None),
        5: (0, 0, 0, 0, None),
    }
    within = Facts().attempt(at=START + 1900).statistics(since=START + 1800, until=START + 2000)
    assert within.hourly.index.to_list() == [START], "the hour in which the window begins"


def test_durations_are_not_negative_after_a_clock_was_set_back():
    found = overall(Facts().attempt(-1.0).attempt(2.0).delivered(-3600.0))
    assert values(found, "latency_min", "latency_avg", "end_to_end_min") == (0, 1.0, 0)


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
def test_missing_data_is_shown_as_null_or_a_dash(facts):
    found = facts.statistics()
    json.dumps(documents.metrics(found), allow_nan=False)
    assert "nan" not in str([table.rows for table in tables(found)])


def test_an_empty_window_has_no_rates_no_hours_and_no_endpoints():
    found = plain(Facts().statistics())
    [row] = found["overall"].values()
    assert values(row, "events", "attempts", "retries") == (0, 0, 0)
    assert values(row, "success_rate", "error_rate", "latency_p50", "retries_max") == (None,) * 4
    assert (
        found["hourly"]
        == found["by_endpoint"]
        == found["by_event_type"]
        == found["kinds"]
        == found["delays"]
        == {}
    )
