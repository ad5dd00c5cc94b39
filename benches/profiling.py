"""``python -m benches profile``: profiles an emission, or the Prefect server that records it.

The emission is one flow run, profiled by pyinstrument in the thread of its event loop. The server is profiled by py-spy while
it records empty tasks. Both profilers are in the ``bench`` extra.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sysconfig
import tempfile
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from benches.lanes import LANES, Lane, task_runs_in_flight
from benches.receiver import receiver
from benches.surroundings import (
    ENDPOINT,
    empty_home,
    events,
    kept_prefect_server,
    recorded_task_runs,
    save_endpoint,
)
from benches.task_lane import emit_stored
from resonant.store import WorkerStore

_PY_SPY = Path(sysconfig.get_path("scripts"), "py-spy")
_EVENTS = {"task": 2_000, "bulk": 20_000}
_TASKS = 3_000
_LINES, _WIDTH = 120, 150
_SHARE_SHOWN = 0.02
_SAMPLES_A_SECOND, _AT_MOST_SECONDS = 200, 3_600
# Parts of file paths, by area. A sample belongs to the first area with a part that any of its frames' paths contains.
_AREAS = {
    "recorder of task runs": ("services/task_run_recorder.py",),
    "events into the database": ("services/event_persister.py", "events/storage/"),
    "automations and triggers": ("events/triggers.py", "services/triggers.py", "events/actions.py"),
    "events out to subscribers": ("events/stream.py",),
    "events from the websocket into queues": ("api/events.py", "server/events/", "utilities/messaging/"),
    "logs": ("server/api/logs.py", "server/logs/"),
    "other services": ("server/services/", "docket/"),
    # SQLAlchemy runs in greenlets, whose stacks do not show the caller.
    "SQLAlchemy, for all of these": (
        "sqlalchemy/",
        "aiosqlite/",
        "server/database/",
        "utilities/database.py",
    ),
    "rest of the API": ("server/api/", "fastapi/"),
    "websocket and HTTP protocols": ("uvicorn/protocols/", "websockets/"),
}


def main(arguments: Sequence[str]) -> None:
    """Profile the requested part, and print the profile."""
    parser = argparse.ArgumentParser("python -m benches profile", description="Show where the time is spent.")
    parser.add_argument("--lane", choices=list(LANES), default="task", help="the lane of the emission")
    parser.add_argument("--server", action="store_true", help="profile the Prefect server instead")
    parser.add_argument("--events", type=int, metavar="N")
    given = parser.parse_args(arguments)
    lane: Lane = given.lane
    if given.server:
        print(_profile_server(given.events or _TASKS))
    else:
        print(_profile_emission(lane, given.events or _EVENTS[lane]))


def _profile_emission(lane: Lane, count: int) -> str:
    with empty_home() as settings, receiver() as url, kept_prefect_server(settings):
        return asyncio.run(_profile_flow(settings.store_url, url, lane, count))


async def _profile_flow(store_url: str, url: str, lane: Lane, count: int) -> str:
    try:
        from pyinstrument import Profiler
        from pyinstrument.renderers import ConsoleRenderer
    except ImportError:
        return "pyinstrument is not installed: pip install -e '.[bench]'"
    from prefect.logging.handlers import APILogHandler

    await save_endpoint(url)
    await emit_stored(store_url, count // 10, lane=lane)  # imports, and fills caches
    store = await WorkerStore.open(store_url)
    await store.enqueue(events(count), ENDPOINT)
    await store.close()
    # Profile the whole loop, not only one of its tasks.
    with Profiler(async_mode="disabled") as profiler:
        await emit_stored(store_url, 0, lane=lane)
    await APILogHandler.aflush()  # before the server ends
    options = {"filter_threshold": _SHARE_SHOWN, "show_regex": ".*"}  # Prefect's frames as well as ours
    shown = ConsoleRenderer(time="percent_of_total", processor_options=options)
    lines = profiler.output(shown).splitlines()
    return "\n".join(line[:_WIDTH].rstrip() for line in lines[:_LINES])


def _profile_server(count: int) -> str:
    with (
        empty_home() as settings,
        kept_prefect_server(settings) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        raw = Path(folder) / "raw"
        [process] = psutil.Process(server.supervisor.pid).children()
        # Only samples with the GIL held: waits, and SQLite, which releases the GIL, are not shown.
        seen = ("--pid", str(process.pid), "--gil", "--rate", str(_SAMPLES_A_SECOND))
        written = ("--duration", str(_AT_MOST_SECONDS), "--format", "raw", "--output", str(raw))
        try:
            sampling = subprocess.Popen(
                [_PY_SPY, "record", *seen, *written],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        except FileNotFoundError:
            return "py-spy is not installed: pip install -e '.[bench]'"
        try:
            in_flight = task_runs_in_flight(settings.concurrency, settings.endpoint_concurrency)
            asyncio.run(_record_empty_tasks(os.environ["PREFECT_API_URL"], count, in_flight))
        finally:
            sampling.send_signal(signal.SIGINT)
            said, _ = sampling.communicate()
        if not raw.exists():  # usually because ptrace is not permitted
            return f"py-spy could not profile the server: {textwrap.shorten(said, _WIDTH)}"
        return _by_area(raw.read_text())


async def _record_empty_tasks(api_url: str, count: int, in_flight: int) -> None:
    from prefect.logging.handlers import APILogHandler

    from benches.empty_tasks import empty_tasks

    state = await empty_tasks(count, in_flight, return_state=True)
    await recorded_task_runs(api_url, state.state_details.flow_run_id, count)
    await APILogHandler.aflush()  # before the server ends


def _by_area(raw: str) -> str:
    samples = Counter[str]()
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        areas = (area for area, parts in _AREAS.items() if any(part in stack for part in parts))
        samples[next(areas, "the rest")] += int(number)
    lines = [f"{number / samples.total():6.1%}  {area}" for area, number in samples.most_common()]
    return "\n".join([f"of {samples.total():,} samples in which the server ran Python:", *lines])
