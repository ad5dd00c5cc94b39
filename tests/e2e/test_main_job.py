"""Every event is delivered or becomes a dead letter: the receiver, the store and Prefect agree about the whole path."""

import base64
import json
from collections import Counter

import pytest

from support.store_rows import DELIVERIES

pytestmark = pytest.mark.engine

COUNT = 160
KINDS = ("opened", "rejected", "closed", "broken", "edited", "labeled", "assigned", "pinned")
TEXTS = (
    "naïve café ☕",
    "日本語のタイトル",
    "עברית",
    "emoji 👩‍👩‍👧‍👦 🚀",
    "tab\tand\nnewline",
    'quotes " and \\',
)
QUICK = {"quick": {"max_attempts": 3, "base": 0.3, "factor": 2, "park_after": 60}}


def many_events(count: int) -> list[dict]:
    return [
        {
            "id": f"evt-{n:04d}",
            # A type of its own for each event that always fails: the gate would hold the rest of a type.
            "type": f"com.example.issue.{n if KINDS[n % len(KINDS)] == 'broken' else 'all'}.{KINDS[n % len(KINDS)]}",
            "source": "https://api.example.com/repos/octo",
            "data": {
                "z_first": n,
                "action": KINDS[n % len(KINDS)],
                "title": TEXTS[n % len(TEXTS)] * (1 + n % 40),
                "nested": [{"id": 17273051 + n, "private": n % 2 == 0, "ratio": n / 7, "none": None}]
                * (n % 30),
                "a_last": "é",
            },
        }
        for n in range(count)
    ]


@pytest.mark.parametrize("lane", ["task", "auto"])
def test_every_event_ends_delivered_or_dead_lettered_and_all_records_agree(
    machine, start_receiver, task_runs, lane
):
    receiver = start_receiver("support.receiver_scripts:mixed")
    machine.variables["RESONANT_POLICIES"] = json.dumps(QUICK)
    machine.save_endpoint("hooks", receiver.url, policy="quick")
    events = many_events(COUNT)

    path = machine.write_events("events.jsonl", events)
    machine.do("emit", path, "--endpoint", "hooks", "--lane", lane, code=1)
    # On a slow machine, the gate may hold deliveries for longer than a run waits.
    while machine.read("status")["retrying"]:
        machine.do("endpoint", "resume", "hooks", "--now")
        machine.query("DELETE FROM resonant_gates")
        machine.run("emit", "--lane", lane)

    by_kind = Counter(event["type"].rpartition(".")[2] for event in events)
    status = machine.read("status")
    assert status["balanced"]
    assert (status["accepted"], status["pending"], status["retrying"]) == (COUNT, 0, 0)
    assert status["dead_letter"] == by_kind["rejected"] + by_kind["broken"]
    assert status["by_category"] == {"permanent": by_kind["rejected"], "transient": by_kind["broken"]}

    dead = machine.read("dlq", "--limit", "0")
    whys = {row["event_id"]: (row["category"], row["code"], row["reason"], row["attempts"]) for row in dead}
    assert whys == {
        event["id"]: ("permanent", "http_400", "permanent", 1)
        if event["type"].endswith("rejected")
        else ("transient", "http_500", "exhausted", 3)
        for event in events
        if event["type"].endswith(("rejected", "broken"))
    }

    received = Counter(entry["webhook_id"] for entry in receiver.journal)
    attempts = {row["event_id"]: row["attempts"] for row in machine.query(f"SELECT * FROM {DELIVERIES}")}
    assert received == attempts
    history = machine.query(
        f"SELECT event_id, count(*) AS n FROM resonant_attempts JOIN {DELIVERIES} ON deliveries.id = delivery_id"
        " GROUP BY event_id"
    )
    assert {row["event_id"]: row["n"] for row in history} == attempts
    assert sum(attempts.values()) > COUNT + 2 * by_kind["broken"], "some first attempts were to fail"

    bodies = {row["id"]: row["body"] for row in machine.query("SELECT id, body FROM resonant_events")}
    for entry in receiver.journal:
        assert base64.b64decode(entry["body"]) == bodies[entry["webhook_id"]]
    expected = {
        event["id"]: json.dumps(event["data"], ensure_ascii=False, separators=(",", ":")).encode()
        for event in events
    }
    assert bodies == expected

    if lane == "task":
        runs = task_runs(lambda runs: attempts_in(runs) == attempts)
        assert red(runs) == set(whys)
        return
    chunks = {
        chunk["task_run_id"]: chunk
        for chunk in machine.query(
            "SELECT task_run_id, count(*) AS sent, sum(decision = 'give_up') AS dead FROM resonant_attempts GROUP BY 1"
        )
    }
    shown = sum(min(20, chunk["dead"] or 0) for chunk in chunks.values())
    runs = task_runs(lambda runs: len(red(runs)) == shown and chunks.keys() <= {run["id"] for run in runs})
    names = {run["id"]: run["name"] for run in runs if not run["name"].startswith("com.")}
    for chunk_id in chunks.keys() & names:  # a probe has a task run of its own
        chunk = chunks[chunk_id]
        # The gate may have held some deliveries of a chunk.
        number, rest = names[chunk_id].split(" ", 1)
        assert int(number) >= chunk["sent"]
        assert rest == ("delivery" if number == "1" else "deliveries") + " to hooks"
    assert red(runs) <= set(whys)


def attempts_in(runs):
    """Count the attempts of each event's task runs. If the gate held the last retry, that start made no attempt."""
    attempts = Counter()
    for run in runs:
        attempts[run["name"].split()[1]] += run["run_count"] - (
            "nothing was sent" in (run["state"]["message"] or "")
        )
    return attempts


def red(runs):
    """Return the ids of the events whose task runs have failed."""
    return {run["name"].split()[1] for run in runs if run["state_type"] == "FAILED"}
