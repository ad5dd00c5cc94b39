"""Changes of gates, each written with the event about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.store.queue.own_events import report_gate
from resonant.store.shared.gates import change_gate, read_gate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Connection

    from resonant.store.shared.gates import Gate, GateChange


def change_and_report(connection: Connection, change: GateChange, *, now: float) -> bool:
    """Write a change of a gate like ``change_gate``, and store the event about it, if a subscription matches."""
    is_written = change_gate(connection, change)
    if is_written:
        report_gate(connection, change.before, change.result, now=now)
    return is_written


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
