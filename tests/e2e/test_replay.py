"""Replays, from the command to the receiver."""

import json
import time
from collections import Counter

import pytest

from support.store_rows import DELIVERIES
from support.waiting import wait_until

pytestmark = pytest.mark.engine


@pytest.fixture
def broken(machine, start_receiver):
    """A receiver that fails until it is repaired, and a policy that gives up at once."""
    machine.variables["RESONANT_POLICIES"] = json.dumps({"once": {"max_attempts": 1}})
    repaired = str(machine.home / "repaired")
    receiver = start_receiver("support.receiver_scripts:broken_until_repaired", REPAIRED=repaired)
    machine.save_endpoint("hooks", receiver.url, policy="once", timeout=5)
    return receiver


def repair(machine) -> None:
    (machine.home / "repaired").touch()


def dead_letters(machine, count: int, kind: str = "t") -> list[str]:
    """Emit events to the broken receiver, and return their ids."""
    events = [{"id": f"{kind}-{n}", "type": kind, "source": "/s", "data": {"n": n}} for n in range(count)]
    machine.do("emit", machine.write_events(f"{kind}.jsonl", events), "--endpoint", "hooks", code=1)
    assert machine.read("status")["dead_letter"] >= count
    return [event["id"] for event in events]


def cancelled_dead_letters(machine, count: int) -> list[str]:
    """Store events and cancel them: the quickest way to many dead letters; return their ids."""
    events = [{"id": f"e-{n}", "type": "t", "source": "/s", "data": {"n": n}} for n in range(count)]
    machine.do("enqueue", machine.write_events("e.jsonl", events), "--endpoint", "hooks")
    assert machine.read("cancel", "--endpoint", "hooks") == {"cancelled": count}
    return [event["id"] for event in events]


def test_retry_really_sends_again_and_keeps_the_history(machine, broken):
    first, second = dead_letters(machine, 2)
    machine.do("replay", "--all", code=1)
    rows = {row["event_id"]: (row["replays"], row["attempts"]) for row in machine.read("dlq")}
    assert rows == {first: (1, 2), second: (1, 2)}, "a replay that fails puts them back"
    repair(machine)

    retried = machine.do("retry", first)

    assert "1 sent again: 1 delivered" in retried.stdout
    assert Counter(entry["webhook_id"] for entry in broken.journal) == {first: 3, second: 2}
    detail = machine.read("detail", first)["deliveries"][0]
    assert (detail["status"], detail["replays"], detail["attempts"]) == ("delivered", 2, 3)
    assert [attempt["round"] for attempt in detail["history"]] == [1, 2, 3]
    assert machine.read("status")["balanced"]
    entry, _ = machine.read("audit")
    assert (entry["action"], entry["selection"], entry["count"]) == (
        "replay",
        {"ids": [first], "include_permanent": True},
        1,
    )
    assert " on the command line, flow run " in entry["who"]
    assert entry["at"] < entry["ended_at"]


def test_permanent_dead_letters_are_sent_again_only_if_it_is_asked_for(machine, broken):
    dead_letters(machine, 3)
    rejected, _ = dead_letters(machine, 2, "order.rejected")
    repair(machine)

    machine.do("replay", "--endpoint", "hooks")
    skipped = machine.do("replay", "--endpoint", "hooks", code=1)
    as_json = machine.do("replay", "--endpoint", "hooks", "--json", code=1)
    refused = machine.do("retry", rejected, code=2)

    assert skipped.stdout == ""
    assert skipped.stderr.endswith(
        "resonant: nothing was sent again; 2 skipped because their failure was permanent: include_permanent=True "
        "(`resonant replay --include-permanent`) sends them too\n"
    )
    document = json.loads(as_json.stdout)
    assert (document["replayed"], document["left_out_permanent"]) == (0, 2)
    assert "was permanent: --yes sends" in refused.stderr, "there is no terminal"
    status = machine.read("status")
    assert (status["delivered"], status["dead_letter"], status["balanced"]) == (3, 2, True)

    machine.do("retry", rejected, "--yes")
    assert machine.read("status")["delivered"] == 4


def test_retry_of_an_id_of_two_sources_sends_the_event_of_the_given_source_whole(machine, broken):
    for source in ("/crm", "/shop"):
        event = {"id": "t-1", "type": "t", "source": source, "sequence": source[1:], "data_base64": "AP8="}
        machine.do("emit", machine.write_events("e.jsonl", [event]), "--endpoint", "hooks", code=1)
    repair(machine)
    before = len(broken.journal)

    assert "several sources use the same id: t-1 of '/crm' (t, " in machine.do("retry", "t-1", code=2).stderr
    assert len(broken.journal) == before
    machine.do("retry", "t-1", "--source", "/shop")

    first_of_crm, first, again = broken.journal
    assert again["body"] == first["body"] == "AP8="
    assert again["webhook_id"] == first["webhook_id"] != first_of_crm["webhook_id"]
    headers = again["headers"]
    assert (headers["ce-id"], headers["ce-source"], headers["ce-sequence"]) == ("t-1", "/shop", "shop")
    assert "content-type" not in headers


def test_a_replay_starts_slowly(machine, broken):
    """What the rate is at each moment is tested in tests/resonant/dead_letters/test_slow_start.py."""
    count, rate = 30, 50
    cancelled_dead_letters(machine, count)
    repair(machine)
    began_at = time.time()

    machine.do("replay", "--all", "--rate", str(rate))

    moments = [entry["received_at"] for entry in broken.journal]
    assert len(moments) == count
    assert max(moments) - began_at > 3 * count / rate


@pytest.mark.slow
def test_concurrent_replays_and_a_purge_lose_nothing_and_share_no_dead_letter(machine, broken):
    # Leases that a busy machine can renew, and more dead letters than are replayed before the purge begins.
    machine.variables["RESONANT_LEASE_SECONDS"] = "10"
    count = 3_000
    ids = cancelled_dead_letters(machine, count)
    repair(machine)

    killed = machine.start("replay", "--all", "--rate", "40")
    [owner] = wait_for_senders(machine, 1)
    other = machine.start("replay", "--all", "--rate", "40")
    wait_for_senders(machine, 2)
    purge = machine.start("purge", "--older-than", "0", "--yes", "--json")
    killed.kill()
    killed.communicate()
    of_the_killed = f"SELECT event_id FROM {DELIVERIES} WHERE lease_owner = '{owner}' AND sending"
    in_flight = {row["event_id"] for row in machine.query(of_the_killed)}
    _, replay_errors = other.communicate(timeout=280)
    purge_report, purge_errors = purge.communicate(timeout=280)
    machine.do("emit")

    assert (other.returncode, purge.returncode) == (0, 0), replay_errors + purge_errors
    purged = json.loads(purge_report)["purged"]
    status = machine.read("status")
    assert purged > 0, "the purge met the replays"
    assert (status["delivered"], status["purged"], status["dead_letter"]) == (count - purged, purged, 0)
    assert status["balanced"]
    delivered = machine.query(f"SELECT event_id, round, status FROM {DELIVERIES}")
    assert {(row["round"], row["status"]) for row in delivered} == {(2, "delivered")}, "each was taken once"
    received = Counter(entry["webhook_id"] for entry in broken.journal)
    assert received.keys() == {row["event_id"] for row in delivered} <= set(ids)
    assert {event_id for event_id, times in received.items() if times > 1} <= in_flight
    assert max(received.values()) <= 2


def wait_for_senders(machine, number: int) -> set[str]:
    """Wait until this many replays have sent dead letters; return their names."""
    query = "SELECT owner FROM resonant_attempts WHERE round = 2 GROUP BY owner HAVING count(*) >= 5"

    def owners() -> set[str]:
        found = {row["owner"] for row in machine.query(query)}
        return found if len(found) >= number else set()

    return wait_until(owners)


def test_dead_letters_of_a_removed_endpoint_stay_and_the_others_are_sent(machine, broken):
    ids = dead_letters(machine, 2)
    machine.save_endpoint("other", broken.url)
    event = {"id": "gone-1", "type": "t", "source": "/s", "data": None}
    machine.do("enqueue", machine.write_events("g.jsonl", [event]), "--endpoint", "other")
    assert machine.read("cancel", "--endpoint", "other") == {"cancelled": 1}
    machine.do("endpoint", "remove", "other", "--yes")
    repair(machine)

    everything = machine.do("replay", "--all", "--include-permanent")
    that_one = machine.do("replay", "--endpoint", "other", code=1)

    assert "2 sent again: 2 delivered" in everything.stdout
    assert "no endpoint is named 'other'" in that_one.stderr
    assert [row["event_id"] for row in machine.read("dlq")] == ["gone-1"]
    assert {row["webhook_id"] for row in broken.journal} == set(ids)
