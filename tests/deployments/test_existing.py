"""A bootstrap removes the deployments of earlier versions, and keeps those stopped that an operator stopped."""

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import existing
from deployments.existing import NEW_NAMES, remove_old_deployments
from resonant.local import work_pool

pytestmark = pytest.mark.engine

HOURLY = {"interval": 3600.0, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}


@pytest.fixture(autouse=True)
def prefect(ready_api):
    """Use the bootstrapped server in this process."""
    with temporary_settings({PREFECT_API_URL: ready_api}):
        yield


@pytest.fixture
def add(server):
    """Add a deployment with an old name, as an earlier version declared it; remove it at the end."""
    added = []

    def create(name: str, **fields) -> str:
        flow, _, deployment = name.partition("/")
        flow_id = server.get(f"/flows/name/{flow}").json()["id"]
        declared = {"name": deployment, "flow_id": flow_id, "work_pool_name": "resonant"} | fields
        added.append(server.post("/deployments/", json=declared).json()["id"])
        return added[-1]

    yield create
    for old_id in added:
        if exists(server, old_id):
            server.delete(f"/deployments/{old_id}")


def named(server, name: str) -> dict:
    return server.get(f"/deployments/name/{name}").json()


def exists(server, deployment_id: str) -> bool:
    query = {"deployments": {"id": {"any_": [deployment_id]}}}
    return bool(server.post("/deployments/filter", json=query).json())


async def test_all_of_them_are_removed_with_their_automations(server, add):
    ids = [add(name) for name in NEW_NAMES if name != "export-metrics/scheduled"]
    # The work pool of this one was deleted.
    of_no_pool = {"work_pool_name": None, "entrypoint": "flows.metrics.export_metrics"}
    ids.append(add("export-metrics/scheduled", **of_no_pool))
    owned = {
        "name": "collect dead letters after a crash",
        "trigger": {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1, "within": 0},
        "actions": [{"type": "do-nothing"}],
        "owner_resource": f"prefect.deployment.{ids[0]}",
    }
    automation = server.post("/automations/", json=owned).json()["id"]

    await remove_old_deployments()

    assert not [each for each in ids if exists(server, each)]
    assert automation not in {each["id"] for each in server.post("/automations/filter", json={}).json()}


async def test_two_bootstraps_may_remove_them_at_once(server, add, monkeypatch):
    old = add("emit-events/on-demand")
    read = existing.read_deployments

    async def read_before_the_other_removes(client):
        found = await read(client)
        server.delete(f"/deployments/{old}")
        return found

    monkeypatch.setattr(existing, "read_deployments", read_before_the_other_removes)
    await remove_old_deployments()
    assert not exists(server, old)


STOPPED = pytest.mark.parametrize(
    "stopped",
    [{"paused": True}, {"schedules": [{"schedule": HOURLY, "active": False}]}],
    ids=["paused", "schedule off"],
)


@STOPPED
async def test_a_stopped_deployment_stops_its_successor_too(server, add, stopped):
    successor = "export-metrics/export-metrics"
    assert successor not in await existing.read_stopped()

    add("export-metrics/scheduled", **stopped)
    await existing.pause(await existing.read_stopped())

    found = named(server, successor)
    assert found["paused"]
    server.post(f"/deployments/{found['id']}/resume_deployment")


@STOPPED
async def test_no_drain_is_started_while_an_operator_has_stopped_their_deployment(
    server, add, stopped, monkeypatch
):
    # The other tests count the runs of the drain.
    monkeypatch.setattr(work_pool, "DRAIN", "emit-events/another-drain")
    drain = add(work_pool.DRAIN, **stopped)
    of_drain = {"deployments": {"id": {"any_": [drain]}}}

    await work_pool.start_drains()
    assert server.post("/flow_runs/count", json=of_drain).json() == 0

    server.post(f"/deployments/{drain}/resume_deployment")
    for schedule in server.get(f"/deployments/{drain}").json()["schedules"]:
        server.patch(f"/deployments/{drain}/schedules/{schedule['id']}", json={"active": True})
    await work_pool.start_drains()
    found = server.post("/flow_runs/filter", json=of_drain).json()
    assert sum(not each["auto_scheduled"] for each in found) == 2


@pytest.mark.parametrize("state", ["SCHEDULED", "PENDING"])
async def test_a_deployment_stays_while_a_run_that_a_user_requested_waits_or_starts(server, add, state):
    old = add("replay-dead-letters/on-demand", schedules=[{"schedule": HOURLY}])
    requested = {"state": {"type": state, "name": state.title()}}
    run = server.post(f"/deployments/{old}/create_flow_run", json=requested).json()["id"]

    await remove_old_deployments()
    assert exists(server, old)
    server.delete(f"/flow_runs/{run}")

    await remove_old_deployments()
    assert not exists(server, old)


async def test_deployments_of_another_team_are_neither_removed_nor_paused(server, add):
    """The deployments have no work pool, as those of every served flow, or another one."""
    server.post("/work_pools/", json={"name": "theirs", "type": "process"})
    given = {
        "export-metrics/scheduled": {"work_pool_name": None, "entrypoint": "metrics.py:export_metrics"},
        "pause-endpoint/on-demand": {"work_pool_name": None, "entrypoint": "theirs.endpoints.pause_endpoint"},
        "export-metrics/theirs": {"work_pool_name": None},
        "emit-events/on-demand": {"work_pool_name": "theirs"},
    }
    theirs = {name: add(name, **fields) for name, fields in given.items()}

    await existing.pause(theirs)
    await remove_old_deployments()

    assert not [name for name, each in theirs.items() if not exists(server, each)]
    assert not [name for name in theirs if named(server, name)["paused"]]
    server.delete("/work_pools/theirs")
