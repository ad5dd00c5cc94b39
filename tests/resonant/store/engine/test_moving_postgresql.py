"""An upgrade on PostgreSQL does not hold up producers, and keeps the owner and the privileges of the tables."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from benches.old_store import ENDPOINT, event_of, in_database, make_old_store, new_event
from resonant import create_schema, enqueue
from resonant.errors import StoreRefused
from resonant.store import open_store
from resonant.store.engine import table_locks
from resonant.store.engine.migrate import is_moving
from support.postgresql import number_waiting
from support.waiting import PATIENCE_SECONDS, until

COUNT = 40
ACCEPT = """INSERT INTO resonant_events (id, type, source, time, digest, accepted_at, body)
    VALUES ($1, 't', '/s', 'x', 'd', 1.0, 'b')"""


@pytest.fixture
async def url(postgresql_url):
    """The URL of a store of 0.1.0."""
    await in_database(postgresql_url, lambda connection: make_old_store(connection, COUNT))
    return postgresql_url


async def opened(url):
    async with open_store(url) as store:
        return await store.status()


@asynccontextmanager
async def producing(url):
    """A producer's open transaction, which is committed at the end of the block."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        yield connection
    await engine.dispose()


async def accept_until(is_reached, accept):
    """Accept events one after the other until the other coroutine returns; none may wait without end."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        reaching = asyncio.create_task(is_reached)
        number = 0
        while not reaching.done():
            number += 1
            await accept(number)
        await reaching


@pytest.fixture
def gave_up(monkeypatch, caplog):
    """Wait until an upgrade has given up its wait for a lock of a whole table, which must not be long."""
    monkeypatch.setattr(table_locks, "_WARN_SECONDS", 0.0)

    async def gave_up():
        while "the upgrade of the store waits until a transaction of another process ends" not in caplog.text:
            await asyncio.sleep(0.01)

    return gave_up


async def test_a_long_transaction_of_0_1_0_delays_the_upgrade_but_no_producer(postgresql, url, gave_up):
    async with postgresql.connected("test") as long, postgresql.connected("test") as other:
        async with long.transaction():
            await long.execute(ACCEPT, "long")
            opening = asyncio.create_task(opened(url))
            await accept_until(gave_up(), lambda number: other.execute(ACCEPT, f"short_{number}"))
            assert not opening.done()
        await opening
    query = "SELECT count(*) FROM resonant_events WHERE id = 'long'"
    assert await in_database(url, lambda each: each.exec_driver_sql(query).scalar_one()) == 1


async def test_an_upgrade_waits_for_vacuum_but_no_producer_does(postgresql, url):
    """Vacuum holds this lock, and PostgreSQL cancels autovacuum only for one that waits for longer than a second."""
    async with postgresql.connected("test") as vacuum, postgresql.connected("test") as other:

        async def is_waiting_for_long():
            query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND waitstart < now() - interval '1.2 s'"
            async with postgresql.connected("test") as connection:
                while not await connection.fetchval(query):
                    await asyncio.sleep(0.01)

        async with vacuum.transaction():
            await vacuum.execute("LOCK TABLE resonant_events IN SHARE UPDATE EXCLUSIVE MODE")
            opening = asyncio.create_task(opened(url))
            await accept_until(is_waiting_for_long(), lambda number: other.execute(ACCEPT, f"short_{number}"))
        await opening


async def test_a_long_transaction_that_moves_an_event_delays_the_end_but_no_producer(url):
    await in_database(url, create_schema)
    known = [event_of(number) for number in range(1, COUNT + 1)]
    async with producing(url) as long:
        await long.run_sync(enqueue, known[2], ENDPOINT)
        opening = asyncio.create_task(opened(url))

        async def accept(number):
            given = [new_event(str(number)), known[10 + number % 20]]
            await in_database(url, lambda connection: enqueue(connection, given, ENDPOINT))

        async def is_only_one_left():
            while await in_database(url, left) > 1:
                await asyncio.sleep(0.01)

        await accept_until(is_only_one_left(), accept)
        assert not opening.done()
        assert await in_database(url, left) == 1
    status = await opening
    assert not await in_database(url, is_moving)
    assert status.balanced


def left(connection):
    return connection.exec_driver_sql("SELECT count(*) FROM resonant_events_0011").scalar_one()


async def test_a_producer_waits_for_another_that_moves_the_same_event_and_then_knows_it(url):
    await in_database(url, create_schema)
    async with producing(url) as first:
        await first.run_sync(enqueue, [event_of(3), event_of(5)], ENDPOINT)
        again = [event_of(5), event_of(4), event_of(3)]
        second = asyncio.create_task(
            in_database(url, lambda connection: enqueue(connection, again, ENDPOINT))
        )
        await until(lambda: in_database(url, number_waiting))
    result = await second
    assert (result.accepted, result.known) == (0, 3)
    assert (await opened(url)).accepted == COUNT


async def test_a_reader_of_the_old_tables_delays_their_removal_but_no_producer(postgresql, url, gave_up):
    async def accept(number):
        await in_database(url, lambda connection: enqueue(connection, new_event(str(number)), ENDPOINT))

    await in_database(url, create_schema)
    async with postgresql.connected("test") as dump:
        async with dump.transaction():
            await dump.execute("SELECT count(*) FROM resonant_attempts_0011")
            opening = asyncio.create_task(opened(url))
            await accept_until(gave_up(), accept)
            assert not opening.done()
        assert (await opening).balanced


@pytest.fixture
def producer(postgresql, url):
    """The URL of the database for a user who owns nothing."""
    for role in ("keeper", "producer"):
        if not postgresql.execute(f"SELECT FROM pg_roles WHERE rolname = '{role}'"):
            postgresql.execute(f"CREATE ROLE {role} LOGIN")
    return postgresql.url("test", user="producer")


def change_owner_and_grant(connection):
    connection.exec_driver_sql("GRANT USAGE ON SCHEMA public TO keeper, producer")
    for table in ("resonant_events", "resonant_deliveries", "resonant_attempts"):
        connection.exec_driver_sql(f"ALTER TABLE {table} OWNER TO keeper")
        connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE ON {table} TO producer")
    connection.exec_driver_sql("GRANT SELECT, INSERT ON resonant_acceptances TO producer")
    for table in ("deliveries", "acceptances"):
        connection.exec_driver_sql(f"GRANT USAGE ON SEQUENCE resonant_{table}_id_seq TO producer")


async def test_the_owner_and_the_privileges_stay_and_producers_may_read_subscriptions(url, producer):
    await in_database(url, change_owner_and_grant)
    await opened(url)
    query = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('resonant_events', 'resonant_deliveries', 'resonant_attempts')"
    assert await in_database(url, lambda each: each.exec_driver_sql(query).scalars().all()) == ["keeper"]
    given = [event_of(1), new_event("1")]
    result = await in_database(producer, lambda connection: enqueue(connection, given, ENDPOINT))
    assert (result.accepted, result.known) == (1, 1)
    for table in ("resonant_subscriptions", "resonant_routing"):
        rows = await in_database(producer, lambda each, of=table: each.exec_driver_sql(f"TABLE {of}").all())
        assert rows == []
    with pytest.raises(ProgrammingError, match="permission denied"):
        await in_database(producer, lambda each: each.exec_driver_sql("TABLE resonant_tokens"))


async def test_a_user_who_does_not_own_the_tables_is_refused_in_one_line(url, producer):
    def grant(connection):
        connection.exec_driver_sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO producer")
        connection.exec_driver_sql("GRANT ALL ON SCHEMA public TO producer")

    await in_database(url, grant)
    with pytest.raises(StoreRefused, match="upgrade the store as the owner of its tables"):
        await opened(producer)
    assert (await opened(url)).accepted == COUNT


FIRST_IN_APP = "ALTER DATABASE test SET search_path = app, public"


@pytest.fixture
def two_schemas(postgresql, url):
    """Another schema, which a test puts first in the search path."""
    postgresql.execute("CREATE SCHEMA app", "test")
    yield
    postgresql.execute("ALTER DATABASE test RESET search_path")
    postgresql.execute("DROP SCHEMA app CASCADE", "test")


def paths_around_upgrade(connection):
    paths = []
    for _ in range(2):
        paths.append(connection.exec_driver_sql("SELECT current_setting('search_path')").scalar_one())
        create_schema(connection)
    return paths


def run(url, statement):
    return in_database(url, lambda connection: connection.exec_driver_sql(statement) and None)


@pytest.mark.usefixtures("two_schemas")
async def test_the_new_tables_are_in_the_schema_of_the_old_ones(url):
    await run(url, FIRST_IN_APP)
    assert await in_database(url, paths_around_upgrade) == ["app, public"] * 2
    assert (await opened(url)).accepted == COUNT
    query = "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'resonant%'"
    assert await in_database(url, lambda each: each.exec_driver_sql(query).scalars().all()) == ["public"]


@pytest.mark.usefixtures("two_schemas")
async def test_the_rows_of_a_store_in_another_schema_are_not_moved(url):
    await in_database(url, create_schema)

    def create_another(connection):
        connection.exec_driver_sql("SET LOCAL search_path = app")
        create_schema(connection)

    await in_database(url, create_another)
    await run(url, FIRST_IN_APP)
    status = await opened(url)
    assert (status.accepted, status.delivered) == (0, 0)
    query = "SELECT count(*) FROM public.resonant_events_0011"
    assert await in_database(url, lambda each: each.exec_driver_sql(query).scalar_one()) == COUNT
