"""The step of the flow that stores an event for each failed, crashed and late flow run that an endpoint watches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runtime import flow_run

from blocks.loading import require_endpoint
from resonant.display import counted
from resonant.errors import EndpointError, ResonantError
from resonant.prefect import flow_run_event
from resonant.store.queue.enqueue import enqueue
from resonant.store.shared.run_watches import advance_watch, read_watches

if TYPE_CHECKING:
    from uuid import UUID

    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import FlowRun
    from sqlalchemy import Connection

    from resonant.events import Event
    from resonant.store import WorkerStore
    from resonant.store.shared.run_watches import RunWatch

# Never reported: a report of a failed report would not end.
OWN_FLOWS = (
    "cancel-deliveries",
    "collect-dead-letters",
    "emit-events",
    "export-metrics",
    "pause-endpoint",
    "purge-dead-letters",
    "replay-dead-letters",
    "report-failed-runs",
    "resume-endpoint",
)
# Until then, a failure may still appear: Prefect commits states later than their times, and the clocks of machines differ.
_SETTLED_AFTER_SECONDS = 600.0
# Most runs in one transaction, and most transactions for a watch in one round. The next round continues.
_MOST_AT_ONCE = 1000
_MOST_WINDOWS = 10
_SHORTEST_SECONDS = 1.0
_PAGE = 200


async def store_failed_runs(store: WorkerStore) -> str:
    """Store an event for each watched run that has failed since the last call, and return a summary.

    Repeats are harmless: the event of a state always has the same id and the same bytes.

    Raises:
        ResonantError: an endpoint that watches runs is unknown or unusable; all other endpoints have their events.
        StoreUnavailable: the store became unavailable.
    """
    problems: list[str] = []
    stored = 0
    async with get_client() as client:
        for watch in await store.read(read_watches):
            try:
                await require_endpoint(watch.endpoint)
            except EndpointError as error:
                problems.append(str(error))
            else:
                stored += await _store_runs_of(watch, store, client)
    if problems:
        raise ResonantError("; ".join(problems))
    return f"{counted(stored, 'new event')} about failed runs"


async def _store_runs_of(watch: RunWatch, store: WorkerStore, client: PrefectClient) -> int:
    """Store the events for one watch; return how many are new."""
    now = store.clock()
    since = watch.watermark
    late = [run for run in await _read_late(client, watch) if _state_time(run) >= since]
    stored = 0
    for first in range(0, len(late), _MOST_AT_ONCE):
        events = await _to_events(client, watch, late[first : first + _MOST_AT_ONCE])
        stored += await store.write(_store, events, watch, now=now, settled=since)
    for _ in range(_MOST_WINDOWS):
        until = await _end_of_window(client, watch, since, now)
        events = await _to_events(client, watch, await _read_ended(client, watch, since, until))
        settled = min(until, now - _SETTLED_AFTER_SECONDS)
        stored += await store.write(_store, events, watch, now=now, settled=settled)
        if until >= now:
            break
        since = until
    return stored


def _store(
    connection: Connection, events: list[Event], watch: RunWatch, *, now: float, settled: float
) -> int:
    result = enqueue(connection, events, watch.endpoint, now=now, report_conflicts=True)
    # A hook has stored these before the runs were renamed, perhaps for another endpoint only.
    as_stored = enqueue(connection, [each.stored for each in result.conflicts], watch.endpoint, now=now)
    advance_watch(connection, watch, settled)
    return result.accepted + as_stored.accepted


async def _end_of_window(client: PrefectClient, watch: RunWatch, since: float, now: float) -> float:
    """Return the latest time until which few enough runs have ended: Prefect lists the newest ones first."""
    until = now
    while until - since > _SHORTEST_SECONDS:
        found = await client.count_flow_runs(flow_run_filter=_ended(watch, since, until))
        if found <= _MOST_AT_ONCE:
            break
        until = since + (until - since) / 2
    return until


async def _read_ended(client: PrefectClient, watch: RunWatch, since: float, until: float) -> list[FlowRun]:
    """Return the failed and crashed runs that ended in a window and not before the watch began."""
    found: dict[UUID, FlowRun] = {}
    # By time instead of by offset: runs may leave the list meanwhile, when a user runs them again.
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=_ended(watch, since, until), sort=FlowRunSort.END_TIME_DESC, limit=_PAGE
        )
        known = len(found)
        found |= {run.id: run for run in page}
        if len(page) < _PAGE or len(found) == known:
            return [run for run in found.values() if _state_time(run) >= watch.created_at]
        until = min(run.end_time.timestamp() for run in page if run.end_time)


async def _read_late(client: PrefectClient, watch: RunWatch) -> list[FlowRun]:
    """Return the runs that are late now, up to a bound, those with the newest start time first."""
    late = _filter(watch, state={"name": {"any_": ["Late"]}})
    found: list[FlowRun] = []
    while len(found) < _MOST_AT_ONCE * _MOST_WINDOWS:
        page = await client.read_flow_runs(
            flow_run_filter=late, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE:
            break
    return found


def _ended(watch: RunWatch, since: float, until: float) -> FlowRunFilter:
    times = {"after_": datetime.fromtimestamp(since, UTC), "before_": datetime.fromtimestamp(until, UTC)}
    return _filter(watch, state={"type": {"any_": ["FAILED", "CRASHED"]}}, end_time=times)


def _filter(watch: RunWatch, **conditions: Any) -> FlowRunFilter:
    tags = {"tags": {"all_": [watch.tag]}} if watch.tag else {}
    return FlowRunFilter.model_validate(conditions | tags)


async def _to_events(client: PrefectClient, watch: RunWatch, runs: list[FlowRun]) -> list[Event]:
    """Return the events of the runs that the watch is about."""
    ids = sorted({str(run.flow_id) for run in runs})
    names: dict[UUID, str] = {}
    for first in range(0, len(ids), _PAGE):
        of_ids = FlowFilter.model_validate({"id": {"any_": ids[first : first + _PAGE]}})
        names |= {flow.id: flow.name for flow in await client.read_flows(flow_filter=of_ids)}
    # A renamed copy of this flow is named in no list.
    own = {*OWN_FLOWS, flow_run.flow_name}
    watched = {id_: name for id_, name in names.items() if name not in own and watch.matches_flow(name)}
    return [
        flow_run_event(run, run.state, watched[run.flow_id])
        for run in runs
        if run.flow_id in watched and run.state
    ]


def _state_time(run: FlowRun) -> float:
    return run.state.timestamp.timestamp() if run.state else 0.0
