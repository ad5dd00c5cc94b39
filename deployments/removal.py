"""Removes what the bootstrap created on a Prefect server, and the local store.

``python -m deployments.bootstrap --remove`` lists everything, asks, and removes it. It can be repeated: objects that are already
gone are skipped. Flow runs that have ended stay.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import WorkerStatus
from prefect.events.filters import AutomationFilter, AutomationFilterName
from prefect.exceptions import ObjectNotFound

from deployments import automations, existing, reports
from resonant.display import counted
from resonant.errors import ResonantError
from resonant.local.artifacts import read_pages
from resonant.local.note import is_held, lock_of_up
from resonant.local.server_identity import VARIABLE
from resonant.local.work_pool import WORK_POOL
from resonant.settings import Settings
from resonant.store.engine.database import file_of
from tasks.reports import OWN_FLOWS

_AUTOMATIONS = (
    automations.CRASHED,
    automations.NOTIFY,
    automations.NOTIFY_SILENT,
    automations.REPLAY,
    reports.AUTOMATION,
)


@dataclass(frozen=True, slots=True)
class Thing:
    """An object to remove.

    Attributes:
        name: its kind and name, as shown.
        remove: removes the object; raises ObjectNotFound if it is gone.
    """

    name: str
    remove: Callable[[PrefectClient], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Plan:
    """The objects to remove, in this order, and a line for each object to keep."""

    things: list[Thing]
    kept: list[str]


async def plan(kinds: list[str], *, blocks: bool) -> Plan:
    """Find the objects that the bootstrap created.

    Args:
        kinds: the slugs of our block types.
        blocks: whether to remove their documents, too.

    Raises:
        ResonantError: a worker of the work pool is online.
    """
    found = Plan([], [])
    declared = existing.declared()
    async with get_client() as client:
        await _plan_automations(client, found, declared)
        await _plan_deployments(client, found, declared)
        if await client.read_variable_by_name(VARIABLE):
            found.things.append(
                Thing(f"variable {VARIABLE}", partial(PrefectClient.delete_variable_by_name, name=VARIABLE))
            )
        await _plan_artifacts(client, found)
        await _plan_blocks(client, found, kinds, blocks=blocks)
    return found


async def carry_out(planned: Plan, say: Callable[[str], object]) -> None:
    """Remove the planned objects, and report each."""
    async with get_client() as client:
        for each in planned.things:
            with suppress(ObjectNotFound):  # another process has removed it
                await each.remove(client)
            say(f"removed: {each.name}")


def store_files(settings: Settings) -> list[Path]:
    """Return the files of the local store.

    Raises:
        ResonantError: the store is on a database server, or ``resonant up`` uses it.
    """
    file = file_of(settings.store_url)
    if file is None:
        raise ResonantError(
            "--store removes an SQLite file only, and the store is on PostgreSQL: drop the tables whose names begin with "
            "resonant_ yourself"
        )
    if is_held(lock_of_up(settings)):
        raise ResonantError(f"`resonant up` uses the store {file}: stop it, and remove the file yourself")
    return [
        each
        for each in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm")))
        if each.exists()
    ]


async def _plan_automations(client: PrefectClient, found: Plan, declared: list[dict[str, Any]]) -> None:
    of_deployments = (trigger["name"] for each in declared for trigger in each.get("triggers", ()))
    names = AutomationFilter(name=AutomationFilterName(any_=[*_AUTOMATIONS, *of_deployments]))
    for each in await client.read_automations(automations=names):
        found.things.append(
            Thing(f"automation {each.name}", partial(PrefectClient.delete_automation, automation_id=each.id))
        )


async def _plan_deployments(client: PrefectClient, found: Plan, declared: list[dict[str, Any]]) -> None:
    # With their concurrency limits and scheduled runs.
    names = {(each["name"], each["entrypoint"]) for each in declared}
    entrypoints = {entrypoint for _, entrypoint in names}
    theirs = []
    for name, each in sorted((await existing.read_deployments(client)).items()):
        is_own_flow = name.partition("/")[0] in OWN_FLOWS and each.entrypoint in entrypoints
        if is_own_flow or (each.name, each.entrypoint) in names:
            found.things.append(
                Thing(f"deployment {name}", partial(PrefectClient.delete_deployment, deployment_id=each.id))
            )
        else:
            theirs.append(name)
    if theirs:
        found.kept.append(f"work pool {WORK_POOL}, which has other deployments: {', '.join(theirs)}")
        return
    with suppress(ObjectNotFound):
        await client.read_work_pool(WORK_POOL)
        await _refuse_online_workers(client)
        found.things.append(
            Thing(f"work pool {WORK_POOL}", partial(PrefectClient.delete_work_pool, work_pool_name=WORK_POOL))
        )


async def _refuse_online_workers(client: PrefectClient) -> None:
    workers = await client.read_workers_for_work_pool(WORK_POOL)
    if online := [each.name for each in workers if each.status is WorkerStatus.ONLINE]:
        raise ResonantError(
            f"the worker {online[0]} of the work pool {WORK_POOL} is online, and would create the pool again: stop it, wait "
            "until Prefect has had no heartbeat of it for 90 s, and repeat the removal"
        )


async def _plan_artifacts(client: PrefectClient, found: Plan) -> None:
    for each in await read_pages(client):
        if each.flow_run_id is None:  # the others are parts of runs that have ended
            remove = partial(PrefectClient.delete_artifact, artifact_id=each.latest_id)
            found.things.append(Thing(f"artifact {each.key}, which no run has written", remove))


async def _plan_blocks(client: PrefectClient, found: Plan, kinds: list[str], *, blocks: bool) -> None:
    for each in await client.read_block_types():
        if each.slug not in kinds:
            continue
        of_type = {"block_types": {"slug": {"any_": [each.slug]}}}
        documents = (await client.request("POST", "/block_documents/count", json=of_type)).json()
        of_blocks = f" with {counted(documents, 'block')}" if documents else ""
        if of_blocks and not blocks:
            found.kept.append(
                f"block type {each.slug}{of_blocks}, which may hold secrets: --blocks removes them"
            )
        else:
            remove = partial(PrefectClient.delete_block_type, block_type_id=each.id)
            found.things.append(Thing(f"block type {each.slug}{of_blocks}", remove))
