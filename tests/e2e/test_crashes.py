"""Commands that are killed or interrupted: nothing is lost, and duplicates are bounded."""

import os
import random
import signal
from collections import Counter

import pytest

from support.waiting import wait_until

pytestmark = pytest.mark.engine

# Long enough for a busy machine to answer and to renew in time; the timeout must be shorter.
LEASE_SECONDS = "6"
TIMEOUT_SECONDS = 5
KILLS = 2


@pytest.fixture
def crashing(machine):
    machine.variables["RESONANT_LEASE_SECONDS"] = LEASE_SECONDS
    return machine


def events(count: int) -> list[dict]:
    return [{"id": f"e{n:05d}", "type": "t", "source": "/s", "data": {"n": n}} for n in range(count)]


def add_endpoint(machine, receiver, timeout: int = TIMEOUT_SECONDS) -> None:
    machine.save_endpoint("hooks", receiver.url, timeout=timeout)


def test_killing_the_emitting_process_at_random_moments_loses_nothing(crashing, start_receiver):
    """In the lane auto, tests/chaos/test_kills.py does it."""
    lane = ("--lane", "task")
    rng = random.Random(os.environ["RESONANT_CHAOS_SEED"])
    print(f"RESONANT_CHAOS_SEED={os.environ['RESONANT_CHAOS_SEED']}")
    receiver = start_receiver("support.receiver_scripts:steady")
    add_endpoint(crashing, receiver)
    count = 300 * KILLS
    crashing.do("enqueue", crashing.write_events("e.jsonl", events(count)), "--endpoint", "hooks")

    in_flight = 0
    for _ in range(KILLS):
        process = crashing.start("emit", *lane)
        # Before it sends, every moment is the same.
        enough = len(receiver.journal) + rng.randint(1, 100)
        wait_until(
            lambda enough=enough, process=process: (
                len(receiver.journal) >= enough or process.poll() is not None
            )
        )
        process.kill()
        process.communicate()
        in_flight += crashing.query("SELECT count(*) AS n FROM resonant_deliveries WHERE sending")[0]["n"]
        status = crashing.read("status")
        assert status["balanced"]
        assert status["accepted"] == count

    crashing.do("emit", *lane)

    status = crashing.read("status")
    assert (status["balanced"], status["delivered"]) == (True, count)
    received = Counter(entry["webhook_id"] for entry in receiver.journal)
    assert set(received) == {event["id"] for event in events(count)}
    assert in_flight > 0, "no kill hit a send: the test tests nothing"
    duplicates = sum(received.values()) - count
    attempts = crashing.query(
        "SELECT result, code, late, count(*) AS n FROM resonant_attempts GROUP BY result, code, late"
    )
    said = f"{in_flight} in flight when killed, {duplicates} received twice, {[tuple(each) for each in attempts]}"
    print(said)
    # More attempts than sends in flight are lost if a process stalled for longer than its lease.
    assert duplicates <= sum(each["n"] for each in attempts if each["result"] == "lost"), said


def test_a_killed_producer_keeps_the_acknowledged_events(crashing, start_receiver):
    receiver = start_receiver("resonant.testing:always_ok")
    add_endpoint(crashing, receiver)
    path = crashing.write_events("e.jsonl", events(10_000))
    process = crashing.start("enqueue", path, "--endpoint", "hooks")
    wait_until(lambda: crashing.database.exists() and crashing.read("status")["accepted"] > 0)
    process.kill()
    process.communicate()

    status = crashing.read("status")
    assert status["balanced"]
    crashing.do("enqueue", path, "--endpoint", "hooks")
    assert crashing.read("status")["accepted"] == 10_000


def test_ctrl_c_releases_unfinished_deliveries(crashing, start_receiver):
    """In the lane auto, test_up.py does it."""
    receiver = start_receiver("support.receiver_scripts:answers_late_at_first")
    add_endpoint(crashing, receiver, timeout=10)
    crashing.variables["RESONANT_LEASE_SECONDS"] = "60"
    crashing.do("enqueue", crashing.write_events("e.jsonl", events(5)), "--endpoint", "hooks")
    process = crashing.start("emit", "--lane", "task")
    wait_until(lambda: len(receiver.journal) == 5)

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)

    assert process.returncode == 130, errors
    message = "interrupted: 5 deliveries wait: a running drain or the next `resonant emit` sends them"
    assert errors.splitlines()[-1] == f"resonant: {message}"
    assert "Traceback" not in errors
    status = crashing.read("status")
    assert (status["balanced"], status["pending"], status["in_flight"]) == (True, 5, 0)
    assert crashing.query("SELECT count(*) AS n FROM resonant_attempts")[0]["n"] == 0, "nothing is charged"
    crashing.do("emit")
    assert crashing.read("status")["delivered"] == 5
