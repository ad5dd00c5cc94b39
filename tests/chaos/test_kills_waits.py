"""A drain is killed while deliveries wait for their flow runs, and while it starts such runs: each event gets one completed run."""

import json
import sys
from collections import Counter

import pytest
from chaos_facts import Database, Look, histories
from faults import PROJECT
from faults_prefect import DRAIN, Kept

from support.deployments import Deployments
from support.machine import Machine
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

EVENTS = 12
# Runs created at the moment of a kill: while the others are created, and while all deliveries wait.
KILLS = (2, 5, EVENTS)


@pytest.mark.timeout(300)
def test_each_event_gets_one_completed_run_over_kills_of_the_drain(prefect_api, store_url, tmp_path):
    deployments, database = Deployments(prefect_api), Database(store_url)
    variables = {"RESONANT_DATABASE_URL": store_url, "RESONANT_LEASE_SECONDS": "8"}
    machine, name = Machine(tmp_path, prefect_api, variables), deployments.make()
    endpoint = f"w-{name[5:10]}"
    machine.do("endpoint", "add", endpoint, "--deployment", name, "--wait", "--timeout", "6")
    ids = [f"e-{number}" for number in range(EVENTS)]
    lines = [json.dumps({"id": each, "type": "t", "source": "/s", "data": {}}) for each in ids]
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    machine.do("enqueue", "events.jsonl", "--endpoint", f"resonant-deployment/{endpoint}")

    def end(run: dict[str, str], state: str) -> None:
        given = {"state": {"type": state}, "force": True}
        deployments.api.post(f"/flow_runs/{run['id']}/set_state", json=given)

    def number_of(condition: str) -> int:
        [row] = database.query(f"SELECT count(*) AS number FROM resonant_deliveries WHERE {condition}")
        return row["number"]

    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-c", DRAIN]
        drain = Kept(command, cwd=PROJECT, env=machine.environment, stdout=log, stderr=log)
        try:
            for number in KILLS:
                wait_until(lambda wanted=number: len(deployments.runs(name)) >= wanted, 120)
                drain.kill()
            wait_until(lambda: number_of("code = 'run_unfinished' AND lease_owner IS NULL") == EVENTS, 120)
            failed, *others = deployments.runs(name)
            end(failed, "FAILED")
            for run in others:
                end(run, "COMPLETED")
            [again] = wait_until(
                lambda: [each for each in deployments.runs(name) if each["state_type"] == "SCHEDULED"], 120
            )
            drain.kill()
            end(again, "COMPLETED")
            wait_until(lambda: number_of("status = 'delivered'") == EVENTS, 120)
        finally:
            drain.stop()

    runs = deployments.runs(name)
    completed = Counter(each["name"] for each in runs if each["state_type"] == "COMPLETED")
    assert completed == Counter(ids)
    assert len(runs) == EVENTS + 1
    assert again["idempotency_key"] == f"{failed['idempotency_key']}.2"
    with database.opened() as snapshot:
        assert Look.at(snapshot).problems() == []
    assert [each for history in histories(database).values() for each in history.problems()] == []
