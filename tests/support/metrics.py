"""Reading the data of the metrics in one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resonant.metrics.snapshot import read_window
from resonant.metrics.totals import read_totals

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.metrics.snapshot import Window
    from resonant.metrics.totals import Totals


def measure(connection: Connection, *, now: float, since: float) -> tuple[Totals, Window]:
    """Read both in one transaction of ``Store.read``, so in one snapshot."""
    return read_totals(connection, now=now), read_window(connection, now=now, since=since)
