"""Starts the flow report-failed-runs on a Prefect server: by its schedule, and at once by an automation.

An automation may miss events that Prefect's broker dropped, or that happened while the server was down. The schedule finds
these runs. The automation only starts the same flow earlier.
"""

from collections.abc import Callable, Collection, Iterable
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation, EventTrigger, Posture, RunDeployment
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from deployments.automations import apply
from resonant.errors import ResonantError
from resonant.events import Clock
from resonant.local.server_identity import server_id, server_time
from resonant.store.shared.run_watches import RunWatch
from tasks.reports import OWN_FLOWS

REPORTS = "report-failed-runs/report-failed-runs"
AUTOMATION = "resonant: report failed flow runs at once"
_DEPLOY = "start `resonant up`, or run `python -m deployments.bootstrap` for your own server"
_STATES = ("Failed", "Crashed", "TimedOut", "Late")
# The automation starts at most one run in this time, however many flow runs fail. The schedule finds the rest.
_AT_MOST_EVERY = timedelta(seconds=15)


async def check_deployed() -> None:
    """Check that the server has the deployment ``report-failed-runs``, in a work pool.

    Raises:
        ResonantError: it does not.
    """
    async with get_client() as client:
        if missing := _missing(await _deployment(client)):
            raise ResonantError(f"{missing}, and then this command again")


async def problem() -> str | None:
    """Return why the server reports no failed runs, and what to do; None if it reports them."""
    async with get_client() as client:
        deployment = await _deployment(client)
    if deployment and deployment.paused:
        return f"{REPORTS} is paused: run `resonant automation enable` again"
    return _missing(deployment)


async def this_server() -> str:
    """Return the id of the Prefect server, to which its watches belong."""
    async with get_client() as client:
        return await server_id(client)


async def server_now(clock: Clock, warn: Callable[[str], object]) -> float:
    """Return the time of the Prefect server; see ``resonant.local.server_identity.server_time``."""
    async with get_client() as client:
        return await server_time(client, clock, warn)


async def start_for(watches: Collection[RunWatch]) -> None:
    """Start the flow by its schedule and by an automation; without watches, stop both."""
    async with get_client() as client:
        if (deployment := await _deployment(client)) is None:
            return
        if watches:
            await client.resume_deployment(deployment.id)
            await apply(client, automation(deployment.id, watches))
            return
        await client.pause_deployment(deployment.id)
        for found in await client.read_automations_by_name(AUTOMATION):
            await client.delete_automation(found.id)


async def repoint() -> None:
    """Let the automation, if it exists, start the current deployment: the earlier one may have been deleted."""
    async with get_client() as client:
        deployment = await _deployment(client)
        for found in await client.read_automations_by_name(AUTOMATION):
            changed = Automation(**found.model_dump())
            for action in changed.actions:
                if deployment and isinstance(action, RunDeployment) and action.deployment_id != deployment.id:
                    action.deployment_id = deployment.id
                    await changed.aupdate()


async def restore(watches: Collection[RunWatch]) -> bool:
    """Start the flow for those watches that belong to this server, if it lost its automation; return whether it has watches.

    A watch without a server counts: the next run of the flow claims it.
    """
    async with get_client() as client:
        this = await server_id(client)
        exists = await client.read_automations_by_name(AUTOMATION)
    own = [each for each in watches if each.server == this]
    if own and not exists:
        await start_for(own)
    return bool(own) or any(not each.server for each in watches)


def automation(deployment: UUID, watches: Iterable[RunWatch]) -> Automation:
    """Return the automation that starts the deployment when a watched run has failed. Other runs may start it too."""
    flows, tags = ({getattr(each, name) for each in watches} for name in ("flow", "tag"))
    own = {*OWN_FLOWS, REPORTS.partition("/")[0]}  # in a copy of the project, the flow may have another name
    related = [_flow_is([f"!{name}"]) for name in sorted(own)]
    if all(flows):
        related.append(_flow_is(map(_to_prefect_glob, sorted(flows))))
    if all(tags):
        resources = [f"prefect.tag.{_to_prefect_glob(tag)}" for tag in sorted(tags)]
        related.append(ResourceSpecification({"prefect.resource.id": resources}))
    return Automation(
        name=AUTOMATION,
        description="Starts report-failed-runs when a flow run fails, crashes or is late; its schedule finds what this misses.",
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect={f"prefect.flow-run.{state}" for state in _STATES},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=[*related],
            threshold=1,
            within=_AT_MOST_EVERY,
        ),
        actions=[
            RunDeployment(source="selected", deployment_id=deployment, parameters=None, job_variables=None)
        ],
    )


async def read_flow_names() -> list[str]:
    """Return the names of the server's flows that are not Resonant's own."""
    names: list[str] = []
    async with get_client() as client:
        while page := await client.read_flows(limit=200, offset=len(names)):
            names += [flow.name for flow in page]
    return [name for name in names if name not in OWN_FLOWS]


async def _deployment(client: PrefectClient) -> DeploymentResponse | None:
    try:
        return await client.read_deployment_by_name(REPORTS)
    except ObjectNotFound:
        return None


def _missing(deployment: DeploymentResponse | None) -> str | None:
    if deployment is None:
        return f"this Prefect server has no deployment {REPORTS}: {_DEPLOY}"
    if deployment.work_pool_name is None:
        return f"{REPORTS} has no work pool: {_DEPLOY}"
    return None


def _flow_is(names: Iterable[str]) -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": [*names]})


def _to_prefect_glob(text: str) -> str:
    # Prefect's globs also have sets in brackets, and an exclamation mark that negates.
    return text.replace("[", "?").replace("!", "?")
