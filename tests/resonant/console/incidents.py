"""Incidents of the tests of pages."""

from resonant.metrics.alerts import AlertCondition, Crossing, record_crossings
from resonant.store.shared import drains
from resonant.store.shared.gates import FailingType, Gate, GateChange, change_gate


def drain(desk, endpoint=None):
    """Let a live drain send to an endpoint, or to all."""
    desk.write(drains.beat, None, owner="run", endpoint=endpoint, clock=desk.clock)


def set_gate(desk, endpoint="orders", state="probing", **values):
    now = desk.clock()
    values = {
        "since": now - 7200,
        "reason": "20 failures in a row: http 503",
        "failing_since": now - 7200,
    } | values
    desk.write(change_gate, GateChange(Gate(endpoint), Gate(endpoint, state, **values), at=now))


def fail_type(desk, event_type, endpoint="orders", failure="http 500", code="http_500"):
    now = desk.clock()
    types = (FailingType(event_type, now - 3600, failure, now, now, code),)
    set_gate(desk, endpoint, "normal", reason=None, failing_since=None, failing=types)


def raise_alert(desk, condition, endpoint="orders"):
    crossing = Crossing("raised", AlertCondition(condition), endpoint, 1.0, 0.5, "", desk.clock() - 900, 0.0)
    desk.write(record_crossings, [crossing])
