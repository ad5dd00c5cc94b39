"""What the metrics are made of, read in one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.store.measuring import read_totals, read_window

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.store.measuring import Totals, Window


def measure(connection: Connection, *, now: float, since: float) -> tuple[Totals, Window]:
    """Read both; what one transaction of ``Store.read`` reads is one snapshot."""
    return read_totals(connection, now=now), read_window(connection, now=now, since=since)
