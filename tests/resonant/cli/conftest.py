"""A store in its own folder, filled by the actions of a worker, and the commands on it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from typer import testing
from typer.testing import CliRunner

from resonant.cli import app, asking
from resonant.delivery.retry import GiveUp, Retry
from resonant.events import Event
from resonant.store import WorkerStore
from resonant.store.shared import drains
from resonant.testing import FixedClock
from support.commands import run_in_process
from support.desk import Desk
from support.dlq_actions import DAY, PERMANENT
from support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from resonant.delivery.retry import Decision
    from resonant.events import Lease
    from resonant.store import Outcome, Store

MAIN = "from resonant.cli import main; main()"


# As on a terminal: a line of output is not held back until a later one of errors.
testing._NamedTextIOWrapper = functools.partial(testing._NamedTextIOWrapper, line_buffering=True)


class Operator:
    """Runs commands, in this process and as programs of their own."""

    def __call__(self, *argv: str, code: int = 0, **options: Any) -> Answer:
        """Run a command in this process; it must end with this exit code."""
        answer = self.run(*argv, **options)
        assert answer.code == code, answer
        return answer

    def run(self, *argv: str, **options: Any) -> Answer:
        """Run a command in this process."""
        charset = options.pop("charset", "utf-8")
        result = CliRunner(charset).invoke(app, list(argv), prog_name="resonant", **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return answer_of(result.exit_code, result.stdout, result.stderr, result.output)

    def refused(self, *argv: str, code: int = 1) -> str:
        """Run a command that is refused in one line; return this line."""
        answer = self(*argv, code=code)
        assert answer.out == ""
        [line] = answer.err.splitlines()
        assert line.startswith("resonant: "), line
        return line.removeprefix("resonant: ")

    def json(self, *argv: str) -> Any:
        """Run a command with --json and return its document."""
        return json.loads(self(*argv, "--json").out)

    def on_prefect(self, *argv: str, typed: str = "", code: int | None = 0) -> Answer:
        """Run a command that uses Prefect in this process; it must end with this exit code, or any if it is None."""
        done = run_in_process(argv, os.environ, Path.cwd(), typed)
        answer = answer_of(done.returncode, done.stdout, done.stderr)
        assert code is None or answer.code == code, answer
        return answer

    def json_on_prefect(self, *argv: str) -> Any:
        """Run a command that uses Prefect with --json and return its document."""
        return json.loads(self.on_prefect(*argv, "--json").out)

    def program(self, *argv: str, before: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command as a program, with some code before it."""
        command = [sys.executable, "-c", f"{before}\n{MAIN}", *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)

    def start(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command as a program, with pipes to talk to it."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, "-c", MAIN, *argv], text=True, **(pipes | options))

    def on_a_terminal(
        self, *argv: str, typed: str = "", columns: int = 80, lines: int = 40, **options: Any
    ) -> str:
        """Run a command in this process as on a terminal, with this input; return the text on the terminal."""
        terminal = {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": str(columns), "LINES": str(lines)}
        with patch.object(asking, "can_ask", return_value=True):
            return self(*argv, env=terminal, input=typed, **options).screen

    def on_a_real_terminal(self, *argv: str, typed: str) -> str:
        """Run a command as a program on a terminal, with this input; return the text on the terminal."""
        terminal, side = pty.openpty()
        environment = os.environ | {"COLUMNS": "80", "LINES": "40", "TERM": "dumb"}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), side)
        with subprocess.Popen([sys.executable, "-c", MAIN, *argv], env=environment, **pipes) as running:
            os.close(side)
            os.write(terminal, typed.encode())
            shown = b""
            with contextlib.suppress(OSError):  # on Linux, a closed terminal is an error
                while chunk := os.read(terminal, 65_536):
                    shown += chunk
        os.close(terminal)
        assert running.returncode == 0, shown.decode()
        return shown.decode().replace("\r\n", "\n")


@dataclass(frozen=True)
class Answer:
    """The output of a command, without the line at the end that names its store; ``store`` has this name."""

    code: int
    out: str
    err: str
    screen: str = ""
    store: str = ""


def answer_of(code: int, out: str, err: str, screen: str = "") -> Answer:
    said = re.search(r"^store:\s+(\S+)\n\Z", err, re.MULTILINE)
    if said is None:
        return Answer(code, out, err, screen)
    assert not screen or screen.endswith(said[0])
    return Answer(code, out, err[: said.start()], screen[: len(screen) - len(said[0])], said[1])


class Worker:
    """Acts on the store as producers and workers do, at the time of its clock."""

    def __init__(self, url: str) -> None:
        self.clock = FixedClock(time.time())
        self._url = url
        self._held: dict[str, list[Lease]] = {}
        self._open: tuple[asyncio.Runner, Store] | None = None

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the store open during the block: opening it takes longer than most of the work."""
        with asyncio.Runner() as runner:
            store = runner.run(WorkerStore.open(self._url, clock=self.clock))
            self._open = runner, store
            try:
                yield
            finally:
                self._open = None
                runner.run(store.close())

    def do(self, work: Any) -> Any:
        """Run a coroutine function on the open store."""
        if self._open is None:
            with self.at_work():
                return self.do(work)
        runner, store = self._open
        return runner.run(work(store))

    def accept(
        self,
        *ids: str,
        endpoint: str = "billing",
        event_type: str = "order.paid",
        source: str = "/shop",
        data: Any = None,
        **more: Any,
    ) -> None:
        """Store events with these ids."""
        events = [Event(id=each, type=event_type, source=source, data=data, **more) for each in ids]
        self.do(lambda store: store.enqueue(events, endpoint))

    def bury(
        self,
        *ids: str,
        endpoint: str = "billing",
        reason: str = "exhausted",
        event_type: str = "order.paid",
        source: str = "/shop",
        **fields: Any,
    ) -> None:
        """Store events with these ids and give them up."""
        self.accept(*ids, endpoint=endpoint, event_type=event_type, source=source)
        self.attempt(GiveUp(reason), endpoint=endpoint, **fields)

    def claim_all(self, endpoint: str = "billing") -> list[Lease]:
        """Claim everything that is due, including events that commands have stored since."""
        self.clock.advance(max(0.0, time.time() - self.clock()))
        return self.do(lambda store: store.claim(endpoint, owner="run-1", limit=100_000))

    def attempt(self, decision: Decision | None = None, *, endpoint: str = "billing", **fields: Any) -> None:
        """Make the next attempt of everything that is due: delivered, unless there is a decision."""
        values = {
            "started_at": self.clock(),
            "duration": 0.25,
            "blame": None,
            "maybe_processed": None,
        } | fields

        def outcome(lease: Lease) -> Outcome:
            return (
                Desk.delivered(lease, **values)
                if decision is None
                else Desk.failed(lease, decision, **values)
            )

        async def work(store):
            leases = self._held.pop(endpoint, None) or await store.claim(endpoint, owner="run-1", limit=1_000)
            await store.begin(leases)
            await store.record([outcome(lease) for lease in leases])
            if isinstance(decision, Retry):
                self._held[endpoint] = [replace(lease, attempts=lease.attempts + 1) for lease in leases]

        self.do(work)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: to copy it is quicker than to make it for every test."""
    path = tmp_path_factory.mktemp("store") / "resonant.db"

    async def make() -> None:
        await (await WorkerStore.open(f"sqlite:///{path}")).close()

    asyncio.run(make())
    return path


@pytest.fixture(autouse=True)
def url(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The database's URL, in the environment of every command."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)
    # The commands read the real clock: the runs that a test reports do not end while the machine stalls.
    monkeypatch.setattr(drains, "LIVE_SECONDS", PATIENCE_SECONDS)
    url = f"sqlite:///{shutil.copy(empty_store, tmp_path)}"
    monkeypatch.setenv("RESONANT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESONANT_DATABASE_URL", url)
    monkeypatch.chdir(tmp_path)
    return url


@pytest.fixture
def resonant() -> Operator:
    """The command line."""
    return Operator()


@pytest.fixture
def worker(url: str) -> Worker:
    """Somebody who stores events and makes attempts."""
    return Worker(url)


@pytest.fixture
def enqueue(resonant):
    """``resonant enqueue`` to the endpoint billing."""

    def run(*argv: str, code: int = 0):
        return resonant("enqueue", *argv, "--endpoint", "billing", "--allow-unknown", code=code)

    return run


@pytest.fixture
def dead(worker: Worker) -> Worker:
    """Three dead letters, of forty, of two, and of no days, and one event that was delivered three days ago."""
    with worker.at_work():
        now = worker.clock()
        for event_id, days, decision, attempt in (
            ("evt_old", 40, GiveUp("exhausted"), {}),
            ("evt_delivered", 3, None, {}),
            ("evt_bad", 2, GiveUp("permanent"), PERMANENT),
            ("evt_new", 0, GiveUp("exhausted"), {}),
        ):
            worker.clock.advance(now - days * DAY - worker.clock())
            worker.accept(event_id)
            worker.attempt(decision, **attempt)
    return worker


@pytest.fixture
def recent(worker: Worker) -> Worker:
    """Three dead letters: of three hours, of one hour, and of now."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-3 * 3600)
        worker.bury("evt_old")
        worker.clock.advance(2 * 3600)
        rejected = {"event_type": "order.refunded", "error": "it answered 400", **PERMANENT}
        worker.bury("evt_bad", reason="permanent", **rejected)
        worker.clock.advance(now - worker.clock())
        unknown = {"category": "unknown", "code": "dns_not_found", "status_code": None}
        worker.bury("evt_new", event_type="user.created", endpoint="crm", reason="expired", **unknown)
    return worker


@pytest.fixture
def busy(worker: Worker) -> Worker:
    """Two events delivered, one of them by a retry; one given up, three days after one that is old."""
    with worker.at_work():
        now = worker.clock()
        worker.clock.advance(-3 * 86_400)
        worker.accept("evt_old")
        worker.attempt()
        worker.clock.advance(now - worker.clock())
        worker.accept("evt_1")
        worker.attempt(duration=0.1)
        worker.accept("evt_2")
        worker.attempt(Retry(0.0, now), duration=0.2)
        worker.attempt(duration=0.3)
        worker.bury("evt_3", endpoint="crm", reason="permanent", **PERMANENT, duration=0.4)
    return worker


@pytest.fixture
def on_postgresql(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """The worker on a PostgreSQL store, which the commands use too."""
    monkeypatch.setenv("RESONANT_DATABASE_URL", postgresql_url)
    return Worker(postgresql_url)


@pytest.fixture
def on_server(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real Prefect server, for commands and for the test."""
    # Not for all tests: Prefect starts threads, and a process with threads should not fork for a terminal.
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield


@pytest.fixture
def webhook(on_server: None) -> Iterator[Callable[..., str]]:
    """A function that saves a webhook endpoint on the server, and returns its name."""
    from resonant.blocks import WebhookEndpoint

    names: list[str] = []

    def save(name: str, url: str = "https://hooks.example.com/in?key=t0ken", **fields: Any) -> str:
        names.append(name)
        asyncio.run(WebhookEndpoint(url=url, **fields).asave(name, overwrite=True))
        return name

    yield save
    for name in names:
        with contextlib.suppress(ValueError):  # the test has removed it
            asyncio.run(WebhookEndpoint.adelete(name))


@pytest.fixture(scope="session")
def stored_store(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two events for two endpoints, one of them given up with a code of the user's own."""
    path = Path(shutil.copy(empty_store, tmp_path_factory.mktemp("stored")))
    worker = Worker(f"sqlite:///{path}")
    with worker.at_work():
        worker.accept("e1", endpoint="shop")
        worker.accept("e2", endpoint="billing")
        worker.attempt(GiveUp("permanent"), code="my_own_code", category="permanent")
    return path


@pytest.fixture
def stored(url: str, stored_store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Worker:
    """A copy of that database; no Prefect server runs."""
    shutil.copy(stored_store, tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
    return Worker(url)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the URL of each store that is opened."""
    urls: list[str] = []
    open_store = WorkerStore.open

    async def note(url: str, **options: Any) -> WorkerStore:
        urls.append(url)
        return await open_store(url, **options)

    monkeypatch.setattr(WorkerStore, "open", note)
    return urls
