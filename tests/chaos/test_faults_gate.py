"""A sender that stalls, and the gate of a paced endpoint, in simulated time."""

import asyncio

from faults import make_events

from resonant.store.shared.gates import Gate, GateChange, change_gate, read_gate
from support.dispatching import START, dispatching, emit, opened
from support.simulated_time import clock_from, simulated

_EVENTS, _PACE = 600, 200.0


@simulated
async def test_a_sender_that_stalls_does_not_slow_a_paced_endpoint_down(sqlite_url):
    async def answer(event):
        await asyncio.sleep(0.01 + len(event.body) % 40 / 1000)

    stalls = []

    async def stall():
        while True:
            await asyncio.sleep(0.4)
            asyncio.get_running_loop().now += 0.2  # the whole process stands still
            stalls.append(0.2)

    async with opened(sqlite_url, clock=clock_from(START)) as store:
        await store.enqueue(make_events(_EVENTS), "hooks")
        paced = Gate("hooks", "paced", since=store.clock(), pace=_PACE)
        await store.write(change_gate, GateChange(Gate("hooks"), paced))
        stalling = asyncio.create_task(stall())
        async with dispatching(store, answer) as dispatcher:
            running = asyncio.create_task(emit(dispatcher))
            paces = []
            while not running.done():
                paces.append((await store.read(read_gate, "hooks")).pace)
                await asyncio.sleep(0.1)
            assert (await running).delivered == _EVENTS
        stalling.cancel()
    # Half of the pace at first, since the pilot is new.
    assert min(paces) >= _PACE / 2
    assert len(stalls) > 2
