"""The automations on alerts: they can be applied repeatedly, and work on a real server."""

import contextlib
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect import flow
from prefect.automations import Automation, EventTrigger, SendNotification
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events import Event
from prefect.events.clients import get_events_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments import automations
from deployments.automations import CRASHED, NOTIFY, NOTIFY_SILENT, REPLAY, apply_automations, mark_crashed
from resonant.errors import ResonantError
from resonant.metrics.alerts import AlertCondition, Crossing, event_of
from resonant.settings import load_settings
from support.sites import site
from support.waiting import until

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROBE = "resonant.test.probe"
# The automations that prefect.yaml declares.
OF_DEPLOYMENTS = {
    trigger["name"]
    for deployment in yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())["deployments"]
    for trigger in deployment.get("triggers", ())
}
SINCE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(scope="module", autouse=True)
def prefect(ready_api):
    """Use the bootstrapped server in this process."""
    with temporary_settings({PREFECT_API_URL: ready_api}):
        yield


def everything(inbox) -> list[dict]:
    return [json.loads(body) for _, body in inbox.requests]


def messages(inbox) -> list[dict]:
    """Return the notifications that arrived, without the probes."""
    return [each for each in everything(inbox) if each["subject"] != PROBE]


@contextlib.asynccontextmanager
async def listening(server, owner: str):
    """Listen for the notifications of automations whose names begin with their owner, and remove them at the end."""
    with site() as inbox:
        block = CustomWebhookNotificationBlock(
            name=owner, url=f"{inbox.url}/", json_data={"subject": "{{subject}}", "body": "{{body}}"}
        )
        inbox.block = await block.asave(f"{owner}-inbox", overwrite=True)
        inbox.owner = owner
        yield inbox
    for each in server.post("/automations/filter", json={}).json():
        if each["name"].startswith(f"{owner}: ") and each["name"] not in OF_DEPLOYMENTS:
            server.delete(f"/automations/{each['id']}")


@pytest.fixture
async def inbox(server, monkeypatch):
    """A notification block that posts to here, named by the settings."""
    async with listening(server, "resonant") as inbox:
        monkeypatch.setenv("RESONANT_ALERT_NOTIFICATION_BLOCK", "custom-webhook/resonant-inbox")
        yield inbox
    monkeypatch.delenv("RESONANT_ALERT_NOTIFICATION_BLOCK")
    await apply_automations(load_settings())


@pytest.fixture(scope="module", autouse=True)
async def silences(anyio_backend, prefect, server):
    """Notifications of two silences, which begin before all tests because Prefect notices them late.

    The automation on the export notifies after 15 seconds. If it repeated itself, it would do so after another 15; then
    the same automation on another flow notifies.
    """
    async with listening(server, "silence") as inbox:
        await notify_of_silence(inbox.block, "export-metrics", within=timedelta(seconds=15))
        await notify_of_silence(inbox.block, "another", within=timedelta(seconds=32))
        await settle(inbox)
        await completed("export-metrics")
        await completed("another")
        assert messages(inbox) == []
        yield inbox


async def notify_of_silence(block, flow_name: str, *, within: timedelta) -> None:
    """Create the automation on the export for a flow of this name."""
    declared = automations.notify_silent(block, within=within).model_dump_json()
    of_flow = json.loads(declared.replace("export-metrics", flow_name))
    await Automation.model_validate(of_flow | {"name": f"silence: {flow_name}"}).acreate()


async def completed(name: str) -> None:
    """Run a flow with this name."""

    @flow(name=name)
    async def run() -> None:
        pass

    await run()


def found(server) -> dict[str, dict]:
    """The automations that are ours, by name."""
    every = server.post("/automations/filter", json={}).json()
    others = {"resonant: probe", *OF_DEPLOYMENTS}
    ours = [each for each in every if each["name"].startswith("resonant: ") and each["name"] not in others]
    assert len({each["name"] for each in ours}) == len(ours)
    return {each["name"]: each for each in ours}


async def emit(what, *, condition=AlertCondition.ERROR_RATE, endpoint="hooks") -> None:
    now = time.time()
    crossing = Crossing(what, condition, endpoint, 0.5, 0.25, "hooks: in words", now, SINCE.timestamp())
    async with get_events_client(checkpoint_every=1) as client:
        await client.emit(Event.model_validate(event_of(crossing)))


async def settle(inbox) -> None:
    """Wait until the triggers know every automation and have handled all earlier events.

    Both happen in order. So an automation that is created now is known after all others, and acts on events sent later.
    """

    async def arrived() -> bool:
        # Sent again, since the triggers may not have known the probe yet.
        event = Event(event=f"{PROBE}.{number}", resource={"prefect.resource.id": PROBE})
        async with get_events_client(checkpoint_every=1) as client:
            await client.emit(event)
        return {"subject": PROBE, "body": number} in everything(inbox)

    number = uuid4().hex
    await Automation(
        name=f"{inbox.owner}: probe",
        trigger=EventTrigger(expect={f"{PROBE}.{number}"}, threshold=1),
        actions=[SendNotification(block_document_id=inbox.block, subject=PROBE, body=number)],
    ).acreate()
    await until(arrived, every=0.3)


async def exactly(count, read, inbox) -> list[dict]:
    """Wait for this many notifications, check that no more follow, and return them."""
    await until(lambda: len(read()) >= count)
    await settle(inbox)
    assert len(read()) == count
    return read()


def replays_started(server) -> list[dict]:
    query = {"flows": {"name": {"any_": ["replay-dead-letters"]}}}
    return server.post("/flow_runs/filter", json=query).json()


async def test_applying_automations_again_undoes_manual_changes_but_disables_none(server, inbox):
    await apply_automations(load_settings())
    before = found(server)
    assert before.keys() == {CRASHED, NOTIFY, NOTIFY_SILENT, REPLAY}
    assert sorted(await apply_automations(load_settings())) == sorted(before)
    assert found(server) == before, "not even the time of the last update, nor a trigger's id"

    replay, notify = before[REPLAY], before[NOTIFY]
    server.patch(f"/automations/{replay['id']}", json={"enabled": True})
    kept = ("name", "enabled", "trigger", "actions")
    changed = {key: notify[key] for key in kept} | {"description": "by hand"}
    server.put(f"/automations/{notify['id']}", json=changed)

    await apply_automations(load_settings())

    after = found(server)
    assert after[REPLAY]["enabled"]
    assert after[NOTIFY]["description"] == notify["description"]
    assert {each["id"] for each in after.values()} >= {replay["id"], notify["id"]}


async def test_without_a_notification_block_nothing_notifies_and_a_missing_one_is_an_error(
    server, monkeypatch
):
    assert found(server).keys() == {CRASHED, REPLAY}
    monkeypatch.setenv("RESONANT_ALERT_NOTIFICATION_BLOCK", "slack-webhook/nobody")
    with pytest.raises(
        ResonantError, match="there is no block 'slack-webhook/nobody' on this Prefect server"
    ):
        await apply_automations(load_settings())


async def test_an_alert_notifies_when_it_begins_and_when_it_ends(server, inbox):
    await apply_automations(load_settings())
    await settle(inbox)

    await emit("raised", condition=AlertCondition.LATENCY)
    await exactly(1, lambda: messages(inbox), inbox)
    await emit("recovered", condition=AlertCondition.LATENCY)

    assert await exactly(2, lambda: messages(inbox), inbox) == [
        {"subject": "Resonant: latency raised", "body": "hooks: in words"},
        {"subject": "Resonant: latency recovered", "body": "hooks: in words"},
    ]


async def test_once_enabled_the_automation_replays_only_for_a_recovered_endpoint(server, inbox):
    automation = found(server)[REPLAY]
    before = {each["id"] for each in replays_started(server)}
    assert not automation["enabled"], "by default"
    await emit("recovered")
    await settle(inbox)
    assert {each["id"] for each in replays_started(server)} == before

    server.patch(f"/automations/{automation['id']}", json={"enabled": True})
    await settle(inbox)
    endpoint = f"hooks-{uuid4().hex[:8]}"

    def started():
        return [each for each in replays_started(server) if each["id"] not in before]

    await emit("raised", endpoint=endpoint)
    await emit("recovered", endpoint=endpoint, condition=AlertCondition.DEAD_LETTERS)
    await emit("recovered", endpoint=endpoint)

    runs = await exactly(2, started, inbox)
    assert [each["parameters"] for each in sorted(runs, key=lambda each: each["parameters"]["reason"])] == [
        {
            "endpoint": endpoint,
            "since": "2026-01-02T03:04:00+00:00",
            "category": "transient",
            "reason": reason,
            "rate": 10.0,
            "max_rounds": 5,
        }
        for reason in ("exhausted", "expired")
    ]
    server.patch(f"/automations/{automation['id']}", json={"enabled": False})
    for run in runs:
        server.delete(f"/flow_runs/{run['id']}")


async def test_a_silent_export_notifies_once(silences):
    def of_silence(name: str) -> list[dict]:
        return [each for each in messages(silences) if f"No run of {name} has completed" in each["body"]]

    await until(lambda: of_silence("another"), 120)
    assert len(of_silence("export-metrics")) == 1


@pytest.fixture
async def runs(server, inbox):
    """Flow runs of our deployment ``drain`` and of another one, which all run and have just sent a heartbeat.

    The automation acts after 20 seconds, for our deployment alone.
    """
    drain = server.get("/deployments/name/emit-events/drain").json()
    other = server.post("/deployments/", json={"name": "other", "flow_id": drain["flow_id"]}).json()
    within = timedelta(seconds=20)
    automation = mark_crashed([drain["id"]], within=within).model_copy(update={"name": "resonant: of a test"})
    await automation.acreate()
    await settle(inbox)
    began = {}
    for name, deployment in {"other": other, "ended": drain, "lost": drain}.items():
        new = {"flow_id": drain["flow_id"], "deployment_id": deployment["id"], "state": {"type": "RUNNING"}}
        began[name] = server.post("/flow_runs/", json=new).json()["id"]
        async with get_events_client(checkpoint_every=1) as client:
            await client.emit(heartbeat(began[name], deployment["id"]))
    known = runs_of_drain(server)
    yield began
    # Other tests count the runs of the drain.
    for run in {*began.values(), *(runs_of_drain(server) - known)}:
        server.delete(f"/flow_runs/{run}")
    server.delete(f"/deployments/{other['id']}")


def runs_of_drain(server) -> set[str]:
    """Return the ids of the drain's runs that the schedule did not create."""
    query = {"deployments": {"name": {"any_": ["drain"]}}}
    found = server.post("/flow_runs/filter", json=query).json()
    return {each["id"] for each in found if not each["auto_scheduled"]}


def heartbeat(run: str, deployment: str) -> Event:
    resource = {"prefect.resource.id": f"prefect.flow-run.{run}"}
    of_deployment = {
        "prefect.resource.id": f"prefect.deployment.{deployment}",
        "prefect.resource.role": "deployment",
    }
    return Event.model_validate(
        {"event": "prefect.flow-run.heartbeat", "resource": resource, "related": [of_deployment]}
    )


@pytest.fixture
async def automation_acted_late(server, inbox):
    """Wait until an automation has acted on a run that has ended: Prefect may handle the event of its end too late."""
    flow_id = server.post("/flows/", json={"name": "ended"}).json()["id"]
    deployment = server.post("/deployments/", json={"name": "ended", "flow_id": flow_id}).json()["id"]
    run = server.post(f"/deployments/{deployment}/create_flow_run", json={}).json()["id"]
    completed = {"state": {"type": "COMPLETED", "name": "Completed"}, "force": True}
    server.post(f"/flow_runs/{run}/set_state", json=completed)
    automation = mark_crashed([deployment], within=timedelta(seconds=10))
    created = await automation.model_copy(update={"name": "resonant: of an ended run"}).acreate()
    await settle(inbox)
    async with get_events_client(checkpoint_every=1) as client:
        await client.emit(heartbeat(run, deployment))
    failed = {"event": {"name": ["prefect.automation.action.failed"]}}
    of_automation = {"resource": {"id": [f"prefect.automation.{created.id}"]}}

    async def acted() -> bool:
        return bool(server.post("/events/filter", json={"filter": failed | of_automation}).json()["events"])

    yield lambda: until(acted, every=1.0)
    server.delete(f"/automations/{created.id}")
    server.delete(f"/deployments/{deployment}")


async def test_a_drain_without_heartbeats_crashes_and_is_replaced_unlike_an_ended_run(
    server, automation_acted_late, runs, tmp_path_factory
):
    known = runs_of_drain(server)
    ended = {"state": {"type": "COMPLETED", "name": "DeadLetters"}}
    server.post(f"/flow_runs/{runs['ended']}/set_state", json=ended)

    def states() -> list[str]:
        return [server.get(f"/flow_runs/{run}").json()["state"]["name"] for run in runs.values()]

    await until(lambda: states()[-1] == "Crashed", every=0.2)
    assert states() == ["Running", "DeadLetters", "Crashed"]
    lost = server.get(f"/flow_runs/{runs['lost']}").json()
    assert lost["state"]["message"] == "its worker was lost: its heartbeats stopped"
    await until(lambda: len(runs_of_drain(server) - known) == 1)

    await automation_acted_late()
    logs = [*tmp_path_factory.getbasetemp().glob("prefect*/resonant/prefect-server.log")]
    assert logs
    assert "already in terminal state" not in "".join(each.read_text() for each in logs)


def test_the_automation_is_for_the_deployments_of_ours_which_all_send_heartbeats(server):
    declared = found(server)[CRASHED]["trigger"]["match_related"]["prefect.resource.id"]
    pool = {"work_pools": {"name": {"any_": ["resonant"]}}}
    deployments = server.post("/deployments/filter", json=pool).json()
    assert declared == sorted(f"prefect.deployment.{each['id']}" for each in deployments)
