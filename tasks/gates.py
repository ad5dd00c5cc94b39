"""Announces changes of endpoints' gates as Prefect events and log lines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.logging import get_run_logger

from resonant.display import visible
from resonant.store.queue.own_events import gate_facts

if TYPE_CHECKING:
    from resonant.store.shared.gates import Gate


def announce_gate(before: Gate, after: Gate) -> None:
    """Log a gate change that this run made, and queue a Prefect event for it; a Prefect thread sends the event."""
    emit_event(**to_event(before, after))
    if FlowRunContext.get() is not None:
        reason = f": {visible(after.reason)}" if after.reason else ""
        get_run_logger().warning("Endpoint %s is %s%s", after.endpoint, after.state, reason)


def to_event(before: Gate, after: Gate) -> dict[str, Any]:
    """Return the arguments of ``emit_event`` for a gate change."""
    return {
        "event": f"resonant.gate.{after.state}",
        "occurred": datetime.fromtimestamp(after.since, UTC),
        "resource": {
            "prefect.resource.id": f"resonant.endpoint.{after.endpoint}",
            "prefect.resource.name": after.endpoint,
        },
        "payload": gate_facts(before, after),
    }
