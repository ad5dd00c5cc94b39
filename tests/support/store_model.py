"""A plain model of the store, to compare with the real one."""

import re
from collections import Counter
from dataclasses import dataclass, field, fields
from fnmatch import fnmatch
from typing import Any

from resonant.delivery.retry import GiveUp, Park
from resonant.events import DeadLetter, EventKey, LeaseKey
from resonant.store import Outcome
from resonant.store.counts.sketches import Labels
from resonant.store.views.selection import Selection

LEASE_SECONDS = 60.0
HASHED = "a hash of source and id"
CRASHES_BEFORE_GIVING_UP = 5


@dataclass
class Known:
    """A delivery in the model; all fields except the history are columns of its row."""

    id: int
    event_id: str
    source: str
    event_type: str
    endpoint: str
    accepted_at: float
    round_started_at: float
    next_attempt_at: float | None
    available_at: float | None
    status: str = "pending"
    round: int = 1
    round_attempts: int = 0
    crashes: int = 0
    attempts: int = 0
    first_attempt_at: float | None = None
    last_delay: float | None = None
    backoff_until: float | None = None
    finished_at: float | None = None
    lease_owner: str | None = None
    lease_token: int = 0
    sending: bool = False
    reason: str | None = None
    category: str | None = None
    code: str | None = None
    status_code: int | None = None
    replayed_to: str | None = None
    history: list[tuple[Any, ...]] = field(default_factory=list)
    said: set[tuple[int, float]] = field(default_factory=set)

    @property
    def identity(self) -> EventKey:
        return EventKey(self.source, self.event_id)

    @property
    def is_final(self) -> bool:
        return self.status in ("delivered", "dead_letter")

    @property
    def cause(self) -> tuple[str, ...]:
        return self.endpoint, self.event_type, self.reason or "", self.category or "", self.code or ""

    @property
    def is_leased(self) -> bool:
        return self.lease_owner is not None

    def is_held_with(self, lease) -> bool:
        return self.is_leased and self.lease_token == lease.token

    def lease_to(self, owner: str, now: float) -> None:
        self.lease_owner, self.lease_token, self.sending = owner, self.lease_token + 1, False
        self.available_at = now + LEASE_SECONDS

    def hand_back(self, now: float) -> None:
        self.lease_owner, self.sending = None, False
        if not self.attempts:
            self.first_attempt_at = None
        self.available_at = now if self.next_attempt_at is None else self.next_attempt_at

    def end(self, status: str, reason: str | None, now: float) -> None:
        self.status, self.reason, self.finished_at = status, reason, now
        self.lease_owner = self.available_at = self.next_attempt_at = self.backoff_until = None


def is_selected(record: Known | DeadLetter, selection: Selection, moment: float) -> bool | None:
    """Return whether a selection selects a delivery; None if only the database knows, for case differences beyond ASCII.

    Args:
        record: the delivery.
        selection: the selection.
        moment: when it was given up, or accepted if it is unfinished.
    """
    for name in ("endpoint", "code", "reason"):
        wanted = getattr(selection, name)
        if wanted is not None and (not wanted or getattr(record, name) != wanted):
            return False
    pattern = "".join(_GLOB.get(each, re.escape(each)) for each in selection.event_type or "*")
    if (
        (selection.ids and record.event_id not in selection.ids)
        or selection.source not in (None, record.source)
        or (selection.event_type == "" or not re.fullmatch(pattern, record.event_type, re.DOTALL))
        or selection.category not in (None, record.category or "unknown")
        or (selection.since is not None and moment < selection.since)
        or (selection.until is not None and moment >= selection.until)
    ):
        return False
    return selection.text is None or _contains((record.error or "", record.error_type or ""), selection.text)


def _contains(texts: tuple[str, str], part: str) -> bool | None:
    if any(_folded(part) in _folded(each) for each in texts):
        return True
    return False if all(each.isascii() for each in (part, *texts)) else None


def _folded(text: str) -> str:
    # SQLite folds only ASCII, PostgreSQL the letters of its locale: there "İ" is found in "time".
    return re.sub("[A-Z]", lambda found: found[0].lower(), text)


_GLOB = {"*": ".*", "?": "."}
COLUMNS = [each.name for each in fields(Known) if each.name not in ("history", "said")]
ATTEMPT_COLUMNS = ["number", "round", "result", "late", "decision", "owner", "code", "early"]


class Model:
    """A model of the store in plain Python, without transactions."""

    def __init__(self) -> None:
        self.deliveries: dict[int, Known] = {}
        self.webhook_ids: dict[EventKey, str] = {}
        # Pairs of an endpoint and a glob.
        self.subscriptions: set[tuple[str, str]] = set()
        self.accepted: Counter[str] = Counter()
        self.purged: Counter[str] = Counter()
        self.counted: Counter[Labels] = Counter()

    def all(self, **wanted: Any) -> list[Known]:
        """Return the deliveries that have these values, in the order of their ids."""
        found = [self.deliveries[delivery_id] for delivery_id in sorted(self.deliveries)]
        return [each for each in found if all(getattr(each, name) == wanted[name] for name in wanted)]

    def held(self, lease) -> Known | None:
        known = self.deliveries.get(lease.delivery_id)
        return known if known is not None and known.is_held_with(lease) else None

    def count(
        self, measure: str, known: Known, result: str = "", category: Any = None, code: Any = None
    ) -> None:
        self.counted[Labels(measure, known.endpoint, "", result, category or "", code or "")] += 1

    def accept(self, delivery_id: int, event, endpoint: str, now: float) -> None:
        """Accept an event for an endpoint. New events of a batch are accepted in the order of their ids and sources."""
        is_free = "." not in event.id and event.id not in self.webhook_ids.values()
        self.webhook_ids.setdefault(event.identity, event.id if is_free else HASHED)
        known = Known(delivery_id, event.id, event.source, event.type, endpoint, now, now, now, now)
        self.deliveries[delivery_id] = known
        self.accepted[endpoint] += 1

    def route(self, event) -> tuple[set[str], bool]:
        """Return the endpoints of an event that is given without one, and whether it is new."""
        known = {each.endpoint for each in self.all(source=event.source, event_id=event.id)}
        return known or {to for to, glob in self.subscriptions if fnmatch(event.type, glob)}, not known

    def claimable(self, endpoint: str, now: float) -> list[Known]:
        return [
            each
            for each in self.all(endpoint=endpoint, lease_owner=None)
            if not each.is_final and each.available_at <= now
        ]

    def begin(self, leases, now: float) -> set[LeaseKey]:
        begun = set()
        for lease in leases:
            if known := self.held(lease):
                known.sending = True
                known.first_attempt_at = now if known.first_attempt_at is None else known.first_attempt_at
                begun.add(lease.key)
        return begun

    def record(self, outcomes, now: float) -> set[LeaseKey]:
        """Accept outcomes only from the holder of the lease; a repeated outcome counts as recorded."""
        return {outcome.lease.key for outcome in outcomes if self._record(outcome, now)}

    def _record(self, outcome: Outcome, now: float) -> bool:  # noqa: PLR0911 - one return per case
        lease, attempt, decision = outcome.lease, outcome.attempt, outcome.decision
        known = self.deliveries.get(lease.delivery_id)
        name = (attempt.number, attempt.started_at)
        if known is None:
            return False
        if known.lease_token == lease.token and known.attempts >= attempt.number:
            return True
        if name in known.said:
            return False
        known.said.add(name)
        stands = known.is_held_with(lease)
        line = {name: getattr(attempt, name) for name in ATTEMPT_COLUMNS} | {"late": not stands}
        known.history.append(tuple(line.values()))
        if not stands:
            return False
        known.attempts = attempt.number
        if is_charged := getattr(decision, "charged", True):
            known.round_attempts, known.backoff_until = known.round_attempts + 1, None
        known.sending, known.status_code = False, attempt.status_code
        self.count("attempt", known, attempt.result, attempt.category, attempt.code)
        if decision is None:
            known.end("delivered", None, now)
            self.count("delivery", known, "delivered")
            return True
        known.category, known.code = attempt.category, attempt.code
        if isinstance(decision, GiveUp):
            known.end("dead_letter", decision.reason, now)
            self.count("delivery", known, "dead_letter", known.category, known.code)
            return True
        known.status, known.next_attempt_at = "retrying", decision.next_attempt_at
        if isinstance(decision, Park):
            known.hand_back(now)
        if is_charged:
            known.last_delay = getattr(decision, "own_delay", decision.delay)
            known.backoff_until = getattr(decision, "backoff_until", None)
        self.count("delay", known)
        return True

    def lose(self, known: Known, now: float) -> None:
        """Rescue a lease; only a send that had begun counts as an attempt."""
        known.lease_token += 1
        owner, was_sending, first_attempt_at = known.lease_owner, known.sending, known.first_attempt_at
        known.hand_back(now)
        if not was_sending:
            return
        known.first_attempt_at = first_attempt_at
        known.attempts, known.crashes = known.attempts + 1, known.crashes + 1
        known.category, known.code, known.status_code = "unknown", "worker_lost", None
        self.count("attempt", known, "lost", known.category, known.code)
        decision = "give_up" if known.crashes == CRASHES_BEFORE_GIVING_UP else "retry"
        known.history.append((known.attempts, known.round, "lost", False, decision, owner, known.code, False))
        if decision == "give_up":
            known.end("dead_letter", "crashed", now)
            self.count("delivery", known, "dead_letter", known.category, known.code)
        else:
            known.status, known.next_attempt_at, known.available_at = "retrying", now, now

    def replayable(self, selection: Selection, now: float, *, include_permanent: bool) -> list[Known]:
        found = [
            each
            for each in self.all(status="dead_letter")
            if each.finished_at < now
            and is_selected(each, selection, each.finished_at)
            and (include_permanent or each.category != "permanent")
        ]
        return sorted(found, key=lambda each: (each.finished_at, each.id))

    def elsewhere(self, dead: list[Known], to: str) -> list[Known]:
        """Return the dead letters whose event has no delivery to this endpoint."""
        there = {each.identity for each in self.all(endpoint=to)}
        return [each for each in dead if each.identity not in there]

    def replay(self, known: Known, owner: str, now: float) -> None:
        known.status = "retrying" if known.attempts else "pending"
        known.round, known.round_started_at, known.round_attempts = known.round + 1, now, 0
        known.crashes, known.last_delay, known.backoff_until = 0, None, None
        known.reason, known.finished_at, known.next_attempt_at = None, None, now
        known.lease_to(owner, now)
        self.count("replay", known, "replayed")

    def cancellable(self, selection: Selection) -> list[Known]:
        return [
            each
            for each in self.all(sending=False)
            if not each.is_final and is_selected(each, selection, each.accepted_at)
        ]

    def cancel(self, known: Known, now: float) -> None:
        known.lease_token += 1
        known.end("dead_letter", "cancelled", now)
        self.count("delivery", known, "dead_letter", known.category, known.code)

    def parked(self, endpoint: str, now: float) -> list[Known]:
        found = [
            each
            for each in self.all(endpoint=endpoint, lease_owner=None)
            if not each.is_final and each.available_at > now
        ]
        return sorted(found, key=lambda each: (each.available_at, each.id))

    def make_due(self, known: Known, now: float) -> None:
        if known.backoff_until is None:
            known.backoff_until = known.next_attempt_at
        known.next_attempt_at = known.available_at = now

    def purgeable(self, status: str, ended_before: float) -> list[Known]:
        found = [each for each in self.all(status=status) if each.finished_at <= ended_before]
        return sorted(found, key=lambda each: (each.finished_at, each.id))

    def purge(self, known: Known) -> None:
        del self.deliveries[known.id]
        if not self.all(event_id=known.event_id, source=known.source):
            del self.webhook_ids[known.identity]
        self.purged[known.endpoint] += 1
        self.count("purge", known, known.status)
