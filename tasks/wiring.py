"""Builds a flow's dispatcher from the settings, the store, the endpoint blocks and the tasks."""

import logging
import random
import shlex
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from typing import Any

from prefect import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import Task

from resonant.blocks import load_endpoint
from resonant.blocks.documents import require_endpoint
from resonant.configured import open_configured_store
from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.trace import AttemptSpans
from resonant.dispatch.caller import get_caller
from resonant.dispatch.counts import Counts
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.limits import Limits
from resonant.dispatch.run.garbage import garbage_collected_less_often
from resonant.dispatch.tracking import Tracker
from resonant.errors import ConflictingEvent, EndpointError, StoreError, UnroutedEvent
from resonant.events import Clock, Lease, rfc3339
from resonant.input_lines import event_from_fields
from resonant.local.compatibility import check_client_names
from resonant.local.records import records
from resonant.settings import Settings
from tasks.announcements import gate_changes_announced
from tasks.emit import ChunkRef, DeliveryRef, Given, emit_chunk, emit_event, given


@asynccontextmanager
async def open_dispatcher(
    settings: Settings, *, policy: str | None = None, max_attempts: int | None = None, **bounds: Any
) -> AsyncIterator[Dispatcher]:
    """Open a dispatcher on the command's or the configured store for one emission run; on exit, release its remaining leases.

    Args:
        policy: name of the retry policy for this run; None uses the policies of the deliveries and their endpoints.
        max_attempts: overrides the policy's value.
        bounds: further bounds of the run; see ``Limits``.

    Raises:
        UnknownPolicy: no policy has that name.
        StoreError: the store cannot be opened.
        PrefectChanged: the installed Prefect lacks a name that Resonant uses.
    """
    check_client_names()
    settings.policy(policy)
    given = get_caller().store
    opened = nullcontext(given) if given else open_configured_store(settings, patient=True)
    async with opened as store, gate_changes_announced(store) as on_gate_change:
        attempt_runner = AttemptRunner(
            clock=store.clock,
            rng=random.Random(),
            policy=settings.policy,
            run_policy=policy,
            run_max_attempts=max_attempts,
            spans=AttemptSpans(settings.trace),
        )
        limits = Limits(
            concurrency=settings.concurrency,
            endpoint_concurrency=settings.endpoint_concurrency,
            max_waiting=settings.max_waiting,
            **bounds,
        )
        # The flow run's id lets collect_dead_letters ask Prefect whether the owner still runs.
        owner = flow_run.id or str(uuid.uuid4())
        dispatcher = Dispatcher(
            store,
            attempt_runner,
            partial(open_destination, lease_seconds=store.lease_seconds, clock=store.clock),
            owner=owner,
            limits=limits,
            on_gate_change=on_gate_change,
            before_each=records.catch_up,
        )
        async with dispatcher:
            with _store_failure_logged_once(dispatcher), garbage_collected_less_often():
                yield dispatcher


@contextmanager
def _store_failure_logged_once(dispatcher: Dispatcher) -> Iterator[None]:
    """After a store failure, hide the errors of task runs: each delivery in flight would repeat the flow's error."""

    def is_no_echo(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or not isinstance(dispatcher.failure, StoreError)

    logger = logging.getLogger("prefect.task_runs")
    logger.addFilter(is_no_echo)
    try:
        yield
    finally:
        logger.removeFilter(is_no_echo)


async def open_destination(name: str, *, lease_seconds: float, clock: Clock) -> Destination:
    """Open an endpoint by name; its timeout must be shorter than a lease.

    Raises:
        EndpointError: unknown endpoint, or unusable configuration.
    """
    block = await load_endpoint(name)
    if block.timeout >= lease_seconds:
        raise EndpointError(
            f"endpoint {name!r}: its timeout of {block.timeout:g} s must be shorter than a worker's lease of "
            f"{lease_seconds:g} s (RESONANT_LEASE_SECONDS)"
        )
    return block.open(name, clock=clock)


async def send_due(dispatcher: Dispatcher, *, endpoint: str | None, own: Tracker | None) -> Counts:
    """Send due deliveries, including those of lost workers, each delivery or chunk as a task run.

    Args:
        endpoint: send only to this endpoint; None for all.
        own: deliveries to wait for, even if other workers send them; None: send until nothing is due.
    """
    return await dispatcher.run(
        partial(emit_as_task, dispatcher),
        emit_chunk=partial(emit_chunk_as_task, dispatcher),
        endpoint=endpoint,
        own=own,
        on_waiting=_say_waiting,
    )


async def emit_as_task(dispatcher: Dispatcher, lease: Lease) -> None:
    """Run ``emit_event`` for a claimed delivery; a dead letter fails only its task run."""
    await _run(emit_event, dispatcher, DeliveryRef.of(lease))


async def emit_chunk_as_task(dispatcher: Dispatcher, chunk: Chunk) -> None:
    """Run ``emit_chunk`` for claimed deliveries to one endpoint."""
    await _run(emit_chunk, dispatcher, ChunkRef.of(chunk))


async def _run(task: Task[Any, Any], dispatcher: Dispatcher, ref: DeliveryRef | ChunkRef) -> None:
    """Run a task, and ignore its failure."""
    given.set(Given(dispatcher, ref))
    # Prefect's overloads lose the await.
    run: Awaitable[object] = task(return_state=True)
    await run


async def store_events(
    dispatcher: Dispatcher, events: list[dict[str, Any]], endpoint: str | None, *, max_bytes: int
) -> Tracker:
    """Store the events given to a flow run, and track their deliveries.

    Args:
        events: decoded input lines.
        endpoint: the endpoint's name; None: the subscriptions decide.
        max_bytes: the size limit of an event's data.

    Raises:
        UnknownEndpoint: no endpoint has that name; nothing is stored.
        InvalidEvent: a line is not a valid event.
        ConflictingEvent: a source and id are already stored with different content; all other events are stored.
        UnroutedEvent: no subscription matches an event; all other events are stored.
    """
    tracker = Tracker(dispatcher.store)
    given = [event_from_fields(fields, max_bytes=max_bytes) for fields in events]
    if endpoint is not None:
        await require_endpoint(endpoint)
    accepted = await dispatcher.store.enqueue(given, endpoint, report_conflicts=True)
    if accepted.conflicts:
        # The error's text shows both contents, and Prefect would store it.
        known = accepted.conflicts[0].given
        command = f"resonant detail {shlex.quote(known.id)} --source {shlex.quote(known.source)}"
        raise ConflictingEvent(
            f"id {known.id!r} of source {known.source!r} already exists with different content: `{command}` shows it"
        )
    if accepted.unrouted:
        raise UnroutedEvent(str(accepted.unrouted[0]))
    get_run_logger().info("%d stored, %d known before", accepted.accepted, accepted.known)
    if accepted.erased:
        get_run_logger().info("%d not stored again, since they were erased", accepted.erased)
    if accepted.dropped_traces:
        get_run_logger().warning("invalid traces dropped: %d", accepted.dropped_traces)
    tracker.add(accepted.delivery_ids)
    return tracker


def say_outcomes(tracker: Tracker, endpoint: str | None) -> str:
    """Return the outcomes of a run's own deliveries; outside of a command, also how to list their dead letters."""
    text = str(tracker.outcomes)
    if tracker.outcomes.dead_letters and get_caller().tracker is None:
        text += f"; dead letters: `{tracker.dead_letters_shown_by(endpoint)}`"
    return text


def ended(message: str, counts: Counts, *, waiting: int) -> State[Any]:
    """Return a completed state, with a name of its own if not every delivery was delivered.

    A run that fails is always named ``Failed``, which the filters of Prefect's UI and the automations on failed runs expect.
    See docs/decisions/0017-states-of-flow-runs.md.

    Args:
        message: counts the outcomes.
        counts: the outcomes of the run's deliveries, which are its result.
        waiting: the number of its deliveries that wait for a later run.
    """
    name = "DeadLetters" if counts.dead_letters else "Waiting" if waiting else "Completed"
    return Completed(name=name, message=message, data=counts)


def _say_waiting(until: float) -> None:
    """Log that other workers hold the remaining deliveries."""
    get_run_logger().info("Other workers hold deliveries until %s: waiting for them", rfc3339(until))
