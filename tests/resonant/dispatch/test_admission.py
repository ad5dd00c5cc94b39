"""How deliveries wait for their endpoint's gate."""

from __future__ import annotations

import asyncio
import time

import pytest

from resonant.gate.controller import EndpointGate
from support.dispatching import enqueue, scene
from support.waiting import until


@pytest.mark.usefixtures("lane")
async def test_deliveries_that_wait_for_the_first_answer_rarely_ask_the_gate_and_continue_at_once(
    tmp_path, monkeypatch
):
    asked, sent = [], []
    answer = asyncio.Event()
    may_send = EndpointGate.may_send

    def count(gate, now, in_flight):
        asked.append(now)
        return may_send(gate, now, in_flight)

    async def send(event):
        sent.append(event.id)
        await answer.wait()

    monkeypatch.setattr(EndpointGate, "may_send", count)
    # Without a second send after some time.
    monkeypatch.setattr("resonant.gate.measurements._FIRST_SECONDS", 3600.0)
    async with scene(tmp_path, clock=time.time, orders=send) as worker:
        await enqueue(worker.store, 3)
        running = asyncio.create_task(worker.run())
        await until(lambda: sent)
        asked.clear()
        await asyncio.sleep(0.6)
        assert (len(sent), len(asked) <= 4) == (1, True)
        answer.set()
        assert (await running).delivered == 3
