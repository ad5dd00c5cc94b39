"""A store of 0.1.0 is upgraded in many transactions, between which producers store events."""

import asyncio
import contextlib
import logging
import re

import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from benches.old_store import DRIVERS, ENDPOINT, event_of, in_database, make_old_store, new_event
from resonant import ConflictingEvent, Event, create_schema, enqueue
from resonant.errors import StoreError, StoreTooNew, StoreUnavailable
from resonant.store import open_store
from resonant.store.engine import moving
from resonant.store.engine.database import open_database
from resonant.store.engine.migrate import SCHEMA_VERSION, is_moving, read_schema_version
from resonant.store.migrations import v0012_sources_apart as v0012
from resonant.testing import FixedClock
from support.dispatching import opened
from support.sqlite import listening
from support.upgraded_rows import drop_all, new_rows, old_rows

COUNT = 60
NOW = 1_700_000_100.0


@pytest.fixture
async def old_url(url):
    """The URL of a store of 0.1.0."""
    await in_database(url, lambda connection: make_old_store(connection, COUNT))
    return url


def begin_upgrade(connection):
    """Upgrade as a producer's ``create_schema`` does: the rows stay in the old tables."""
    create_schema(connection)


def scalar(connection, query):
    return connection.exec_driver_sql(query).scalar_one()


def left(connection):
    """Return the number of events that are still in the old tables; None if there are no old tables."""
    return scalar(connection, "SELECT count(*) FROM resonant_events_0011") if is_moving(connection) else None


async def upgraded(url):
    """Open and close a store, which finishes the upgrade; return its status."""
    async with open_store(url, clock=FixedClock(NOW)) as store:
        return await store.status()


async def test_every_row_is_moved_with_its_values_and_old_events_have_no_new_parts(old_url):
    before = await in_database(old_url, old_rows)
    assert [len(rows) for rows in before.values()] == [COUNT, COUNT, 72]
    status = await upgraded(old_url)
    assert await in_database(old_url, new_rows) == before
    assert (status.accepted, status.balanced) == (COUNT, True)
    assert await in_database(old_url, left) is None
    changed = """SELECT count(*) FROM resonant_events WHERE webhook_id <> id OR form IS NOT NULL OR datacontenttype IS NOT NULL
        OR dataschema IS NOT NULL OR extensions IS NOT NULL OR traceparent IS NOT NULL OR tracestate IS NOT NULL"""
    assert await in_database(old_url, lambda each: scalar(each, changed)) == 0


async def test_an_event_moves_with_all_its_deliveries_however_far_apart_they_are(old_url):
    def send_all_to_another(connection):
        connection.exec_driver_sql(
            """INSERT INTO resonant_deliveries (event_id, endpoint, event_type, status, accepted_at, round_started_at)
            SELECT event_id, 'crm', event_type, 'pending', 1.0, 1.0 FROM resonant_deliveries"""
        )
        return old_rows(connection)

    before = await in_database(old_url, send_all_to_another)
    await in_database(old_url, begin_upgrade)

    def move(connection):
        v0012.keep_old_tables(connection)
        moved = v0012.move_next(connection, after=0, most=10)
        return moved, new_rows(connection)["deliveries"]

    moved, deliveries = await in_database(old_url, move)
    assert (moved.deliveries, len(deliveries) >= 20) == (20, True)
    await upgraded(old_url)
    assert await in_database(old_url, new_rows) == before


async def test_an_event_without_a_delivery_is_moved(old_url):
    def lose_delivery(connection):
        connection.exec_driver_sql("DELETE FROM resonant_attempts")
        connection.exec_driver_sql("DELETE FROM resonant_deliveries")
        return old_rows(connection)

    before = await in_database(old_url, lose_delivery)
    await upgraded(old_url)
    assert await in_database(old_url, new_rows) == before


USERS = {
    "view": ["CREATE VIEW resonant_mine AS SELECT id FROM resonant_deliveries"],
    "table": ["CREATE TABLE resonant_mine (event_id TEXT REFERENCES resonant_events (id))"],
    "trigger": ["CREATE TRIGGER resonant_mine BEFORE DELETE ON resonant_attempts BEGIN SELECT 1; END"],
}
ON_POSTGRESQL = {
    "trigger": [
        "CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        "CREATE TRIGGER resonant_mine BEFORE DELETE ON resonant_attempts FOR EACH ROW EXECUTE FUNCTION mine()",
    ]
}


@pytest.mark.parametrize("kind", USERS)
async def test_what_depends_on_the_tables_is_named_before_anything_changes(old_url, kind):
    before = await in_database(old_url, old_rows)
    statements = USERS[kind] if old_url.startswith("sqlite") else (USERS | ON_POSTGRESQL)[kind]

    def create(connection):
        for statement in statements:
            connection.exec_driver_sql(statement)

    await in_database(old_url, create)
    with pytest.raises(StoreError, match=f"its {kind} resonant_mine depends on a table that the upgrade"):
        await upgraded(old_url)
    assert await in_database(old_url, read_schema_version) == "0008"
    on = " ON resonant_attempts" if kind == "trigger" and not old_url.startswith("sqlite") else ""
    await in_database(old_url, lambda each: each.exec_driver_sql(f"DROP {kind} resonant_mine{on}") and None)
    await upgraded(old_url)
    assert await in_database(old_url, new_rows) == before


async def test_deliveries_whose_event_somebody_has_removed_are_counted_as_purged(sqlite_url, caplog):
    def remove_events(connection):
        make_old_store(connection, COUNT)
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("DELETE FROM resonant_events WHERE id LIKE '%3'")

    await in_database(sqlite_url, remove_events)
    async with asyncio.timeout(60):
        status = await upgraded(sqlite_url)
    assert (status.accepted, status.purged, status.balanced) == (COUNT, 6, True)
    assert "6 deliveries have no event: removed them, and counted them as purged" in caplog.text


async def test_a_connection_without_foreign_keys_begins_the_upgrade(sqlite_url):
    def begin(connection):
        make_old_store(connection, COUNT)
        before = old_rows(connection)
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("PRAGMA legacy_alter_table=ON")
        begin_upgrade(connection)
        return before, connection.exec_driver_sql("PRAGMA legacy_alter_table").scalar_one()

    before, legacy = await in_database(sqlite_url, begin)
    assert legacy
    assert (await upgraded(sqlite_url)).balanced
    assert await in_database(sqlite_url, new_rows) == before


async def test_new_ids_continue_above_the_old_ones(old_url):
    """A worker of 0.1.0 may still know a purged delivery's id, and its lease must not match a new one."""

    def purge_the_last(connection):
        connection.exec_driver_sql("DELETE FROM resonant_attempts WHERE delivery_id = 60")
        connection.exec_driver_sql("DELETE FROM resonant_deliveries WHERE id = 60")
        connection.exec_driver_sql("DELETE FROM resonant_events WHERE id = 'evt_100000000060'")
        return scalar(connection, "SELECT max(id) FROM resonant_attempts")

    last_attempt = await in_database(old_url, purge_the_last)
    await in_database(old_url, begin_upgrade)

    def add(connection):
        result = enqueue(connection, new_event("1"), ENDPOINT)
        [delivery] = result.delivery_ids
        connection.exec_driver_sql(
            f"""INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result)
            VALUES ({delivery}, 1, 1, 1, 1, 'x')"""
        )
        return delivery, scalar(connection, "SELECT max(id) FROM resonant_attempts")

    delivery, attempt = await in_database(old_url, add)
    assert delivery == COUNT + 1
    assert attempt > last_attempt
    assert (await upgraded(old_url)).accepted == COUNT + 1


async def test_leases_stay_as_they_were(old_url):
    """A drain of 0.1.0 may still be sending what it has leased."""

    def lease(connection):
        connection.exec_driver_sql(
            f"UPDATE resonant_deliveries SET lease_owner = 'old', lease_token = 7, sending = true, available_at = {NOW + 60} "
            "WHERE status = 'pending'"
        )

    await in_database(old_url, lease)
    async with opened(old_url, clock=FixedClock(NOW)) as store:
        assert await store.claim(ENDPOINT, owner="new", limit=10) == []
        assert await store.release_all("old") == 3
        assert len(await store.claim(ENDPOINT, owner="new", limit=10)) == 3


class TestInTheMiddle:
    """A producer has called ``create_schema``, and no process has opened the store since."""

    @pytest.fixture
    async def half_url(self, old_url):
        await in_database(old_url, begin_upgrade)
        return old_url

    async def test_the_rows_stay_where_they_are_and_nobody_reads_the_store(self, half_url):
        # SQLite moves the event of the last attempt.
        assert await in_database(half_url, left) in (COUNT, COUNT - 1)
        assert await in_database(half_url, read_schema_version) == SCHEMA_VERSION
        with pytest.raises(StoreError, match="older version"):
            await open_database(half_url, may_migrate=False)

    async def test_enqueue_knows_the_old_events_and_refuses_other_content(self, half_url):
        before = await in_database(half_url, left)
        given = [event_of(3), event_of(2), new_event("1")]
        result = await in_database(half_url, lambda each: enqueue(each, given, ENDPOINT))
        assert (result.accepted, result.known, len(set(result.delivery_ids))) == (1, 2, 3)
        assert before - await in_database(half_url, left) == 2
        again = await in_database(half_url, lambda each: enqueue(each, event_of(3), ENDPOINT))
        assert (again.accepted, again.known) == (0, 1)
        other = Event(id=event_of(4).id, type="order.paid", source="/shop", data=1)
        with pytest.raises(ConflictingEvent, match="already exists with different content"):
            await in_database(half_url, lambda each: enqueue(each, other, ENDPOINT))
        assert (await upgraded(half_url)).accepted == COUNT + 1

    async def test_enqueue_stores_an_event_of_another_source_beside_an_old_one(self, half_url):
        other = Event(id=event_of(3).id, type="order.paid", source="/other", data=1)
        result = await in_database(half_url, lambda each: enqueue(each, other, ENDPOINT))
        assert result.accepted == 1
        assert (await upgraded(half_url)).accepted == COUNT + 1
        query = f"SELECT source, webhook_id FROM resonant_events WHERE id = '{other.id}'"
        found = dict(await in_database(half_url, lambda each: each.exec_driver_sql(query).all()))
        assert found["/shop"] == other.id
        assert found["/other"].startswith("evt_")
        assert found["/other"] != other.id

    async def test_enqueue_to_another_endpoint_adds_a_delivery_to_the_old_event(self, half_url):
        result = await in_database(half_url, lambda each: enqueue(each, event_of(3), "crm"))
        assert result.accepted == 1
        async with open_store(half_url) as store:
            detail = await store.detail(event_of(3).id)
        assert {each.endpoint for each, _ in detail.deliveries} == {ENDPOINT, "crm"}

    async def test_a_rolled_back_enqueue_leaves_the_old_event_where_it_was(self, half_url):
        before = await in_database(half_url, left)

        def enqueue_and_fail(connection):
            enqueue(connection, [event_of(3), new_event("1")], ENDPOINT)
            raise KeyError("the producer's own work failed")

        with pytest.raises(KeyError):
            await in_database(half_url, enqueue_and_fail)
        assert await in_database(half_url, left) == before
        assert (await upgraded(half_url)).accepted == COUNT

    async def test_processes_of_0_1_0_get_errors_and_change_nothing(self, half_url):
        statements = (  # as 0.1.0 runs them
            """INSERT INTO resonant_events (id, type, source, subject, time, digest, accepted_at, body)
            VALUES ('evt_old', 't', '/s', NULL, 'x', 'd', 1.0, 'b') ON CONFLICT DO NOTHING RETURNING id""",
            """INSERT INTO resonant_deliveries (event_id, endpoint, event_type, status, accepted_at, round_started_at)
            VALUES ('evt_100000000003', 'e', 't', 'pending', 1.0, 1.0) ON CONFLICT DO NOTHING RETURNING event_id, id""",
            """UPDATE resonant_deliveries SET lease_owner = 'old' WHERE available_at < 2e9
            RETURNING id, event_id, lease_token""",
            "SELECT resonant_deliveries.id FROM resonant_deliveries JOIN resonant_events ON resonant_events.id = event_id",
            "DELETE FROM resonant_deliveries WHERE id = 3 RETURNING event_id, endpoint, event_type, status",
        )
        for statement in statements:
            with pytest.raises(DBAPIError):
                await in_database(
                    half_url, lambda connection, run=statement: connection.exec_driver_sql(run) and None
                )
        status = await upgraded(half_url)
        assert (status.accepted, status.balanced) == (COUNT, True)

    async def test_enqueue_asks_for_old_tables_once_per_connection_after_the_upgrade(self, half_url):
        asked = []

        def count(connection, cursor, statement, *_):
            if "_0011" in statement or "version_num" in statement:
                asked.append(statement)

        await upgraded(half_url)
        parsed = make_url(half_url)
        engine = create_async_engine(parsed.set(drivername=DRIVERS[parsed.drivername]))
        with listening("before_cursor_execute", count):
            async with engine.connect() as connection:
                for name in "abc":
                    await connection.run_sync(enqueue, new_event(name), ENDPOINT)
                    await connection.commit()
        await engine.dispose()
        assert len(asked) == 2


@pytest.mark.parametrize(
    ("version", "kind", "why"),
    [
        ("0011", StoreError, f"and this Resonant needs {SCHEMA_VERSION}: call create_schema"),
        (
            "0099",
            StoreTooNew,
            (
                f"and this Resonant knows versions up to {SCHEMA_VERSION}: upgrade Resonant; "
                "a store cannot be downgraded, so an older Resonant needs a backup"
            ),
        ),
    ],
    ids=["older", "newer"],
)
async def test_enqueue_refuses_tables_of_another_version(url, version, kind, why):
    await upgraded(url)

    def enqueue_at_version(connection):
        connection.exec_driver_sql(f"UPDATE resonant_schema SET version_num = '{version}'")
        enqueue(connection, new_event("1"), ENDPOINT)

    with pytest.raises(StoreError) as refusal:
        await in_database(url, enqueue_at_version)
    assert refusal.type is kind
    assert str(refusal.value) == f"the store's schema is version {version}, {why}"


class PowerCut(Exception):
    """Ends a transaction just before its commit."""


async def test_an_upgrade_that_ends_before_any_of_its_commits_loses_nothing(url, monkeypatch):
    """``tests/chaos/test_kills_upgrade.py`` kills processes at any moment; here, each transaction has its turn."""
    monkeypatch.setattr(moving, "_FIRST", 7)
    monkeypatch.setitem(moving._PAUSE_SECONDS, "sqlite", 0.0)
    turn, is_done = 0, False
    while not is_done:
        await in_database(url, drop_all)
        await in_database(url, lambda connection: make_old_store(connection, 12))
        before = await in_database(url, old_rows)
        commits = iter(range(turn))

        def cut(connection, commits=commits):
            if next(commits, None) is None:
                raise PowerCut

        with listening("commit", cut), contextlib.suppress(PowerCut, StoreUnavailable):
            await upgraded(url)
            is_done = True
        turn += 1
        status = await upgraded(url)
        assert (status.accepted, status.balanced) == (12, True)
        assert await in_database(url, new_rows) == before
    assert turn > 5


async def test_processes_that_upgrade_at_once_share_the_work(old_url, monkeypatch):
    monkeypatch.setattr(moving, "_FIRST", 5)
    monkeypatch.setattr(moving, "_MOST", 5)
    monkeypatch.setitem(moving._PAUSE_SECONDS, "sqlite", 0.005)
    before = await in_database(old_url, old_rows)
    await asyncio.gather(*(upgraded(old_url) for _ in range(4)))
    assert await in_database(old_url, new_rows) == before
    assert await in_database(old_url, left) is None


async def test_a_transaction_moves_few_events_if_they_are_large_or_have_long_histories(old_url, monkeypatch):
    def move(connection, after):
        moved = v0012.move_next(connection, after=after, most=50)
        return moved.events, moved.last

    repeat = "UPDATE resonant_deliveries SET attempts = 1000 WHERE id = 8"
    await in_database(old_url, lambda connection: connection.exec_driver_sql(repeat) and None)
    await in_database(old_url, begin_upgrade)
    assert await in_database(old_url, lambda each: move(each, 4)) == (3, 7)
    assert await in_database(old_url, lambda each: move(each, 7)) == (1, 8)
    monkeypatch.setattr(v0012, "_MOST_BYTES", 3 * 1024)
    assert await in_database(old_url, lambda each: move(each, 0)) == (3, 3)


async def test_progress_is_shown(old_url):
    shown = []
    database = await open_database(old_url, show_progress=lambda *numbers: shown.append(numbers))
    await database.close()
    assert shown[-1][0] == shown[-1][1] >= COUNT - 1
    assert shown == sorted(shown)


async def test_progress_is_logged(old_url, monkeypatch, caplog):
    monkeypatch.setattr(moving, "_LOG_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        await upgraded(old_url)
    assert re.search(r"upgrading the store: \d+ of \d+ deliveries moved$", caplog.text, re.MULTILINE)
