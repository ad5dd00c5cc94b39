"""Deadlocks, lost connections, servers that do not answer, and commits that are synced."""

import asyncio
import itertools
import random
import socket

import pytest
from asyncpg import DivisionByZeroError
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from resonant.delivery.retry import GiveUp
from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreUnavailable
from resonant.events import Event
from resonant.store import WorkerStore, enqueue
from resonant.store.engine import postgresql
from resonant.store.engine.database import open_database
from resonant.store.engine.postgresql import PostgreSQL
from support.desk import at_once
from support.postgresql import on_postgresql, relayed
from support.sqlite import listening
from support.waiting import PATIENCE_SECONDS, until, wait_until

_END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'store'"


@on_postgresql
def test_workers_at_work_on_the_same_deliveries_never_deadlock(desk, open_desk, store_url, monkeypatch):
    """Producers of the same ids in any order, claims, group commits, renewals, recoveries: four of each at once."""
    # The first deadlock fails the operation that it hit, instead of being mended.
    monkeypatch.setattr("resonant.store.engine.postgresql._TRY_AGAIN", ())
    desks = [desk, *(open_desk(store_url) for _ in range(3))]
    owners = [f"worker-{number}" for number in range(len(desks))]
    numbers = itertools.count()
    delivered = []

    def goes_on():
        return len(delivered) < 60

    async def all_at_once():
        async with asyncio.TaskGroup() as group:
            for owner, each in zip(owners, desks, strict=True):
                rng = random.Random(owner)
                group.create_task(_produce(each, rng, numbers, goes_on))
                group.create_task(_emit(each, rng, owner, owners, delivered, goes_on))

    desk.run(all_at_once())
    assert desk.status().balanced


async def _produce(desk, rng, numbers, goes_on):
    while goes_on():
        recent = next(numbers)
        events = [desk.make(f"evt_{recent - rng.randrange(60)}") for _ in range(40)]
        await desk.store.enqueue(events, rng.choice(["orders", "audit"]))


async def _emit(desk, rng, owner, owners, delivered, goes_on):
    commits = BatchWriter(desk.store)

    async def emit(lease):
        if await commits.begin([lease]):
            outcomes = [
                desk.failed(lease, desk.retry_in(0)),
                desk.failed(lease, desk.park_for(0)),
                desk.failed(lease, GiveUp("permanent")),
                desk.delivered(lease),
            ]
            outcome = rng.choice(outcomes)
            if await commits.record(outcome) and outcome.attempt.result == "delivered":
                delivered.append(lease)

    async def disturb():
        await desk.store.renew(rng.choice(owners))
        if rng.random() < 0.2:
            await desk.store.rescue_from([rng.choice(owners)])
            await desk.store.release_all(rng.choice(owners))

    while goes_on():
        for endpoint in ("orders", "audit"):
            leases = await desk.store.claim(endpoint, owner=owner, limit=20)
            await asyncio.gather(*(emit(lease) for lease in leases), desk.store.renew(owner), disturb())


@on_postgresql
@pytest.mark.parametrize(("deadlocks", "runs"), [(1, 2), (9, 4)])
def test_a_transaction_that_a_deadlock_rolled_back_is_repeated_but_not_without_end(desk, deadlocks, runs):
    made = []

    def operation(connection):
        made.append(1)
        enqueue(connection, desk.make("evt_1"), "orders", now=desk.clock())
        if len(made) <= deadlocks:
            connection.exec_driver_sql(
                "DO $$ BEGIN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END $$"
            )

    if deadlocks < runs:
        desk.write(operation)
    else:
        with pytest.raises(StoreUnavailable, match="deadlock detected"):
            desk.write(operation)
    assert len(made) == runs
    assert desk.status().accepted == (deadlocks < runs)


@on_postgresql
def test_a_lost_connection_is_one_clear_line_and_the_next_call_gets_a_new_one(desk):
    desk.enqueue("evt_1")

    def lose_the_connection(connection):
        enqueue(connection, [desk.make("evt_2")], "orders", now=desk.clock())
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    line = r"^postgresql://postgres@/store: .*(terminat|ended)"
    with pytest.raises(StoreUnavailable, match=line) as failure:
        desk.write(lose_the_connection)
    assert "\n" not in str(failure.value)
    assert desk.enqueue("evt_3").accepted == 1
    assert desk.detail("evt_2") is None
    assert desk.status().accepted == 2


async def test_connections_to_a_server_that_has_become_read_only_are_given_up_at_once(postgresql_url):
    database = await open_database(postgresql_url)
    become_read_only = "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"
    await database.write(lambda connection: connection.exec_driver_sql(become_read_only) and None)

    def create(connection):
        connection.exec_driver_sql("CREATE TABLE written ()")

    line = r"^postgresql://postgres@/\w+: it accepts only read-only transactions, [^\n]+$"
    with pytest.raises(StoreUnavailable, match=line):
        await database.write(create)
    await database.write(create)
    await database.close()


async def read_side_by_side(store, number):
    """Use as many connections at once, which the pool then keeps."""
    everybody = asyncio.Event()
    begun = []

    async def read():
        async with store.transaction() as transaction:
            await transaction.run_sync(lambda connection: connection.execute(select(1)) and None)
            begun.append(1)
            if len(begun) == number:
                everybody.set()
            await everybody.wait()

    await asyncio.gather(*(read() for _ in range(number)))


@on_postgresql
def test_all_connections_that_the_server_closed_at_once_are_replaced(desk, postgresql):
    for _ in range(2):
        desk.run(read_side_by_side(desk.store, 4))
        postgresql.execute(_END_ALL)
    assert desk.enqueue("evt_1").accepted == 1


async def test_pooled_connections_that_do_not_answer_are_replaced_after_waiting_for_one(
    postgresql_url, monkeypatch
):
    """A firewall may drop idle connections without notice."""
    monkeypatch.setattr("resonant.store.engine.postgresql._CHECK_SECONDS", 0.5)
    async with relayed(postgresql_url) as relay:
        store = await WorkerStore.open(relay.url)
        await read_side_by_side(store, 5)
        relay.stop_answering()
        relay.requests.clear()
        assert await store.rescue(at_once()) == 0
        await store.close()
    assert sum(b"lock_timeout" in request for request in relay.requests) == 2


async def test_one_event_takes_few_round_trips(postgresql_url):
    """On an idle server, each takes a third of a millisecond."""
    trips = {}
    async with relayed(postgresql_url) as relay:
        store = await WorkerStore.open(relay.url)

        async def counted(step, operation):
            relay.requests.clear()
            result = await operation
            trips[step] = len(relay.requests)
            return result

        for number in range(2):  # the first time, the driver prepares the statements
            event = Event(type="t", source="/s", id=f"evt_{number}", data=1)
            await counted("store", store.enqueue(event, "orders"))
            await counted("look", store.look())
            claiming = store.claim_each({"orders": 9}, owner="worker", most_bytes=9999, begin_up_to=1)
            [lease] = (await counted("claim and begin", claiming))["orders"]
            assert lease.event.id == event.id
            await counted("begin", store.begin([lease]))
        await store.close()
    # Each has one to begin, and one to end.
    assert trips == {"store": 4, "look": 4, "claim and begin": 4, "begin": 4}


async def test_a_transaction_that_was_cancelled_at_its_start_is_not_continued_by_the_next(postgresql_url):
    """Otherwise, a write could continue a transaction that only reads."""
    async with relayed(postgresql_url) as relay:
        store = await WorkerStore.open(relay.url)
        reading = asyncio.create_task(store.unfinished())
        relay.requests.clear()
        await until(lambda: any(b"READ ONLY" in request for request in relay.requests), every=0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert (await store.enqueue(Event(type="t", source="/s", data=1), "orders")).accepted == 1
        await store.close()


async def test_a_cancelled_start_on_a_lost_connection_ends_at_once(postgresql_url, caplog):
    """A rollback would wait for an answer until the driver's limit."""
    async with relayed(postgresql_url) as relay:
        store = await WorkerStore.open(relay.url)
        relay.stop_answering()
        relay.requests.clear()
        reading = asyncio.create_task(store.unfinished())
        await until(lambda: any(b"READ ONLY" in request for request in relay.requests), every=0.001)
        reading.cancel()
        async with asyncio.timeout(postgresql.STATEMENT_TIMEOUT_SECONDS / 2):
            await asyncio.wait([reading])
        assert reading.cancelled()
        assert [request for request in relay.requests if b"ROLLBACK" in request] == []
        await store.close()
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@on_postgresql
def test_the_first_statement_is_not_repeated_on_a_new_connection(desk, monkeypatch):
    monkeypatch.setattr("resonant.store.engine.postgresql._WRITE", "SELECT %d / 0, %d;")
    opened = []
    with listening("connect", lambda *_: opened.append(1)), pytest.raises(DivisionByZeroError):
        desk.enqueue("evt_1")
    assert len(opened) == 1


async def test_a_server_that_does_not_answer_any_more_is_not_waited_for_without_end(postgresql_url):
    database = PostgreSQL(make_url(postgresql_url), statement_timeout=0.3)
    sleep = text(f"SELECT pg_sleep({PATIENCE_SECONDS})")
    async with asyncio.timeout(PATIENCE_SECONDS / 2):
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await database.write(lambda connection: connection.execute(sleep))
        await database.close()


async def test_a_server_that_accepts_and_does_not_answer_ends_the_wait(monkeypatch):
    monkeypatch.setattr("resonant.store.engine.postgresql._CONNECT_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(StoreUnavailable, match="does not answer"):
            await open_database(f"postgresql://user:geheim@127.0.0.1:{port}/db")


@on_postgresql
def test_many_operations_at_once_share_a_few_connections(desk, postgresql):
    async def enqueue_at_once():
        events = [desk.store.enqueue([desk.make(f"evt_{number}")], "orders") for number in range(100)]
        return await asyncio.gather(*events)

    # The server's processes of earlier tests take a moment to end.
    wait_until(lambda: number_open(postgresql, "store") <= 1)
    assert sum(found.accepted for found in desk.run(enqueue_at_once())) == 100
    assert number_open(postgresql, "store") <= 10


def number_open(postgresql, database):
    [row] = postgresql.execute(f"SELECT count(*) AS open FROM pg_stat_activity WHERE datname = '{database}'")
    return row["open"]


async def test_a_store_is_closed_with_all_its_connections(postgresql, postgresql_url):
    store = await WorkerStore.open(postgresql_url)
    await read_side_by_side(store, 5)
    await store.close()
    # The server's processes take a moment to end.
    await asyncio.to_thread(wait_until, lambda: number_open(postgresql, "test") == 0)


@on_postgresql
@pytest.mark.parametrize("pause", [0.0, 0.02])
def test_a_connection_that_the_server_ended_between_two_steps_gives_a_plain_error_and_stores_nothing(
    desk, postgresql, pause
):
    """The driver may notice before or during the next statement."""

    async def store_some() -> None:
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, desk.make("evt_1"), "orders", now=desk.clock())
            await asyncio.to_thread(postgresql.execute, _END_ALL)
            await asyncio.sleep(pause)
            await transaction.run_sync(lambda connection: connection.execute(select(1)) and None)

    for _ in range(3):
        with pytest.raises(StoreUnavailable) as failure:
            desk.run(store_some())
        assert "cannot switch to state" not in str(failure.value)
        assert "PreparedStatement" not in str(failure.value)
    assert desk.status().accepted == 0


@pytest.mark.parametrize("step", ["commit", "roll back"])
async def test_a_last_request_without_an_answer_is_the_last_and_leaves_no_traceback(
    postgresql_url, monkeypatch, caplog, step
):
    """After a commit, a rollback would wait as long again."""
    ended = []

    def run(connection, statement):
        ended.append(statement)
        connection.run_async(lambda driver: driver.execute(statement, timeout=0.5))

    monkeypatch.setattr(postgresql, "_run", run)
    async with relayed(postgresql_url) as relay:
        database = PostgreSQL(make_url(relay.url))

        def operation(connection):
            connection.execute(select(1))
            relay.stop_answering()
            if step == "roll back":
                raise StoreUnavailable("it does not answer")

        with pytest.raises(StoreUnavailable, match="does not answer"):
            await database.write(operation)
        await database.close()
    assert ended == [{"commit": "COMMIT;", "roll back": "ROLLBACK;"}[step]]
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.fixture
def default_sync(postgresql, postgresql_url):
    """Set the database's default of ``synchronous_commit``; it is reset afterwards."""
    yield lambda value: postgresql.execute(f"ALTER DATABASE test SET synchronous_commit = {value}")
    postgresql.execute("ALTER DATABASE test RESET synchronous_commit")


@pytest.mark.parametrize(
    ("default", "in_force"),
    [("off", "on"), ("local", "local"), ("on", "on"), ("remote_apply", "remote_apply")],
)
def test_all_commits_are_synced_except_beginnings_and_releases(
    open_desk, postgresql_url, default_sync, default, in_force
):
    """Stronger defaults stay. Workers may outlive the server: two claims must not get the same token."""
    default_sync(default)
    desk = open_desk(postgresql_url)
    synced = []

    def look(connection):
        synced.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar())

    async def enqueue_in_steps():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, desk.make("evt_2"), "orders", now=desk.clock())

    with listening("commit", look):
        desk.enqueue("evt_1")
        desk.run(enqueue_in_steps())
        lease, other = desk.claim()
        desk.run(desk.store.renew(lease.owner))
        assert synced == [in_force] * 4
        synced.clear()
        desk.begin(lease)
        desk.run(desk.store.release([other]))
        assert synced == ["off", "off"]
        synced.clear()
        desk.record(desk.delivered(lease))
    assert synced == [in_force]


def test_a_producers_own_transaction_keeps_its_setting(open_desk, postgresql_url, default_sync):
    """A crash loses its other rows and its events together, or none of them."""
    default_sync("off")
    desk = open_desk(postgresql_url)

    async def produce() -> str:
        engine = create_async_engine(make_url(postgresql_url).set(drivername="postgresql+asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(enqueue, desk.make("evt_1"), "orders", now=desk.clock())
            found = await connection.execute(text("SHOW synchronous_commit"))
        await engine.dispose()
        return found.scalar_one()

    assert desk.run(produce()) == "off"
    assert desk.status().accepted == 1
