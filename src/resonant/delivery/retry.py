"""When to retry: the backoff curve, the jitter, and the decision on each failure.

Terms: *backoff* is the curve over attempts, *jitter* the randomness, *delay* the value drawn. A delay is drawn for
each retry of each delivery: with the same delays, deliveries would be retried at the same times (Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

import random
from dataclasses import dataclass, fields
from math import ceil, inf
from typing import Literal, Self, get_args

from resonant.delivery.verdict import Verdict
from resonant.events import Reason

Jitter = Literal["proportional", "full", "equal", "decorrelated", "none"]

# The highest max_attempts of a policy. Prefect's own `retries` is higher, so that the policy decides.
MAX_ATTEMPTS_LIMIT = 1_000
_CURVE = ("base", "factor", "cap")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The number, delays and time limit of a delivery's attempts in one round.

    The default retries for three days, at least once an hour, so that an outage of a night or a weekend needs no operator.
    Its ``max_age`` ends a round: ``max_attempts`` is too high to be reached earlier, with any jitter.

    Attributes:
        max_attempts: attempts in a round, including the first.
        unknown_max_attempts: the same for failures of category ``unknown``.
        base: the first backoff, in seconds.
        factor: the ratio of each backoff to the previous one.
        cap: the largest backoff, in seconds.
        jitter: how the delay is drawn around the backoff.
        spread: the largest change by ``proportional`` jitter, as a share of the backoff; also the share of a Retry-After
            over which deliveries with the same Retry-After are spread.
        max_age: the maximum age of a round, in seconds; a delivery is given up if its next retry would be later.
        park_after: a delivery waits in the store if its backoff (or Retry-After) is longer than this, in seconds.
        delays: the backoff after each attempt, in seconds, instead of ``base``, ``factor`` and ``cap``. ``max_attempts`` is
            then at most one more than their number.

    Raises:
        ValueError: a value is out of range, or ``max_age`` would cut ``delays`` off; the message says which.
    """

    max_attempts: int = 100
    unknown_max_attempts: int = 3
    base: float = 1.0
    factor: float = 3.0
    cap: float = 3600.0
    jitter: Jitter = "proportional"
    spread: float = 0.2
    max_age: float = 72 * 3600.0
    park_after: float = 30.0
    delays: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("max_attempts", "unknown_max_attempts"):
            if not 1 <= getattr(self, name) <= MAX_ATTEMPTS_LIMIT:
                raise ValueError(f"{name} must be 1 to {MAX_ATTEMPTS_LIMIT}, not {getattr(self, name)}")
        for name in ("base", "cap", "max_age", "park_after"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be finite and not negative, not {getattr(self, name)}")
        if not 1 <= self.factor < float("inf"):
            raise ValueError(f"factor must be at least 1, not {self.factor}")
        if not 0 <= self.spread < 1:
            raise ValueError(f"spread must be from 0 to below 1, not {self.spread}")
        if self.jitter not in get_args(Jitter):
            raise ValueError(f"jitter {self.jitter!r} is not one of {', '.join(get_args(Jitter))}")
        if self.delays is not None:
            self._check_delays(tuple(self.delays))

    def _check_delays(self, delays: tuple[float, ...]) -> None:
        if not 1 <= len(delays) < MAX_ATTEMPTS_LIMIT:
            raise ValueError(f"delays must be 1 to {MAX_ATTEMPTS_LIMIT - 1} delays, not {len(delays)}")
        for number, delay in enumerate(delays, 1):
            if not 0 <= delay < inf:
                raise ValueError(f"delays must be finite and not negative, not {delay} (item {number})")
        if given := [
            each.name
            for each in fields(self)
            if each.name in _CURVE and getattr(self, each.name) != each.default
        ]:
            raise ValueError(f"delays cannot be combined with {given[0]}: remove one of them")
        if self.jitter == "decorrelated":
            raise ValueError("delays cannot be combined with decorrelated jitter: choose another jitter")
        longest = sum(delays) * (1 + self.spread if self.jitter == "proportional" else 1)
        if longest > self.max_age:
            raise ValueError(
                f"max_age must be at least {ceil(longest)} seconds for these delays with jitter, not {self.max_age:g}"
            )
        object.__setattr__(self, "delays", delays)
        object.__setattr__(self, "max_attempts", min(self.max_attempts, len(delays) + 1))

    @classmethod
    def classic(cls) -> Self:
        """Return the policy of the first version: 4 attempts, delays of 1, 2 and 4 s, ±20 %, nothing parked."""
        return cls(max_attempts=4, base=1.0, factor=2.0, max_age=24 * 3600.0, park_after=24 * 3600.0)

    @classmethod
    def standard_webhooks(cls) -> Self:
        """Return the schedule that Standard Webhooks proposes: 10 attempts in about 76 hours, ±20 %."""
        hours = (2, 5, 10, 14, 20, 24)
        return cls(delays=(5.0, 300.0, 1800.0, *(each * 3600.0 for each in hours)), max_age=7 * 24 * 3600.0)


@dataclass(frozen=True, slots=True)
class Retry:
    """Retry after ``delay`` seconds; the delivery waits in this process."""

    delay: float
    next_attempt_at: float


@dataclass(frozen=True, slots=True)
class Park:
    """Retry at ``next_attempt_at``; the delivery waits in the store.

    Attributes:
        delay: the wait, in seconds.
        next_attempt_at: when the wait ends, seconds since the epoch.
        backoff_until: when the delivery's own backoff ends, if a gate may send it earlier.
        charged: whether the attempt counts in ``max_attempts``; False if it was made during the delivery's own backoff, or
            failed without a fault of the event and the endpoint.
    """

    delay: float
    next_attempt_at: float
    backoff_until: float | None = None
    charged: bool = True

    @property
    def own_delay(self) -> float:
        """The delivery's own backoff, in seconds, even if a gate may send it earlier."""
        early_by = 0.0 if self.backoff_until is None else self.backoff_until - self.next_attempt_at
        return self.delay + early_by


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Do not retry: the delivery becomes a dead letter with this reason."""

    reason: Reason


Decision = Retry | Park | GiveUp


@dataclass(frozen=True, slots=True)
class GateView:
    """The part of an endpoint's gate that a decision depends on; by default, the gate is normal.

    Attributes:
        governs: whether the gate holds or paces the sends. A parked delivery then waits for the first backoff at most.
        is_down: whether only probes are sent, to the endpoint or of the event type. A failure that may end with the outage then
            does not give up the delivery.
        has_room: whether this process paces the sends, and one more retry may wait in it.
        state: the gate's state, for the span of an attempt.
    """

    governs: bool = False
    is_down: bool = False
    has_room: bool = False
    state: str = "normal"


NORMAL = GateView()


def backoff(policy: RetryPolicy, attempt: int) -> float:
    """Return the backoff after this attempt (from 1), in seconds: ``min(cap, base * factor ** (attempt - 1))``.

    A policy with ``delays`` has these instead; after the last attempt, the last one.
    """
    if policy.delays is not None:
        return policy.delays[min(attempt, len(policy.delays)) - 1]
    try:
        return min(policy.cap, policy.base * policy.factor ** (attempt - 1))
    except OverflowError:
        return policy.cap if policy.base else 0.0


def draw_delay(
    policy: RetryPolicy, attempt: int, rng: random.Random, *, last_delay: float | None = None
) -> float:
    """Draw the wait after this attempt, in seconds.

    ::

        proportional   backoff * uniform(1 - spread, 1 + spread)
        full           uniform(0, backoff)
        equal          backoff / 2 + uniform(0, backoff / 2)
        decorrelated   min(cap, uniform(base, 3 * last_delay))
        none           backoff

    Args:
        attempt: the number of the failed attempt in its round, from 1.
        last_delay: the previous delay, for ``decorrelated``; None at the first retry.
    """
    wait = backoff(policy, attempt)
    match policy.jitter:
        case "none":
            return wait
        case "proportional":
            return wait * rng.uniform(1 - policy.spread, 1 + policy.spread)
        case "full":
            return rng.uniform(0, wait)
        case "equal":
            return wait / 2 + rng.uniform(0, wait / 2)
        case "decorrelated":
            highest = max(policy.base, 3 * (policy.base if last_delay is None else last_delay))
            return min(policy.cap, rng.uniform(policy.base, highest))


def decide(
    verdict: Verdict,
    attempt: int,
    policy: RetryPolicy,
    rng: random.Random,
    now: float,
    *,
    round_started_at: float,
    last_delay: float | None = None,
    longest_wait: float = inf,
    answered: bool = True,
    gate: GateView = NORMAL,
    backoff_until: float | None = None,
    expires_at: float | None = None,
) -> Decision:
    """Decide what to do after a failure. Call it once per failure; it draws at most three random numbers.

    Retry-After is a minimum: neither jitter nor cap reduces it. ``uniform(0, spread * delay)`` is added, up to the end of
    the round, so that deliveries with the same Retry-After are not retried at the same instant.

    While a gate governs, a retry is parked and due after the first backoff at most; the gate decides when it is sent. It is
    not parked if this process paces the sends and has room for it. A failure before the end of the delivery's own backoff is
    not charged and does not extend the backoff. So a gate does not use up attempts faster than the policy alone. A failure with
    a ``free_wait`` is parked for that time and never charged; only the end of the round ends it.

    Args:
        verdict: the classifier's verdict on the failure.
        attempt: the number of the failed attempt in its round, from 1.
        now: seconds since the epoch.
        round_started_at: when the round began, seconds since the epoch.
        last_delay: the previous delay, in seconds.
        longest_wait: a Retry whose delay is at least this long, in seconds, becomes a Park: this process would not wait for
            it, or has no room (0).
        answered: whether the receiver answered.
        gate: the state of the endpoint's gate now.
        backoff_until: when the delivery's own backoff ends, seconds since the epoch, if a gate sent it earlier.
        expires_at: when the event expires, seconds since the epoch; it ends the round.
    """
    room = min(round_started_at + policy.max_age, inf if expires_at is None else expires_at) - now
    if verdict.free_wait is not None:
        return _wait_freely(
            max(verdict.free_wait, verdict.retry_after or 0.0) * rng.uniform(1, 1 + policy.spread), now, room
        )
    early_until = backoff_until if backoff_until is not None and now < backoff_until else None
    if early_until is not None and last_delay is not None:
        # The clock may have been set back since the backoff began.
        early_until = min(early_until, now + last_delay)
    is_unknown = verdict.category == "unknown"
    # A permanent answer concerns the event; other failures may end when the endpoint recovers.
    may_recover = gate.is_down and (is_unknown or (not answered and verdict.blame == "endpoint"))
    if verdict.category == "permanent" and not may_recover:
        return GiveUp("permanent")
    if early_until is None:
        limit = policy.unknown_max_attempts if is_unknown and not may_recover else policy.max_attempts
        if attempt >= min(limit, policy.max_attempts):
            return GiveUp("exhausted")
        own_delay = draw_delay(policy, attempt, rng, last_delay=last_delay)
    else:
        own_delay = early_until - now
    # Compare the wait without jitter with `park_after`, so that chance does not park one delivery and not another like it.
    # (Decorrelated jitter has only the drawn wait.)
    wait = own_delay if policy.jitter == "decorrelated" else backoff(policy, attempt)
    asked = verdict.retry_after or 0.0
    wait = max(wait, asked)
    stays = (
        early_until is None
        and wait <= policy.park_after
        and own_delay < longest_wait
        and (gate.has_room or not gate.governs)
    )
    delay = max(
        asked, min(own_delay, draw_delay(policy, 1, rng)) if gate.governs and not stays else own_delay
    )
    if delay > room:
        return GiveUp("expired")
    if verdict.retry_after is not None:
        # Stay within the round, so that chance does not expire a delivery that can be retried in time.
        delay += rng.uniform(0, min(policy.spread * delay, room - delay))
    if stays and delay < longest_wait:
        return Retry(delay, now + delay)
    own_until = early_until
    if gate.governs and early_until is None:
        own_until = now + max(own_delay, delay)
    return Park(delay, now + delay, backoff_until=own_until, charged=early_until is None)


def _wait_freely(delay: float, now: float, room: float) -> Decision:
    return Park(delay, now + delay, charged=False) if delay <= room else GiveUp("expired")
