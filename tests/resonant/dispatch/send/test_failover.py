"""A server that is replaced by one whose clock is behind."""

import pytest

from resonant import enqueue as enqueue_in
from resonant.delivery.retry import Park
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.events import Event
from resonant.store.queue.rescue import ExpiryWatch
from support.desk import Desk
from support.dispatching import enqueue, opened

# The database's own clock_timestamp comes before PostgreSQL's.
_SETTABLE_CLOCK = """
    CREATE TABLE behind (seconds float8);
    INSERT INTO behind VALUES (0);
    CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql
        AS 'SELECT pg_catalog.clock_timestamp() - make_interval(secs => (SELECT seconds FROM public.behind))';
    ALTER DATABASE failover SET search_path = public, pg_catalog;"""
_REPLACE = """
    UPDATE behind SET seconds = 3600;
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid();"""


@pytest.fixture
def url(postgresql):
    """The URL of a database of its own, since it keeps the search path."""
    return postgresql.empty_database("failover")


async def test_the_next_rescue_parks_an_outcome_from_before_for_its_delay_by_the_new_clock(postgresql, url):
    async with postgresql.connected("failover") as connection:
        await connection.execute(_SETTABLE_CLOCK)
        async with opened(url) as store:
            await enqueue(store)
            [lease] = await store.claim("orders", owner="worker", limit=1)
            await store.begin([lease])
            outcome = Desk.failed(lease, Park(40, store.clock() + 40))
            await connection.execute(_REPLACE)
            writer = BatchWriter(store)
            assert await writer.record(outcome)
            await writer.close()
            await store.rescue(ExpiryWatch(store.lease_seconds, store.steady))
            [due], _ = await store.look()
        now = await connection.fetchval(
            "SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8 - 3600"
        )
    assert due.at == pytest.approx(now + 40, abs=20)


async def test_an_event_of_an_own_transaction_is_due_at_once_by_the_new_clock(postgresql, url):
    async with postgresql.connected("failover") as connection:
        await connection.execute(_SETTABLE_CLOCK)
        async with opened(url) as store:
            for _ in range(2):
                async with store.transaction() as transaction:
                    await transaction.run_sync(enqueue_in, Event(type="t", source="/s", data=1), "orders")
                await connection.execute(_REPLACE)
                await store.status()  # the first on the new connection
            _, new = await connection.fetch("SELECT accepted_at FROM resonant_deliveries ORDER BY id")
        now = await connection.fetchval(
            "SELECT extract(epoch FROM pg_catalog.clock_timestamp())::float8 - 3600"
        )
    assert new["accepted_at"] == pytest.approx(now, abs=20)
