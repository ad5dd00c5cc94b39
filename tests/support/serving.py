"""A real ``resonant serve`` in its own process, on a store of the test."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from resonant.routing import new_subscription
from resonant.store import open_store
from resonant.store.shared.subscriptions import add_subscription
from resonant.store.views.known_names import remember_endpoints
from support.failures import show_on_failure
from support.ports import free_port
from support.processes import clean_environment
from support.waiting import wait_until

_OK = 200
_ENDS_WITHIN_SECONDS = 60.0


@dataclass
class Serving:
    """A server that is ready.

    Attributes:
        process: its process.
        port: its port on the loopback interface.
        store_url: the URL of its store.
        folder: its home, and its working folder.
        log: the file with its output.
    """

    process: subprocess.Popen[bytes]
    port: int
    store_url: str
    folder: Path
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Kill it at whatever instruction it is."""
        self.process.kill()
        self.process.wait(_ENDS_WITHIN_SECONDS)

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        self.process.terminate()
        return self.process.wait(_ENDS_WITHIN_SECONDS)


@contextmanager
def serving(
    store_url: str,
    folder: Path,
    *options: str,
    port: int | None = None,
    command: str = "serve",
    ready: str = "readyz",
    **variables: str,
) -> Iterator[Serving]:
    """Run ``resonant serve``, or another command, during the block, from when it is ready.

    Args:
        store_url: the URL of its database, which need not exist.
        folder: its home and its working folder.
        options: further options, such as ``--no-auth``.
        port: by default, a free one.
        command: its name.
        ready: the path that it answers when it is ready.
        variables: environment variables.
    """
    port = port or free_port()
    log = folder / f"{command}.log"
    show_on_failure(f"resonant {command}", log)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "resonant", command, "--port", str(port), *options],
            cwd=folder,
            env=_environment(store_url, folder) | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    server = Serving(process, port, store_url, folder, log)
    try:
        _wait_until_ready(server, ready)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_SECONDS)
        finally:
            process.kill()


def add_endpoints(store_url: str, *names: str) -> None:
    """Make endpoints known to a store, and create the store if it does not exist; nothing is sent to them."""
    asyncio.run(_write(store_url, remember_endpoints, names))


def route_everything(store_url: str, endpoint: str) -> None:
    """Make a known endpoint get every event."""
    asyncio.run(
        _write(store_url, add_subscription, new_subscription(endpoint, {}), who="a test", now=time.time())
    )


async def _write(store_url: str, operation: Callable[..., object], *args: Any, **options: Any) -> None:
    async with open_store(store_url) as store:
        await store.write(operation, *args, **options)


def create_token(store_url: str, folder: Path, name: str, *options: str) -> str:
    """Run ``resonant token create``, and return the token."""
    said = run_command(store_url, folder, "token", "create", name, *options)
    return next(word for word in said.split() if word.startswith("rsn_"))


def run_command(store_url: str, folder: Path, *arguments: str) -> str:
    """Run a command that must succeed on a store, in this process, and return its output."""
    from support.commands import run_in_process  # imports Prefect

    done = run_in_process(arguments, _environment(store_url, folder), folder)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def _environment(store_url: str, folder: Path) -> dict[str, str]:
    of_user = {"HOME": str(folder), "RESONANT_HOME": str(folder / "resonant")}
    return clean_environment() | of_user | {"RESONANT_DATABASE_URL": store_url}


def _wait_until_ready(server: Serving, path: str) -> None:
    def ready() -> bool:
        if server.process.poll() is not None:
            pytest.fail(f"the server ended with {server.process.returncode}: {server.log.read_text()}")
        try:
            return httpx.get(f"{server.url}/{path}", trust_env=False).status_code == _OK
        except httpx.TransportError:
            return False

    wait_until(ready)
