"""Run ``resonant demo`` on this machine, in its own folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from resonant import output
from resonant.cli.demo import webhook
from resonant.cli.demo.events import LIMITED, demo_events, way_of
from resonant.cli.demo.view import Snapshot, take_snapshot, write_table
from resonant.cli.flow_runs import wait_for_records
from resonant.cli.progress import shown_until_the_end
from resonant.cli.run.up import PORT, whole_stack
from resonant.display import counted
from resonant.errors import ServerError
from resonant.local.server import free_port
from resonant.local.stack import Stack, interrupted_by_signals
from resonant.local.supervisor import end, keep

if TYPE_CHECKING:
    from uuid import UUID

    from resonant.events import Event
    from resonant.store import Store

ENDPOINT, LIMITED_ENDPOINT = "demo", "demo-limited"
EMIT = "emit-events/emit"
POLICY = "classic"
# At the end only the failing events remain, which looks like an outage: each further attempt would take half a minute.
MAX_ATTEMPTS = 2
JOURNAL = "received.jsonl"
# Longer than the slow answers, but short, since some requests never get an answer.
_TIMEOUT_SECONDS = 3.0
_POLL_SECONDS = 0.5
_MOST_RUNS = 20


@dataclass(frozen=True, slots=True)
class _Story:
    """The results of the demo, for its final report.

    Attributes:
        snapshot: the store at the end.
        requests: the number of requests that the receiver counted.
        run_id: the flow run that emitted the events.
        example: the event id of a dead letter.
        hooks: the flow runs that the webhook started.
    """

    snapshot: Snapshot
    requests: int
    run_id: UUID
    example: str | None
    hooks: list[UUID]


def run_demo(events: int, *, stay: bool) -> None:
    """Run the demo with this many events; ``stay`` leaves everything running until Ctrl-C.

    Raises:
        typer.Exit: the store is not balanced.
    """
    from resonant.settings import load_settings

    home = Path(tempfile.mkdtemp(prefix="resonant-demo-"))
    unset = _move_into(home)
    output.say(f"all files of this demo are in {home}")
    with interrupted_by_signals():
        settings = load_settings()
        intake, sources = free_port(), webhook.declare_source(home)
        running = whole_stack(settings, port=free_port(), intake_port=intake, sources=sources)
        with running as stack, _receiver(home) as url:
            story = asyncio.run(_tell(stack, settings.store_url, url, events, home, intake))
            if stay:
                _write_last_page(story, stack, home, unset, is_running=True)
                with contextlib.suppress(KeyboardInterrupt):
                    stack.watch()
        if not stay:
            _write_last_page(story, stack, home, unset, is_running=False)
    if not story.snapshot.status.balanced:
        raise typer.Exit(1)


def _move_into(home: Path) -> list[str]:
    """Detach this process from the user's store and Prefect; return the names of the unset variables."""
    theirs = [name for name in os.environ if name.startswith(("RESONANT_", "PREFECT_"))]
    for name in theirs:
        del os.environ[name]
    os.environ.update(_variables(home))
    return [name for name in theirs if name not in _variables(home)]


def _variables(home: Path) -> dict[str, str]:
    return {"RESONANT_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}


@contextlib.contextmanager
def _receiver(home: Path) -> Iterator[str]:
    """Run the receiver during the block, and yield its URL."""
    log_path = home / "receiver.log"
    command = [sys.executable, "-m", "resonant.testing", "--script", "resonant.testing:eight_ways"]
    with log_path.open("wb") as log:
        receiver = keep([*command, "--journal", str(home / JOURNAL)], dict(os.environ), log)
        try:
            while not (url := log_path.read_text()).endswith("\n"):
                if receiver.poll() is not None:
                    raise ServerError(f"the receiver ended: see {log_path}")
                time.sleep(_POLL_SECONDS / 10)
            yield url.strip()
        finally:
            end(receiver)


async def _tell(stack: Stack, store_url: str, url: str, count: int, home: Path, intake: int) -> _Story:
    from prefect.deployments import arun_deployment
    from pydantic import SecretStr

    from resonant.blocks import WebhookEndpoint
    from resonant.blocks.catalog import save_webhook_endpoint
    from resonant.store import open_store
    from resonant.testing import read_journal

    endpoint = WebhookEndpoint(
        url=SecretStr(url), allow_private=True, policy=POLICY, timeout=_TIMEOUT_SECONDS
    )
    for name in (ENDPOINT, LIMITED_ENDPOINT):
        await save_webhook_endpoint(name, endpoint, overwrite=True)
    async with open_store(store_url) as store:
        deployment = await webhook.deploy(store)
        new = (await webhook.send_twice(home, intake)).count(False)
        hooks = await webhook.start_runs(store, deployment)
        output.say(
            f"sent a signed webhook twice to http://127.0.0.1:{intake}/sources/github: {new} stored, "
            f"{counted(len(hooks), 'flow run')} started"
        )
        events: dict[str, list[Event]] = {ENDPOINT: [], LIMITED_ENDPOINT: []}
        for event in demo_events(count, random.Random()):
            events[LIMITED_ENDPOINT if way_of(event.type) in LIMITED else ENDPOINT].append(event)
        for name, given in events.items():
            await store.enqueue(given, name)
        stored = counted(count, "event")
        output.say(f"stored {stored} for the endpoints {ENDPOINT} and {LIMITED_ENDPOINT}, {url}")
        run_ids: list[UUID] = []
        snapshot = await store.read(take_snapshot)
        # A run does not wait for deliveries that a gate holds for a long time.
        while snapshot.status.pending + snapshot.status.retrying and len(run_ids) < _MOST_RUNS:
            # In the task lane, the UI shows each delivery with its retries.
            parameters = {"max_attempts": MAX_ATTEMPTS, "lane": "task"}
            run = await arun_deployment(EMIT, parameters=parameters, timeout=0)
            run_ids.append(run.id)
            if len(run_ids) == 1:
                output.say(f"the worker runs {EMIT}: {_run_url(stack, run_ids[0])}")
            snapshot = await _watch(stack, store, run_ids[-1])
        dead_letters = await store.dead_letters(limit=1)
    await wait_for_records(run_ids)  # the UI shows only recorded ends
    requests, example = len(read_journal(home / JOURNAL)), dead_letters[0].event_id if dead_letters else None
    return _Story(snapshot, requests, run_ids[0], example, hooks)


async def _watch(stack: Stack, store: Store, run_id: UUID) -> Snapshot:
    """Show the progress of the emission until it ends; return the final snapshot of the store.

    Raises:
        ServerError: the emission failed.
    """
    from prefect.client.orchestration import get_client

    async def look() -> tuple[int, str]:
        snapshot = await store.read(take_snapshot)
        return snapshot.finished, str(snapshot)

    total = (await store.status()).accepted
    async with get_client() as client, shown_until_the_end("emitting", total, look):
        while True:
            run = await client.read_flow_run(run_id)
            if run.state is not None and run.state.is_final():
                break
            stack.parts.check()
            await asyncio.sleep(_POLL_SECONDS)
    if not run.state.is_completed():
        raise ServerError(
            f"the emission ended as {run.state.name}: {run.state.message}; see {[*stack.parts][-1].log}"
        )
    return await store.read(take_snapshot)


def _run_url(stack: Stack, run_id: UUID) -> str:
    return f"{stack.server.ui_url}/runs/flow-run/{run_id}"


def _write_last_page(story: _Story, stack: Stack, home: Path, unset: list[str], *, is_running: bool) -> None:
    """Print the outcomes of the events, the addresses, the next steps, and the balance."""
    snapshot, status = story.snapshot, story.snapshot.status
    write_table(snapshot)
    output.write(
        f"{snapshot.attempts:,} attempts at the receiver in the store, {story.requests:,} requests in its own journal\n"
        f"a signed webhook, sent twice, started {counted(len(story.hooks), 'flow run')}\n\n"
    )
    if is_running:
        output.write(
            f"UI: {stack.server.ui_url}, the emission: {_run_url(stack, story.run_id)}\n"
            + "".join(f"the run of the webhook:\n{_run_url(stack, each)}\n" for each in story.hooks)
            + "Everything runs until Ctrl-C. Next steps, in another terminal:\n"
        )
    else:
        output.write(
            f"The UI at {stack.server.ui_url} has stopped; `resonant demo --keep` keeps it running.\n"
            f"The results are in {home}. Next steps:\n"
        )
    exports = " ".join(f"{name}={value}" for name, value in _variables(home).items())
    output.write(f"  export {exports}\n")
    if unset:
        output.write(f"  unset {' '.join(unset)}\n")
    program = "resonant" if shutil.which("resonant") else f"{sys.executable} -m resonant"
    if story.example is not None:
        output.write(
            f"  {program} dlq    # lists the dead letters\n"
            f"  {program} detail {story.example}    # shows every attempt of one of them\n"
        )
    output.write(f"  {program} status    # shows the balance\n")
    if not is_running:
        output.write(
            f"  {program} up    # starts a new server; its UI at http://127.0.0.1:{PORT} shows the runs\n"
        )
    output.write(
        f"\n{status.accepted:,} accepted = {status.delivered:,} delivered + {status.dead_letter:,} dead letters"
        f" + {status.retrying:,} retrying + {status.pending:,} pending + {status.purged:,} purged\n"
        f"balanced: {'yes' if status.balanced else 'NO'}\n"
    )
    output.flush()
