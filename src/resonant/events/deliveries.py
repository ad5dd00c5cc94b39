"""The states of deliveries: leases, attempts, dead letters."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from resonant.events.event import Event

Status = Literal["pending", "retrying", "delivered", "dead_letter"]
Reason = Literal["permanent", "exhausted", "expired", "crashed", "cancelled"]
Result = Literal["delivered", "failed", "lost"]
Category = Literal["transient", "permanent", "unknown"]
Blame = Literal["endpoint", "local"]
Clock = Callable[[], float]

_NAME = r"[a-z0-9]+(-[a-z0-9]+)*"
# An endpoint's name in the store, labels and logs: NAME, or BLOCK-TYPE/NAME.
ENDPOINT_NAME = re.compile(rf"({_NAME}/)?{_NAME}")


class LeaseKey(NamedTuple):
    """Identifies a lease."""

    delivery_id: int
    token: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's claim on one delivery, with the data for the next attempt.

    Attributes:
        delivery_id: the store's key.
        token: the fencing token; it grows with every claim.
        owner: the owner of the lease, e.g. a flow run's id.
        attempts: attempts recorded so far, over all rounds.
        round: 1 at acceptance; each replay adds one.
        round_attempts: attempts recorded in this round.
        round_started_at: when the round began; the policy's ``max_age`` counts from here.
        accepted_at: when the event was stored.
        last_delay: the delay before this attempt, in seconds (decorrelated jitter starts from it).
        policy: the policy's name, set when the event was stored; None for the endpoint's policy.
        max_attempts: overrides the policy's limit; set when the event was stored.
        backoff_until: the end of the delivery's own backoff, if a gate released it earlier; an earlier failure is not charged.
        crashes: leases of this round that were lost while sending.
        begun_at: when the claim also recorded the beginning of the next attempt; None if it did not.
        key: identifies the lease, even among leases of the same delivery.
    """

    delivery_id: int
    token: int
    owner: str
    event: Event
    endpoint: str
    attempts: int = 0
    round: int = 1
    round_attempts: int = 0
    round_started_at: float = 0.0
    accepted_at: float = 0.0
    last_delay: float | None = None
    policy: str | None = None
    max_attempts: int | None = None
    backoff_until: float | None = None
    crashes: int = 0
    begun_at: float | None = None
    key: LeaseKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Not a property: a run reads it some twenty times per delivery.
        object.__setattr__(self, "key", LeaseKey(self.delivery_id, self.token))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt, as stored in the history.

    Attributes:
        late: reported after its lease was lost; it changed only the history.
        early: not counted in ``max_attempts``: a gate released the delivery before its own backoff ended, there was no OAuth token, or
            an endpoint that waits for flow runs has no result of one yet.
    """

    number: int
    round: int
    started_at: float
    duration: float
    result: Result
    status_code: int | None = None
    category: str | None = None
    code: str | None = None
    blame: str | None = None
    maybe_processed: bool | None = None
    error_type: str | None = None
    error: str | None = None
    excerpt: str | None = None
    warning: str | None = None
    retry_after: float | None = None
    decision: str | None = None
    delay: float | None = None
    next_attempt_at: float | None = None
    owner: str | None = None
    task_run_id: str | None = None
    late: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """The current state of one event to one endpoint.

    Attributes:
        replayed_to: the other endpoint to which a replay has sent the event of this dead letter, if any.
    """

    event_id: str
    source: str
    event_type: str
    endpoint: str
    status: Status
    attempts: int
    replays: int
    accepted_at: float
    first_attempt_at: float | None
    next_attempt_at: float | None
    finished_at: float | None
    reason: Reason | None
    category: str | None
    code: str | None
    error_type: str | None
    error: str | None
    status_code: int | None
    leased_by: str | None = None
    lease_until: float | None = None
    backoff_until: float | None = None
    replayed_to: str | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that was given up; the fields but ``shares_id`` are the keys of ``resonant dlq --json``.

    Attributes:
        replayed_to: the other endpoint to which a replay has sent the event, if any.
        answer: the beginning of the receiver's answer to the last attempt, without secrets.
        maybe_processed: whether the receiver may have processed the event in a failed attempt.
        shares_id: whether events of other sources have the same id, so that commands need ``--source``.
    """

    event_id: str
    source: str
    event_type: str
    endpoint: str
    reason: Reason
    category: str | None
    code: str | None
    error_type: str | None
    error: str | None
    status_code: int | None
    attempts: int
    first_attempt_at: float | None
    dead_at: float
    replays: int
    replayed_to: str | None = None
    answer: str | None = None
    maybe_processed: bool = False
    shares_id: bool = False
