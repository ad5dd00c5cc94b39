"""``resonant demo`` finishes, leaves nothing behind, and does not change the user's own store."""

import asyncio
import contextlib
import json
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from uuid import uuid4

import pytest

from resonant import open_store
from resonant.cli.demo import run
from resonant.cli.demo.events import ORDINARY, WAYS, WEBHOOK, demo_events, way_of
from resonant.cli.demo.view import Snapshot, take_snapshot
from resonant.local.server import Server
from support.machine import STOP_SECONDS, Machine
from support.prefect import patient_client
from support.processes import alive, family, look_at
from support.waiting import wait_until


@pytest.fixture
def user(tmp_path):
    """A machine with its own store and server, which no demo may change."""
    (tmp_path / "tmp").mkdir()
    variables = {"TMPDIR": str(tmp_path / "tmp"), "RESONANT_DATABASE_URL": f"sqlite:///{tmp_path}/mine.db"}
    return Machine(tmp_path, "http://prefect.example/api", variables)


def shell(user: Machine, *commands: str) -> subprocess.CompletedProcess[str]:
    """Type these lines into a shell."""
    return subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        env=user.environment,
        cwd=user.home,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def hints(said: str) -> list[str]:
    """Return the lines that may be copied into a shell."""
    return [line.strip() for line in said.splitlines() if line.startswith("  ")]


@contextlib.contextmanager
def ending(process: subprocess.Popen[str]):
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(ValueError):
            process.communicate(timeout=120)


def test_seven_in_ten_events_are_ordinary_and_the_rest_are_shared_by_the_failures():
    ways = Counter(way_of(event.type) for event in demo_events(300, random.Random(7)))
    assert ways[ORDINARY] == 210
    assert set(ways) == {*WAYS} - {WEBHOOK}
    assert all(11 <= count <= 12 for way, count in ways.items() if way != ORDINARY)


def test_a_demo_that_has_ended_names_its_folder_and_the_next_commands(sqlite_url, tmp_path, capsys):
    async def snapshot() -> Snapshot:
        async with open_store(sqlite_url) as store:
            await store.enqueue(list(demo_events(3, random.Random(7))), "demo")
            return await store.read(take_snapshot)

    story = run._Story(asyncio.run(snapshot()), requests=0, run_id=uuid4(), example="evt_1", hooks=[uuid4()])
    stack = SimpleNamespace(server=Server("http://127.0.0.1:4200/api"))
    run._write_last_page(story, stack, tmp_path, ["RESONANT_DATABASE_URL"], is_running=False)

    said = capsys.readouterr().out
    assert "The UI at http://127.0.0.1:4200 has stopped; `resonant demo --keep` keeps it running.\n" in said
    assert f"The results are in {tmp_path}. Next steps:\n" in said
    setting, unset, dlq, detail, status, up = hints(said)
    assert (setting.split()[0], unset) == ("export", "unset RESONANT_DATABASE_URL")
    for line, command in ((dlq, "dlq"), (detail, "detail evt_1"), (status, "status"), (up, "up")):
        assert f"resonant {command}    # " in line
    assert said.endswith("0 purged\nbalanced: yes\n")


def table(said: str) -> dict[str, list[str]]:
    """Return the rows below the heading."""
    rows = [re.split(r"\s{2,}", line) for line in said.splitlines()[1:12]]
    return {name: columns for name, *columns in rows}


@pytest.mark.engine
@pytest.mark.own_server
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_kept_demo_has_the_expected_outcomes_and_runs_until_ctrl_c(user):
    """The demo shows few lines, and writes files into one folder only."""
    process = user.start("demo", "--keep", "--events", "80")
    with ending(process):
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("balanced"):
                break
        assert line == "balanced: yes\n", process.communicate()
        assert "81 accepted = 69 delivered + 12 dead letters + 0 retrying + 0 pending" in said
        rows = table(said)
        # On a busy machine, the slow answer may come after the timeout.
        late = int(rows["200, after 2 s"][2])
        # Prefect's server answers 503 while its SQLite is busy.
        again = int(rows["a flow run starts"][2])
        assert rows == {
            "200": ["56", "56", "0", "0"],
            "200, after 2 s": ["3", "3", f"{late}", "0"],
            "500, then 200": ["3", "3", "3", "0"],
            "503, Retry-After, 200": ["3", "3", "3", "0"],
            "429, then 200": ["3", "3", "3", "0"],
            "400": ["3", "0", "0", "3 permanent, http_400"],
            "a connection reset": ["3", "0", "3", "3 exhausted, connection_reset"],
            "nothing": ["3", "0", "3", "3 exhausted, timeout"],
            "a redirect": ["3", "0", "0", "3 permanent, http_302"],
            "a flow run starts": ["1", "1", f"{again}", "0"],
            "all": ["81", "69", f"{15 + late + again}", "12"],
        }
        assert "a signed webhook, sent twice, started 1 flow run\n" in said

        ui = re.search(r"UI: (\S+), the emission: ", said)[1]
        runs = {"flows": {"name": {"any_": ["emit-events"]}}}
        with patient_client(f"{ui}/api") as client:

            def failed() -> int:
                of_state = {"task_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
                return client.post("/task_runs/count", json=runs | of_state).json()

            # Prefect records the last states a moment after the flow run ended.
            wait_until(lambda: failed() == 12)
            [started] = client.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["greet"]}}}).json()
            wait_until(
                lambda: client.get(f"/flow_runs/{started['id']}").json()["state"]["type"] == "COMPLETED"
            )
        assert {each.name for each in user.home.iterdir()} == {"tmp"}
        setting = [line for line in hints(said) if line.startswith(("export", "unset"))]
        tested = shell(user, *setting, f"{sys.executable} -m resonant endpoint test demo")
        assert tested.stdout.startswith("delivered"), tested.stderr
        processes = family(process)

        process.send_signal(signal.SIGINT)

        assert process.wait(STOP_SECONDS) == 0
        assert not alive(processes)
        noise = process.stderr.read()

    # No control characters, no lines of Prefect, and few of ours, apart from its progress.
    assert "\x1b" not in said + noise
    assert "prefect." not in noise
    assert len([line for line in noise.splitlines() if not line.startswith("emitting")]) < 30
    assert "no such file" in user.do("status", code=1).stderr, "the demo has a store of its own"

    # The suggested next commands work without the server too, and show the demo's dead letters.
    dlq, detail, status = (line for line in hints(said) if line not in setting)
    shown = shell(user, *setting, dlq.partition("#")[0] + "--limit 0 --json")
    assert len(json.loads(shown.stdout)) == 12, shown.stderr
    assert shell(user, *setting, detail).returncode == 0
    assert "balanced: yes" in shell(user, *setting, status).stdout


@pytest.mark.engine
@pytest.mark.own_server
@pytest.mark.slow
def test_an_interrupted_demo_ends_its_server_and_worker(user):
    process = user.start("demo")
    with ending(process):
        # The server starts before the worker.
        wait_until(lambda: any(look_at(family(process), lambda each: "worker" in each.cmdline())))
        processes = family(process)

        process.send_signal(signal.SIGINT)

        assert process.wait(STOP_SECONDS) == 130
        # `prefect deploy` outlives the demo by about a second.
        left = look_at(alive(processes), lambda each: each.cmdline())
        assert [each for each in left if "deploy" not in each] == []
