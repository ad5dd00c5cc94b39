"""Long reads hold no snapshot while rows are written out. Otherwise, SQLite's log grows, and PostgreSQL may end the session."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resonant.store.engine.sqlite import _MOST_LOG_BYTES
from resonant.store.views import reads
from resonant.store.views.selection import Selection
from resonant.store.views.unfinished import each_unfinished
from support.postgresql import on_postgresql
from support.sqlite import connected, is_snapshot_held, on_sqlite

MEBIBYTE = 1024 * 1024


@pytest.fixture
def desk(desk, monkeypatch):
    """A store with five dead letters and five pending deliveries, which is read in pages of two."""
    monkeypatch.setattr("resonant.store.views.reads._PAGE", 2)
    monkeypatch.setattr("resonant.store.views.unfinished._PAGE", 2)
    desk.bury(*(f"evt_{number}" for number in range(5)), reason="permanent")
    desk.enqueue(*(f"evt_{number}" for number in range(5, 10)))
    return desk


@pytest.fixture
def other(desk, store_url):
    """A connection of another process."""
    with connected(Path(store_url.removeprefix("sqlite:///"))) as connection:
        yield connection


each_kind_of_rows = pytest.mark.parametrize(
    "rows",
    [
        reads.each_dead_letter,
        reads.each_history,
        lambda connection: reads.each_history(connection, with_events=True),
        lambda connection: each_unfinished(connection, Selection()),
    ],
    ids=["dead letters", "histories", "histories with events", "unfinished deliveries"],
)


@on_sqlite
@each_kind_of_rows
def test_no_snapshot_is_held_while_rows_are_used(desk, other, rows):
    def read(connection):
        return [is_snapshot_held(other) for _ in rows(connection)]

    assert desk.read(read) == [False] * 5


@on_postgresql
@each_kind_of_rows
def test_no_transaction_is_open_on_postgresql_while_rows_are_used(desk, postgresql, rows):
    """The server, or PgBouncer, may end a session that is idle in a transaction."""
    states = "SELECT pid, state FROM pg_stat_activity"

    def read(connection):
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with ThreadPoolExecutor() as pool:
            found = [dict(pool.submit(postgresql.execute, states).result())[pid] for _ in rows(connection)]
        assert connection.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "repeatable read"
        return found

    assert desk.read(read) == ["idle"] * 5


@on_sqlite
def test_a_history_with_events_skips_dead_letters_purged_meanwhile(desk, other):
    def read(connection):
        found = []
        for history in reads.each_history(connection, with_events=True):
            found.append(history.dead_letter.event_id)
            other.execute("DELETE FROM resonant_events WHERE id = 'evt_3'")
        return found

    assert desk.read(read) == ["evt_4", "evt_2", "evt_1", "evt_0"]


@on_sqlite
def test_a_log_that_grew_under_a_snapshot_shrinks_afterwards(desk, other, store_url):
    log = Path(store_url.removeprefix("sqlite:///") + "-wal")

    def read(connection):
        connection.exec_driver_sql("SELECT count(*) FROM resonant_events")
        for _ in range(_MOST_LOG_BYTES // MEBIBYTE + 2):
            other.execute("INSERT INTO other VALUES (zeroblob(?))", (MEBIBYTE,))
        return log.stat().st_size

    assert desk.read(read) > _MOST_LOG_BYTES
    for number in range(3):
        desk.enqueue(f"evt_later_{number}")
    assert log.stat().st_size <= _MOST_LOG_BYTES
