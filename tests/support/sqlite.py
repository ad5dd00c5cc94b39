"""Tests on SQLite only, and faults below it: a read-only disk, and a lock held by another process."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, event

# For tests of what no database decides.
on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@contextlib.contextmanager
def listening(name: str, listener: Callable[..., object], **options: bool) -> Iterator[None]:
    """Call the listener on this event of every engine during the block."""
    event.listen(Engine, name, listener, **options)
    try:
        yield
    finally:
        event.remove(Engine, name, listener)


@contextlib.contextmanager
def write_transactions(name: str) -> Iterator[list[Connection]]:
    """Yield a list that gets the connection of each transaction that may write, at its ``begin`` or ``commit``."""
    found: list[Connection] = []

    def add(connection: Connection) -> None:
        if connection.get_execution_options().get("write"):
            found.append(connection)

    with listening(name, add):
        yield found


@dataclass
class Disk:
    """The file system below the stores.

    Attributes:
        is_read_only: whether writes fail, as after a disk fault.
        is_full: whether writes fail until there is space again.
        refused: the number of transactions that began while it was read-only, or full.
    """

    is_read_only: bool = False
    is_full: bool = False
    refused: int = 0

    def begin(self, connection) -> None:
        self.refused += self.is_read_only or self.is_full
        if self.is_full:
            raise sqlite3.OperationalError("database or disk is full")
        connection.exec_driver_sql(f"PRAGMA query_only = {int(self.is_read_only)}")


_locking: list[sqlite3.Connection] = []


@contextlib.contextmanager
def locked(database: Path) -> Iterator[sqlite3.Connection]:
    """Hold the write lock, as another process with a long transaction would."""
    connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    _locking.append(connection)
    try:
        yield connection
    finally:
        if connection.in_transaction:
            connection.rollback()
        _locking.remove(connection)
        connection.close()


def is_locked() -> bool:
    """Return whether a block of ``locked`` holds a write lock now."""
    return any(connection.in_transaction for connection in _locking)


@contextlib.contextmanager
def connected(database: Path) -> Iterator[sqlite3.Connection]:
    """Connect as another process would that never waits, and create a table for its writes."""
    connection = sqlite3.connect(database, timeout=0, isolation_level=None, check_same_thread=False)
    with contextlib.closing(connection):
        connection.execute("CREATE TABLE other (content BLOB)")
        yield connection


def is_snapshot_held(connection: sqlite3.Connection) -> bool:
    """Write with a connection from ``connected``; return whether a reader's snapshot keeps the write in the log."""
    connection.execute("INSERT INTO other VALUES (zeroblob(10000))")
    (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return bool(is_busy)
