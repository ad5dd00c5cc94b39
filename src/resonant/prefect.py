"""Store events from the flows of any Prefect project: ``from resonant.prefect import emit, store_event_on``.

``emit`` is a task that stores an event. ``store_event_on`` makes a hook that stores an event when a flow run fails or crashes.
Both use the store of ``RESONANT_DATABASE_URL``. A drain sends the events, such as those of ``resonant up``.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from prefect import Flow, State, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.flows import FlowStateHook
from prefect.logging.loggers import flow_run_logger
from prefect.tasks import Task
from prefect.utilities.asyncutils import run_coro_as_sync

from resonant.blocks.emitting import Logger, run_logger, store_event, store_given, was_new
from resonant.display import visible
from resonant.errors import ConflictingEvent, ResonantError, StoreRefused, StoreUnavailable
from resonant.events import Event, rfc3339
from resonant.events.attributes import FORBIDDEN_CHARACTER
from resonant.local.calls import StoredId, place_of_call, runs_in_loop

__all__ = ["emit", "flow_run_event", "store_event", "store_event_on"]

P = ParamSpec("P")
R = TypeVar("R")

_SOURCE = "/prefect"
_TEXT_CHARACTERS = 10_000
_SUBJECT_CHARACTERS = 255
# Names of Prefect's states that say more than their types.
_KINDS = {("FAILED", "TimedOut"): "timed-out", ("SCHEDULED", "Late"): "late"}


def _can_be_repeated(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, StoreUnavailable) and not isinstance(state.data, StoreRefused)


# The place of a call of `emit`. Its task run cannot find it, since it may start after those of later calls.
_place: ContextVar[str | None] = ContextVar("place", default=None)


class _Placed(Task[P, R]):
    """A task that determines the place of a call at the time of the call."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        with _placed_call():
            return super().__call__(*args, **options)

    def submit(self, *args: Any, **options: Any) -> Any:
        with _placed_call():
            return super().submit(*args, **options)

    def with_options(self, **options: Any) -> Any:
        return _placed(super().with_options(**options))


def _placed(made: Task[P, R]) -> Task[P, R]:
    made.__class__ = _Placed
    return made


@contextmanager
def _placed_call() -> Iterator[None]:
    token = _place.set(place_of_call())
    try:
        yield
    finally:
        _place.reset(token)


@_placed
@task(
    name="emit",
    description="Store an event, which Resonant delivers.",
    retries=3,
    retry_delay_seconds=[2, 10, 30],
    retry_condition_fn=_can_be_repeated,
    cache_policy=NO_CACHE,
)
def emit(event: Event | dict[str, Any], endpoint: str | None = None) -> str:
    """Store an event. The task run ends when the event is committed; it does not wait for the receiver.

    Works in synchronous and asynchronous flows, as ``emit(...)``, which needs no ``await``, and as ``emit.submit(...)``. If the store
    is unavailable, Prefect retries the task run.

    Args:
        event: an ``Event``, or a dict with ``type``, ``source``, ``data`` and other members of an input line. Without an
            ``id``, the event gets one that a retry of the surrounding task run or flow run repeats. If a run with retries
            reads from a queue, or resumes after rows, give each event an ``id``: otherwise, new events of a retry are taken
            for repeats, and dropped with a warning. Concurrent tasks with equal parameters need ids, too.
        endpoint: the only endpoint that gets the event; None: each endpoint with a matching subscription.

    Returns:
        The event's id.

    Raises:
        InvalidEvent: the event is malformed.
        UnknownEndpoint: no endpoint has that name.
        UnroutedEvent: ``endpoint`` is None, and no subscription matches the event.
        ConflictingEvent: an event with this source and id is stored with different content.
        SettingsError: the environment is malformed.
        StoreError: the store cannot be used.
    """
    stored: tuple[str, bool] = run_coro_as_sync(store_given(event, endpoint, place=_place.get()))
    stored_id, is_new = stored
    _log_stored(run_logger(), stored_id, endpoint, is_new=is_new)
    return StoredId(stored_id) if runs_in_loop() else stored_id


def store_event_on(endpoint: str | None = None) -> FlowStateHook[..., Any]:
    """Return a hook that stores an event about the state of a flow run: ``@flow(on_failure=[store_event_on("ops")])``.

    Works in ``on_failure``, ``on_crashed`` and the other hooks of synchronous and asynchronous flows. ``flow_run_event``
    describes the event. If the event cannot be stored, the hook logs an error; the state of the flow run does not change.

    Args:
        endpoint: the only endpoint that gets the event; None: each endpoint with a matching subscription.
    """

    async def store_event_of_run(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        logger = flow_run_logger(flow_run, flow)
        event = flow_run_event(flow_run, state, flow.name)
        is_new = False
        try:
            is_new = was_new(await store_event(event, endpoint))
        except ConflictingEvent:  # it is stored, and the run was renamed since
            pass
        except ResonantError as error:
            # Not `exception`: the error is one line that says all.
            logger.error("the event of this run is not stored: %s", error)  # noqa: TRY400
            return
        _log_stored(logger, event.id, endpoint, is_new=is_new)

    return store_event_of_run


def flow_run_event(flow_run: FlowRun, state: State[Any], flow_name: str) -> Event:
    """Return the event about a state of a flow run; each call for the same state returns the same event.

    The id is ``prefect-flow-run-`` and the id of the state, the type ``prefect.flow-run.`` and ``failed``, ``crashed``,
    ``timed-out``, ``late`` or the type of any other state, the source ``/prefect`` and the subject the flow's name.
    ``data`` has ``flow``, ``run``, ``run_id``, ``state`` (its name) and ``message``, each cut to 10,000 characters. If the run was
    renamed between two calls, the events differ: the one that is stored first counts.

    Args:
        flow_run: the run.
        state: its state, as the Prefect server has it.
        flow_name: the name of the flow.
    """
    kind = _KINDS.get((state.type.value, state.name or ""), state.type.value.lower())
    return Event(
        id=f"prefect-flow-run-{state.id}",
        type=f"prefect.flow-run.{kind}",
        source=_SOURCE,
        subject=FORBIDDEN_CHARACTER.sub("\ufffd", visible(flow_name))[:_SUBJECT_CHARACTERS],
        time=rfc3339(state.timestamp.timestamp()),
        data={
            "flow": flow_name[:_TEXT_CHARACTERS],
            "run": flow_run.name[:_TEXT_CHARACTERS],
            "run_id": str(flow_run.id),
            "state": state.name and state.name[:_TEXT_CHARACTERS],
            "message": state.message and state.message[:_TEXT_CHARACTERS],
        },
    )


def _log_stored(log: Logger, stored_id: str, endpoint: str | None, *, is_new: bool) -> None:
    said = "stored event %s for %s" if is_new else "event %s was already stored for %s"
    log.info(said, visible(stored_id), endpoint or "its subscribers")
