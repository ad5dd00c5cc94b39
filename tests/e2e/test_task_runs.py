"""Each task run sends, and a retry that is due soon is a retry of its task run."""

from collections import Counter

import pytest

pytestmark = pytest.mark.engine

EVENTS = 124


@pytest.mark.parametrize("script", ["throttled", "twenty_per_second"])
def test_every_task_run_sends_and_shows_its_retries(machine, start_receiver, task_runs, script):
    receiver = start_receiver(f"support.receiver_scripts:{script}")
    machine.save_endpoint("hooks", receiver.url)
    path = machine.write_events(
        "events.jsonl", [{"type": "order.paid", "source": "/shop", "data": n} for n in range(EVENTS)]
    )

    machine.do("emit", path, "--endpoint", "hooks")

    assert machine.read("status")["delivered"] == EVENTS
    statuses = Counter(entry["status"] for entry in receiver.journal)
    assert statuses[429] >= 5
    sent = machine.query(
        "SELECT task_run_id, count(*) AS attempts, count(DISTINCT delivery_id) AS deliveries "
        "FROM resonant_attempts GROUP BY 1"
    )
    by_run = {row["task_run_id"]: row for row in sent}
    runs = task_runs(lambda runs: by_run.keys() <= {run["id"] for run in runs})
    in_vain = [(run["name"], run["state"]["message"]) for run in runs if run["id"] not in by_run]
    assert not in_vain
    assert len(runs) <= 1.3 * EVENTS
    retries = sum(row["attempts"] - row["deliveries"] for row in sent)
    assert sum(run["run_count"] - 1 for run in runs) >= retries >= (len(receiver.journal) - EVENTS) / 2
