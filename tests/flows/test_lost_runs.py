"""Runs without heartbeats are marked as crashed, although Prefect may have dropped the events of the automation."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events import Event
from prefect.logging import disable_run_logger

import tasks.collect
from flows.dead_letters import collect_dead_letters, replay_dead_letters
from flows.emit import emit_events
from support.prefect import patient_client
from support.waiting import until
from tasks.collect import mark_lost_runs, mark_task_runs_of_ended_runs

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("url")]

LATER = timedelta(minutes=10, seconds=5)
# Not CANCELLED: Prefect's server itself closes the task runs of such flow runs, at any moment of the next 20 seconds.
OTHER_ENDS = ("CRASHED", "COMPLETED", "FAILED", "RUNNING")


async def collect(now):
    with disable_run_logger():  # not in a flow, which would send heartbeats
        await mark_lost_runs(now=now)


@pytest.fixture
async def running(prefect_api, monkeypatch):
    """Three flow runs of a work pool, by name; the flow reads them one by one, and those of no other pool."""
    pool = f"pool-{uuid4()}"
    monkeypatch.setattr(tasks.collect, "_RUNS_A_PAGE", 1)
    monkeypatch.setattr(tasks.collect, "WORK_POOL", pool)
    with patient_client(prefect_api) as api:
        api.post("/work_pools/", json={"name": pool, "type": "process"})
        flow_id = api.post("/flows/", json={"name": "of-the-pool"}).json()["id"]
        new = {"name": pool, "flow_id": flow_id, "work_pool_name": pool}
        deployment = api.post("/deployments/", json=new).json()["id"]
        runs = {}
        for name in ("alive", "lost", "without heartbeats"):
            path = f"/deployments/{deployment}/create_flow_run"
            runs[name] = api.post(path, json={"name": name}).json()["id"]
            set_state = f"/flow_runs/{runs[name]}/set_state"
            api.post(set_state, json={"state": {"type": "RUNNING"}, "force": True})
        yield runs
        api.delete(f"/deployments/{deployment}")
        api.delete(f"/work_pools/{pool}")


async def beat(run, at):
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    event = Event(event="prefect.flow-run.heartbeat", resource=resource, occurred=at)
    async with get_client() as client:
        await client.request("POST", "/events", json=[event.model_dump(mode="json")])

        async def is_in_feed():
            filtered = {"filter": {"id": {"id": [str(event.id)]}, "occurred": {"until": str(at)}}, "limit": 1}
            return (await client.request("POST", "/events/filter", json=filtered)).json()["events"]

        await until(is_in_feed, every=0.1)


async def states(runs):
    async with get_client() as client:
        return {name: (await client.read_flow_run(run)).state.name for name, run in runs.items()}


@pytest.mark.parametrize("hours_ahead", [0, 1, -1])
async def test_a_run_whose_heartbeats_stopped_is_marked_as_crashed_if_the_feed_has_those_of_others(
    running, hours_ahead
):
    def on_its_machine(at):
        return at + timedelta(hours=hours_ahead)

    all_running = dict.fromkeys(running, "Running")
    await beat(running["lost"], on_its_machine(datetime.now(UTC)))
    since = datetime.now(UTC)
    await collect(since + timedelta(minutes=10))
    assert await states(running) == all_running, "the feed may be off"

    await beat(running["alive"], on_its_machine(datetime.now(UTC)))
    await collect(since + timedelta(minutes=10))
    assert await states(running) == all_running | {"lost": "Crashed"}, "a user's own flow sends none"


async def test_a_run_is_not_marked_after_its_machines_fast_clock_was_corrected(running):
    await beat(running["lost"], datetime.now(UTC) + timedelta(hours=1))
    await beat(running["alive"], datetime.now(UTC) + timedelta(hours=1))
    since = datetime.now(UTC)
    await beat(running["alive"], datetime.now(UTC))
    await collect(since + timedelta(minutes=10))
    assert await states(running) == dict.fromkeys(running, "Running") | {"lost": "Crashed"}


@pytest.fixture
def task_runs(prefect_api, monkeypatch):
    """Task runs of a flow of ours and of another one, by the end of their flow run and their own state."""
    ours = f"ours-{uuid4()}"
    monkeypatch.setattr(tasks.collect, "_SENDING_FLOWS", [ours])
    with patient_client(prefect_api) as api:
        made = {}
        for name, flow_name in (("ours", ours), ("another", "another")):
            flow_id = api.post("/flows/", json={"name": flow_name}).json()["id"]
            for flow_state in ("CANCELLED", *OTHER_ENDS):
                run = api.post("/flow_runs/", json={"flow_id": flow_id}).json()["id"]
                for kind in ("RUNNING", "SCHEDULED", "COMPLETED"):
                    new = {"flow_run_id": run, "task_key": "emit", "dynamic_key": kind}
                    task_run = api.post("/task_runs/", json=new).json()["id"]
                    made[name, flow_state, kind] = task_run
                    set_state(api, f"/task_runs/{task_run}", kind)
                for kind in ("RUNNING", flow_state):
                    set_state(api, f"/flow_runs/{run}", kind)
        yield made


def set_state(api, path, kind):
    api.post(f"{path}/set_state", json={"state": {"type": kind}, "force": True})


class DayAhead(datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + timedelta(days=1)


@flow
async def close(now):
    return await mark_task_runs_of_ended_runs(now=now)


@pytest.fixture
def task_states(task_runs, prefect_api):
    """Return the types and messages of the states of the task runs whose flow runs have one of these states."""

    def read(*flow_states):
        with patient_client(prefect_api) as api:
            found = {
                key: api.get(f"/task_runs/{each}").json()["state"]
                for key, each in task_runs.items()
                if key[1] in flow_states
            }
        return {key: (state["type"], state["message"]) for key, state in found.items()}

    return read


def test_our_flows_are_those_that_send():
    assert {emit_events.name, replay_dead_letters.name} == {*tasks.collect._SENDING_FLOWS}


async def test_unfinished_task_runs_are_closed_ten_minutes_after_our_flow_run_ended(task_states, monkeypatch):
    before = task_states(*OTHER_ENDS)
    assert before == {key: (key[2], None) for key in before}

    with monkeypatch.context() as patch:
        patch.setattr("tasks.collect.datetime", DayAhead)
        await collect_dead_letters()
    assert task_states(*OTHER_ENDS) == before, "the clock of the Prefect server counts"

    await close(datetime.now(UTC))
    assert task_states(*OTHER_ENDS) == before, "their own ends may still arrive"

    await close(datetime.now(UTC) + LATER)
    crashed = ("CRASHED", "its flow run has ended")
    not_recorded = ("CANCELLED", "its end was not recorded; `resonant detail` shows the outcome")
    closed = {"CRASHED": crashed, "COMPLETED": not_recorded, "FAILED": not_recorded}
    unfinished = {key for key in before if key[0] == "ours" and key[2] != "COMPLETED"}
    assert task_states(*OTHER_ENDS) == before | {
        key: closed[key[1]] for key in unfinished if key[1] in closed
    }
    # Prefect's server may have been faster.
    of_cancelled = task_states("CANCELLED")
    assert {of_cancelled["ours", "CANCELLED", kind][0] for kind in ("RUNNING", "SCHEDULED")} <= {
        "CRASHED",
        "CANCELLED",
    }
