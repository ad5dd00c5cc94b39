"""Prefect on this machine: a server, a worker and the deployments, started and stopped together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import psutil

from resonant import output
from resonant.errors import ResonantError, ServerError
from resonant.files import atomic_file, make_private_folder, open_private
from resonant.local.compatibility import check_client_names
from resonant.local.console import ConsolePart
from resonant.local.health import translated_server_errors
from resonant.local.intake import Intake
from resonant.local.note import Note, is_held, lock_of_up, note_of_up, read_note
from resonant.local.parts import POLL_SECONDS, Part, Parts, kept_parts
from resonant.local.password import protect_up, required_password
from resonant.local.server import (
    Server,
    ServerProcess,
    api_url_at,
    configure_prefect,
    configured_url,
    is_free,
    is_same_url,
    prepared_home,
    refuse_cloud,
)
from resonant.local.work_pool import set_states
from resonant.local.worker import Worker

if TYPE_CHECKING:
    from prefect import State

    from resonant.settings import Settings

# The sum of the limits for the runs (these two), the console, the worker, the server and the intake.
_STOP_SECONDS = 50
_RUNS_SECONDS, _CLOSE_SECONDS = 10.0, 5.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Prefect on this machine: a server, a worker, and the deployments of prefect.yaml.

    Attributes:
        server: the server.
        deployments: their names, as ``FLOW/NAME``.
        parts: the processes that must run.
        has_password: whether the server requires the password of ``password_file``.
        note: lets other commands find the server while it runs.
        console_url: the address of the console; None without one.
    """

    server: Server
    deployments: list[str]
    parts: Parts
    has_password: bool
    note: Callable[[], None]
    console_url: str | None = None

    def watch(self) -> NoReturn:
        """Restart parts that end.

        Raises:
            ServerError: one failed to start too often; the message contains the path of its log.
        """
        said = ""
        while True:
            self.parts.look()
            try:
                self.note()
                problem = ""
            except (ResonantError, OSError) as error:
                problem = f"{error}: until it can be written, other commands do not find this server"
            if problem and problem != said:
                output.say(problem)
            said = problem
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C."""
    # Raising SIGINT would not help: a shell's background job ignores it.
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def running_stack(
    settings: Settings,
    *,
    port: int,
    deploy: Callable[[], Coroutine[Any, Any, list[str]]],
    with_password: bool = False,
    intake_port: int | None = None,
    sources: Path | None = None,
    console_port: int | None = 0,
) -> Iterator[Stack]:
    """Run server, worker and deployments during the block, and point Prefect at them. Call it before importing Prefect.

    Args:
        settings: provide the store and the home folder.
        port: the server's port.
        deploy: applies the deployments to the server, and returns their names.
        with_password: require the password of ``password_file``, unless the environment has one.
        intake_port: the port of the HTTP intake; None for no intake.
        sources: the file of the intake's sources of webhooks.
        console_port: the port of the console; 0 for no console, None for its default or, if that is taken, a free one.

    Raises:
        ServerError: a part cannot start; the message says why.
        PrefectChanged: the installed Prefect lacks a name that Resonant uses.
        StoreError: the configured database is not supported.
    """
    elsewhere = _settings_elsewhere(settings)
    home = prepared_home(settings).absolute()
    server = Server(api_url_at(port))
    with _only_one(settings):
        _check_nothing_else_is_configured(server)
        _check_free("--port", port)
        if intake_port is not None:
            _check_free("--serve", intake_port)
        if console_port:
            _check_free("--console", console_port)
        configure_prefect()
        os.environ["PREFECT_API_URL"] = server.api_url
        has_password = with_password and protect_up(settings)
        if console_port != 0:
            required_password()
        of_store = {
            "RESONANT_DATABASE_URL": settings.store_url,
            "RESONANT_MAX_EVENT_BYTES": str(settings.max_event_bytes),
        } | elsewhere
        with temporary_folder(home) as folder, kept_parts() as parts:
            if intake_port is not None:
                output.say("starting the HTTP intake")
                _start(parts, Intake(home, elsewhere, intake_port, sources))
            output.say("starting the Prefect server, 5 to 20 s")
            serving = ServerProcess(settings, port=port, ui=True, variables=of_store)
            _start(parts, serving)
            with translated_server_errors(server.api_url):
                check_client_names()
                output.say("starting the worker and applying the deployments, 5 to 10 s")
                worker = Worker(
                    home,
                    elsewhere | {"TMPDIR": str(folder)},
                    server.api_url,
                    is_served=lambda: parts.runs(serving),
                )
                parts.start(worker)
                with _ended_with_runs(parts, worker):
                    deployments = asyncio.run(deploy())
                    parts.wait(worker)
                    console_url = None
                    if console_port != 0:
                        # Nothing waits for it: a browser is not that fast.
                        parts.start(console := ConsolePart(home, elsewhere, console_port))
                        console_url = console.url
                    with _noted(settings, server, has_password=has_password) as note:
                        yield Stack(
                            server,
                            deployments,
                            parts,
                            has_password,
                            lambda: note(parts.runs(serving)),
                            console_url,
                        )


def _start(parts: Parts, part: Part) -> None:
    parts.start(part)
    parts.wait(part)


def _check_free(option: str, port: int) -> None:
    if not is_free(port):
        raise ServerError(
            f"port {port} is in use by another program: stop that, or choose another port, "
            f"as in `resonant up {option} {port + 1}`"
        )


@contextlib.contextmanager
def _noted(settings: Settings, server: Server, *, has_password: bool) -> Iterator[Callable[[bool], None]]:
    """During the block, let other commands find this server while it runs; otherwise, another program may have its port."""
    path = note_of_up(settings)

    def note(is_running: bool) -> None:
        if not is_running:
            path.unlink(missing_ok=True)
        elif not path.exists():
            with atomic_file(path) as write:
                write(json.dumps(asdict(Note(server.api_url, os.getpid(), has_password))))

    note(True)
    try:
        yield note
    finally:
        note(False)


@contextlib.contextmanager
def _only_one(settings: Settings) -> Iterator[None]:
    path = lock_of_up(settings)
    with open_private(path, "wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                # A command may also hold the lock briefly, just to check it.
                if is_held(path):
                    note = read_note(settings)
                    where = (
                        f": {Server(note.api_url).ui_url}, process {note.pid}"
                        if note
                        else ", and still starting"
                    )
                    raise ServerError(f"`resonant up` is already running{where}") from None
        # A killed process may have left its note, which is trusted while the lock is held.
        note_of_up(settings).unlink(missing_ok=True)
        yield


@contextlib.contextmanager
def temporary_folder(home: Path) -> Iterator[Path]:
    """Provide a private folder for the temporary files of a worker: Prefect writes each run's whole environment into one.

    Folders that a killed process has left are removed.
    """
    parent = home / "tmp"
    shutil.rmtree(parent, ignore_errors=True)
    make_private_folder(parent)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_nothing_else_is_configured(server: Server) -> None:
    """Refuse to start a server that the other commands would not use."""
    configured = configured_url()
    refuse_cloud(configured or "")
    if configured and not is_same_url(configured, server.api_url):
        raise ServerError(
            f"Prefect is configured to use the server at {configured} (PREFECT_API_URL, or its profile), but "
            "`resonant up` starts its own. Unset it, or use that server from a checkout or a folder made by "
            "`resonant init`: `python -m deployments.bootstrap`, then `prefect worker start --pool resonant`"
        )


@contextlib.contextmanager
def _ended_with_runs(parts: Parts, worker: Worker) -> Iterator[None]:
    """At the end of the block, end the parts, and cancel the runs of the worker, which release their leases."""
    from prefect.states import Cancelled

    try:
        yield
    finally:
        try:
            output.say(
                f"stopping: the runs, at most {_STOP_SECONDS} s in all; another Ctrl-C kills everything"
            )
            have_ended = _cancel_runs(worker)
            for part in reversed([*parts]):
                output.say(f"stopping: the {part.name}")
                if part is worker and have_ended:
                    # It would still run the hooks of these runs, ignore SIGTERM, and log that the hooks have failed.
                    part.kill()
                part.end()
                if part is worker:
                    _close_runs(Cancelled(message="`resonant up` was stopped"))
        except KeyboardInterrupt:
            parts.kill()
            raise


def _cancel_runs(worker: Worker) -> bool:
    """Cancel the running runs of a worker, and wait for their processes; return whether all have ended.

    Runs that are only pending hold nothing. If they were cancelled too, the worker would log that it cannot run their hooks.
    """
    import httpx
    from prefect.states import Cancelling

    async def cancel() -> None:
        async with asyncio.timeout(_RUNS_SECONDS):
            ending: list[psutil.Process] = []
            while True:
                processes = worker.run_processes()
                cancelled = await set_states(Cancelling(), {"RUNNING"})
                ending += [process for run, process in processes if run in cancelled]
                if not (cancelled or ending):
                    return
                _, ending = psutil.wait_procs(ending, timeout=POLL_SECONDS)

    try:
        asyncio.run(cancel())
    except (httpx.HTTPError, TimeoutError):
        return False
    return True


def _close_runs(state: State[Any]) -> None:
    """Set the state of unfinished runs until none is left, unless the server has ended or takes too long.

    The server may be busy, or still be processing the last requests of a worker that has ended.
    """
    import httpx

    async def close() -> None:
        async with asyncio.timeout(_CLOSE_SECONDS):
            while await set_states(state):
                pass

    with contextlib.suppress(httpx.HTTPError, TimeoutError):
        asyncio.run(close())


def _settings_elsewhere(settings: Settings) -> dict[str, str]:
    """Return the variables for a process in another folder, with relative paths made absolute.

    Raises:
        StoreError: the URL is not of a supported database.
    """
    from resonant.store.engine.database import file_of

    variables = {"RESONANT_HOME": str(settings.home.expanduser().absolute())}
    if file := file_of(settings.store_url):
        variables["RESONANT_DATABASE_URL"] = f"sqlite:///{quote(str(file.absolute()))}"
    return variables
