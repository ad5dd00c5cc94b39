"""The end of ``resonant up``: a server that does not answer cannot delay it for long."""

from __future__ import annotations

import asyncio
import time

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled

from resonant.local import stack
from resonant.testing import Receiver, never_answer, nobody_listening


async def test_a_server_that_does_not_answer_delays_the_end_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(stack, "_CLOSE_SECONDS", 0.2)
    began = time.monotonic()
    async with Receiver(never_answer()) as server:
        with temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
            await asyncio.to_thread(stack._close_runs, Cancelled())
    assert time.monotonic() - began < 15, "otherwise 25 s"


@pytest.mark.timeout(60)
def test_a_server_that_is_gone_does_not_disturb_the_end():
    with nobody_listening() as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        stack._close_runs(Cancelled())
