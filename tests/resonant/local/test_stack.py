"""The end of ``resonant up``, which a server that does not answer delays only briefly, its note, and its temporary folder."""

import asyncio
import shutil
import stat
import time

import pytest
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled

from resonant.errors import ServerError
from resonant.local import stack
from resonant.local.note import read_note
from resonant.local.server import Server
from resonant.settings import Settings
from resonant.testing import Receiver, never_answer, nobody_listening


async def test_a_server_that_does_not_answer_delays_the_end_for_a_limited_time(monkeypatch):
    monkeypatch.setattr(stack, "_CLOSE_SECONDS", 0.2)
    began = time.monotonic()
    async with Receiver(never_answer()) as server:
        patient = {PREFECT_API_URL: f"{server.url}/api", PREFECT_API_REQUEST_TIMEOUT: 600.0}
        with temporary_settings(patient):
            await asyncio.to_thread(stack._close_runs, Cancelled())
    assert time.monotonic() - began < 60, "otherwise ten minutes"


@pytest.mark.timeout(60)
def test_a_lost_server_does_not_disturb_the_end():
    with nobody_listening() as url, temporary_settings({PREFECT_API_URL: f"{url}/api"}):
        stack._close_runs(Cancelled())


class Looks:
    """Parts whose looks do what a test says; then one part fails to start too often."""

    def __init__(self, *looks):
        self._looks = iter(looks)

    def look(self):
        next(self._looks, fail)()


def fail():
    raise ServerError("no more looks")


def test_a_note_that_cannot_be_written_ends_nothing_and_is_written_later(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stack, "POLL_SECONDS", 0.0)
    home, server = tmp_path / "home", Server("http://127.0.0.1:1/api")
    home.mkdir()
    settings = Settings(home=home)
    with stack._noted(settings, server, has_password=False) as note:
        looks = Looks(lambda: shutil.rmtree(home), lambda: None, home.mkdir, lambda: None)
        with pytest.raises(ServerError, match="no more looks"):
            stack.Stack(server, [], looks, False, lambda: note(True)).watch()
        assert read_note(settings).api_url == server.api_url
    assert capsys.readouterr().err == (
        f"{home / 'up.json'}: No such file or directory: until it can be written, other commands do not find this server\n"
    )


def test_only_the_owner_can_use_the_temporary_folder_and_those_of_killed_processes_are_removed(tmp_path):
    abandoned = tmp_path / "tmp" / "abandoned"
    abandoned.mkdir(mode=0o755, parents=True)
    (abandoned / "environment.json").write_text("a secret")
    with stack.temporary_folder(tmp_path) as folder:
        assert list((tmp_path / "tmp").iterdir()) == [folder]
        assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}
        (folder / "environment.json").write_text("a secret")
    assert list((tmp_path / "tmp").iterdir()) == []
