"""The gate of an endpoint, when the clocks of the senders differ, and when a sender stalls."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from chaos_journal import started_receiver
from faults import ENDPOINT, PROJECT, Fault, run

from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate
from support.waiting import until

HOUR = 3600.0
_EVENTS = 200


@contextmanager
def started_worker(url, receiver, ahead):
    """Run a process whose clock is ahead by this many seconds."""
    paths = [str(Path(__file__).parent), str(PROJECT / "tests"), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "faults_worker", url, receiver.url, str(ahead)]
    with subprocess.Popen(command, env=environment, cwd=PROJECT) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [HOUR, -HOUR])
async def test_processes_whose_clocks_are_an_hour_apart_serve_a_recovered_endpoint(
    store_url, tmp_path, ahead
):
    woken = tmp_path / "woken"
    with started_receiver(tmp_path / "receiver", "faults_receiver:down", WOKEN=str(woken)) as receiver:
        # What the slower clock has accepted is due for both.
        fault = Fault(store_url, receiver, clock=lambda: time.time() + min(0.0, ahead))
        await fault.enqueue(_EVENTS)
        async with fault.opened_store() as store:
            pilots = [None]

            async def is_in(state):
                gate = await store.read(read_gate, ENDPOINT)
                pilots.append(gate.pilot)
                return gate.state == state

            async def is_delivered():
                await is_in("paced")
                return (await store.status()).delivered == _EVENTS

            with started_worker(store_url, receiver, 0.0), started_worker(store_url, receiver, ahead):
                await until(lambda: is_in("probing"), every=0.05)
                woken.touch()
                await until(is_delivered, every=0.05)
    changes = [(before, after) for before, after in pairwise(pilots) if after not in (None, before)]
    assert len(changes) == 1, changes


@pytest.mark.slow
@pytest.mark.alone
async def test_a_sender_that_stalls_does_not_slow_a_paced_endpoint_down(sqlite_url, tmp_path):
    async def stall():
        while True:
            await asyncio.sleep(0.8)
            time.sleep(0.2)  # the whole process stands still

    with started_receiver(tmp_path / "receiver", "resonant.testing:always_ok") as receiver:
        fault = Fault(sqlite_url, receiver)
        await fault.enqueue(2_000)
        async with fault.opened_store() as store:
            gate = Gate(ENDPOINT)
            paced = Gate(ENDPOINT, "paced", since=time.time(), paced_at=time.time(), pace=200.0)
            await store.write(change_gate, GateChange(gate, paced))
            stalling = asyncio.create_task(stall())
            async with fault.opened_emission(store) as dispatcher:
                running = asyncio.create_task(run(dispatcher))
                paces = []
                while not running.done():
                    gate = await store.read(read_gate, ENDPOINT)
                    paces.append(gate.pace)
                    await asyncio.sleep(0.1)
                assert (await running).delivered == 2_000
            stalling.cancel()
    # Half of the pace at first, since the pilot is new.
    assert min(paces) >= 100.0
