"""Opens a database by its URL, and brings its schema up to date."""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from resonant.errors import StoreError, StoreTooNew
from resonant.events import Clock
from resonant.store.engine.migrate import SCHEMA_VERSION, migrate, read_schema_version
from resonant.store.engine.postgresql import STATEMENT_TIMEOUT_SECONDS, PostgreSQL
from resonant.store.engine.sqlite import SQLite, path_of
from resonant.store.engine.sync import Sync

P = ParamSpec("P")
T = TypeVar("T")

# The allowed query parameters of the URL.
_SERVER_OPTIONS = frozenset({"host", "port", "sslmode", "target_session_attrs"})
_OPTIONS = {"sqlite": frozenset[str](), "postgresql": _SERVER_OPTIONS, "postgres": _SERVER_OPTIONS}


class Transaction(Protocol):
    """An open transaction; SQLAlchemy's ``AsyncConnection`` also matches this protocol."""

    async def run_sync(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation in this transaction.

        Raises:
            StoreUnavailable: the database became unreachable, or is full or read-only.
        """


class Database(Protocol):
    """A database with the transactions that Resonant needs. ``str`` returns its URL without the password."""

    async def write(
        self,
        operation: Callable[[Connection], T],
        /,
        *,
        sync: Sync = "always",
        lock_seconds: float | None = None,
    ) -> T:
        """Run the operation in its own transaction, and commit it.

        The operation may run more than once; earlier runs are rolled back.

        Args:
            operation: changes rows.
            sync: which databases sync the commit to the disk before this returns; see ``sync.Sync``.
            lock_seconds: on PostgreSQL, how long the operation waits for a lock; None for the default. SQLite ignores it, since all
                writers share one lock.

        Raises:
            StoreUnavailable: the database cannot be reached, is locked, read-only or full; ``StillLocked`` after
                ``lock_seconds``.
        """

    async def read(self, operation: Callable[[Connection], T], /) -> T:
        """Run the operation on one snapshot.

        Raises:
            StoreUnavailable: the database cannot be reached.
        """

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction; it commits at the end of the block, or rolls back on an error.

        Raises:
            StoreUnavailable: the database cannot be reached, is locked, read-only or full.
        """

    def commits(self) -> AsyncGenerator[frozenset[str] | None]:
        """Yield soon after another connection has committed new work; once for several commits in a row.

        It may also yield for other commits, and may miss one. It raises no error while the database is unavailable.

        Yields:
            The endpoints with new work; None if unknown.
        """

    async def reclaim_space(self) -> None:
        """Return the space of removed rows to the file system, if the database does not do so itself."""

    async def forget_removed(self) -> str:
        """Remove what deleted and changed rows contained from the files of the database, as far as possible.

        Returns:
            What may still have it, with advice, on one line.
        """

    async def close(self) -> None:
        """Close every connection."""


async def open_database(
    url: str,
    *,
    lease_seconds: float = 60.0,
    host_clock: Clock = time.time,
    may_migrate: bool = True,
) -> Database:
    """Open the database and bring its schema up to date. Several processes may do so at once.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://USER:PASSWORD@HOST/NAME``.
        lease_seconds: the duration of leases. On PostgreSQL, no transaction holds or awaits a lock for longer.
        host_clock: the store's clock on SQLite; unused on PostgreSQL.
        may_migrate: otherwise, an older or missing schema is an error.

    Raises:
        StoreError: the URL does not name a supported database, or its schema is too old, or would have to be migrated.
        StoreUnavailable: it cannot be opened, reached or written.
        StoreTooNew: a newer Resonant wrote its schema.
    """
    parsed = _parse(url)
    database = _connect(parsed, lease_seconds=lease_seconds, host_clock=host_clock)
    try:
        await _migrate(database, parsed, may_migrate=may_migrate)
    except BaseException as error:
        await database.close()
        if type(error) in (StoreError, StoreTooNew):  # their messages do not name the database
            raise type(error)(f"{database}: {error}") from None
        raise
    return database


def file_of(url: str) -> Path | None:
    """Return the path of an SQLite store's file, which may not exist yet; None for a database on a server.

    Raises:
        StoreError: the URL does not name a supported database.
    """
    parsed = _parse(url)
    return path_of(parsed) if parsed.get_backend_name() == "sqlite" else None


async def _migrate(database: Database, url: URL, *, may_migrate: bool) -> None:
    version = await database.read(read_schema_version)
    if version == SCHEMA_VERSION:
        return
    if not may_migrate:
        raise StoreError("the store has the schema of an older version, or none")
    if version is None:
        await database.write(migrate)
        return
    # No statement timeout: upgrading a large table takes long.
    patient = _connect(url, statement_timeout=None)
    try:
        await patient.write(migrate)
    finally:
        await patient.close()


def _connect(
    url: URL,
    *,
    statement_timeout: float | None = STATEMENT_TIMEOUT_SECONDS,
    lease_seconds: float = 60.0,
    host_clock: Clock = time.time,
) -> Database:
    if url.get_backend_name() == "sqlite":
        return SQLite(url, host_clock=host_clock)
    return PostgreSQL(url, statement_timeout=statement_timeout, lease_seconds=lease_seconds)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = URL.create("unknown")
    # Other tools need a driver in the URL, such as postgresql+psycopg; it is ignored here.
    kind, _, _ = parsed.drivername.partition("+")
    if kind not in _OPTIONS:
        # The message omits the URL, which may contain a password.
        raise StoreError(
            "RESONANT_DATABASE_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
            + ("" if "://" in url else "; it has no scheme, so write sqlite:///PATH for a file")
        )
    if kind != "sqlite" and not _ends_at_the_last_at(url, parsed):
        raise StoreError(
            "RESONANT_DATABASE_URL: percent-encode special characters in its password (%40 for @, %3F for ?)"
        )
    if unknown := sorted(parsed.query.keys() - _OPTIONS[kind]):
        known = ", ".join(sorted(_OPTIONS[kind])) or "none"
        raise StoreError(f"RESONANT_DATABASE_URL has the option {unknown[0]!r}; known for {kind}: {known}")
    if parsed.query.get("target_session_attrs", "read-write") != "read-write":
        raise StoreError("RESONANT_DATABASE_URL: target_session_attrs can only be read-write")
    if kind == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise StoreError("RESONANT_DATABASE_URL: an SQLite store needs a file: sqlite:///PATH")
    return parsed.set(drivername="sqlite" if kind == "sqlite" else "postgresql")


def _ends_at_the_last_at(url: str, parsed: URL) -> bool:
    """Return whether user and password end at the last @ of a URL; otherwise, a part of the password is taken for a host."""
    try:
        rest = make_url(f"{parsed.drivername}://{url.rpartition('@')[2]}") if "@" in url else parsed
    except (ArgumentError, ValueError):
        return False
    return all(getattr(rest, part) == getattr(parsed, part) for part in ("host", "port", "database", "query"))
