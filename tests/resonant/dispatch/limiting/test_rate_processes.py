"""Four drains, each a process, share an endpoint's rate, as its receiver's journal shows it; one of them is killed."""

from __future__ import annotations

import asyncio
import bisect
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from resonant.store import WorkerStore
from resonant.testing import read_journal
from support import rate_worker
from support.dispatching import enqueue
from support.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.slow]

RATE = 50
# On any load: a receiver that gets no processor for a moment reads several requests at once. Without load, 52 is the most:
# `python -m benches rate`.
MOST_IN_A_SECOND = RATE + 5


@contextmanager
def started(*command):
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def store_events(url, count):
    store = await WorkerStore.open(url)
    try:
        await enqueue(store, count)
    finally:
        await store.close()


def test_four_drains_keep_to_the_rate_also_when_one_is_killed(store_url, tmp_path):
    journal = tmp_path / "journal.jsonl"
    asyncio.run(store_events(store_url, 900))
    with ExitStack() as stack:
        receiver = stack.enter_context(started("-m", "resonant.testing", "--journal", str(journal)))
        url = receiver.stdout.readline().strip()
        script = Path(rate_worker.__file__)
        drains = [stack.enter_context(started(str(script), store_url, url, str(RATE))) for _ in range(4)]
        wait_until(lambda: len(read_journal(journal)) >= 250, 120)
        drains[0].kill()
        wait_until(lambda: len(read_journal(journal)) >= 600, 120)
        assert all(each.poll() is None for each in drains[1:])

    times = [each.received_at for each in read_journal(journal)]
    most = max(bisect.bisect_left(times, start + 1) - i for i, start in enumerate(times))
    assert most <= MOST_IN_A_SECOND
    assert len(times) <= RATE * (times[-1] - times[0]) + 5
