"""An outage from end to end: it is an alert, it ends, and the automation sends again what it has left."""

from __future__ import annotations

import json

import pytest

from support.waiting import wait_until

pytestmark = pytest.mark.engine

FAILED, DELIVERED = 25, 210  # of the second, enough that the error rate is below half of its limit
REPLAY = "resonant: replay transient dead letters when an endpoint has recovered"


@pytest.fixture
def api(machine):
    """The API of a ``resonant up`` on this machine."""
    machine.prefect_api = ""
    machine.variables["RESONANT_POLICIES"] = json.dumps({"once": {"max_attempts": 1}})
    with machine.up() as up:
        yield up.api


def store(machine, kind, number):
    events = [{"id": f"{kind}-{n}", "type": kind, "source": "/s", "data": n} for n in range(number)]
    stored = machine.run("enqueue", machine.write_events(f"{kind}.jsonl", events), "--endpoint", "hooks")
    assert stored.returncode == 0, stored.stderr


def export(api):
    """Have the worker run the export, to its end; again where the scheduled one was just running, as then it is cancelled."""
    deployment = api.get("/deployments/name/export-metrics/scheduled").json()

    def is_completed():
        run = api.post(f"/deployments/{deployment['id']}/create_flow_run", json={}).json()
        wait_until(lambda: state_of(run) in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
        return state_of(run) == "COMPLETED"

    def state_of(run):
        return api.get(f"/flow_runs/{run['id']}").json()["state_type"]

    wait_until(is_completed)


def test_when_an_endpoint_has_recovered_its_transient_dead_letters_are_sent_again(
    api, machine, start_receiver, monkeypatch
):
    monkeypatch.setenv("REPAIRED", str(machine.home / "repaired"))
    receiver = start_receiver("receiver_scripts:broken_until_repaired")
    options = ["--allow-private", "--policy", "once", "--timeout", "1"]
    assert machine.run("endpoint", "add", "hooks", receiver.url, *options).returncode == 0
    [automation] = [
        each for each in api.post("/automations/filter", json={}).json() if each["name"] == REPLAY
    ]
    api.patch(f"/automations/{automation['id']}", json={"enabled": True}).raise_for_status()

    store(machine, "lost", FAILED)
    wait_until(lambda: machine.read("status")["dead_letter"] == FAILED)
    export(api)
    raised = machine.query(
        "SELECT raised_at, unannounced FROM resonant_alerts WHERE condition = 'error_rate'"
    )
    assert [(row[0] is None, row[1]) for row in raised] == [(False, None)]

    (machine.home / "repaired").touch()
    store(machine, "arrived", DELIVERED)
    wait_until(lambda: machine.read("status")["delivered"] == DELIVERED)
    export(api)

    wait_until(lambda: machine.read("status")["delivered"] == DELIVERED + FAILED)
    assert machine.read("status")["balanced"]
    assert sum(entry["count"] for entry in machine.read("audit") if entry["action"] == "replay") == FAILED
