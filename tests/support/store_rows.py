"""Rows of the store for tests."""

from resonant.store import schema

# For SQL of tests: the deliveries, each with the id of its event.
DELIVERIES = """(
    SELECT d.*, e.id AS event_id FROM resonant_deliveries d JOIN resonant_events e ON e.key = d.event_key) AS deliveries"""


def snapshot(desk):
    """Return all rows that a late worker must not change."""
    tables = (schema.deliveries, schema.ledgers, schema.events)
    return [*(desk.rows(table) for table in tables), desk.counters()]
