"""The Prefect events of endpoints' gates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from resonant.store.shared.gates import Gate
from tasks.gates import to_event

BEFORE = Gate("orders")


@pytest.mark.parametrize("state", ["normal", "probing", "paced", "paused"])
def test_an_event_names_the_state_the_endpoint_and_the_reason(state):
    after = Gate(
        "orders", state, since=1_800_000_000.5, reason="9 failures in a row", failing_since=None, pace=2.5
    )

    event = to_event(BEFORE, after)

    assert event["event"] == f"resonant.gate.{state}"
    assert event["occurred"] == datetime.fromtimestamp(1_800_000_000.5, UTC)
    assert event["resource"]["prefect.resource.id"] == "resonant.endpoint.orders"
    assert event["payload"] == {
        "endpoint": "orders",
        "state": state,
        "before": "normal",
        "since": "2027-01-15T08:00:00.500Z",
        "failing_since": None,
        "reason": "9 failures in a row",
        "pace": 2.5,
        "paused_by": None,
    }
