"""A store that the code of 0.1.0 filled is upgraded, and this version goes on with its work.

``release_0_1_0_rows.json`` has the rows that a run of 0.1.0 left: the endpoint ``shop`` accepted its events, ``crm`` refused them,
``billing`` failed one of three, ``later`` has two pending, and a process that is gone holds the lease of one.
"""

import asyncio
import base64
import json
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Boolean, Integer, MetaData, text

from benches.old_store import in_database, make_tables
from resonant.store import schema

ROWS = json.loads(Path(__file__).with_name("release_0_1_0_rows.json").read_text())
ENDED_AT = 1_769_860_805.0  # when the run of 0.1.0 ended
STATUSES = {"delivered": 5, "dead_letter": 3, "retrying": 1, "pending": 2}


def fill(connection):
    """Create the tables of 0.1.0, and insert the rows."""
    make_tables(connection)
    tables = MetaData()
    tables.reflect(connection)
    for table in tables.sorted_tables:
        for row in ROWS.get(table.name, ()):
            values = {column: value_of(value) for column, value in row.items()}
            values |= {
                each.name: bool(row[each.name])
                for each in table.c
                if isinstance(each.type, Boolean) and each.name in row
            }
            connection.execute(table.insert(), values)
        if (
            connection.dialect.name == "postgresql"
            and "id" in table.c
            and isinstance(table.c.id.type, Integer)
        ):
            connection.execute(
                text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
            )


def value_of(value):
    match value:
        case {"base64": encoded}:
            return base64.b64decode(encoded)
        case {"float": name}:
            return float(name)
    return value


@pytest.fixture
def desk(url, open_desk, clock):
    """The upgraded store."""
    clock.advance(ENDED_AT - clock())
    asyncio.run(in_database(url, fill))
    return open_desk(url)


def test_nothing_is_lost_and_the_balance_is_equal(desk):
    status = desk.status()
    assert (status.accepted, status.balanced, status.in_flight) == (11, True, 1)
    assert Counter(row["status"] for row in desk.rows(schema.deliveries)) == STATUSES
    for row in ROWS["resonant_events"]:
        event = desk.detail(row["id"]).event
        assert (event.body, event.source) == (value_of(row["body"]), row["source"])
    attempts = Counter(row["delivery_id"] for row in ROWS["resonant_attempts"])
    for row in ROWS["resonant_deliveries"]:
        assert len(desk.history(row["event_id"])) == attempts[row["id"]] == row["attempts"]
    assert desk.counted("attempt") == 9
    assert desk.counted("delivery", result="delivered") == 5


def test_waiting_deliveries_are_sent_and_dead_letters_are_replayed(desk):
    [later] = desk.claim(endpoint="later")
    assert (later.policy, later.max_attempts, later.event.subject) == ("classic", 7, "s")
    desk.deliver(later)
    assert desk.claim(endpoint="billing") == [], "its backoff of 0.1.0 has not ended"

    desk.clock.advance(600)
    [retried] = desk.claim(endpoint="billing")
    assert (retried.round_attempts, retried.attempts) == (1, 1)
    assert desk.rescue() == 1
    [of_gone] = desk.claim(endpoint="later")
    desk.deliver(retried, of_gone)
    replayed = desk.replay(include_permanent=True)
    desk.deliver(*replayed.leases)

    status = desk.status()
    assert (status.delivered, status.dead_letter, status.balanced) == (11, 0, True)


def test_an_event_that_0_1_0_stored_is_recognised(desk):
    row = ROWS["resonant_events"][0]
    again = desk.make(row["id"], json.loads(value_of(row["body"])))
    result = desk.enqueue(again, endpoint="shop")
    assert (result.accepted, result.known) == (0, 1)
    assert desk.status().accepted == 11
