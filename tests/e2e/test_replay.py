"""The dead-letter queue as a place of work, from the command line to the receiver."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter

import pytest

pytestmark = pytest.mark.engine


@pytest.fixture
def broken(machine, start_receiver, monkeypatch):
    """A receiver that fails until it is repaired, and a policy that gives up at once."""
    monkeypatch.setenv("REPAIRED", str(machine.home / "repaired"))
    machine.variables["RESONANT_POLICIES"] = json.dumps({"once": {"max_attempts": 1}})
    receiver = start_receiver("receiver_scripts:broken_until_repaired")
    added = machine.run(
        "endpoint",
        "add",
        "hooks",
        receiver.url,
        "--allow-private",
        "--overwrite",
        "--policy",
        "once",
        "--timeout",
        "1",
    )
    assert added.returncode == 0, added.stderr
    return receiver


def repair(machine) -> None:
    (machine.home / "repaired").touch()


def dead_letters(machine, count: int, kind: str = "t") -> list[str]:
    """Emit events to the broken receiver, and return their ids."""
    events = [{"id": f"{kind}-{n}", "type": kind, "source": "/s", "data": {"n": n}} for n in range(count)]
    emitted = machine.run("emit", machine.write_events(f"{kind}.jsonl", events), "--endpoint", "hooks")
    assert emitted.returncode == 0, emitted.stderr
    assert machine.read("status")["dead_letter"] >= count
    return [event["id"] for event in events]


def test_retry_really_sends_again_and_keeps_the_history(machine, broken):
    first, second = dead_letters(machine, 2)
    repair(machine)

    retried = machine.run("retry", first)

    assert retried.returncode == 0, retried.stderr
    assert "1 sent again: 1 delivered" in retried.stdout
    assert Counter(entry["webhook_id"] for entry in broken.journal) == {first: 2, second: 1}
    detail = machine.read("detail", first)["deliveries"][0]
    assert (detail["status"], detail["replays"], detail["attempts"]) == ("delivered", 1, 2)
    assert [attempt["round"] for attempt in detail["history"]] == [1, 2]
    assert machine.read("status")["balanced"]
    assert machine.read("audit")[0] | {"at": None} == {
        "at": None,
        "who": machine.read("audit")[0]["who"],
        "action": "replay",
        "selection": {"ids": [first]},
        "count": 1,
    }


def test_retry_of_a_permanent_one_without_a_terminal_refuses_and_yes_sends_it(machine, broken):
    [rejected] = dead_letters(machine, 1, "order.rejected")
    repair(machine)

    refused = machine.run("retry", rejected)

    assert refused.returncode == 2, refused.stderr
    assert "was permanent: --yes sends" in refused.stderr
    assert len(broken.journal) == 1
    assert machine.run("retry", rejected, "--yes").returncode == 0
    assert machine.read("status")["delivered"] == 1


def test_retry_of_what_is_no_dead_letter_sends_nothing(machine, broken):
    [letter] = dead_letters(machine, 1)
    repair(machine)

    refused = machine.run("retry", letter, "no-such-id")

    assert refused.returncode == 1
    assert "no-such-id is not in the dead-letter queue" in refused.stderr
    assert len(broken.journal) == 1


def test_a_replay_leaves_permanent_ones_out_and_a_dry_run_says_so(machine, broken):
    dead_letters(machine, 3)
    dead_letters(machine, 2, "order.rejected")
    repair(machine)

    planned = machine.run("replay", "--endpoint", "hooks", "--dry-run")
    replayed = machine.run("replay", "--endpoint", "hooks")

    assert planned.stdout.startswith("3 would be sent again; 2 left out, as their failure was permanent")
    assert replayed.returncode == 0, replayed.stderr
    status = machine.read("status")
    assert (status["delivered"], status["dead_letter"], status["balanced"]) == (3, 2, True)


def test_a_replay_of_everything_must_be_asked_for(machine):
    refused = machine.run("replay")

    assert refused.returncode == 2
    assert "--all" in refused.stderr


def test_a_replay_that_fails_puts_the_letters_back_with_their_history(machine, broken):
    ids = dead_letters(machine, 2)

    replayed = machine.run("replay", "--all")

    assert replayed.returncode == 0, replayed.stderr
    rows = {row["event_id"]: row for row in machine.read("dlq")}
    assert set(rows) == set(ids)
    assert {(row["replays"], row["attempts"]) for row in rows.values()} == {(1, 2)}


def test_a_replay_keeps_to_its_rate_and_starts_slowly(machine, broken):
    count, rate = 900, 40
    dead_letters(machine, count)
    repair(machine)
    before = len(broken.journal)

    replayed = machine.run("replay", "--all", "--rate", str(rate))

    assert replayed.returncode == 0, replayed.stderr
    moments = sorted(entry["received_at"] for entry in broken.journal[before:])
    assert len(moments) == count
    start = moments[0]
    by_second = Counter(int(moment - start) for moment in moments)
    assert max(by_second.values()) <= 1.2 * rate
    assert by_second[0] < rate / 3, "a slow start"
    # Past the slow start, and without the last second, which may not be whole.
    steady = [by_second[second] for second in range(11, int(moments[-1] - start))]
    assert abs(sum(steady) / len(steady) / rate - 1) <= 0.05


def test_two_replays_one_of_them_killed_send_no_letter_twice_but_what_was_in_flight(machine, broken):
    machine.variables["RESONANT_LEASE_SECONDS"] = "2"
    ids = dead_letters(machine, 400)
    repair(machine)
    before = len(broken.journal)

    replays = [machine.start("replay", "--all", "--rate", "60") for _ in range(2)]
    give_up_at = time.monotonic() + 30
    while len(broken.journal) < before + 50 and time.monotonic() < give_up_at:
        time.sleep(0.02)
    replays[0].kill()
    in_flight = machine.query("SELECT count(*) AS n FROM resonant_deliveries WHERE sending")[0]["n"]
    purged = machine.run("purge", "--older-than", "1")
    for replay in replays:
        with contextlib.closing(replay.stdout), contextlib.closing(replay.stderr):
            replay.wait(90)
    assert machine.run("emit").returncode == 0

    assert purged.stdout.startswith("0 purged")
    status = machine.read("status")
    assert (status["delivered"], status["balanced"]) == (400, True)
    received = Counter(entry["webhook_id"] for entry in broken.journal[before:])
    assert set(received) == set(ids)
    assert sum(received.values()) - 400 <= in_flight


def test_cancelled_deliveries_are_dead_letters_that_can_be_replayed(machine, broken):
    events = [{"id": f"e{n}", "type": "t", "source": "/s", "data": n} for n in range(3)]
    stored = machine.run("enqueue", machine.write_events("e.jsonl", events), "--endpoint", "hooks")
    assert stored.returncode == 0, stored.stderr

    cancelled = machine.run("cancel", "--endpoint", "hooks")

    assert cancelled.stdout == "3 deliveries given up\n"
    assert {row["reason"] for row in machine.read("dlq")} == {"cancelled"}
    repair(machine)
    assert machine.run("replay", "--reason", "cancelled", "--endpoint", "hooks").returncode == 0
    assert machine.read("status")["delivered"] == 3
