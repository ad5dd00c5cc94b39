"""Automations that mark lost runs as crashed, notify of alerts and a silent export, and replay dead letters after a recovery.

Alerts are events that the flow export-metrics sends (see ``tasks/alerts.py``). ``python -m deployments.bootstrap`` and
``resonant up`` apply the automations. Both overwrite manual changes, but do not enable or disable an existing automation.
"""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from prefect.automations import (
    Automation,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    RunDeployment,
    SendNotification,
)
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from resonant.errors import ResonantError
from resonant.local.work_pool import LOST, WORK_POOL
from resonant.metrics.alerts import EVENT_RAISED, EVENT_RECOVERED, AlertCondition
from resonant.settings import Settings

CRASHED = "resonant: mark runs without heartbeats as crashed"
NOTIFY = "resonant: notify of alerts"
NOTIFY_SILENT = "resonant: notify that the metrics export is silent"
REPLAY = "resonant: replay transient dead letters when an endpoint has recovered"

_REPLAY_DEPLOYMENT = "replay-dead-letters/replay"
_EXPORT_DEPLOYMENT = "export-metrics/export-metrics"
# Dead letters per second that a recovered service can accept in addition to its usual traffic.
_REPLAY_RATE = 10.0
# A dead letter that was given up this often needs an operator. Otherwise, each recovery would send it again.
_REPLAY_MAX_ROUNDS = 5
# An operator decides on other transient dead letters: those that were cancelled or crashed workers repeatedly.
_REPLAYED_REASONS = ("exhausted", "expired")
# The variable and the value by which a deployment of prefect.yaml sends heartbeats, in seconds. Three may be missing.
_HEARTBEAT = ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
HEARTBEAT_SILENCE = timedelta(seconds=90)
_EXPORT_INTERVAL = timedelta(minutes=5)
# Two scheduled exports are missing, and the third is late.
_SILENT_EXPORTS = 3


async def apply_automations(settings: Settings) -> list[str]:
    """Create or update the server's automations as declared here; return their names.

    Without RESONANT_ALERT_NOTIFICATION_BLOCK, notifying automations are not created, and existing ones stay unchanged.

    Raises:
        ResonantError: the notification block does not exist.
    """
    async with get_client() as client:
        declared = [replay((await client.read_deployment_by_name(_REPLAY_DEPLOYMENT)).id)]
        ours = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
        deployments = await client.read_deployments(work_pool_filter=ours)
        if beating := [each.id for each in deployments if _sends_heartbeats(each)]:
            declared.append(mark_crashed(beating))
        if name := settings.alert_notification_block:
            block = await _notification_block(client, name)
            export = await client.read_deployment_by_name(_EXPORT_DEPLOYMENT)
            declared += [notify(block), notify_silent(block, within=_silence_of(export))]
        for automation in declared:
            await apply(client, automation)
    return [automation.name for automation in declared]


def replay(deployment: UUID) -> Automation:
    """Replay the dead letters of an endpoint's outage once it is over; disabled by default.

    See docs/decisions/0005-alerts.md for why.
    """
    return Automation(
        name=REPLAY,
        description=(
            "Once an endpoint's error rate is normal again, replays the transient dead letters given up since the "
            f"alert began, at {_REPLAY_RATE:g} per second, and skips those of {_REPLAY_MAX_ROUNDS} rounds or more. "
            "Enable it if duplicates are harmless."
        ),
        enabled=False,
        trigger=EventTrigger(
            expect={EVENT_RECOVERED},
            match={
                "prefect.resource.id": "resonant.endpoint.*",
                "resonant.condition": AlertCondition.ERROR_RATE.value,
            },
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment,
                job_variables=None,
                parameters={
                    "endpoint": "{{ event.payload.endpoint }}",
                    "since": "{{ event.payload.since }}",
                    "category": "transient",
                    "reason": reason,
                    "rate": _REPLAY_RATE,
                    "max_rounds": _REPLAY_MAX_ROUNDS,
                },
            )
            for reason in _REPLAYED_REASONS
        ],
    )


def mark_crashed(deployments: Iterable[UUID], *, within: timedelta = HEARTBEAT_SILENCE) -> Automation:
    """Mark a run as crashed if its heartbeats stop: its worker, or the worker's machine, was lost.

    The leases of the run expire by themselves, since it may be alive. This is the automation of Prefect's guide "How to detect
    zombie flows", for deployments that send a heartbeat every 30 seconds.
    """
    ended = ("Completed", "DeadLetters", "Waiting", "Failed", "Cancelled", "Crashed")
    heartbeat = "prefect.flow-run.heartbeat"
    return Automation(
        name=CRASHED,
        description=f"Marks a run as crashed that has sent no heartbeat for {within.total_seconds():g} seconds.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={heartbeat},
            expect={heartbeat, *(f"prefect.flow-run.{name}" for name in ended)},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={
                "prefect.resource.role": "deployment",
                "prefect.resource.id": sorted(f"prefect.deployment.{each}" for each in deployments),
            },
            for_each={"prefect.resource.id"},
            threshold=1,
            within=within,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                state=StateType.CRASHED,
                message=LOST,
                force=False,
            )
        ],
    )


def _sends_heartbeats(deployment: DeploymentResponse) -> bool:
    name, seconds = _HEARTBEAT
    return bool((deployment.job_variables.get("env") or {}).get(name) == seconds)


def notify(block: UUID) -> Automation:
    """Notify of each alert that begins or ends."""
    return Automation(
        name=NOTIFY,
        description="Sends the text of each alert when it begins and when it ends.",
        trigger=EventTrigger(
            expect={EVENT_RAISED, EVENT_RECOVERED},
            match={"prefect.resource.id": "resonant.*"},
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="Resonant: {{ event.payload.condition }} {{ event.payload.what }}",
                body="{{ event.payload.text }}",
            )
        ],
    )


def _silence_of(export: DeploymentResponse) -> timedelta:
    intervals = [getattr(each.schedule, "interval", _EXPORT_INTERVAL) for each in export.schedules]
    return max(intervals, default=_EXPORT_INTERVAL) * _SILENT_EXPORTS


def notify_silent(block: UUID, *, within: timedelta) -> Automation:
    """Notify, once per silence, that the export has not completed for a while: every other alert depends on it."""
    completed = "prefect.flow-run.Completed"
    return Automation(
        name=NOTIFY_SILENT,
        description="Notifies once when export-metrics stops completing: other alerts are then unreliable.",
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={completed},
            expect={completed},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "flow", "prefect.resource.name": "export-metrics"},
            # Without this, Prefect would restart the interval by itself and notify repeatedly.
            for_each={"related:flow:prefect.resource.id"},
            threshold=1,
            within=within,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="Resonant: the metrics export is silent",
                body=f"No run of export-metrics has completed for {within.total_seconds() / 60:g} minutes: is a worker running?",
            )
        ],
    )


async def apply(client: PrefectClient, declared: Automation) -> None:
    """Create or update an automation by its name; an existing one stays enabled or disabled."""
    for found in await client.read_automations_by_name(declared.name):
        current = Automation(**found.model_dump())
        declared.id, declared.enabled, declared.owner_resource = (
            current.id,
            current.enabled,
            current.owner_resource,
        )
        if declared != current:  # an update resets a trigger's counts
            await declared.aupdate()
        return
    await declared.acreate()


async def _notification_block(client: PrefectClient, name: str) -> UUID:
    kind, _, document = name.partition("/")
    try:
        return (await client.read_block_document_by_name(document, kind)).id
    except ObjectNotFound:
        raise ResonantError(
            f"RESONANT_ALERT_NOTIFICATION_BLOCK: there is no block {name!r} on this Prefect server; "
            "create it in the UI, and name it as TYPE/NAME, such as slack-webhook/ops"
        ) from None
