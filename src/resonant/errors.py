"""Resonant's exceptions. The message of each is one line with the problem, the place and the next step.

``SendFailed`` only reaches callers of ``WebhookEndpoint.deliver``: in a run, the classifier turns a failure into a verdict.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal


class ResonantError(Exception):
    """Base of every error of this package; its message is suitable for users, and contains no secret."""


InvalidEventCode = Literal[
    "not_json",  # not UTF-8, not JSON, or nested too deeply
    "missing",  # a required attribute
    "wrong_type",  # of a value
    "invalid_value",
    "invalid_name",  # of an attribute
    "too_large",
    "too_many",  # extension attributes
    "both_data",  # data beside data_base64
]


class InvalidEvent(ResonantError):
    """The input is not a valid event; the message says why.

    Attributes:
        code: the kind of the problem; it does not change between releases.
        pointer: the JSON Pointer (RFC 6901) of the member with the problem; empty for the whole event.
    """

    def __init__(
        self, message: str, code: InvalidEventCode = "invalid_value", member: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.pointer = "" if member is None else "/" + member.replace("~", "~0").replace("/", "~1")


class ConflictingEvent(ResonantError):
    """An event with this source and id already exists with different content."""


class UnroutedEvent(ResonantError):
    """No endpoint is named, and no subscription matches the event."""


class InvalidSubscription(ResonantError):
    """A glob or a filter of a subscription is invalid; the message says where and why."""


class UnknownName(ResonantError):
    """Unknown code or event id, or an id of several sources; the message has suggestions."""


class StoreError(ResonantError):
    """The durable store cannot perform an operation."""


class StoreUnavailable(StoreError):
    """The database cannot be opened, reached or written."""


class StoreLocked(StoreUnavailable):
    """Another process holds a lock that this one needs, and may release it."""


class StillLocked(StoreLocked):
    """On PostgreSQL, another transaction held a lock for as long as a short write may wait for it."""


class TryAgain(StoreUnavailable):
    """A transaction has to be rolled back, and the same operation succeeds in a new one."""


class StoreRefused(StoreUnavailable):
    """The database cannot be used as configured: wrong password, no such database, not a database file."""


class StoreReplaced(StoreError):
    """The database's file was deleted or replaced while it was open: the last changes are not stored."""


class StoreTooNew(StoreError):
    """The database's schema was written by a newer version of Resonant."""


class EndpointError(ResonantError):
    """The endpoint cannot be used as configured."""


class UnknownEndpoint(EndpointError):
    """No endpoint has that name; the message suggests similar names."""


class AddressRefused(EndpointError):
    """The endpoint's address is private or special, and the endpoint does not allow that."""


class SendFailed(ResonantError):
    """The receiver did not answer with success, or not at all."""


@dataclass
class UnexpectedStatus(SendFailed):
    """A final status other than 2xx.

    Attributes:
        status_code: 100 to 599.
        retry_after: the raw ``Retry-After`` header, if any.
        excerpt: the first KiB of the answer, as text.
    """

    status_code: int
    retry_after: str | None = None
    excerpt: str = ""

    def __str__(self) -> str:
        return f"the endpoint answered {self.status_code}"


@dataclass
class RunRefused(SendFailed):
    """Prefect refuses to start a flow run, and would refuse it again.

    Attributes:
        what: the thing that is refused.
        reason: Prefect's reason, on one line.
        status_code: of its answer; None without one.
    """

    what: ClassVar[str] = "the run"
    reason: str
    status_code: int | None = None

    def __str__(self) -> str:
        return self.reason


class EventRefused(RunRefused):
    """Prefect permanently refuses an event, or would acknowledge and lose it."""

    what = "the event"


class DeploymentMissing(RunRefused):
    """Prefect has no such deployment."""


class PrefectDenied(RunRefused):
    """Prefect refuses the API key or the password of the sender."""


@dataclass
class RunNotCompleted(SendFailed):
    """The flow run of an event exists, but it has not completed.

    Attributes:
        problem: on one line.
        status_code: of Prefect's answer; None without one.
        excerpt: the run.
    """

    problem: str
    status_code: int | None
    excerpt: str

    def __str__(self) -> str:
        return self.problem


class Uncounted(ResonantError):
    """A failed attempt that is not counted in ``max_attempts``.

    Attributes:
        free_wait: the time until the next attempt, in seconds.
    """

    free_wait: float


@dataclass
class RunUnfinished(RunNotCompleted, Uncounted):
    """The run has not ended yet."""

    free_wait: float


@dataclass
class RunUnseen(RunNotCompleted, Uncounted):
    """Prefect did not answer a look at the run; the cause decides the classification."""

    free_wait: float


class RunOverdue(RunNotCompleted):
    """The run has not ended within the longest wait."""


class RunFailed(RunNotCompleted):
    """The run ended with an error, or by its timeout."""


class RunCrashed(RunNotCompleted):
    """The run was lost with its process or machine."""


class RunCancelled(RunNotCompleted):
    """The run was cancelled, by an operator or a concurrency limit."""


class NotReady(ResonantError):
    """Nothing can be sent to an endpoint now. Neither the event nor its endpoint is at fault.

    Attributes:
        wait: the time until the next attempt, in seconds.
    """

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message)
        self.wait = wait


class TokenUnavailable(NotReady, Uncounted):
    """There is no OAuth token to send with. Neither the event nor its endpoint is at fault."""

    def __init__(self, message: str, wait: float) -> None:
        super().__init__(message, wait)
        self.free_wait = wait


class SettingsError(ResonantError):
    """A setting in the environment is malformed or missing."""


class UnknownPolicy(SettingsError, ValueError):
    """No retry policy has that name."""


class ServerError(ResonantError):
    """The Prefect server cannot be reached, or does not start."""


class ServerGone(ResonantError):
    """The Prefect server became unreachable, or stayed too busy to answer."""


class PrefectChanged(ResonantError):
    """The installed Prefect lacks a name that Resonant uses."""


class BootstrapFailed(ResonantError):
    """The deployments of prefect.yaml could not be applied."""


class EmptySelection(ResonantError):
    """The selection is empty, but ``everything`` is not set."""


class ArchiveError(ResonantError):
    """The archive cannot be written; rows that were not archived were not purged."""


class InitError(ResonantError):
    """The flows cannot be copied."""
