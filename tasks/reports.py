"""The step of the flow that stores an event for each failed, crashed and late flow run that an endpoint watches."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import attrgetter
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.runtime import flow_run
from sqlalchemy import Connection

from resonant.blocks.documents import require_endpoint
from resonant.display import counted
from resonant.errors import EndpointError, ResonantError
from resonant.events import Event
from resonant.local.server_identity import server_id, server_time
from resonant.prefect import flow_run_event
from resonant.store import WorkerStore
from resonant.store.queue.enqueue import enqueue
from resonant.store.shared.run_watches import RunWatch, advance_watch, claim_watches

_logger = logging.getLogger(__name__)
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
# A failure may still appear for this long: Prefect commits states later than their times, and the clocks of servers that share a
# database differ.
_SETTLED_AFTER_SECONDS = 600.0
# The server's time is in whole seconds, and slightly old on a busy server.
_AHEAD_SECONDS = 60.0
# Most runs in one transaction, and most transactions for a watch in one round. The next round continues.
_MOST_AT_ONCE = 1000
_MOST_WINDOWS = 10
_SHORTEST_SECONDS = 1.0
_PAGE = 200


async def store_failed_runs(store: WorkerStore, warn: Callable[[str], object] = _logger.warning) -> str:
    """Store an event for each watched run of this Prefect server that has failed since the last call, and return a summary.

    Repeats are harmless: the event of a state always has the same id and the same bytes.

    Args:
        warn: called with a text if the clocks of this process and of the server differ.

    Raises:
        ResonantError: an endpoint that watches runs is unknown or unusable; all other endpoints have their events.
        StoreUnavailable: the store became unavailable.
    """
    problems: dict[str, str] = {}
    stored = 0
    async with get_client() as client:
        now = await server_time(client, lambda: store.clock() - store.clock_ahead, warn)
        watches = await store.write(claim_watches, await server_id(client), now=now)
        for name in {each.endpoint for each in watches}:
            try:
                await require_endpoint(name)
            except EndpointError as error:
                problems[name] = str(error)
        usable = [each for each in watches if each.endpoint not in problems]
        report = _RunReader(store, client, settled=now - _SETTLED_AFTER_SECONDS, latest=now + _AHEAD_SECONDS)
        if usable:
            stored += await report.store_late(usable)
        # Usually all are at the same time. Those that are behind must not delay the others.
        by_watermark = attrgetter("watermark")
        for _, together in groupby(sorted(usable, key=by_watermark), by_watermark):
            stored += await report.store_ended([*together])
    if problems:
        raise ResonantError("; ".join(problems[name] for name in sorted(problems)))
    summary = f"{counted(stored, 'new event')} about failed runs"
    return summary if watches else f"{summary}: no automation is enabled on this Prefect server"


class _RunReader:
    """Reads runs from Prefect, and stores their events for watches. All times are by the clock of Prefect's server.

    Args:
        settled: no watermark moves beyond this time.
        latest: no run has ended after this time.
    """

    def __init__(self, store: WorkerStore, client: PrefectClient, *, settled: float, latest: float) -> None:
        self._store = store
        self._client = client
        self._settled = settled
        self._latest = latest
        self._flow_names: dict[UUID, str] = {}

    async def store_late(self, watches: Sequence[RunWatch]) -> int:
        """Store the events of the runs that are late now, up to a bound; return how many are new."""
        late = _filter(watches, state={"name": {"any_": ["Late"]}})
        found: list[FlowRun] = []
        while len(found) < _MOST_AT_ONCE * _MOST_WINDOWS:
            page = await self._client.read_flow_runs(
                flow_run_filter=late,
                sort=FlowRunSort.EXPECTED_START_TIME_DESC,
                limit=_PAGE,
                offset=len(found),
            )
            found += page
            if len(page) < _PAGE:
                break
        stored = 0
        for watch in watches:
            runs = [run for run in found if _state_time(run) >= watch.watermark]
            for first in range(0, len(runs), _MOST_AT_ONCE):
                stored += await self._store_for(watch, runs[first : first + _MOST_AT_ONCE])
        return stored

    async def store_ended(self, watches: Sequence[RunWatch]) -> int:
        """Store the events of the runs that ended since the watches' watermark; return how many are new."""
        stored = 0
        since = watches[0].watermark
        for _ in range(_MOST_WINDOWS):
            until = await self._end_of_window(watches, since)
            runs = await self._read_ended(watches, since, until)
            for watch in watches:
                stored += await self._store_for(watch, runs, min(until, self._settled))
            if until >= self._latest:
                break
            since = until
        return stored

    async def _store_for(self, watch: RunWatch, runs: Sequence[FlowRun], settled: float = 0.0) -> int:
        """Store the events of the runs that a watch is about; return how many are new."""
        own = [
            run
            for run in runs
            if _state_time(run) >= watch.created_at and (not watch.tag or watch.tag in run.tags)
        ]
        events = await self._to_events(watch, own)
        return await self._store.write(_store, events, watch, now=self._store.clock(), settled=settled)

    async def _end_of_window(self, watches: Sequence[RunWatch], since: float) -> float:
        """Return the latest time until which few enough runs have ended: Prefect lists the newest ones first."""
        until = self._latest
        while until - since > _SHORTEST_SECONDS:
            found = await self._client.count_flow_runs(flow_run_filter=_ended(watches, since, until))
            if found <= _MOST_AT_ONCE:
                break
            until = since + (until - since) / 2
        return until

    async def _read_ended(self, watches: Sequence[RunWatch], since: float, until: float) -> list[FlowRun]:
        """Return the failed and crashed runs that ended in a window."""
        found: dict[UUID, FlowRun] = {}
        # By time instead of by offset: runs may leave the list meanwhile, when a user runs them again. Prefect's server sets the
        # time of each state, also in bulk, so the runs of a whole page never end in the same microsecond.
        while True:
            page = await self._client.read_flow_runs(
                flow_run_filter=_ended(watches, since, until), sort=FlowRunSort.END_TIME_DESC, limit=_PAGE
            )
            known = len(found)
            found |= {run.id: run for run in page}
            if len(page) < _PAGE or len(found) == known:
                return [*found.values()]
            until = min(run.end_time.timestamp() for run in page if run.end_time)

    async def _to_events(self, watch: RunWatch, runs: Sequence[FlowRun]) -> list[Event]:
        """Return the events of the runs of watched flows."""
        ids = sorted({str(run.flow_id) for run in runs if run.flow_id not in self._flow_names})
        for first in range(0, len(ids), _PAGE):
            of_ids = FlowFilter.model_validate({"id": {"any_": ids[first : first + _PAGE]}})
            flows = await self._client.read_flows(flow_filter=of_ids)
            self._flow_names |= {flow.id: flow.name for flow in flows}
        # A renamed copy of this flow is named in no list.
        own = {*OWN_FLOWS, flow_run.flow_name}
        named = [(run, name) for run in runs if (name := self._flow_names.get(run.flow_id)) is not None]
        return [
            flow_run_event(run, run.state, name)
            for run, name in named
            if run.state and name not in own and watch.matches_flow(name)
        ]


def _store(
    connection: Connection, events: list[Event], watch: RunWatch, *, now: float, settled: float
) -> int:
    result = enqueue(connection, events, watch.endpoint, now=now, report_conflicts=True)
    # A hook has stored these before the runs were renamed, perhaps for another endpoint only.
    as_stored = enqueue(connection, [each.stored for each in result.conflicts], watch.endpoint, now=now)
    advance_watch(connection, watch, settled)
    return result.accepted + as_stored.accepted


def _ended(watches: Sequence[RunWatch], since: float, until: float) -> FlowRunFilter:
    times = {"after_": datetime.fromtimestamp(since, UTC), "before_": datetime.fromtimestamp(until, UTC)}
    return _filter(watches, state={"type": {"any_": ["FAILED", "CRASHED"]}}, end_time=times)


def _filter(watches: Sequence[RunWatch], **conditions: Any) -> FlowRunFilter:
    """Return a filter for the runs of all watches, and perhaps of other flows or tags."""
    tags = sorted({each.tag for each in watches})
    return FlowRunFilter.model_validate(conditions | ({"tags": {"any_": tags}} if all(tags) else {}))


def _state_time(run: FlowRun) -> float:
    return run.state.timestamp.timestamp() if run.state else 0.0
