"""The line of health of each endpoint."""

from __future__ import annotations

from resonant.metrics.alerts import ALL_ENDPOINTS, Condition, Key
from resonant.metrics.conditions import Activity
from resonant.metrics.report import health_lines
from resonant.metrics.totals import Totals
from resonant.store.shared.gates import Gate

NOW = 1_700_000_000.0
HOUR = 3600


def totals(*endpoints, dead=None, **gates):
    return Totals(
        taken_at=NOW,
        accepted=dict.fromkeys(endpoints, 0),
        oldest_dead_at={name: NOW - age for name, age in (dead or {}).items()},
        gates={name: Gate(name, state) for name, state in gates.items()},
    )


def test_a_line_has_the_gate_the_error_rates_the_oldest_dead_letter_and_the_alerts():
    activity = {
        "crm": Activity(timed=200, timed_failed=50, timed_before=100, timed_failed_before=1),
        "orders": Activity(timed=10),
    }
    found = health_lines(
        totals("billing", "crm", "orders", dead={"crm": 3 * HOUR, "orders": 90 * HOUR}, crm="paced"),
        activity,
        [
            Key(Condition.ERROR_RATE, "crm"),
            Key(Condition.DEAD_LETTERS, "crm"),
            Key(Condition.RETRIES, ALL_ENDPOINTS),
        ],
    )
    rates = "25.00 % of attempts failed in the last hour, 1.00 % a day before"
    assert list(found) == [
        ("crm", f"ALERT dead_letters, error_rate; paced; {rates}; oldest dead letter 3 h old"),
        ("billing", "normal; no attempt in the last hour; no dead letter"),
        ("orders", "normal; 0.00 % of attempts failed in the last hour; oldest dead letter 4 days old"),
        ("", "ALERT retries"),
    ]


def test_a_store_without_endpoints_has_no_line():
    assert list(health_lines(totals(), {}, [])) == []
