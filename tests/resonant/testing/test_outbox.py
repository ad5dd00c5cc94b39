"""``enqueued`` returns the events that a program has enqueued."""

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from resonant import Event, create_schema, enqueue
from resonant.testing import Enqueued, enqueued

PAID = Event(type="order.paid", source="/shop", data={"total": 10}, id="evt_2", subject="7")
SHIPPED = Event(type="order.shipped", source="/shop", data=b"\x00", id="evt_1", extensions={"region": "eu"})
STORED = [Enqueued(PAID, "billing", "patient", 3), Enqueued(SHIPPED, "crm", None, None)]


def place_orders(connection):
    create_schema(connection)
    enqueue(connection, PAID, "billing", policy="patient", max_attempts=3)
    enqueue(connection, [SHIPPED, SHIPPED], "crm")


def attributes(stored):
    """Return the fields of an event; a stored one has a time."""
    event = stored.event
    return event.identity, event.type, event.subject, event.form, event.body, event.extensions, *stored[1:]


def test_events_are_returned_in_order_before_and_after_the_commit(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    with engine.begin() as connection:
        place_orders(connection)
        before = enqueued(connection)
    with engine.connect() as connection:
        assert enqueued(connection) == before
    engine.dispose()
    assert [*map(attributes, before)] == [*map(attributes, STORED)]


async def test_an_asynchronous_program_reads_them_by_run_sync(tmp_path):
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(place_orders)
        assert [each.endpoint for each in await connection.run_sync(enqueued)] == ["billing", "crm"]
    await engine.dispose()


def test_another_kind_of_connection_is_refused():
    with pytest.raises(TypeError, match="must be an SQLAlchemy Connection"):
        enqueued("shop.db")
