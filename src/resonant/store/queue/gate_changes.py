"""Changes of gates, each written with the events about it."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from resonant.store.queue.own_events import gate_facts, report_gate
from resonant.store.shared.announcements import add_announcement, prefect_event
from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate


def change_and_report(connection: Connection, change: GateChange, *, now: float) -> bool:
    """Write a change of a gate like ``change_gate``; store the events about it for Prefect and the subscriptions."""
    is_written = change_gate(connection, change)
    if is_written:
        before, after = change.before, change.result
        if after.state != before.state:
            add_announcement(connection, event_of(before, after), now=now)
        report_gate(connection, before, after, now=now)
    return is_written


def event_of(before: Gate, after: Gate) -> dict[str, Any]:
    """Return the Prefect event of a change of a gate, without its id."""
    name = f"resonant.gate.{after.state}"
    return prefect_event(name, after.endpoint, gate_facts(before, after), at=after.since)


def try_changes(
    connection: Connection, changes: Iterable[GateChange], *, now: float
) -> list[tuple[GateChange, Gate]]:
    """Write changes of several gates; return each with the gate as it is then."""
    in_order = sorted(changes, key=lambda each: each.after.endpoint)  # the same in every process
    return [
        (
            each,
            each.result
            if change_and_report(connection, each, now=now)
            else read_gate(connection, each.after.endpoint),
        )
        for each in in_order
    ]
