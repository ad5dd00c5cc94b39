"""Tasks that send: ``emit_event`` makes the attempts of one delivery, ``emit_chunk`` makes one attempt for each of many.

Prefect retries ``emit_event`` while ``decide`` returns a Retry, after exactly the delay that ``decide`` drew. Prefect
calls the retry condition and then reads the delay (see docs/decisions). The exception carries the decision.
"""

import asyncio
import shlex
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.logging import get_run_logger
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import Task
from prefect.utilities.annotations import opaque

from resonant.delivery.outcome import Outcome
from resonant.delivery.retry import MAX_ATTEMPTS_LIMIT, GiveUp, Park, Retry
from resonant.delivery.wording import shortened
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.send.unsent import Held, LeaseLost, TimeIsUp
from resonant.display import counted, visible
from resonant.events import Lease, LeaseKey, rfc3339
from resonant.gate.words import advice, described
from resonant.local.compatibility import result_of_nothing

# The retry condition sets the delay, and Prefect reads it right afterwards, in the same task run.
_decided_delay: ContextVar[float] = ContextVar("decided_delay")


@dataclass(frozen=True, slots=True)
class DeliveryRef:
    """A task run's reference to its delivery: readable in the UI, without the payload."""

    key: LeaseKey
    event_id: str
    event_type: str
    endpoint: str

    @classmethod
    def of(cls, lease: Lease) -> "DeliveryRef":
        """Make the reference to a claimed delivery."""
        return cls(lease.key, visible(lease.event.id), visible(lease.event.type), lease.endpoint)

    @property
    def name(self) -> str:
        """The name of the task run."""
        return f"{self.event_type} {self.event_id} to {self.endpoint}"


@dataclass(frozen=True, slots=True)
class ChunkRef:
    """A task run's reference to its chunk."""

    words: str
    endpoint: str
    chunk: Chunk

    @classmethod
    def of(cls, chunk: Chunk) -> "ChunkRef":
        """Make the reference to claimed deliveries to one endpoint."""
        return cls(counted(len(chunk.flights), "delivery", "deliveries"), chunk.endpoint.name, chunk)

    @property
    def name(self) -> str:
        """The name of the task run."""
        return f"{self.words} to {self.endpoint}"


class Given(NamedTuple):
    """The input of a task run. Arguments would cost a tenth of its CPU, since Prefect binds and searches them.

    Attributes:
        dispatcher: makes the attempts.
        ref: the delivery or the chunk.
    """

    dispatcher: Dispatcher
    ref: Any


given: ContextVar[Given] = ContextVar("given")


class Undelivered(Exception):
    """An attempt failed; the message has the verdict, the next step and the beginning of the receiver's answer.

    A dead letter's message also has the commands that show it and send it again.

    The answer contains no secret of ours. URL, headers and payload are not in the message.
    """

    def __init__(self, outcome: Outcome) -> None:
        attempt = outcome.attempt
        said = f"; the answer: {shortened(attempt.excerpt)}" if attempt.excerpt else ""
        if isinstance(outcome.decision, GiveUp):
            name = shlex.quote(visible(outcome.lease.event.id))
            said += f"; next: `resonant detail {name}` shows every attempt, `resonant retry {name}` sends it again"
        super().__init__(
            f"attempt {attempt.number}: {attempt.category} {attempt.code}; {outcome.next_step}{said}"
        )
        self.verdict = outcome.verdict
        self.decision = outcome.decision


class _DecidedDelays(list[float]):
    """A list of delays for Prefect; every item is the last decided delay."""

    def __getitem__(self, _index: Any) -> Any:
        return _decided_delay.get()


def _name_of_given() -> str:
    name: str = given.get().ref.name
    return name


def _was_decided_to_retry(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    failure = state.data
    if not (isinstance(failure, Undelivered) and isinstance(failure.decision, Retry)):
        return False
    _decided_delay.set(failure.decision.delay)
    return True


@task(
    name="emit-event",
    task_run_name=_name_of_given,
    description="Deliver one event to one endpoint.",
    retries=MAX_ATTEMPTS_LIMIT,
    retry_delay_seconds=lambda _retries: _DecidedDelays([0.0]),
    retry_condition_fn=_was_decided_to_retry,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def emit_event() -> State[Any]:
    """Make the next attempt for the given delivery.

    Returns:
        A completed state. It is named ``Parked``, ``Left`` or ``TakenOver`` if this run no longer holds the delivery.

    Raises:
        Undelivered: the attempt failed. Prefect retries the task run if the decision is a Retry; otherwise the delivery
            is a dead letter, and this task run fails.
        Expired: the event expired before the send; the delivery is a dead letter, and this task run fails.
    """
    dispatcher, ref = given.get()
    try:
        outcome = await dispatcher.attempt(ref.key, task_run_id=task_run.id)
    except TimeIsUp:
        return Completed(name="Left", message="the run's time was up; the next run sends it")
    except Held as held:
        return Completed(name="Parked", message=why_held(held, dispatcher.store.clock()))
    except LeaseLost:
        return Completed(name="TakenOver", message="another worker has this delivery now")
    if outcome.decision is None:
        return Completed(data=result_of_nothing())
    failure = Undelivered(outcome)
    if not isinstance(outcome.decision, GiveUp):  # Prefect logs the final failure itself
        get_run_logger().warning("%s", failure)
    if isinstance(outcome.decision, Park):
        due = rfc3339(outcome.decision.next_attempt_at)
        return Completed(
            name="Parked",
            message=f"waits for its retry, due at {due}; a running drain or the next `resonant emit` sends it; {failure}",
        )
    raise failure from None


def why_held(held: Held, now: float) -> str:
    """Return why and until when a retry is held, and the next step."""
    gate = held.gate
    next_step = advice(gate, now) or "a running drain or the next `resonant emit` sends it"
    state = held.problem or described(gate, held=0, now=now)
    return visible(
        f"waits for endpoint {gate.endpoint}: {state}; nothing was sent this time; next: {next_step}"
    )


@task(
    name="emit-chunk",
    task_run_name=_name_of_given,
    description="Make one attempt for each delivery of a chunk to one endpoint, and park every retry.",
    # Prefect logs no traceback for a task that could be retried. The flow logs the error.
    retries=1,
    retry_condition_fn=lambda *_: False,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def emit_chunk() -> State[None]:
    """Make one attempt for each delivery of the given chunk.

    Returns:
        A completed state whose message counts the outcomes. Each of the first dead letters gets a failed task run.
    """
    dispatcher, ref = given.get()
    chunk = await dispatcher.attempt_all(ref.chunk, task_run_id=task_run.id)
    await asyncio.gather(*map(_show, chunk.shown))
    message = str(chunk.counts)
    if chunk.counts.dead_letters.total() > len(chunk.shown):
        message += f"; {len(chunk.shown)} of the dead letters have task runs"
    return Completed(message=message)


@task(
    name="dead-letter",
    task_run_name="{ref.name}",
    description="Show a dead letter of a chunk.",
    retries=1,
    retry_condition_fn=lambda *_: False,
    cache_policy=NO_CACHE,
    persist_result=False,
)
async def dead_letter(ref: DeliveryRef, failure: Undelivered) -> None:  # noqa: ARG001 - the run is named after it
    """Raise the delivery's failure, so that this task run fails.

    Raises:
        Undelivered: always.
    """
    raise failure from None


async def _show(outcome: Outcome) -> None:
    ref, failure = DeliveryRef.of(outcome.lease), Undelivered(outcome)
    run: Any = dead_letter(opaque(ref), opaque(failure), return_state=True)
    await run
