"""The steps of the dead-letter queue's flows."""

import re
import shlex
from asyncio import sleep
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from prefect.artifacts import Artifact, acreate_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    WorkPoolFilter,
)
from prefect.client.schemas.objects import FlowRun
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Crashed

from resonant.blocks.loading import load_endpoints
from resonant.dead_letters.triage import DeadLetterGroup, triage
from resonant.delivery.wording import shortened
from resonant.display import counted, markdown, markdown_table, visible
from resonant.errors import AddressRefused, EndpointError
from resonant.events import minute, rfc3339
from resonant.gate.words import advice, next_probe_at, pace
from resonant.local.artifacts import GATES_ARTIFACT, TRIAGE_ARTIFACT
from resonant.local.server_identity import server_time
from resonant.local.work_pool import LOST, WORK_POOL
from resonant.store import WorkerStore
from resonant.store.queue.leases import lease_owners
from resonant.store.shared.drains import LIVE_SECONDS, live_owners, sent_to
from resonant.store.shared.gates import Gate
from resonant.store.shared.processes import has_ended
from resonant.store.views.endpoint_status import governed

# Finds the time of the newest dead letter in the description of the last triage.
_LAST = re.compile(r"The last of them: (\S+)\.$")
_RUNS_A_PAGE = 200
_SILENCE = timedelta(minutes=10)
_BEATS_A_PAGE = 50  # the most that Prefect allows; a run sends 20 in ten minutes
# The most that a machine's clock may differ from that of Prefect's server.
_MOST_APART = timedelta(days=1)
# The flows with task runs. `resonant emit` runs one without a deployment.
_SENDING_FLOWS = ["emit-events", "replay-dead-letters"]
# The states of unfinished task runs, by the types of the states of their flow runs.
_ENDS = (
    (["CRASHED", "CANCELLED"], partial(Crashed, message="its flow run has ended")),
    (
        ["COMPLETED", "FAILED"],
        partial(
            Cancelled,
            name="NotRecorded",
            message="its end was not recorded; `resonant detail` shows the outcome",
        ),
    ),
)
# The maximum number of groups in the artifact, the largest first.
_MOST_GROUPS = 50


async def prefect_time(store: WorkerStore) -> datetime:
    """Return the time of the Prefect server, which sets the times of its runs.

    Raises:
        ResonantError: the server sends no time.
    """
    async with get_client() as client:
        at = await server_time(client, lambda: store.clock() - store.clock_ahead, get_run_logger().warning)
    return datetime.fromtimestamp(at, UTC)


async def mark_lost_runs(*, now: datetime) -> None:
    """Mark flow runs of our work pool as crashed whose heartbeats stopped ten minutes ago.

    An automation does so after 90 seconds, but Prefect may drop its events. Without recent heartbeats in the feed, nothing is
    known. Runs of other deployments, and of earlier versions of ours, send no heartbeats.

    Args:
        now: the present time of the Prefect server, with a time zone.
    """
    silent_since = now - _SILENCE
    long_running = {"state": {"type": {"any_": ["RUNNING"]}}, "start_time": {"before_": silent_since}}
    async with get_client() as client:

        async def received(*runs: FlowRun, since: datetime, until: datetime) -> datetime | None:
            """Return when Prefect received the last of the heartbeats that were sent in this time, by their machines' clocks."""
            ids = [f"prefect.flow-run.{run.id}" for run in runs]
            heartbeats = EventFilter(
                occurred=EventOccurredFilter.model_validate({"since": since, "until": until}),
                event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
                resource=EventResourceFilter(id=ids) if ids else None,
            )
            found = (await client.read_events(heartbeats, limit=_BEATS_A_PAGE)).events
            return max((beat.received for beat in found), default=None)

        async def last_beat(*runs: FlowRun, since: datetime) -> datetime | None:
            """Return when Prefect received the last heartbeat, by its own clock.

            Prefect sorts heartbeats by their machines' clocks. So a clock that was ahead hides the later ones.
            """
            at = await received(*runs, since=silent_since, until=now)
            if at is not None and at >= silent_since:
                return at
            of_wrong_clocks = await received(*runs, since=since, until=now + _MOST_APART)
            return max((each for each in (at, of_wrong_clocks) if each is not None), default=None)

        async def is_lost(run: FlowRun) -> bool:
            beat_at = await last_beat(run, since=(run.start_time or now) - _MOST_APART)
            return beat_at is not None and beat_at < silent_since

        runs: list[FlowRun] = []
        while True:
            page = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter.model_validate(long_running),
                work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [WORK_POOL]}}),
                limit=_RUNS_A_PAGE,
                offset=len(runs),
            )
            runs += page
            if len(page) < _RUNS_A_PAGE:
                break
        beat_at = await last_beat(since=now - _MOST_APART) if runs else None
        if beat_at is not None and beat_at >= silent_since:
            for lost in [run for run in runs if await is_lost(run)]:
                get_run_logger().warning("Flow run %s has sent no heartbeat for ten minutes", lost.name)
                await client.set_flow_run_state(lost.id, Crashed(message=LOST))


async def mark_task_runs_of_ended_runs(*, now: datetime) -> int:
    """Close the unfinished task runs of our flow runs that ended at least ten minutes ago, and return their number.

    Otherwise, they would stay running forever. If the process was killed, it could not report them, and they become crashed. If the
    flow run ended by itself, Prefect has lost the record of the task run's end, and it becomes ``NotRecorded``. Within the ten
    minutes, this record may still arrive, since Prefect records task runs later than flow runs.

    Args:
        now: the present time of the Prefect server, with a time zone.
    """
    before = {"before_": now - _SILENCE}
    unfinished = {"state": {"type": {"any_": ["PENDING", "RUNNING", "SCHEDULED", "PAUSED"]}}}
    ended = 0
    async with get_client() as client:
        for types, state in _ENDS:
            found = await client.read_task_runs(
                flow_filter=FlowFilter.model_validate({"name": {"any_": _SENDING_FLOWS}}),
                flow_run_filter=FlowRunFilter.model_validate(
                    {"state": {"type": {"any_": types}}, "end_time": before}
                ),
                task_run_filter=TaskRunFilter.model_validate(unfinished),
                limit=_RUNS_A_PAGE,
            )
            for run in found:
                await client.set_task_run_state(run.id, state(), force=True)
            ended += len(found)
    if ended:
        get_run_logger().warning("%s of ended flow runs closed", counted(ended, "task run"))
    return ended


async def rescue_lost_leases(store: WorkerStore) -> int:
    """Rescue the deliveries whose process on this machine, or whose flow run, has ended; return their number.

    Drains rescue expired leases, after they have watched for half a lease, and the leases of runs that may be alive:

    - a run that this Prefect server does not know may belong to another server;
    - a run that was marked as crashed without heartbeats may be alive, since the server may have been down;
    - a run that reported to the store less than a lease ago may still send, although its state was set by hand. If the store was
      away for longer than that, it reports again within seconds.
    """
    of_processes = await store.rescue_ended(has_ended)
    ids: list[UUID] = []
    for owner in await store.read(lease_owners):
        with suppress(ValueError):  # the owner of a lease need not be a flow run
            ids.append(UUID(owner))
    runs: list[FlowRun] = []
    async with get_client() as client:
        for start in range(0, len(ids), _RUNS_A_PAGE):
            page = FlowRunFilterId(any_=ids[start : start + _RUNS_A_PAGE])
            runs += await client.read_flow_runs(flow_run_filter=FlowRunFilter(id=page))
    ended = {str(run.id) for run in runs if run.state and run.state.is_final() and run.state.message != LOST}
    for pause in (0.0, LIVE_SECONDS):  # after an outage of the store, live runs have to report again first
        if ended:
            await sleep(pause)
            ended -= await store.read(live_owners, now=store.clock(), lease_seconds=store.lease_seconds)
    of_runs = await store.rescue_from(ended)
    get_run_logger().info(
        "%d leases of ended processes and %d leases of %d ended runs rescued",
        *(of_processes, of_runs, len(ended)),
    )
    return of_processes + of_runs


async def write_triage(store: WorkerStore) -> tuple[str, bool]:
    """Write the triage as an artifact, whose history the UI shows.

    Returns:
        A short summary, and whether there are dead letters since the last triage that are not acknowledged.
    """
    before = await Artifact.aget(TRIAGE_ARTIFACT)
    seen = _LAST.search((before and before.description) or "")
    found = await store.read(triage)
    groups = [group for group in found if group.acknowledged is None]
    shown = list(enumerate(groups[:_MOST_GROUPS], start=1))
    header = ("group", "dead letters", "endpoint", "code", "reason", "last")
    rows = [
        (str(number), str(group.count), group.endpoint, group.code, group.reason, minute(group.last_at))
        for number, group in shown
    ]
    parts = [
        markdown_table(header, rows) if rows else "No dead letters.",
        *(_describe_group(*each) for each in shown),
    ]
    if left := len(groups) - len(shown):
        parts.append(f"{counted(left, 'smaller group')} not shown: `resonant dlq --group` lists all.")
    summary = _summary(groups)
    if acknowledged := found[len(groups) :]:
        parts += ["### Acknowledged", "\n".join(_acknowledged(acknowledged[:_MOST_GROUPS]))]
        parts[0] = parts[0] if rows else "No other dead letters than those of acknowledged causes."
        summary += f"; acknowledged: {_summary(acknowledged)}"
    last = max([seen[1] if seen else "", *(rfc3339(group.last_at) for group in found)])
    description = "Dead letters grouped by cause; `resonant detail ID` shows an example."
    await acreate_markdown_artifact(
        key=TRIAGE_ARTIFACT,
        markdown="\n\n".join(parts),
        description=f"{description} The last of them: {last}." if last else description,
    )
    new = [group for group in groups if seen is None or rfc3339(group.last_at) > seen[1]]
    return f"{summary}, {len(new)} with new ones" if new else summary, bool(new)


def _summary(groups: Sequence[DeadLetterGroup]) -> str:
    dead_letters = counted(sum(group.count for group in groups), "dead letter")
    return f"{dead_letters} in {counted(len(groups), 'group')}"


def _acknowledged(groups: Sequence[DeadLetterGroup]) -> Iterator[str]:
    """Yield a line about each group."""
    for group in groups:
        if known := group.acknowledged:
            what = f"{counted(group.count, 'dead letter')} to {markdown(group.endpoint)}"
            note = f": {markdown(known.note)}" if known.note else ""
            yield (
                f"- {what}: {markdown(group.code or group.reason)}, cause {group.fingerprint}, acknowledged by "
                f"{markdown(known.by)} at {minute(known.at)}{note}"
            )


def _describe_group(number: int, group: DeadLetterGroup) -> str:
    example = markdown(group.example)
    what_to_do = group.advice
    if example != group.example:  # Markdown would misread the id
        what_to_do = what_to_do.replace(shlex.quote(group.example), "ID")
    title = f"{number}. {counted(group.count, 'dead letter')} to {markdown(group.endpoint)}"
    return _section(
        f"{title}: {markdown(group.code or group.reason)}",
        what_to_do,
        {
            "category": group.category,
            "error": markdown(group.error),
            "answer": markdown(shortened(group.answer)),
            "example": f"{example} from {markdown(group.example_source)}",
            "given up": f"{rfc3339(group.first_at)} to {rfc3339(group.last_at)}",
            "cause": group.fingerprint,
        },
    )


async def write_gates(store: WorkerStore) -> str:
    """Write an artifact about the endpoints that are held back or unusable; return a short summary."""
    now = store.clock()
    found = await store.read(governed, now=now)
    sent = await store.read(sent_to, [each.gate.endpoint for each in found], now=now)
    unusable = await _unusable_endpoints()
    for why in unusable.values():
        get_run_logger().warning("%s", visible(why))
    rows = [
        # A gate that has always been normal has no start.
        (gate.endpoint, gate.state, str(held), minute(gate.since) if gate.since else "")
        for gate, held in found
    ] + [(name, "unusable", "", "") for name in unusable]
    parts = [
        markdown_table(("endpoint", "state", "held", "since"), rows),
        *(_describe_gate(each.gate, now, is_sent=each.gate.endpoint in sent) for each in found),
        *(f"### {markdown(name)}: unusable\n\n{markdown(why)}" for name, why in unusable.items()),
    ]
    await acreate_markdown_artifact(
        key=GATES_ARTIFACT,
        markdown="\n\n".join(parts) if rows else "No endpoint is held back or unusable.",
        description="Endpoints that are unusable, or have a gate that is not normal; `resonant endpoint show NAME` shows one.",
    )
    deliveries = counted(sum(each.held for each in found), "delivery", "deliveries")
    held_by = f"{deliveries} held by {counted(len(found), 'endpoint')}" if found else ""
    return "; ".join(filter(None, [held_by, *unusable.values()]))


def _describe_gate(gate: Gate, now: float, *, is_sent: bool) -> str:
    next_probe = None if (at := next_probe_at(gate)) is None else rfc3339(at)
    if next_probe and not is_sent:
        next_probe = "when a run sends again: start `resonant up` or `resonant emit`"
    return _section(
        f"{markdown(gate.endpoint)}: {gate.state}",
        advice(gate, now),
        {
            "reason": markdown(gate.reason or ""),
            "paused by": markdown(gate.paused_by or ""),
            "pace": pace(gate),
            "failing types": markdown(
                ", ".join(f"{each.event_type} ({each.failure})" for each in gate.failing_at(now).values())
            ),
            "next probe": next_probe,
        },
    )


def _section(title: str, what_to_do: str, facts: dict[str, str | None]) -> str:
    lines = "\n".join(f"- {name}: {text}" for name, text in facts.items() if text)
    return "\n\n".join(filter(None, [f"### {title}", f"What to do: {what_to_do}.", lines]))


async def _unusable_endpoints() -> dict[str, str]:
    """Return why endpoints cannot be used, by name. Prefect's form saves any configuration."""
    found: dict[str, str] = {}
    for name, block in (await load_endpoints()).items():
        try:
            if isinstance(block, EndpointError):
                raise block
            block.check(name)
        except AddressRefused as error:
            found[name] = f"endpoint {name!r}: {error}"
        except EndpointError as error:
            found[name] = str(error)
    return found
