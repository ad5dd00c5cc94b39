"""Rows of the store for comparison in tests."""

from __future__ import annotations

from resonant.store import schema


def snapshot(desk):
    """Return all rows that a late worker must not change."""
    tables = (schema.deliveries, schema.ledgers, schema.events)
    return [*(desk.rows(table) for table in tables), desk.counters()]
