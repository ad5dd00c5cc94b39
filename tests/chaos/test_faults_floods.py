"""Thirty sends to a receiver that floods, beside a healthy endpoint in the same event loop: the loop stays responsive."""

import asyncio
import contextlib
import gc
import time

import httpx
import psutil
import pytest
from faults import make_events, note_figures

from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.testing import FAULTS
from support.receivers import started_receiver

_SENDS, _HEALTHY_SENDS = 30, 20
# Seconds of this process's own time: those of other processes on a busy machine do not count.
_LONGEST_STALL = 0.3
_MOST_MEMORY = 64 * 1024 * 1024
_TIMEOUT_SECONDS = 120.0


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    with started_receiver(tmp_path_factory.mktemp("floods"), "resonant.testing:named_fault") as started:
        yield started


@pytest.fixture
def few_tracked_objects():
    """Hide the objects of earlier tests from the collector: a full collection over them takes up to a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Watch:
    """The longest time that the loop spent on other tasks, and the most memory, while it runs."""

    def __init__(self) -> None:
        self.stall = 0.0
        self.memory = 0

    async def run(self) -> None:
        process = psutil.Process()
        before = process.memory_info().rss
        while True:
            start = time.thread_time()
            await asyncio.sleep(0.001)
            self.stall = max(self.stall, time.thread_time() - start)
            self.memory = max(self.memory, process.memory_info().rss - before)


async def send(sink: HttpSink, event: Event) -> None:
    with contextlib.suppress(UnexpectedStatus, httpx.RemoteProtocolError):
        await sink.send(event)


@pytest.mark.parametrize("way", [*(way for way in FAULTS if way.startswith("endless")), "gzip-bomb"])
@pytest.mark.usefixtures("few_tracked_objects")
async def test_a_flood_neither_stalls_the_loop_nor_fills_the_memory(receiver, way):
    def sink() -> HttpSink:
        return HttpSink(Endpoint("hooks", receiver.url, timeout=_TIMEOUT_SECONDS, allow_private=True))

    watch, start = Watch(), time.monotonic()
    async with sink() as flooded, sink() as healthy:
        watching = asyncio.create_task(watch.run())
        flood = asyncio.gather(*(send(flooded, event) for event in make_events(_SENDS, f"chaos.{way}")))
        for event in make_events(_HEALTHY_SENDS):
            assert (await healthy.send(event)).status_code == 200
        await flood
        watching.cancel()
    note_figures(f"flood, {way}", {"stall": round(watch.stall, 3), "MB": watch.memory >> 20})
    assert watch.stall <= _LONGEST_STALL
    assert watch.memory <= _MOST_MEMORY
    assert time.monotonic() - start < _TIMEOUT_SECONDS, "no attempt waits for its deadline"
