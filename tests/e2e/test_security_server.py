"""Prefect on this machine: only this machine reaches it, and only with the password if one is set.

Only the owner can read its files. What web pages can do is in test_ui_foreign_pages.py.
"""

import ipaddress
import itertools
import stat
from pathlib import Path

import httpx
import psutil
import pytest

from resonant.local.server import free_port
from support.machine import Machine
from support.prefect import patient_client
from support.processes import look_at

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PASSWORD = "admin:api-passw0rd-d4e5f6"
AUTH = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD, "PREFECT_API_AUTH_STRING": PASSWORD}
SECRETS = "/block_documents/filter"
READABLE_BY_ALL = {"metrics/resonant.prom": 0o644, "metrics": 0o755}
EVENT = '{"type": "t", "source": "/s", "data": 1}\n'
FLOW = """
import asyncio
from resonant.local.project import make_flows_importable
make_flows_importable()
from flows.metrics import export_metrics
asyncio.run(export_metrics())
"""


class Home(Machine):
    """A user's home, with files at the default paths."""

    def __init__(self, path: Path, umask: int) -> None:
        at_default = {"RESONANT_HOME": str(path / ".resonant"), "PREFECT_HOME": str(path / ".prefect")}
        super().__init__(path, variables=at_default, umask=umask)

    def prepare(self) -> None:
        """Do nothing: the server makes every file itself."""

    def modes(self, *, whole: bool = False) -> dict[str, int]:
        """Return the files that other users may read or write, without sockets.

        Args:
            whole: include the files of Prefect and matplotlib.
        """
        resonant, prefect = self.home / ".resonant", self.home / ".prefect"
        written = [resonant, *resonant.rglob("*"), prefect, *prefect.glob("prefect.db*")]
        if whole:
            written = [path for path in self.home.rglob("*") if path.suffix != ".jsonl"]  # of the tests
        return {
            str(path.relative_to(resonant if path.is_relative_to(resonant) else self.home)): stat.S_IMODE(
                path.stat().st_mode
            )
            for path in written
            if path.exists() and not path.is_socket()
        }


def open_to_others(modes: dict[str, int]) -> dict[str, str]:
    return {
        name: oct(mode) for name, mode in modes.items() if mode & 0o077 and mode != READABLE_BY_ALL.get(name)
    }


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"), umask=0o000)
    (home.home / "events.jsonl").write_text(EVENT)
    return home


@pytest.fixture(scope="module")
def up(home):
    """A ``resonant up`` with a password, of a user whose umask removes no permissions."""
    with home.up(**AUTH, RESONANT_CONCURRENCY="7") as started:
        yield started


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null"])
def test_only_its_own_pages_may_read_answers(prefect_api, origin):
    port = httpx.URL(prefect_api).port
    before = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    with patient_client(prefect_api, event_hooks={}) as client:
        for answer in (
            client.post(SECRETS, json={}, headers={"origin": origin}),
            client.options(SECRETS, headers={"origin": origin} | before),
        ):
            assert answer.is_client_error
            assert "access-control-allow-origin" not in answer.headers
        for own in (f"http://127.0.0.1:{port}", f"http://localhost:{port}"):
            answer = client.post(SECRETS, json={}, headers={"origin": own})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, own)


def test_every_listener_listens_on_loopback(up):
    connections = look_at(up.family, lambda one: one.net_connections("inet"))
    listening = [each.laddr for each in itertools.chain(*connections) if each.status == "LISTEN"]
    assert up.port in {address.port for address in listening}
    assert all(ipaddress.ip_address(address.ip).is_loopback for address in listening)


def test_the_api_is_behind_the_password_and_commands_that_have_it_work(up, home, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    with patient_client(f"{up.url}/api", event_hooks={}) as anybody:
        assert anybody.post(SECRETS, json={}).status_code == 401

    emitted = home.run("emit", "events.jsonl", "--endpoint", receiver.url, "--allow-private", **AUTH)

    assert emitted.returncode == 0, emitted.stderr
    assert len(receiver.journal) == 1
    assert "starting a Prefect server" not in emitted.stderr


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("emit events.jsonl --endpoint billing", {"PREFECT_API_AUTH_STRING": "admin:wr0ng"}),
        ("endpoint list", {}),
        ("emit", {}),
        ("replay --all", {}),
    ],
    ids=["with another", *["without it"] * 3],
)
def test_a_command_without_the_password_fails_in_one_line(up, home, variables, command):
    refused = home.run(*command.split(), **variables)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"resonant: the Prefect server at http://127.0.0.1:{up.port}/api refuses the credentials (401): "
        "PREFECT_API_AUTH_STRING must equal the server's PREFECT_SERVER_API_AUTH_STRING, USER:PASSWORD"
    )
    assert "Traceback" not in refused.stderr
    assert "wr0ng" not in refused.stdout + refused.stderr


def test_the_password_is_no_argument_and_the_server_knows_only_what_notifications_need(up):
    arguments = look_at(up.family, psutil.Process.cmdline)
    assert PASSWORD not in str(arguments)
    assert [each[1:] for each in arguments].count(["-m", "deployments.server"]) == 1
    server = up.find("deployments.server")
    known = {name for name in server.environ() if name.startswith("RESONANT_")}
    assert known == {"RESONANT_DATABASE_URL", "RESONANT_HOME", "RESONANT_MAX_EVENT_BYTES"}


def test_nothing_that_up_and_its_runs_write_is_open_to_others(up, home):
    up.export()

    modes = home.modes(whole=True)
    assert {
        "up.json",
        "up.lock",
        "prefect-server.log",
        "prefect-worker.log",
        "prefect-start.lock",
    } <= modes.keys()
    assert {".prefect/prefect.db", "metrics/resonant.prom"} <= modes.keys()
    assert any(name.startswith(".cache/matplotlib/") for name in modes)
    assert open_to_others(modes) == {}


def test_the_worker_and_its_runs_write_temporary_files_into_a_private_folder(up, home):
    worker = next(each for each in up.family if each.cmdline()[1:4] == ["-m", "prefect", "worker"])
    folder = Path(worker.environ()["TMPDIR"])
    assert folder.parent == home.home / ".resonant" / "tmp"
    assert {stat.S_IMODE(each.stat().st_mode) for each in (folder, folder.parent)} == {0o700}


def test_up_reports_that_only_the_server_has_the_password(tmp_path):
    machine = Machine(tmp_path)
    machine.prepare()
    refused = machine.run("up", "--port", str(free_port()), PREFECT_SERVER_API_AUTH_STRING=PASSWORD)
    assert refused.returncode == 1
    assert "refuses the credentials (401)" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("umask", [0o000, 0o022], ids=oct)
def test_only_the_textfile_of_a_command_is_readable_by_others(umask, tmp_path, prefect_api, start_receiver):
    home = Home(tmp_path, umask)
    home.prefect_api = prefect_api
    receiver = start_receiver("support.receiver_scripts:mixed")
    (tmp_path / "events.jsonl").write_text(EVENT.replace('"t"', '"t.rejected"'))

    assert home.run("emit", "events.jsonl", "--endpoint", receiver.url, "--allow-private").returncode == 1
    assert open_to_others(home.modes(whole=True)) == {}
    exported = home.run_code(FLOW)
    assert exported.returncode == 0, exported.stderr
    home.succeed("export", "--output", str(tmp_path / ".resonant" / "report.json"))
    home.succeed("prometheus", "--output", str(tmp_path / ".resonant" / "metrics" / "resonant.prom"))
    home.succeed(
        "purge", "--older-than", "0", "--yes", "--archive", str(tmp_path / ".resonant" / "archive.jsonl.gz")
    )

    modes = home.modes()
    assert {"resonant.db", "report.json", "archive.jsonl.gz", "metrics/resonant.prom"} <= modes.keys()
    assert open_to_others(modes) == {}
