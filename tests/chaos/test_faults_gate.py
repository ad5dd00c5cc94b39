"""A sender that stalls, and the gate of a paced endpoint."""

import asyncio
import time

import pytest
from faults import ENDPOINT, Fault

from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate
from support.dispatching import emit
from support.receivers import started_receiver


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
            paced = Gate(ENDPOINT, "paced", since=time.time(), pace=200.0)
            await store.write(change_gate, GateChange(gate, paced))
            stalling = asyncio.create_task(stall())
            async with fault.opened_emission(store) as dispatcher:
                running = asyncio.create_task(emit(dispatcher))
                paces = []
                while not running.done():
                    gate = await store.read(read_gate, ENDPOINT)
                    paces.append(gate.pace)
                    await asyncio.sleep(0.1)
                assert (await running).delivered == 2_000
            stalling.cancel()
    # Half of the pace at first, since the pilot is new.
    assert min(paces) >= 100.0
