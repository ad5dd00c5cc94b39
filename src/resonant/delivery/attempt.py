"""One attempt: send, measure the duration, classify a failure, decide once. It does not write to the store or wait."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from resonant.delivery.classification import classifier
from resonant.delivery.outcome import Outcome
from resonant.delivery.retry import NORMAL, GateView, GiveUp, Park, Retry, RetryPolicy, decide
from resonant.display import one_line
from resonant.events import Attempt
from resonant.sinks.redaction import root_cause

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Mapping

    from resonant.delivery.classification import Classifier
    from resonant.events import Category, Clock, Lease
    from resonant.sinks.base import Sink

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


@dataclass(frozen=True, slots=True)
class AttemptRunner:
    """Makes attempts.

    Attributes:
        clock: seconds since the epoch.
        rng: draws the jitter.
        policy: returns the retry policy with this name; None is the default policy.
        run_policy, run_max_attempts: override the policy and ``max_attempts`` of each delivery in this run.
        classifier: classifies failures.
    """

    clock: Clock
    rng: random.Random
    policy: Callable[[str | None], RetryPolicy] = lambda _name: RetryPolicy()
    run_policy: str | None = None
    run_max_attempts: int | None = None
    classifier: Classifier = classifier

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

        A sink that raises ``CancelledError`` though nobody cancelled this task has failed: if it were raised again, every
        run would end at this delivery.

        Args:
            lease: the delivery, with its attempts before this one.
            destination: the endpoint.
            longest_wait: returns how long a retry may wait in this process, in seconds; called after a failure.
            gate: returns the state of the endpoint's gate; called after a failure.
            task_run_id: stored in the history.
        """
        # Before the send, so that an invalid policy cannot lose the result of a send.
        policy = self._policy_for(lease, destination)
        made = partial(
            Attempt,
            number=lease.attempts + 1,
            round=lease.round,
            started_at=self.clock(),
            owner=lease.owner,
            task_run_id=task_run_id,
        )
        start = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(destination.timeout + _GRACE_SECONDS) as deadline:
                receipt = await destination.sink.send(lease.event)
        except BaseException as error:
            if _is_interruption(error):
                raise
            made = partial(made, duration=asyncio.get_running_loop().time() - start)
            # Not in a local variable: the error's traceback references this frame, so that would be a reference cycle.
            return self._judge(
                lease,
                destination,
                policy,
                _cut_off(destination) if deadline.expired() else _failure(error),
                made,
                longest_wait=longest_wait,
                gate=gate,
            )
        made = partial(made, duration=asyncio.get_running_loop().time() - start, result="delivered")
        if receipt is None:
            return Outcome(lease, made(), None)
        attempt = made(
            status_code=receipt.status_code,
            excerpt=_line(destination, receipt.excerpt),
            warning=_line(destination, receipt.warning),
        )
        return Outcome(lease, attempt, None)

    def _policy_for(self, lease: Lease, destination: Destination) -> RetryPolicy:
        name = self.run_policy or lease.policy or destination.policy
        try:
            return self.policy(name).with_max_attempts(self.run_max_attempts or lease.max_attempts)
        except ValueError as error:
            # A mistake of a producer or operator must not block other deliveries.
            logger.warning("%s; %s uses the default policy", error, lease.event.id)
            return self.policy(None)

    def _judge(
        self,
        lease: Lease,
        destination: Destination,
        policy: RetryPolicy,
        failure: Exception,
        made: Callable[..., Attempt],
        *,
        longest_wait: Callable[[], float],
        gate: Callable[[], GateView],
    ) -> Outcome:
        now = self.clock()
        verdict = self.classifier.classify(failure, now=now, overrides=destination.overrides)
        status_code = _status_code(failure)
        decision = decide(
            verdict,
            lease.round_attempts + 1,
            policy,
            self.rng,
            now,
            round_started_at=lease.round_started_at,
            last_delay=lease.last_delay,
            longest_wait=longest_wait(),
            answered=status_code is not None,
            gate=gate(),
            backoff_until=lease.backoff_until,
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
            delay=None if waits is None else waits.delay,
            next_attempt_at=None if waits is None else waits.next_attempt_at,
            early=isinstance(decision, Park) and not decision.charged,
        )
        return Outcome(lease, attempt, decision, verdict)


def _is_interruption(error: BaseException) -> bool:
    """Return whether this task is being cancelled, or the coroutine or process is to end."""
    if isinstance(error, Exception):
        return False
    if not _is_cancellation(error):
        return True
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_cancellation(error: BaseException) -> bool:
    """Return whether an error is a cancellation, or a group of cancellations and failures."""
    if isinstance(error, BaseExceptionGroup):
        return all(isinstance(each, Exception) or _is_cancellation(each) for each in error.exceptions)
    return isinstance(error, asyncio.CancelledError)


def _failure(error: BaseException) -> Exception:
    if isinstance(error, Exception):
        return error
    return RuntimeError("the sink raised CancelledError, but the attempt was not cancelled")


def _cut_off(destination: Destination) -> Exception:
    return TimeoutError(f"the sink was cut off after {destination.timeout + _GRACE_SECONDS:g} s")


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
