"""The existing deployments of a server: a bootstrap pauses stopped ones again, and removes those with old names.

Prefect's deploy command starts stopped schedules again, and leaves deployments that prefect.yaml no longer declares.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, WorkPoolFilter, WorkPoolFilterName
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from deployments.reports import AUTOMATION, REPORTS
from resonant.local.project import project_directory
from resonant.local.work_pool import WORK_POOL, is_stopped
from tasks.reports import OWN_FLOWS

# The present names, by the names in earlier versions.
NEW_NAMES = {
    "emit-events/on-demand": "emit-events/emit",
    "collect-dead-letters/scheduled": "collect-dead-letters/collect-dead-letters",
    "replay-dead-letters/on-demand": "replay-dead-letters/replay",
    "cancel-deliveries/on-demand": "cancel-deliveries/cancel",
    "purge-dead-letters/daily": "purge-dead-letters/purge-daily",
    "export-metrics/scheduled": "export-metrics/export-metrics",
    "pause-endpoint/on-demand": "pause-endpoint/pause-endpoint",
    "resume-endpoint/on-demand": "resume-endpoint/resume-endpoint",
}


def declared() -> list[dict[str, Any]]:
    """Return the deployments of prefect.yaml."""
    return [*yaml.safe_load((project_directory() / "prefect.yaml").read_text())["deployments"]]


async def read_names() -> list[str]:
    """Return the server's deployments to the work pool, as ``FLOW/NAME``."""
    async with get_client() as client:
        return sorted(await read_deployments(client))


async def read_stopped() -> set[str]:
    """Return the new names of the deployments whose schedules an operator has stopped, or has not enabled yet."""
    async with get_client() as client:
        found = await read_deployments(client)
        are_enabled = await client.read_automations_by_name(AUTOMATION)
    not_enabled = set() if are_enabled else {REPORTS} - found.keys()
    return not_enabled | {NEW_NAMES.get(name, name) for name, each in found.items() if is_stopped(each)}


async def pause(names: Iterable[str]) -> None:
    """Pause these deployments, so that their schedules start no runs."""
    async with get_client() as client:
        found = await read_deployments(client)
        for name in found.keys() & set(names):
            await client.pause_deployment(found[name].id)


async def remove_old_deployments() -> None:
    """Remove each deployment that has a successor with a new name, with its automations.

    A deployment stays while a run that a user requested waits or starts in it: Prefect would delete the run, or the run could not
    load its flow.
    """
    async with get_client() as client:
        found = await read_deployments(client)
        for old_name, new_name in NEW_NAMES.items():
            old = found.get(old_name)
            if old is None or new_name not in found or await _has_requested_runs(client, old):
                continue
            with suppress(ObjectNotFound):  # another bootstrap has just removed it
                await client.delete_resource_owned_automations(f"prefect.deployment.{old.id}")
            with suppress(ObjectNotFound):
                await client.delete_deployment(old.id)


async def read_deployments(client: PrefectClient) -> dict[str, DeploymentResponse]:
    """Return the deployments in the work pool, and those of our flows without a pool, by ``FLOW/NAME``."""
    in_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[WORK_POOL]))
    deployments = await client.read_deployments(work_pool_filter=in_pool)
    # A deployment whose work pool was deleted has none. Another team's served flow has none either, and may have the same name, so
    # compare the entrypoint, which every version has had.
    own_flows = FlowFilter.model_validate({"name": {"any_": [*OWN_FLOWS]}})
    own = await client.read_deployments(flow_filter=own_flows)
    entrypoints = {each["entrypoint"] for each in declared()}
    deployments += [each for each in own if each.work_pool_name is None and each.entrypoint in entrypoints]
    ids = FlowFilter.model_validate({"id": {"any_": [each.flow_id for each in deployments]}})
    flows = {flow.id: flow.name for flow in await client.read_flows(flow_filter=ids)}
    return {f"{flows[each.flow_id]}/{each.name}": each for each in deployments}


async def _has_requested_runs(client: PrefectClient, deployment: DeploymentResponse) -> bool:
    not_loaded = {
        "deployments": {"id": {"any_": [str(deployment.id)]}},
        "flow_runs": {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}},
    }
    runs = (await client.request("POST", "/flow_runs/filter", json=not_loaded)).json()
    return any(not run["auto_scheduled"] for run in runs)
