"""One attempt: send, measure the duration, classify a failure, decide once. It does not write to the store or wait."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from resonant.delivery.classification import classify
from resonant.delivery.outcome import Outcome
from resonant.delivery.retry import NORMAL, GateView, GiveUp, Park, Retry, RetryPolicy, decide
from resonant.delivery.trace import AttemptSpans
from resonant.display import one_line, visible
from resonant.errors import NotReady
from resonant.events import Attempt, Category, Clock, Event, Lease
from resonant.sinks.base import Receipt, Sink, attempt_lease
from resonant.sinks.redaction import root_cause

logger = logging.getLogger(__name__)

# A sink enforces its own deadline. If it does not, it is cancelled after this additional time.
_GRACE_SECONDS = 1.0
_EXCERPT_CHARACTERS = 1024
_STATUSES = range(100, 600)
_DECISION_NAMES = {Retry: "retry", Park: "park", GiveUp: "give_up"}


@dataclass(frozen=True, slots=True)
class Destination:
    """An endpoint, open for sending.

    Attributes:
        name: the endpoint's name in the store.
        sink: sends once, or raises.
        describe: describes a failure on one line without secrets.
        close: closes the connections.
        timeout: the deadline of one attempt, in seconds.
        overrides: the endpoint's own categories, keyed by HTTP status.
        policy: the name of the endpoint's retry policy; None for the default.
        concurrency: the limit of concurrent sends to the endpoint; None for the common limit.
        rate: the maximum number of sends per second, summed over all processes; None for no limit.
        redact: reduces an excerpt or warning of the sink to one line without secrets.
        connect: opens a connection like the sink, without sending; raises an exception if that fails. None if the sink has
            no such function.
        prepare: waits until the sink is ready; call it before an attempt. Raises NotReady if nothing can be sent now.
            None if the sink is always ready.
        problem: returns why nothing can be sent now, or None. None if the sink is always ready.
    """

    name: str
    sink: Sink
    describe: Callable[[BaseException], str]
    close: Callable[[], Awaitable[None]]
    timeout: float = 15.0
    overrides: Mapping[int, Category] = field(default_factory=dict)
    policy: str | None = None
    concurrency: int | None = None
    rate: float | None = None
    redact: Callable[[str], str] = one_line
    connect: Callable[[], Awaitable[None]] | None = None
    prepare: Callable[[], Awaitable[object]] | None = None
    problem: Callable[[], NotReady | None] | None = None


@dataclass(frozen=True, slots=True)
class AttemptRunner:
    """Makes attempts.

    Attributes:
        clock: seconds since the epoch.
        rng: draws the jitter.
        policy: returns the retry policy with this name; None is the default policy.
        run_policy, run_max_attempts: override the policy and ``max_attempts`` of each delivery in this run.
        spans: makes the spans of the attempts, if OpenTelemetry has an SDK.
    """

    clock: Clock
    rng: random.Random
    policy: Callable[[str | None], RetryPolicy] = lambda _name: RetryPolicy()
    run_policy: str | None = None
    run_max_attempts: int | None = None
    spans: AttemptSpans = field(default_factory=AttemptSpans)

    async def attempt(
        self,
        lease: Lease,
        destination: Destination,
        *,
        longest_wait: Callable[[], float] = lambda: math.inf,
        gate: Callable[[], GateView] = lambda: NORMAL,
        task_run_id: str | None = None,
    ) -> Outcome:
        """Send once, and decide on the next step. Raises only interruptions of this task or process.

        Args:
            lease: the delivery, with its attempts before this one.
            destination: the endpoint.
            longest_wait: returns how long a retry may wait in this process, in seconds; called after a failure.
            gate: returns the state of the endpoint's gate; called after a failure, and for a span.
            task_run_id: stored in the history.
        """
        # Before the send, so that an invalid policy cannot lose the result of a send.
        policy = self._policy_for(lease, destination)
        started_at = self.clock()
        with self.spans.of(lease, started_at=started_at, gate=gate) as span:
            start = asyncio.get_running_loop().time()
            token = attempt_lease.set(lease)
            try:
                result = await _send(lease.event, destination)
            finally:
                attempt_lease.reset(token)
            made = partial(
                Attempt,
                number=lease.attempts + 1,
                round=lease.round,
                started_at=started_at,
                duration=asyncio.get_running_loop().time() - start,
                owner=lease.owner,
                task_run_id=task_run_id,
            )
            if isinstance(result, Exception):
                outcome = self._judge(lease, destination, policy, result, longest_wait(), gate(), made)
            else:
                outcome = _delivered(lease, destination, result or Receipt(), made)
            del result  # the traceback of a failure references this frame
            span.note(outcome.attempt)
        return outcome

    def _policy_for(self, lease: Lease, destination: Destination) -> RetryPolicy:
        max_attempts = self.run_max_attempts or lease.max_attempts
        try:
            policy = self.policy(self.run_policy or lease.policy or destination.policy)
            return replace(policy, max_attempts=max_attempts) if max_attempts else policy
        except ValueError as error:
            # A mistake of a producer or operator must not block other deliveries.
            logger.warning("%s; %s uses the default policy", error, visible(lease.event.id))
            return self.policy(None)

    def _judge(
        self,
        lease: Lease,
        destination: Destination,
        policy: RetryPolicy,
        failure: Exception,
        longest_wait: float,
        gate: GateView,
        made: Callable[..., Attempt],
    ) -> Outcome:
        now = self.clock()
        verdict = classify(failure, now=now, overrides=destination.overrides)
        status_code = _status_code(failure)
        decision = decide(
            verdict,
            lease.round_attempts + 1,
            policy,
            self.rng,
            now,
            round_started_at=lease.round_started_at,
            last_delay=lease.last_delay,
            longest_wait=longest_wait,
            answered=status_code is not None,
            gate=gate,
            backoff_until=lease.backoff_until,
            expires_at=lease.event.expires_at,
        )
        waits = None if isinstance(decision, GiveUp) else decision
        attempt = made(
            result="failed",
            status_code=status_code,
            category=verdict.category,
            code=verdict.code,
            blame=verdict.blame,
            maybe_processed=verdict.maybe_processed,
            error_type=type(root_cause(failure)).__name__,
            error=_describe(destination, failure),
            excerpt=_line(destination, _look(failure, "excerpt")),
            retry_after=verdict.retry_after,
            decision=_DECISION_NAMES[type(decision)],
            delay=waits and waits.delay,
            next_attempt_at=waits and waits.next_attempt_at,
            early=isinstance(decision, Park) and not decision.charged,
        )
        return Outcome(lease, attempt, decision, verdict)


def _delivered(
    lease: Lease, destination: Destination, receipt: Receipt, made: Callable[..., Attempt]
) -> Outcome:
    attempt = made(
        result="delivered",
        status_code=receipt.status_code,
        excerpt=_line(destination, receipt.excerpt),
        warning=_line(destination, receipt.warning),
    )
    return Outcome(lease, attempt, None)


async def _send(event: Event, destination: Destination) -> Receipt | Exception | None:
    """Send once; return the receipt or the failure.

    A sink that raises ``CancelledError`` though nobody cancelled this task has failed: if it were raised again, every run
    would end at this delivery.
    """
    try:
        async with asyncio.timeout(destination.timeout + _GRACE_SECONDS) as deadline:
            return await destination.sink.send(event)
    except BaseException as error:
        if _is_interruption(error):
            raise
        if deadline.expired():
            return TimeoutError(f"the sink was cut off after {destination.timeout + _GRACE_SECONDS:g} s")
        if isinstance(error, Exception):
            return error
        return RuntimeError("the sink raised CancelledError, but the attempt was not cancelled")


def _is_interruption(error: BaseException) -> bool:
    """Return whether this task is being cancelled, or the coroutine or process is to end."""
    if isinstance(error, Exception):
        return False
    of_sinks = (Exception, asyncio.CancelledError)
    others = error.split(of_sinks)[1] if isinstance(error, BaseExceptionGroup) else error
    if others is not None and not isinstance(others, of_sinks):
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _describe(destination: Destination, failure: Exception) -> str:
    try:
        return destination.describe(failure)
    except Exception:  # noqa: BLE001 - describing a sink's exception may run any code
        return type(failure).__name__


def _status_code(failure: Exception) -> int | None:
    response = _look(failure, "response")
    status = _look(failure if response is None else response, "status_code")
    return status if isinstance(status, int) and status in _STATUSES else None


def _look(thing: object, name: str) -> object:
    """Return an attribute, or None if it cannot be read: an exception's properties may raise."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001
        return None


def _line(destination: Destination, text: object) -> str | None:
    return destination.redact(text)[:_EXCERPT_CHARACTERS] or None if isinstance(text, str) else None
