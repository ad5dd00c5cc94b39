"""The steps of a replay, and of a cancellation."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from urllib.parse import quote
from uuid import UUID

from prefect import State
from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    aupdate_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Failed

from resonant.blocks.documents import endpoint_documents
from resonant.dead_letters.replay import ReplayRequest, plan, take_dead_letters
from resonant.dead_letters.triage import group_by_cause
from resonant.dispatch.caller import get_caller
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.tracking import Tracker
from resonant.display import counted, markdown_table, visible
from resonant.errors import EndpointError, UnknownName
from resonant.events import Lease, minute
from resonant.settings import Settings
from resonant.store import WorkerStore
from resonant.store.audit import audited
from resonant.store.views.known_names import why_no_such_code, why_no_such_ids, why_not_this_source
from resonant.store.views.selection import Selection
from resonant.storing import require_known
from tasks.wiring import emit_as_task, ended, open_dispatcher, say_outcomes, send_due

PROGRESS_ARTIFACT = "replay-progress"
DRY_RUN_ARTIFACT = "replay-dry-run"
_MOST_CAUSES = 50
# A server or proxy may refuse a longer request line.
_LONGEST_LINK = 7_000


async def check_names(store: WorkerStore, selection: Selection, to: str | None = None) -> None:
    """Refuse an unknown endpoint, code or id: a typo would select nothing and look like success.

    Args:
        store: knows the names.
        selection: the selection.
        to: another endpoint, to which events are sent.

    Raises:
        UnknownEndpoint: neither the store nor Prefect knows the endpoint.
        UnknownName: the code is unknown, no event has one of the ids, or the source is missing or wrong.
    """
    for endpoint in filter(None, (selection.endpoint, to)):
        await require_known(store, endpoint, endpoint_documents)
    if selection.code and (why := await store.read(why_no_such_code, selection.code)):
        raise UnknownName(why)
    if why := await store.read(why_no_such_ids, selection.ids):
        raise UnknownName(why)
    if why := await store.read(why_not_this_source, selection.ids, selection.source, option="source"):
        raise UnknownName(why)


def who_runs_this() -> str:
    """Return the caller's name for the audit: the operator, if known, and the flow run's name and id."""
    asked_by = get_caller().who
    if flow_run.id is None:
        return asked_by or "python"
    return ", ".join(filter(None, [asked_by, f"flow run {flow_run.name} ({flow_run.id})"]))


async def write_dry_run(store: WorkerStore, request: ReplayRequest, *, policy: str | None) -> str:
    """Write what a replay would send as an artifact, with a link to its run form; return the numbers."""
    planned = await plan(store, request)
    groups = await store.read(lambda connection: group_by_cause(connection, request.dead_letters(connection)))
    header = ("cause", "dead letters", "endpoint", "code", "reason", "last")
    rows = [
        (each.fingerprint, str(each.count), each.endpoint, each.code, each.reason, minute(each.last_at))
        for each in groups[:_MOST_CAUSES]
    ]
    what = counted(planned.selected, "event" if request.to else "dead letter")
    parts = [
        f"{what} would be {planned.sent}.",
        *(f"- {each}" for each in planned.left_out),
        markdown_table(header, rows) if rows else "",
    ]
    if left := len(groups) - len(rows):
        parts.append(f"{counted(left, 'smaller cause')} not shown: `resonant dlq --group` lists all.")
    if planned.selected:
        parts.append(_run_form({**request.as_parameters(), "policy": policy}))
    await acreate_markdown_artifact(
        key=DRY_RUN_ARTIFACT,
        markdown="\n\n".join(filter(None, parts)),
        description=f"Dry run of a replay: {planned.selected:,} would be {planned.sent}",
    )
    return str(planned)


def _run_form(parameters: dict[str, object]) -> str:
    """Return a Markdown link to the run form of this run's deployment, with these parameters; empty without a deployment."""
    if deployment.id is None:
        return ""
    given = json.dumps({name: value for name, value in parameters.items() if value})
    # Prefect's UI decodes it twice, its new UI once.
    given = quote(given.replace("%", "\\u0025"), safe="")
    if len(given) > _LONGEST_LINK:
        return "The parameters are too long for a link: to replay, start a custom run with the parameters of this run."
    # Relative, since the UI's address is not known here. Each page that shows an artifact is at this depth.
    return f"[Replay: open the run form](../../deployments/deployment/{deployment.id}/run?parameters={given})"


async def replay(
    dispatcher: Dispatcher, request: ReplayRequest, settings: Settings, *, who: str
) -> State[None]:
    """Send the selected dead letters again, each as a task run; return the final state of the flow run.

    The run fails if it skips every selected dead letter, or if every dead letter that it sent became a dead letter again.
    In any case, the audit records the number of dead letters taken, and unsent ones become due again.
    """
    store = dispatcher.store
    own = get_caller().tracker or Tracker(store)
    request, closed = await _without_closed_endpoints(dispatcher, request)
    planned = await plan(store, request)
    await _add_to_run_name(counted(planned.selected, "dead letter"))
    progress = _Progress(planned.selected)
    await progress.start()
    taken = 0

    async with audited(store, who=who, action="replay", selection=request.as_dict()) as audit_id:

        async def counted_dead_letters() -> AsyncIterator[list[Lease]]:
            nonlocal taken
            async for leases in take_dead_letters(store, request, owner=dispatcher.owner, audit_id=audit_id):
                taken += len(leases)
                own.add(lease.delivery_id for lease in leases)
                yield leases
                await progress.show(taken)

        try:
            await dispatcher.emit_given(partial(emit_as_task, dispatcher), counted_dead_letters())
        finally:
            get_run_logger().info("%d of %d dead letters taken out of the queue", taken, planned.selected)
    await own.finish(ended=dispatcher.owner)
    if own.outcomes.unfinished:
        # Another worker took them over, a gate holds them, or they are parked briefly. Wait for them and send due
        # deliveries in a separate emission, since this run's policy must not apply to other deliveries.
        async with open_dispatcher(settings) as following:
            await send_due(following, endpoint=request.target, own=own)
        await own.finish(ended=dispatcher.owner)
    await progress.show(planned.selected)
    left_out = [*planned.left_out, *closed]
    if left_out and not planned.selected:
        return Failed(message="; ".join([f"nothing was {planned.sent}", *left_out]))
    outcomes = say_outcomes(own, request.target)
    sent = f"{taken} {planned.sent}: {outcomes}" if taken or planned.selected else "no dead letter matches"
    message = "; ".join([sent, *left_out])
    counts = own.outcomes
    if taken and counts.dead_letters.total() == counts.total:
        return Failed(message=message)
    return ended(message, counts, waiting=counts.parked + counts.held)


async def _without_closed_endpoints(
    dispatcher: Dispatcher, request: ReplayRequest
) -> tuple[ReplayRequest, list[str]]:
    """Exclude endpoints that cannot be opened, and describe them; their dead letters stay in the queue.

    Raises:
        EndpointError: the only endpoint that the replay sends to cannot be opened.
    """
    if request.to:
        names = [request.to]
    else:
        names = await dispatcher.store.read(
            lambda connection: request.dead_letters(connection).endpoints(connection)
        )
    closed = await dispatcher.unavailable_endpoints(names)
    if closed and request.target in closed:
        raise EndpointError(closed[request.target])
    left_out = [f"dead letters to {name} stay in the queue: {visible(why)}" for name, why in closed.items()]
    for each in left_out:
        get_run_logger().warning("%s", each)
    return replace(request, without_endpoints=frozenset(closed)), left_out


async def _add_to_run_name(text: str) -> None:
    """Add text to the name of the current flow run, unless a user has named it."""
    if flow_run.id and flow_run.name.startswith("replay "):
        with _logged_failure("the run's name has no number of dead letters"):
            async with get_client() as client:
                await client.update_flow_run(UUID(flow_run.id), name=f"{flow_run.name}: {text}")


@contextmanager
def _logged_failure(effect: str) -> Iterator[None]:
    """Log a failure of Prefect's API that only affects what its UI shows."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - Prefect's client raises many kinds
        get_run_logger().warning("%s: %s", effect, visible(str(error)))


class _Progress:
    """A progress bar in the UI, in whole percents. After a failed update it stays as it is, and the replay goes on."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._shown = 0
        self._id: UUID | None = None

    async def start(self) -> None:
        description = f"Replay of {counted(self._total, 'dead letter')}"
        with _logged_failure("there is no progress bar"):
            self._id = await acreate_progress_artifact(
                key=PROGRESS_ARTIFACT, progress=0.0, description=description
            )

    async def show(self, done: int) -> None:
        percent = 100 if not self._total else min(100, 100 * done // self._total)
        if self._id is None or percent <= self._shown:
            return
        artifact_id, self._id, self._shown = self._id, None, percent
        with _logged_failure("the progress bar stays as it is"):
            await aupdate_progress_artifact(artifact_id=artifact_id, progress=float(percent))
            self._id = artifact_id
