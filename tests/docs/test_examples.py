"""Every example runs, as its text says."""

import contextlib
import json
import random
import runpy
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest
from prefect.context import root_settings_context

from support import patient
from support.machine import Machine
from support.pages import PROJECT, Page

EXAMPLES = PROJECT / "examples"
# The tests that run the other examples.
TESTED_BY = {
    "outbox.py": "tests/resonant/store/test_outbox.py",
    "producer.go": "tests/docs/test_producers.py",
    "producer.mjs": "tests/docs/test_producers.py",
    "producer_sdk.mjs": "tests/docs/test_producers.py",
    "spool_sink": "tests/e2e/test_wheel.py",
}


@pytest.fixture
def run(tmp_path, prefect_api):
    """Run an example in its own folder, and return its output. ``api`` is the URL of Prefect's server, if one runs."""

    def run_(name, api=prefect_api):
        done = subprocess.run(
            [sys.executable, EXAMPLES / name],
            cwd=tmp_path,
            env=Machine(tmp_path, api).environment,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_


def test_every_example_is_run_by_a_test():
    here = __file__.removeprefix(f"{PROJECT}/")
    names = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith(("__", "."))}
    for name in names:
        path = PROJECT / TESTED_BY.get(name, here)
        assert f'"{name}"' in path.read_text(), f"{path} does not run examples/{name}"


@pytest.fixture
def ordered(tmp_path):
    """Start the receiver that applies events in order; yield its URL and a function that returns its work so far."""
    database = tmp_path / "received.db"
    command = [sys.executable, EXAMPLES / "ordered_receiver.py", database, "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:

        def work():
            with contextlib.closing(sqlite3.connect(database)) as connection:
                rows = connection.execute("SELECT key, data FROM work ORDER BY number")
                return [(key, json.loads(data)) for key, data in rows]

        yield receiver.stdout.readline().strip(), work
        receiver.terminate()


def test_the_ordered_receiver_applies_each_event_once_and_in_order(ordered):
    url, work = ordered
    keys = ("customer 7", "ü%")
    events = [(source, key, number) for source in ("/a", "/b") for key in keys for number in range(1, 9)]
    requests = random.Random(7).sample(events * 2, k=2 * len(events))

    def post(source, key, number):
        headers = {"ce-source": source, "ce-partitionkey": quote(key), "ce-sequence": f"{number:010}"}
        return patient.post(url, json=[source, number], headers=headers).status_code

    with ThreadPoolExecutor(4) as senders:
        assert {*senders.map(lambda each: post(*each), requests)} == {204}
    assert patient.post(url, json=1, headers={"ce-source": "/a"}).status_code == 422
    for number in (0, -1, 1 << 63):
        assert post("/a", "k", number) == 422, "it would wait forever"

    done = work()
    assert len(done) == len(events)
    for source in ("/a", "/b"):
        for key in keys:
            of_key = [number for found, (its_source, number) in done if (found, its_source) == (key, source)]
            assert of_key == [*range(1, 9)]


@pytest.mark.engine
def test_resonant_sends_what_the_ordered_receiver_needs(ordered, tmp_path, prefect_api):
    url, work = ordered
    machine = Machine(tmp_path, prefect_api)
    machine.save_endpoint("ordered", url)
    numbers = [3, 1, 5, 2, 4]
    common = {"type": "t", "source": "/s", "partitionkey": "customer 7"}
    events = [{**common, "sequence": f"{n:010}", "data": n} for n in numbers]

    machine.do("emit", machine.write_events("events.jsonl", events), "--endpoint", "ordered")

    assert work() == [("customer 7", n) for n in range(1, 6)]


def test_the_page_about_order_shows_the_receiver_as_it_is():
    page = Page(PROJECT / "docs" / "how-to" / "restore-order.md")
    [core] = [block.text for block in page.blocks if block.text.startswith("def receive(")]
    assert core in (EXAMPLES / "ordered_receiver.py").read_text()


def test_the_example_of_a_flow_starts_no_second_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    said = "^set PREFECT_API_URL: the server of `resonant up` is at http://127.0.0.1:4200/api$"
    with root_settings_context(), pytest.raises(SystemExit, match=said):
        runpy.run_path(str(EXAMPLES / "in_your_flow.py"), run_name="__main__")


@pytest.mark.engine
def test_a_flow_of_your_own_stores_an_event_when_it_ends_and_one_when_it_fails(run, tmp_path, prefect_api):
    machine = Machine(tmp_path, prefect_api)
    for endpoint in ("reports", "operations"):
        machine.save_endpoint(endpoint, "https://hooks.example.com")
    run("in_your_flow.py")
    query = (
        "SELECT type, endpoint, body FROM resonant_deliveries "
        "JOIN resonant_events ON resonant_events.key = event_key ORDER BY event_key"
    )
    ended, failed = map(tuple, machine.query(query))
    assert ended == ("com.example.sales.counted", "reports", b'{"sales":66}')
    assert failed[:2] == ("prefect.flow-run.failed", "operations")
    assert json.loads(failed[2])["message"].endswith("ValueError: the file of sales is empty")


@pytest.mark.engine
@pytest.mark.parametrize(
    "has_server",
    [True, pytest.param(False, marks=pytest.mark.slow)],  # each of its commands starts a server
    ids=["with a server", "without a server"],
)
def test_the_traces_of_one_event_are_printed_as_the_guide_shows(run, has_server):
    said = run("traces.py") if has_server else run("traces.py", api="")
    guide = (PROJECT / "docs" / "how-to" / "traces.md").read_text()
    assert said[said.index("trace 1\n") :] == guide.split("```text\n")[1].split("```")[0]
