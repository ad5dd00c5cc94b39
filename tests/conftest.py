"""Fixtures for every test: an empty database of each kind that Resonant supports."""

import gc
import logging
import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.database import DirectoryBasedExampleDatabase
from xdist.scheduler import LoadFileScheduling

from support import durations, failures, programs
from support.durations import unit_of
from support.examples import ARE_NEW, FUZZ_EXAMPLES, examples
from support.pgbouncer import started_pgbouncer
from support.postgresql import started_postgresql
from support.prefect_database import share_prefect_database
from support.sqlite import Disk, is_locked, listening

# Settings of the tests themselves.
_OF_TESTS = ("RESONANT_CHAOS", "RESONANT_FUZZ", "RESONANT_SCALE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-durations", action="store_true", help="write tests/durations.json after the run"
    )
    parser.addoption("--order", default="", metavar="SEED", help="run the tests in this random order")
    parser.addoption(
        "--shard", default="", metavar="N/M", help="run only the files of this shard, such as 1/3"
    )


def pytest_configure(config: pytest.Config) -> None:
    for plugin in (durations, failures, programs):
        config.pluginmanager.register(plugin)
    _forget_the_user(config)
    share_prefect_database(config)
    # A shell makes background jobs ignore Ctrl-C, and the processes that the tests start and interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        # One seed for every process of pytest-xdist. The short form has the same each time.
        new = random.SystemRandom().randrange(1 << 32)
        is_long = os.environ.get("RESONANT_CHAOS") == "long"
        os.environ.setdefault("RESONANT_CHAOS_SEED", str(new if is_long else 1))
    _register_examples()


def _forget_the_user(config: pytest.Config) -> None:
    """Remove the user's own settings of Resonant and Prefect before Prefect is imported and reads them."""
    for name in list(os.environ):
        if name.startswith("PREFECT_") or (name.startswith("RESONANT_") and not name.startswith(_OF_TESTS)):
            del os.environ[name]
    home = tempfile.TemporaryDirectory(prefix="resonant-prefect-", ignore_cleanup_errors=True)
    config.add_cleanup(home.cleanup)
    os.environ["PREFECT_HOME"] = home.name


def _register_examples() -> None:
    """Load the default profile, and register the profiles of tests/resonant/fuzz, with fewer examples for file access.

    Slow examples never fail, since the machine may be loaded. New examples that fail are kept outside the checkout, which may be
    new.
    """
    options: dict[str, Any] = {"deadline": None, "derandomize": not ARE_NEW}
    if ARE_NEW:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        options["database"] = DirectoryBasedExampleDatabase(cache / "resonant-tests" / "examples")
    hypothesis_settings.register_profile(
        "examples", max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow], **options
    )
    hypothesis_settings.load_profile("examples")
    options |= {"suppress_health_check": list(HealthCheck), "print_blob": True}
    hypothesis_settings.register_profile("fuzz", max_examples=FUZZ_EXAMPLES, **options)
    with_files = max(examples(50), FUZZ_EXAMPLES // 10)
    hypothesis_settings.register_profile("fuzz-io", max_examples=with_files, **options)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage meanwhile: nearly everything that is made lives until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Give each process whole files, and the files of a group to one process."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return unit_of(config.rootpath / path)

    return Scheduling(config, log)


@pytest.fixture
def caplog(caplog):
    """Without the warnings of Prefect's threads, which go on after the test whose server they lost."""
    caplog.handler.addFilter(_is_of_the_test)
    yield caplog
    caplog.handler.removeFilter(_is_of_the_test)


def _is_of_the_test(record: logging.LogRecord) -> bool:
    return not record.name.startswith("prefect.events")


@pytest.fixture(scope="session")
def postgresql():
    """A PostgreSQL server, stopped and removed at the end of the session."""
    with started_postgresql() as server:
        server.execute("ALTER SYSTEM SET fsync = off")  # test data need not survive a crash of the machine
        server.reload()
        server.execute("ALTER ROLE postgres SET resonant.may_lose_data = 'on'")  # no warning of it
        yield server


@pytest.fixture
def disk():
    """The file system below every SQLite store; a test may set ``is_read_only``."""
    disk = Disk()
    with listening("begin", disk.begin):
        yield disk


@pytest.fixture
def impatient_sqlite():
    """Connections wait only briefly for the lock of ``locked``; the list gets an entry for each transaction that tries to write.

    They wait long for each other: otherwise a write would fail that meets another one of the test.
    """
    tries = []

    def begin(connection):
        if connection.get_execution_options().get("write"):
            tries.append(connection)
            driver = connection.connection.driver_connection
            driver.execute(f"PRAGMA busy_timeout = {20 if is_locked() else 30_000}")

    with listening("begin", begin):
        yield tries


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
    """The URL of an empty database; the test runs once for SQLite and once for PostgreSQL."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory):
    """The API URL of a real Prefect server with its UI; one per session."""
    # Only here: it imports Prefect.
    from support.prefect import forget_server, running_server

    # The server notices missing events, and stores events, within a second instead of the default five.
    variables = {
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    }
    with running_server(tmp_path_factory.mktemp("prefect"), ui=True, **variables) as (api_url, _):
        yield api_url
        forget_server(api_url)


@pytest.fixture(scope="session")
def pgbouncer(postgresql):
    """PgBouncer in transaction mode, in front of the PostgreSQL server of the session."""
    with started_pgbouncer(postgresql.folder) as started:
        yield started


@pytest.fixture
def pgbouncer_url(pgbouncer, postgresql):
    """The URL of an empty PostgreSQL database behind PgBouncer."""
    return pgbouncer.url(postgresql.empty_database())
