"""Sending commands report the outcomes of their own events while the drain of ``resonant up`` sends them too."""

from __future__ import annotations

import json
import signal

import pytest

from support.machine import Machine
from support.waiting import wait_until

pytestmark = pytest.mark.engine

COUNT = 60


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return Machine(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def up(home):
    with home.up() as started:
        yield started


@pytest.fixture
def hooks(home, up, start_receiver):
    """A receiver that answers after a short delay, and refuses events marked as rejected."""
    receiver = start_receiver("receiver_scripts:slowly_ok_or_rejected")
    home.succeed("endpoint", "add", "hooks", receiver.url, "--allow-private", "--overwrite")
    return receiver


def events(kind: str, *, rejected: int = 0, count: int = COUNT) -> list[dict]:
    return [
        {
            "id": f"{kind}-{n}",
            "type": "order.rejected" if n < rejected else "order.paid",
            "source": "/s",
            "data": n,
        }
        for n in range(count)
    ]


def drain_has_claimed(home) -> bool:
    return bool(home.query("SELECT 1 FROM resonant_deliveries WHERE status = 'delivered' LIMIT 1"))


def test_emit_counts_its_own_events_beside_a_running_drain(home, hooks):
    # Check that the drain runs: it sends a stored event.
    home.succeed("enqueue", home.write_events("first.jsonl", events("first", count=1)), "--endpoint", "hooks")
    wait_until(lambda: drain_has_claimed(home), 60)

    emitted = home.succeed("emit", home.write_events("good.jsonl", events("good")), "--endpoint", "hooks")

    assert emitted.stdout == f"{COUNT} delivered, 0 retried, 0 parked, 0 dead-lettered\n"
    assert emitted.stderr == f"stored {COUNT} events for hooks\n", "no output of Prefect"


def test_a_dead_letter_among_them_is_exit_code_1_and_a_command_that_lists_it(home, hooks):
    path = home.write_events("bad.jsonl", events("bad", rejected=2))

    emitted = home.run("emit", path, "--endpoint", "hooks", "--json")

    assert emitted.returncode == 1
    said = json.loads(emitted.stdout)
    assert (said["stored"], said["delivered"], said["dead_letter"]) == (COUNT, COUNT - 2, 2)
    assert said["by_reason"] == {"permanent": 2}
    pointer = emitted.stderr.splitlines()[-1]
    assert pointer.startswith("resonant: 2 dead letters: `resonant dlq --endpoint hooks --since ")
    listed = home.read(*pointer.split("`")[1].split()[1:])
    assert {each["event_id"] for each in listed} == {"bad-0", "bad-1"}

    again = home.run("emit", path, "--endpoint", "hooks")
    assert (again.returncode, again.stdout) == (
        1,
        f"0 delivered, 0 retried, 0 parked, 2 dead-lettered (2 permanent), {COUNT - 2} delivered before\n",
    )


def test_a_replay_whose_dead_letters_die_again_is_exit_code_1(home, hooks):
    home.run(
        "emit", home.write_events("dead.jsonl", events("dead", rejected=1, count=1)), "--endpoint", "hooks"
    )

    retried = home.run("retry", "dead-0", "--yes", "--json")

    assert retried.returncode == 1
    said = json.loads(retried.stdout)
    assert (said["replayed"], said["delivered"], said["dead_letter"]) == (1, 0, 1)
    assert "resonant: 1 dead letter: `resonant dlq --since " in retried.stderr


def test_a_run_of_the_deployment_reports_the_outcomes_of_its_own_events(home, up, hooks):
    code = (
        "from prefect.deployments import run_deployment\n"
        f"parameters = {{'events': {events('deployed', rejected=1, count=20)!r}, 'endpoint': 'hooks'}}\n"
        "run = run_deployment('emit-events/on-demand', parameters=parameters, timeout=200)\n"
        "print(run.state.type.value, run.state.message)\n"
    )

    ran = home.run_code(code, timeout=240, PREFECT_API_URL=f"http://127.0.0.1:{up.port}/api")

    assert "COMPLETED 19 delivered, " in ran.stdout, ran.stderr
    # The drain may know the receiver of the test before for ten seconds more, and retry.
    assert " retried, 0 parked, 1 dead-lettered (1 permanent)" in ran.stdout
    assert "`resonant dlq --endpoint hooks --since " in ran.stdout


def test_ctrl_c_is_one_line_that_says_what_remains(home, hooks):
    count = 1500
    path = home.write_events("many.jsonl", events("many", count=count))
    emitting = home.start("emit", path, "--endpoint", "hooks")

    def some_are_delivered() -> bool:
        query = (
            "SELECT count(*) FROM resonant_deliveries WHERE event_id LIKE 'many-%' AND status = 'delivered'"
        )
        return home.query(query)[0][0] >= 20

    wait_until(some_are_delivered, 60)
    emitting.send_signal(signal.SIGINT)
    out, err = emitting.communicate(timeout=60)

    assert (emitting.returncode, out) == (130, "")
    assert "Crash" not in err
    stored, last = err.splitlines()
    assert stored == "stored 1,500 events for hooks"
    assert last.startswith("resonant: interrupted: ")
    assert last.endswith(" wait: a running drain or the next `resonant emit --endpoint hooks` sends them")
    balance = home.read("status")
    assert (balance["balanced"], balance["accepted"] >= count) == (True, True)
