"""The steps of the dead-letter queue's flows."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from prefect.artifacts import acreate_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.logging import get_run_logger

from resonant.dead_letters.gate_words import advice, next_probe_at, pace
from resonant.dead_letters.triage import triage
from resonant.delivery.wording import shortened
from resonant.display import markdown
from resonant.events import rfc3339
from resonant.store.endpoint_status import governed
from resonant.store.leases import lease_owners

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

    from resonant.store import Store

TRIAGE_ARTIFACT = "dead-letter-triage"
GATES_ARTIFACT = "held-endpoints"
_RUNS_A_PAGE = 200


async def rescue_expired_leases(store: Store) -> int:
    """Rescue the deliveries with expired leases; return their number."""
    count = await store.rescue()
    get_run_logger().info("%d expired leases rescued", count)
    return count


async def rescue_leases_of_ended_runs(store: Store) -> int:
    """Rescue the deliveries of flow runs that have ended, before their leases expire; return their number.

    A run that this Prefect server does not know may belong to another server, so its leases are left to expire.
    """
    owners = [owner for owner in await store.read(lease_owners) if _is_uuid(owner)]
    if not owners:
        return 0
    runs: list[FlowRun] = []
    async with get_client() as client:
        for start in range(0, len(owners), _RUNS_A_PAGE):
            ids = [UUID(owner) for owner in owners[start : start + _RUNS_A_PAGE]]
            runs += await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=ids)))
    over = [str(run.id) for run in runs if run.state is not None and run.state.is_final()]
    count = await store.rescue(owners=over) if over else 0
    get_run_logger().info("%d leases of %d ended runs rescued", count, len(over))
    return count


async def write_triage(store: Store) -> str:
    """Write the triage as a table artifact, whose history the UI shows; return a short summary."""
    groups = await store.read(triage)
    await acreate_table_artifact(
        key=TRIAGE_ARTIFACT,
        table=[
            {
                "count": group.count,
                "endpoint": markdown(group.endpoint),
                "code": markdown(group.code),
                "error": markdown(group.error),
                "answer": markdown(shortened(group.answer)),
                "what to do": group.advice,
                "reason": group.reason,
                "category": group.category,
                "first": rfc3339(group.first_at),
                "last": rfc3339(group.last_at),
                "example": markdown(group.example),
                "fingerprint": group.fingerprint,
            }
            for group in groups
        ],
        description="Dead letters grouped by cause; `resonant detail ID` shows an example.",
    )
    return f"{sum(group.count for group in groups)} dead letters in {len(groups)} groups"


async def write_gates(store: Store) -> str:
    """Write a table artifact of the endpoints with a gate that is not normal; return a short summary."""
    now = store.clock()
    found = await store.read(governed, now=now)
    await acreate_table_artifact(
        key=GATES_ARTIFACT,
        table=[
            {
                "endpoint": markdown(each.gate.endpoint),
                "state": each.gate.state,
                "since": rfc3339(each.gate.since) if each.gate.since else "",
                "held": each.held,
                "reason": markdown(each.gate.reason or ""),
                "what to do": advice(each.gate, now),
                "pace": pace(each.gate) or "",
                "next probe": "" if (at := next_probe_at(each.gate)) is None else rfc3339(at),
                "paused by": markdown(each.gate.paused_by or ""),
            }
            for each in found
        ],
        description="Endpoints with a gate that is not normal; `resonant endpoint show NAME` shows one.",
    )
    held = sum(each.held for each in found)
    return f"{held} deliveries held by {len(found)} endpoints" if found else ""


def _is_uuid(owner: str) -> bool:
    try:
        UUID(owner)
    except ValueError:
        return False
    return True
