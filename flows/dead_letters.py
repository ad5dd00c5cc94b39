"""The flows of the dead-letter queue: collect, replay, cancel, purge."""

from datetime import datetime
from typing import Annotated

from prefect import State, flow
from prefect.states import Completed
from pydantic import Field

from flows.failing import fail_with_message
from flows.naming import named
from resonant.configured import open_configured_store
from resonant.dead_letters.cancel import cancel, cancellable
from resonant.dead_letters.replay import ReplayRequest, require_restricted
from resonant.display import counted
from resonant.events import Category, Reason
from resonant.settings import load_settings
from resonant.store.views.selection import Selection
from tasks.collect import (
    mark_lost_runs,
    mark_task_runs_of_ended_runs,
    prefect_time,
    rescue_lost_leases,
    write_gates,
    write_triage,
)
from tasks.purge import purge_final_deliveries
from tasks.replay import check_names, replay, who_runs_this, write_dry_run
from tasks.wiring import open_dispatcher

# Parameters that can name a run, in order of preference.
_WHAT = ("endpoint", "ids", "event_type", "source", "code", "category", "reason", "text")


@flow(flow_run_name=named("collect dead letters"), persist_result=False)
@fail_with_message
async def collect_dead_letters() -> State[None]:
    """Rescue deliveries of lost workers, give up repeatedly lost ones, and list dead letters, held and unusable endpoints.

    If there are new dead letters, the final state is named DeadLetters.
    """
    async with open_configured_store(load_settings()) as store:
        now = await prefect_time(store)
        await mark_lost_runs(now=now)
        await mark_task_runs_of_ended_runs(now=now)
        rescued = await rescue_lost_leases(store)
        dead_letters, has_new = await write_triage(store)
        gates = await write_gates(store)
    rescued_ones = f"{counted(rescued, 'delivery', 'deliveries')} rescued"
    message = "; ".join(filter(None, [rescued_ones, dead_letters, gates]))
    return Completed(name="DeadLetters" if has_new else "Completed", message=message)


@flow(flow_run_name=named("replay", *_WHAT, otherwise="all"), persist_result=False)
@fail_with_message
async def replay_dead_letters(
    ids: list[str] | None = None,
    event_type: str | None = None,
    source: str | None = None,
    endpoint: str | None = None,
    category: Category | None = None,
    code: str | None = None,
    reason: Reason | None = None,
    text: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    all_dead_letters: bool = False,
    include_permanent: bool = False,
    limit: Annotated[int | None, Field(ge=1)] = None,
    rate: Annotated[float | None, Field(gt=0, le=10_000)] = None,
    max_rounds: Annotated[int | None, Field(ge=1)] = None,
    to: str | None = None,
    policy: str | None = None,
    dry_run: bool = False,
) -> State[None]:
    """Send dead letters again, oldest first. Each starts a new round of attempts and keeps its history.

    A dead letter must match all filters. If this run is cancelled, unsent dead letters stay in the queue or become due
    again.

    Args:
        ids: Event ids.
        event_type: Event type; * matches any text, ? matches one character.
        source: Source of the events, exactly. Required if several sources use one of the ids.
        endpoint: Name of the endpoint.
        category: Category of the last failure: transient, permanent or unknown.
        code: The classifier's code, such as http_503.
        reason: Reason for giving up: permanent, exhausted, expired, crashed or cancelled.
        text: Part of the error text, case-insensitive.
        since: Only dead letters given up at or after this time.
        until: Only dead letters given up before this time.
        all_dead_letters: Replay every dead letter. Required if no filter is given.
        include_permanent: Also replay permanent failures, which are skipped by default.
        limit: Maximum number of dead letters.
        rate: Dead letters per second, after a slow start of ten seconds. Empty: no limit.
        max_rounds: Skip dead letters that were given up in this many rounds or more, unless ids are given. Empty: no limit.
        to: Name of another endpoint to send the events to. The dead letters stay in the queue, and events that the endpoint
            already has a delivery of are skipped. Empty: each dead letter's own endpoint.
        policy: Name of a retry policy that overrides the deliveries' own policies in this run.
        dry_run: Only count the dead letters that would be sent and skipped; the run's artifact has a link to this form.
    """
    selection = Selection.from_form(
        ids=ids, event_type=event_type, source=source, endpoint=endpoint, category=category, code=code,
        reason=reason, text=text, since=since, until=until,
    )  # fmt: skip
    request = ReplayRequest(
        selection, include_permanent=include_permanent, limit=limit, rate=rate, max_rounds=max_rounds,
        everything=all_dead_letters, to=to or None,
    )  # fmt: skip
    settings = load_settings()
    if dry_run:
        settings.policy(policy)
        async with open_configured_store(settings) as store:
            await check_names(store, selection, request.to)
            return Completed(message=await write_dry_run(store, request, policy=policy))
    async with open_dispatcher(settings, policy=policy) as dispatcher:
        await check_names(dispatcher.store, selection, request.to)
        return await replay(dispatcher, request, settings, who=who_runs_this())


@flow(flow_run_name=named("cancel", *_WHAT, otherwise="all"), persist_result=False)
@fail_with_message
async def cancel_deliveries(
    ids: list[str] | None = None,
    event_type: str | None = None,
    source: str | None = None,
    endpoint: str | None = None,
    category: Category | None = None,
    code: str | None = None,
    text: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    all_deliveries: bool = False,
    dry_run: bool = False,
) -> State[None]:
    """Give up unfinished deliveries with the reason cancelled, except those that are being sent.

    Args:
        ids: Event ids.
        event_type: Event type; * matches any text, ? matches one character.
        source: Source of the events, exactly. Required if several sources use one of the ids.
        endpoint: Name of the endpoint.
        category: Category of the last failure: transient, permanent or unknown.
        code: The classifier's code, such as http_503.
        text: Part of the last error text, case-insensitive.
        since: Only deliveries accepted at or after this time.
        until: Only deliveries accepted before this time.
        all_deliveries: Cancel every unfinished delivery. Required if no filter is given.
        dry_run: Only count the deliveries that would be given up.
    """
    selection = Selection.from_form(
        ids=ids, event_type=event_type, source=source, endpoint=endpoint, category=category, code=code,
        text=text, since=since, until=until,
    )  # fmt: skip
    require_restricted(selection, everything=all_deliveries)
    async with open_configured_store(load_settings()) as store:
        await check_names(store, selection)
        if dry_run:
            return Completed(message=str(await store.read(cancellable, selection)))
        return Completed(message=f"{await cancel(store, selection, who=who_runs_this())} given up")


@flow(flow_run_name=named("purge"), persist_result=False)
@fail_with_message
async def purge_dead_letters(
    older_than_days: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None,
    delivered_older_than_days: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None,
    archive: str | None = None,
    dry_run: bool = False,
) -> State[None]:
    """Permanently remove old dead letters and old delivered history, except deliveries that are being replayed.

    Args:
        older_than_days: Minimum age of dead letters to remove, in days since they were given up; 0 removes all of them.
            Empty: RESONANT_RETENTION_DAYS, 30 by default.
        delivered_older_than_days: Minimum age of delivered history to remove, in days since delivery. Empty:
            RESONANT_RETENTION_DELIVERED_DAYS, 30 by default; it can be never.
        archive: New file on the worker's machine to which deliveries are written before they are removed; compressed if its
            name ends in .gz; if it exists, a number is added to the name. Empty: a file in the archive folder of
            RESONANT_HOME. none: no archive.
        dry_run: Only count the deliveries that would be removed.
    """
    settings = load_settings()
    async with open_configured_store(settings) as store:
        report = await purge_final_deliveries(
            store,
            settings,
            older_than_days=older_than_days,
            delivered_older_than_days=delivered_older_than_days,
            archive=archive,
            dry_run=dry_run,
        )
    return Completed(message=report)
