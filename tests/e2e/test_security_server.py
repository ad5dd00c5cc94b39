"""Prefect on this machine: reached from here alone, by no foreign web page, behind a password where one is set.

And its files are their owner's alone.
"""

from __future__ import annotations

import contextlib
import ipaddress
import sqlite3
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.sync_api import sync_playwright

from resonant.cli.server import free_port, started_server
from resonant.settings import Settings
from support.machine import Machine
from support.programs import need

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.engine

PASSWORD = "admin:api-passw0rd-d4e5f6"
AUTH = {"PREFECT_SERVER_API_AUTH_STRING": PASSWORD, "PREFECT_API_AUTH_STRING": PASSWORD}
READABLE_BY_ALL = {"metrics/resonant.prom": 0o644, "metrics": 0o755}
EVENT = '{"type": "t", "source": "/s", "data": 1}\n'
FLOW = """
import asyncio
from resonant.cli.project import make_flows_importable
make_flows_importable()
from flows.metrics import export_metrics
asyncio.run(export_metrics())
"""
RUN = """
from prefect.deployments import run_deployment
print(run_deployment("export-metrics/scheduled", timeout=100, poll_interval=1).state.type.value)
"""


class Home(Machine):
    """A user's home, with files at the default paths."""

    def __init__(self, path: Path, umask: int) -> None:
        at_default = {"RESONANT_HOME": str(path / ".resonant"), "PREFECT_HOME": str(path / ".prefect")}
        super().__init__(path, variables=at_default, umask=umask)

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
    """A ``resonant up`` behind a password, of a user whose umask takes nothing away."""
    with home.up(**AUTH, RESONANT_CONCURRENCY="7") as started:
        yield started


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory):
    """A server with its UI and without a password, as ``resonant up`` starts it; its port."""
    home = tmp_path_factory.mktemp("unlocked")
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        for name in (*AUTH, "PREFECT_API_URL"):
            patch.delenv(name, raising=False)
        with started_server(Settings(home=home / "resonant"), port=port, ui=True):
            yield port


@pytest.fixture
def page():
    """A tab of a real browser, for whom rebound.example is 127.0.0.1."""
    executable = need("chromium")
    rules = "--host-resolver-rules=MAP rebound.example 127.0.0.1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", rules])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        yield page
        browser.close()


@pytest.fixture
def foreign_page():
    """The address of somebody else's web page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>kittens</title>")

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


SECRETS = "/block_documents/filter"
# What any page may do to an address that its visitor can reach: read what is secret, change something without seeing the
# answer (a body without a type needs no leave), listen.
ATTACKS = """async api => {
    const body = JSON.stringify({name: "planted"});
    const asked = {method: "POST", headers: {"content-type": "application/json"}, body: '{"include_secrets": true}'};
    const attacks = {
        read: async () => (await fetch(api + "/block_documents/filter", asked)).text(),
        readWithoutLeave: async () => (await fetch(api + "/block_documents/filter", {method: "POST"})).text(),
        listen: () => new Promise((resolve, reject) => {
            const socket = new WebSocket(api.replace("http", "ws") + "/events/out", ["prefect"]);
            socket.onopen = () => resolve("open");
            socket.onerror = () => reject(new Error("closed"));
        }),
        write: async () => (await fetch(api + "/flows/", {method: "POST", mode: "no-cors", body: new Blob([body])})).type,
    };
    const came = {};
    for (const [name, attack] of Object.entries(attacks)) {
        try { came[name] = await attack(); } catch { came[name] = "refused"; }
    }
    return came;
}"""


def test_a_foreign_web_page_neither_reads_nor_changes_nor_listens_to_anything(unlocked, page, foreign_page):
    api = f"http://127.0.0.1:{unlocked}/api"
    page.goto(foreign_page)

    came = page.evaluate(ATTACKS, api)

    # What became of a thing sent without leave the browser itself is not told.
    flows = httpx.post(f"{api}/flows/filter", json={}).json()
    came["write"] = [flow["name"] for flow in flows if flow["name"] == "planted"]
    assert came == {"read": "refused", "readWithoutLeave": "refused", "listen": "refused", "write": []}


def test_a_foreign_page_cannot_load_or_frame_anything(unlocked, page, foreign_page):
    page.goto(foreign_page)
    server = f"http://127.0.0.1:{unlocked}"
    for address, load in (
        (f"{server}/api/health", "url => { new Image().src = url }"),
        (f"{server}/api/ready", "url => { fetch(url, {mode: 'no-cors'}) }"),
        (
            f"{server}/",
            "url => { document.body.append(Object.assign(document.createElement('iframe'), {src: url})) }",
        ),
    ):
        with page.expect_response(address) as answer:
            page.evaluate(load, address)
        assert answer.value.status == 403, address


def test_a_link_elsewhere_opens_the_ui_but_not_the_api(unlocked, page, foreign_page):
    server = f"http://127.0.0.1:{unlocked}"
    for address, expected in ((f"{server}/runs", 200), (f"{server}/api/health", 403)):
        page.goto(foreign_page)
        with page.expect_response(address) as answer:
            page.evaluate("url => { location.href = url }", address)
        assert answer.value.status == expected, address


def test_a_web_page_whose_name_has_come_to_mean_this_machine_is_no_page_of_the_servers(unlocked, page):
    """DNS rebinding: for the browser, page and API are of one origin then."""
    answer = page.goto(f"http://rebound.example:{unlocked}/api{SECRETS}")
    assert answer.status == 403


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_ui_works_under_both_names_of_this_machine(unlocked, page, name):
    def is_read(response):
        return (
            response.url.startswith(f"http://127.0.0.1:{unlocked}/api/") and response.request.method == "POST"
        )

    with page.expect_response(is_read) as read:
        page.goto(f"http://{name}:{unlocked}/")
    assert read.value.ok
    assert read.value.json() is not None


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null"])
def test_only_its_own_pages_are_told_that_they_may_read(unlocked, origin):
    api = f"http://127.0.0.1:{unlocked}/api{SECRETS}"
    before = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    for answer in (
        httpx.post(api, json={}, headers={"origin": origin}),
        httpx.options(api, headers={"origin": origin} | before),
    ):
        assert not answer.is_success
        assert "access-control-allow-origin" not in answer.headers
    for own in (f"http://127.0.0.1:{unlocked}", f"http://localhost:{unlocked}"):
        answer = httpx.post(api, json={}, headers={"origin": own})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, own)


def test_whatever_listens_listens_on_loopback(up):
    listening = [
        each.laddr for one in up.family for each in one.net_connections("inet") if each.status == "LISTEN"
    ]
    assert up.port in {address.port for address in listening}
    assert all(ipaddress.ip_address(address.ip).is_loopback for address in listening)


def test_the_api_is_behind_the_password_and_commands_that_have_it_work(up, home, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    assert httpx.post(f"{up.url}/api/block_documents/filter", json={}).status_code == 401

    emitted = home.run("emit", "events.jsonl", "--endpoint", receiver.url, "--allow-private", **AUTH)

    assert emitted.returncode == 0, emitted.stderr
    assert len(receiver.journal) == 1
    assert "starting a Prefect server" not in emitted.stderr


@pytest.mark.parametrize(
    "variables", [{}, {"PREFECT_API_AUTH_STRING": "admin:wr0ng"}], ids=["without it", "with another"]
)
@pytest.mark.parametrize(
    "command", ["emit events.jsonl --endpoint billing", "endpoint list", "emit", "replay --all"], ids=str
)
def test_a_command_without_the_password_says_so_in_one_line(up, home, variables, command):
    refused = home.run(*command.split(), **variables)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"resonant: the Prefect server at http://127.0.0.1:{up.port}/api does not let us in (401): "
        "PREFECT_API_AUTH_STRING must be what PREFECT_SERVER_API_AUTH_STRING is there, USER:PASSWORD"
    )
    assert "Traceback" not in refused.stderr
    assert "wr0ng" not in refused.stdout + refused.stderr


def test_the_password_is_no_argument_and_the_server_knows_nothing_of_the_store(up):
    of_server = 0
    for one in up.family:
        assert PASSWORD not in " ".join(one.cmdline())
        if one.cmdline()[1:] == ["-m", "deployments.server"]:
            of_server += 1
            assert [name for name in one.environ() if name.startswith("RESONANT_")] == []
    assert of_server == 1


def test_nothing_that_up_and_its_runs_write_is_open_to_others(up, home):
    ran = home.run_code(RUN, PREFECT_API_URL=f"{up.url}/api", **AUTH)
    assert ran.stdout.strip() == "COMPLETED", ran.stderr

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


def test_up_itself_says_so_where_only_the_server_has_the_password(tmp_path):
    refused = Home(tmp_path, umask=0o022).run(
        "up", "--port", str(free_port()), PREFECT_SERVER_API_AUTH_STRING=PASSWORD
    )
    assert refused.returncode == 1
    assert "does not let us in (401)" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("umask", [0o000, 0o022], ids=oct)
def test_nothing_that_a_command_writes_is_open_to_others_but_what_prometheus_reads(
    umask, tmp_path, prefect_api, start_receiver
):
    home = Home(tmp_path, umask)
    home.prefect_api = prefect_api
    receiver = start_receiver("receiver_scripts:mixed")
    (tmp_path / "events.jsonl").write_text(EVENT.replace('"t"', '"t.rejected"'))

    assert home.run("emit", "events.jsonl", "--endpoint", receiver.url, "--allow-private").returncode == 1
    assert open_to_others(home.modes(whole=True)) == {}
    exported = home.run_code(FLOW)
    assert exported.returncode == 0, exported.stderr
    home.succeed("export", "--output", str(tmp_path / ".resonant" / "report.json"))
    home.succeed("prometheus", "--output", str(tmp_path / ".resonant" / "metrics" / "resonant.prom"))
    home.succeed("purge", "--older-than", "0", "--archive", str(tmp_path / ".resonant" / "archive.jsonl.gz"))

    modes = home.modes()
    assert {"resonant.db", "report.json", "archive.jsonl.gz", "metrics/resonant.prom"} <= modes.keys()
    assert any(name.startswith("metrics/window/") for name in modes)
    assert open_to_others(modes) == {}


def test_the_side_files_of_the_store_are_its_owners_alone(tmp_path):
    home = Home(tmp_path, umask=0o000)
    (tmp_path / "events.jsonl").write_text(EVENT)
    assert home.run("enqueue", "events.jsonl", "--endpoint", "billing").returncode == 0

    database = tmp_path / ".resonant" / "resonant.db"
    with contextlib.closing(sqlite3.connect(database)) as reader:
        reader.execute("SELECT count(*) FROM resonant_events").fetchall()
        assert home.run("enqueue", "events.jsonl", "--endpoint", "crm").returncode == 0
        modes = home.modes()
    assert {"resonant.db-wal", "resonant.db-shm"} <= modes.keys()
    assert open_to_others(modes) == {}
