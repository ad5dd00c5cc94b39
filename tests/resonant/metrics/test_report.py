"""The table of event types, and the line of health of each endpoint."""

from resonant.metrics.alerts import ALL_ENDPOINTS, AlertCondition, Key
from resonant.metrics.conditions import Activity, WindowCounts
from resonant.metrics.report import MOST_TYPES, health_lines, tables
from resonant.metrics.totals import Totals
from resonant.store.shared.gates import Gate
from support.metrics import Facts

NOW = 1_700_000_000.0
HOUR = 3600


def by_event_type(facts):
    """Return the rows of the table; none without the table."""
    found = tables(facts.statistics())
    return next((table.rows for table in found if table.title.startswith("By event type")), ())


def test_event_types_are_sorted_by_their_events():
    assert by_event_type(Facts()) == ()
    facts = Facts().delivered(event_type="paid").dead("expired", event_type="lost")
    facts.delivered(event_type="sent").delivered(event_type="sent")
    for number in range(1_250):
        (facts.failed if number < 5 else facts.attempt)(0.25, event_type="sent")
    facts.attempt(event_type="lost")
    assert by_event_type(facts) == (
        ("sent", "2", "0", "0", "1,250", "5", "250.0"),
        ("lost", "0", "1", "0", "1", "0", "100.0"),
        ("paid", "1", "0", "0", "0", "0", "-"),
    )


def test_many_event_types_are_cut_to_one_row_of_the_others():
    facts = Facts()
    for number in range(MOST_TYPES):
        for _ in range(3):
            facts.delivered(event_type=f"t{number:03}")
    assert by_event_type(facts)[-1][0] == f"t{MOST_TYPES - 1:03}"
    facts.delivered(event_type="x").dead("expired", event_type="x").attempt(event_type="x")
    assert by_event_type(facts)[-1] == ("1 other", "1", "1", "0", "1", "0", "-")
    facts.delivered(event_type="y").failed(event_type="y")
    rows = by_event_type(facts)
    assert len(rows) == MOST_TYPES + 1
    assert rows[-1] == ("2 others", "2", "1", "0", "2", "1", "-")


def totals(*endpoints, dead=None, **gates):
    return Totals(
        taken_at=NOW,
        accepted=dict.fromkeys(endpoints, 0),
        oldest_dead_at={name: NOW - age for name, age in (dead or {}).items()},
        gates={name: Gate(name, state) for name, state in gates.items()},
    )


def test_a_line_has_the_gate_the_error_rates_the_oldest_dead_letter_and_the_alerts():
    assert list(health_lines(totals(), {}, [])) == []
    activity = {
        "crm": Activity(
            hour=WindowCounts(attempts=200, failed=50), before=WindowCounts(attempts=100, failed=1)
        ),
        "orders": Activity(hour=WindowCounts(attempts=10)),
    }
    found = health_lines(
        totals("billing", "crm", "orders", dead={"crm": 3 * HOUR, "orders": 90 * HOUR}, crm="paced"),
        activity,
        [
            Key(AlertCondition.ERROR_RATE, "crm"),
            Key(AlertCondition.DEAD_LETTERS, "crm"),
            Key(AlertCondition.RETRIES, ALL_ENDPOINTS),
        ],
    )
    rates = "25.00 % of attempts failed in the last hour, 1.00 % a day before"
    assert list(found) == [
        ("crm", f"ALERT dead_letters, error_rate; paced; {rates}; oldest dead letter 3 h old"),
        ("billing", "normal; no attempt in the last hour; no open dead letter"),
        ("orders", "normal; 0.00 % of attempts failed in the last hour; oldest dead letter 4 days old"),
        ("", "ALERT retries"),
    ]
