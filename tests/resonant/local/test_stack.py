"""The end of ``resonant up``, which a server that does not answer delays only briefly, and its temporary folder."""

import asyncio
import stat
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
def test_a_lost_server_does_not_disturb_the_end():
    with nobody_listening() as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        stack._close_runs(Cancelled())


def test_only_the_owner_can_use_the_temporary_folder_and_those_of_killed_processes_are_removed(tmp_path):
    abandoned = tmp_path / "tmp" / "abandoned"
    abandoned.mkdir(mode=0o755, parents=True)
    (abandoned / "environment.json").write_text("a secret")
    with stack.temporary_folder(tmp_path) as folder:
        assert list((tmp_path / "tmp").iterdir()) == [folder]
        assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}
        (folder / "environment.json").write_text("a secret")
    assert list((tmp_path / "tmp").iterdir()) == []
