"""The restart of a worker: a server that does not answer delays the look at the other parts only briefly."""

import asyncio

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.errors import ServerError
from resonant.local import worker as worker_module
from resonant.local.worker import Worker
from resonant.testing import Receiver, never_answer


@pytest.mark.timeout(60)
async def test_a_server_that_does_not_answer_is_an_error_after_a_limited_time(tmp_path, monkeypatch):
    monkeypatch.setattr(worker_module, "_PREPARE_SECONDS", 0.2)
    async with Receiver(never_answer()) as server:
        api_url = f"{server.url}/api"
        worker = Worker(tmp_path, {}, api_url, is_served=lambda: True)
        worker._started_at = 0.0
        with (
            temporary_settings({PREFECT_API_URL: api_url}),
            pytest.raises(
                ServerError, match=f"^the Prefect server at {api_url} took longer than 0 s to answer$"
            ),
        ):
            await asyncio.to_thread(worker.start)
