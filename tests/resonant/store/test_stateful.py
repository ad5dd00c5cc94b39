"""Whatever is done, in whatever order: the store agrees with a plain model of it, and what must always hold holds.

Hypothesis makes up the workers, the operators and the crashes. After each step everything in the store is compared with
the model; a failure is shown as the program that led to it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field, fields
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select, text

from resonant.dead_letters import operations
from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.errors import ConflictingEvent
from resonant.events import Event, Lease, LeaseKey
from resonant.store import Outcome, acceptances, reads, rescue, schema
from resonant.store import leases as lease_queries
from resonant.store.enqueue import enqueue
from resonant.store.outcomes import record
from resonant.store.selection import Selection
from resonant.testing import FixedClock
from support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Callable

START = 1_700_000_000.0
LEASE_SECONDS = 60.0
CRASHES_BEFORE_GIVING_UP = 5
MOST_UNFINISHED = 6

EVENT_IDS = [f"evt_{number}" for number in range(8)]
TYPES = ["order.paid", "order.sent"]
ENDPOINTS = ["orders", "audit"]
OWNERS = ["ann", "bob"]
REASONS = ["permanent", "exhausted", "expired"]

# Halves of seconds: binary fractions, so that the model's sums are exactly the store's.
delays = st.sampled_from([0.0, 0.5, 5.0, 100.0])
endpoints = st.sampled_from(ENDPOINTS)
owners = st.sampled_from(OWNERS)
limits = st.sampled_from([100, 1, 2])
batches = st.lists(st.sampled_from(EVENT_IDS), min_size=1, max_size=4, unique=True)
filters = st.one_of(
    st.builds(Selection, endpoint=endpoints),
    st.builds(Selection, event_type=st.sampled_from(TYPES)),
    st.builds(Selection, code=st.sampled_from(["http_503", "http_400", "worker_lost"])),
    st.builds(Selection, category=st.sampled_from(["transient", "permanent", "unknown"])),
    st.builds(Selection, reason=st.sampled_from([*REASONS, "crashed", "cancelled"])),
    st.builds(Selection, ids=batches.map(tuple)),
)
# Half of them everything: a narrow one often finds nothing.
selections = st.booleans().flatmap(lambda is_narrow: filters if is_narrow else st.just(Selection()))


@dataclass
class Known:
    """What the model knows of a delivery; all but the history are columns of its row."""

    id: int
    event_id: str
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
    finished_at: float | None = None
    lease_owner: str | None = None
    lease_token: int = 0
    sending: bool = False
    reason: str | None = None
    category: str | None = None
    code: str | None = None
    status_code: int | None = None
    history: list[tuple[Any, ...]] = field(default_factory=list)
    said: set[tuple[int, float]] = field(default_factory=set)

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

    def is_selected_by(self, selection: Selection) -> bool:
        if selection.ids and self.event_id not in selection.ids:
            return False
        names = ("endpoint", "event_type", "code", "reason")
        if any(getattr(selection, name) not in (None, getattr(self, name)) for name in names):
            return False
        return selection.category in (None, self.category or "unknown")

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
        self.lease_owner = self.available_at = self.next_attempt_at = None


COLUMNS = [each.name for each in fields(Known) if each.name not in ("history", "said")]
ATTEMPT_COLUMNS = ["number", "round", "result", "late", "decision", "owner", "code"]


class Model:
    """The store as it should be, in plain Python, without transactions."""

    def __init__(self) -> None:
        self.deliveries: dict[int, Known] = {}
        self.accepted: Counter[str] = Counter()
        self.purged: Counter[str] = Counter()
        self.gone_at: dict[str, float] = {}
        self.counted: Counter[tuple[str, ...]] = Counter()

    def all(self, **wanted: Any) -> list[Known]:
        """Return the deliveries that have these values, in the order of their ids."""
        found = [self.deliveries[delivery_id] for delivery_id in sorted(self.deliveries)]
        return [each for each in found if all(getattr(each, name) == wanted[name] for name in wanted)]

    def held(self, lease) -> Known | None:
        known = self.deliveries.get(lease.delivery_id)
        return known if known is not None and known.is_held_with(lease) else None

    def count(self, measure: str, known: Known, result: str, category: Any = None, code: Any = None) -> None:
        self.counted[measure, known.endpoint, known.event_type, result, category or "", code or ""] += 1

    def accept(self, delivery_id: int, event, endpoint: str, now: float) -> None:
        known = Known(delivery_id, event.id, event.type, endpoint, now, now, now, now)
        self.deliveries[delivery_id] = known
        self.accepted[endpoint] += 1
        self.count("accepted", known, "accepted")

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
        """Only what is said by the holder of the lease stands; what is said again was said before."""
        return {outcome.lease.key for outcome in outcomes if self._record(outcome, now)}

    def _record(self, outcome: Outcome, now: float) -> bool:  # noqa: PLR0911 - as many ways as there are
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
        known.attempts, known.round_attempts = attempt.number, known.round_attempts + 1
        known.sending, known.status_code = False, attempt.status_code
        self.count("attempt", known, attempt.result, attempt.category, attempt.code)
        if outcome.gone:
            self.gone_at.setdefault(known.endpoint, now)
        if decision is None:
            known.end("delivered", None, now)
            self.count("delivery", known, "delivered")
            return True
        known.category, known.code = attempt.category, attempt.code
        if isinstance(decision, GiveUp):
            known.end("dead_letter", decision.reason, now)
            self.count("delivery", known, "dead_letter", known.category, known.code)
            return True
        known.status, known.last_delay = "retrying", decision.delay
        known.next_attempt_at = decision.next_attempt_at
        if isinstance(decision, Park):
            known.hand_back(now)
        self.count("retry_delay", known, attempt.decision, known.category, known.code)
        return True

    def lose(self, known: Known, now: float) -> None:
        """Rescue a lease; only a send that had begun is charged."""
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
        known.history.append((known.attempts, known.round, "lost", False, decision, owner, known.code))
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
            and each.is_selected_by(selection)
            and (include_permanent or each.category != "permanent")
        ]
        return sorted(found, key=lambda each: (each.finished_at, each.id))

    def replay(self, known: Known, owner: str, now: float) -> None:
        known.status = "retrying" if known.attempts else "pending"
        known.round, known.round_started_at, known.round_attempts = known.round + 1, now, 0
        known.crashes, known.last_delay = 0, None
        known.reason, known.finished_at, known.next_attempt_at = None, None, now
        known.lease_to(owner, now)
        self.count("replay", known, "replayed")

    def cancellable(self, selection: Selection) -> list[Known]:
        return [
            each for each in self.all(sending=False) if not each.is_final and each.is_selected_by(selection)
        ]

    def cancel(self, known: Known, now: float) -> None:
        known.lease_token += 1
        known.end("dead_letter", "cancelled", now)
        self.count("delivery", known, "dead_letter", known.category, known.code)

    def purgeable(self, status: str, ended_before: float) -> list[Known]:
        found = [each for each in self.all(status=status) if each.finished_at <= ended_before]
        return sorted(found, key=lambda each: (each.finished_at, each.id))

    def purge(self, known: Known) -> None:
        del self.deliveries[known.id]
        self.purged[known.endpoint] += 1
        self.count("purge", known, known.status)


class HalfWay(Exception):
    """Raised within a transaction that has written, and must leave nothing."""


class Deed(NamedTuple):
    """Something to do to the store, shown as the call that it is."""

    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class Kind(NamedTuple):
    """A kind of deed: when there is any point in it, and how to make one up."""

    is_possible: Callable[[Machine], object]
    deeds: st.SearchStrategy[Deed]


KINDS: list[Kind] = []


def deed(*, where: Callable[[Machine], object], weight: int = 1, **arguments: st.SearchStrategy[Any]):
    """Let a method be something that the machine may do, with arguments made up."""

    def register(method):
        made_up = st.fixed_dictionaries(arguments).map(partial(Deed, method.__name__))
        KINDS.extend([Kind(where, made_up)] * weight)
        return method

    return register


def some(**wanted: Any) -> Callable[[Machine], object]:
    """Return the condition that the store has a delivery like this: most deeds would be idle otherwise."""
    return lambda machine: machine.model.all(**wanted)


def is_remembered(machine: Machine) -> object:
    return machine.remembered


def has_room(machine: Machine) -> object:
    return len(machine.model.all(is_final=False)) < MOST_UNFINISHED


# Named by delivery and token.
leases = st.runner().flatmap(lambda machine: st.sampled_from(list(machine.remembered)))
lease_batches = st.lists(leases, min_size=1, max_size=4, unique=True)


class Machine(RuleBasedStateMachine):
    """Workers, operators and producers on one store; what workers remember is in time, or too late."""

    def __init__(self, desk) -> None:
        super().__init__()
        self.desk = desk
        self.clock = desk.clock = desk.store.clock = FixedClock(START)
        self.model = Model()
        self.remembered: dict[tuple[int, int], Lease] = {}
        self.tokens_given: set[tuple[int, int]] = set()
        self.sends = itertools.count()
        self.said: list[Outcome] = []
        self.seen: dict[str, Any] = {"tokens": {}, "histories": {}, "rollups": {}}
        self.write(empty)

    # One rule: of many, Hypothesis switches about half off in each example, and these mean little without each other.
    @rule(deed=st.runner().flatmap(lambda machine: machine.possible_deeds()))
    def do(self, deed):
        getattr(self, deed.name)(**deed.arguments)

    def possible_deeds(self) -> st.SearchStrategy[Deed]:
        possible = [kind.deeds for kind in KINDS if kind.is_possible(self)]
        return st.sampled_from(possible).flatmap(lambda deeds: deeds)

    def write(self, operation, *args, **options):
        return self.run(self.desk.store.write(operation, *args, **options))

    def run(self, coroutine):
        # In the desk's loop, without the care for Ctrl-C that its runner takes each time: this is run thousands of times.
        return self.desk.runner.get_loop().run_until_complete(coroutine)

    # What a producer does.

    @initialize(event_ids=batches, limit=limits)
    def begin_at_work(self, event_ids, limit):
        for endpoint in ENDPOINTS:
            self.enqueue(event_ids, endpoint)
            self.claim(endpoint, "ann", limit)

    @deed(where=has_room, event_ids=batches, endpoint=endpoints)
    def enqueue(self, event_ids, endpoint):
        now = self.clock()
        known = {each.event_id for each in self.model.all(endpoint=endpoint)}
        new = [event_id for event_id in event_ids if event_id not in known]
        accepted = self.write(enqueue, [make(each) for each in event_ids], endpoint, now=now)
        assert (accepted.accepted, accepted.known) == (len(new), len(event_ids) - len(new))
        ids = {row["event_id"]: row["id"] for row in self.rows_of(endpoint)}
        for event_id in new:
            self.model.accept(ids[event_id], make(event_id), endpoint, now)

    @deed(where=some(), limit=limits)
    def fold(self, limit):
        self.write(acceptances.fold, limit=limit)

    @deed(where=is_remembered, event_ids=batches, endpoint=endpoints)
    def enqueue_a_known_id_with_other_content(self, event_ids, endpoint):
        known = min((each.event_id for each in self.model.all()), default=None)
        if known is None:
            return
        given = [*map(make, event_ids), make(known, "other content")]
        with pytest.raises(ConflictingEvent):
            self.write(enqueue, given, endpoint, now=self.clock())

    # What a worker does, in time or too late.

    @deed(
        where=some(is_final=False),
        endpoint=endpoints,
        owner=owners,
        limit=limits,
        seconds=st.sampled_from([0.0, LEASE_SECONDS]),
    )
    def claim(self, endpoint, owner, limit, seconds=0.0):
        self.clock.advance(seconds)  # an expired lease is not claimed: what it costs is decided by the rescue
        now = self.clock()
        due = self.model.claimable(endpoint, now)
        claimed = self.write(
            lease_queries.claim, endpoint, owner=owner, limit=limit, now=now, lease_seconds=LEASE_SECONDS
        )
        taken = [self.model.deliveries[lease.delivery_id] for lease in claimed]
        left = [each for each in due if each not in taken]
        assert len(taken) == min(limit, len(due))
        assert all(each in due for each in taken), "what is final, leased or not due was claimed"
        assert not (taken and left) or longest_wait(taken) <= min(each.available_at for each in left)
        for known in taken:
            known.lease_to(owner, now)
        self.remember(claimed, taken)
        return claimed

    @deed(where=is_remembered, weight=2, batch=lease_batches)
    def begin(self, batch):
        now = self.clock()
        leases = [self.remembered[each] for each in batch]
        assert self.write(lease_queries.begin, leases, now=now) == self.model.begin(leases, now)

    @deed(where=is_remembered, weight=2, lease=leases, begins=st.booleans())
    def deliver(self, lease, begins):
        self.end_attempt(lease, None, begins=begins)

    @deed(where=is_remembered, lease=leases, begins=st.booleans(), delay=delays)
    def fail_and_wait_here(self, lease, begins, delay):
        self.end_attempt(lease, Retry(delay, self.clock() + delay), begins=begins)

    @deed(where=is_remembered, weight=2, lease=leases, begins=st.booleans(), delay=delays)
    def fail_and_park(self, lease, begins, delay):
        self.end_attempt(lease, Park(delay, self.clock() + delay), begins=begins)

    @deed(
        where=is_remembered,
        weight=3,
        lease=leases,
        begins=st.booleans(),
        reason=st.sampled_from(REASONS),
        gone=st.booleans(),
    )
    def fail_for_good(self, lease, begins, reason, gone):
        self.end_attempt(lease, GiveUp(reason), begins=begins, gone=gone)

    def end_attempt(self, lease, decision: Decision | None, *, begins: bool, gone: bool = False):
        """Send and record, and record again as if the answer had got lost."""
        if begins:
            self.begin([lease])
        held = self.remembered.pop(lease)
        outcome = self.outcome(held, decision, gone=gone)
        if not (stands := self.record(outcome)):
            return
        self.clock.advance(0.5)
        assert self.record(outcome) == stands, "what was said again was not known any more"
        if isinstance(decision, Retry):
            self.remembered[lease] = self.desk.counted_on(held, decision)

    @deed(where=lambda machine: bool(machine.said), back=st.integers(1, 9))
    def say_again(self, back):
        """A worker that never heard the answer says it once more, whoever has the delivery by now."""
        self.record(self.said[-min(back, len(self.said))])

    @deed(where=is_remembered, batch=lease_batches)
    def deliver_together(self, batch):
        """Late ones and timely ones in one write; their workers stay, and may come back later still."""
        self.record(*(self.outcome(self.remembered[each], None) for each in batch))

    @deed(where=is_remembered, batch=lease_batches)
    def release(self, batch):
        now = self.clock()
        leases = [self.remembered[each] for each in batch]
        self.write(lease_queries.release, leases, now=now)
        for known in filter(None, map(self.model.held, leases)):
            known.hand_back(now)

    @deed(where=some(is_leased=True), owner=owners)
    def release_all(self, owner):
        now = self.clock()
        held = self.model.all(lease_owner=owner)
        assert self.write(lease_queries.release_all, owner, now=now) == len(held)
        for known in held:
            known.hand_back(now)

    @deed(where=some(is_leased=True), owner=owners)
    def renew(self, owner):
        now = self.clock()
        held = self.model.all(lease_owner=owner)
        assert self.write(lease_queries.renew, owner, now=now, lease_seconds=LEASE_SECONDS) == len(held)
        for known in held:
            known.available_at = now + LEASE_SECONDS

    @deed(where=is_remembered, lease=leases)
    def crash(self, lease):
        """A worker forgets what it holds, and nobody else knows."""
        del self.remembered[lease]

    # Time, and what follows from it.

    @deed(where=some(), seconds=st.sampled_from([0.5, 5.0, 61.0, 1_000.0]))
    def pass_time(self, seconds):
        self.clock.advance(seconds)

    @deed(
        where=some(is_leased=True),
        endpoint=st.none() | endpoints,
        seconds=st.sampled_from([0.0, LEASE_SECONDS]),
    )
    def rescue(self, endpoint, seconds):
        self.clock.advance(seconds)
        now = self.clock()
        lost = [each for each in self.model.all() if each.is_leased and each.available_at <= now]
        lost = [each for each in lost if endpoint in (None, each.endpoint)]
        assert self.write(rescue.rescue, now=now, endpoint=endpoint) == len(lost)
        for known in lost:
            self.model.lose(known, now)

    @deed(where=some(is_leased=True), owner=owners)
    def recover_from_an_owner_that_is_over(self, owner):
        now = self.clock()
        lost = self.model.all(lease_owner=owner)
        assert self.write(rescue.rescue, now=now, owners=[owner]) == len(lost)
        for known in lost:
            self.model.lose(known, now)

    @deed(
        where=is_remembered,
        weight=2,
        lease=leases,
        owner=owners,
        times=st.integers(1, CRASHES_BEFORE_GIVING_UP),
    )
    def lose_workers_while_they_send(self, lease, owner, times):
        """One worker after the other dies of the same delivery."""
        known = self.model.held(self.remembered[lease])
        for _ in range(times if known else 0):
            crashes = known.crashes
            self.begin([lease])
            self.rescue(None, LEASE_SECONDS)
            assert known.crashes == crashes + 1
            assert (known.reason == "crashed") == (known.crashes == CRASHES_BEFORE_GIVING_UP)
            if known.is_final:
                return
            self.claim(known.endpoint, owner, 100)
            lease = (known.id, known.lease_token)

    # What an operator does.

    @deed(
        where=some(status="dead_letter"),
        weight=3,
        selection=selections,
        owner=owners,
        limit=limits,
        include_permanent=st.booleans(),
    )
    def replay(self, selection, owner, limit, include_permanent):
        self.clock.advance(0.5)  # only what died before is replayed
        now = self.clock()
        dead = self.model.replayable(selection, now, include_permanent=include_permanent)[:limit]
        taken = self.write(replay, selection, owner, limit, now, include_permanent=include_permanent)
        assert [lease.delivery_id for lease in taken] == [known.id for known in dead], "the oldest first"
        for known in dead:
            self.model.replay(known, owner, now)
        self.remember(taken, dead)

    @deed(where=is_remembered, weight=2, selection=selections, limit=limits, begins=st.booleans())
    def cancel(self, selection, limit, begins):
        if begins:
            self.begin(list(self.remembered))  # what is being sent is left alone
        now = self.clock()
        unfinished = self.model.cancellable(selection)[:limit]
        assert self.write(cancel, selection, limit, now) == len(unfinished)
        for known in unfinished:
            self.model.cancel(known, now)

    @deed(
        where=some(is_final=True),
        weight=2,
        status=st.sampled_from(["dead_letter", "delivered"]),
        age=st.sampled_from([0.0, 5.0]),
        limit=limits,
    )
    def purge(self, status, age, limit):
        now = self.clock()
        old = self.model.purgeable(status, now - age)[:limit]
        assert self.write(purge, status, now - age, limit, now) == len(old)
        for known in old:
            self.model.purge(known)

    # What goes wrong.

    @deed(where=is_remembered, endpoint=endpoints, steps=st.integers(1, 9))
    def raise_half_way(self, endpoint, steps):
        """A transaction that raises takes back all it did, whatever that was."""
        now = self.clock() + 1_000  # when every lease is over, and everything is due
        claim = partial(lease_queries.claim, owner="ann", limit=100, now=now, lease_seconds=LEASE_SECONDS)
        outcomes = [self.desk.delivered(lease) for lease in self.remembered.values()]
        operations = [
            lambda connection: acceptances.fold(connection, limit=100),
            lambda connection: enqueue(connection, map(make, EVENT_IDS), endpoint, now=now),
            lambda connection: lease_queries.begin(connection, claim(connection, endpoint)[:2], now=now),
            lambda connection: record(connection, outcomes, now=now),
            lambda connection: rescue.rescue(connection, now=now + LEASE_SECONDS),
            lambda connection: replay(connection, Selection(), "ann", 1, now, include_permanent=True),
            lambda connection: cancel(connection, Selection(), 1, now),
            lambda connection: purge(connection, "dead_letter", now, 100, now),
            lambda connection: purge(connection, "delivered", now, 100, now),
        ]

        def fail(connection):
            for operation in operations[-steps:]:
                operation(connection)
            raise HalfWay

        with pytest.raises(HalfWay):
            self.write(fail)

    # What must always hold.

    @invariant()
    def the_store_is_as_the_model_says(self):
        found = self.run(self.desk.store.read(look, self.clock()))
        deliveries, model = found["deliveries"], self.model
        assert {row["id"]: {name: row[name] for name in COLUMNS} for row in deliveries} == {
            each.id: {name: getattr(each, name) for name in COLUMNS} for each in model.all()
        }
        assert found["histories"] == {each.id: each.history for each in model.all() if each.history}
        assert found["causes"] == {each.id: each.cause for each in model.all(status="dead_letter")}
        assert set(found["events"]) == {each.event_id for each in model.all()}
        assert found["endpoints"] == {
            name: (model.accepted[name], model.purged[name], model.gone_at.get(name))
            for name in model.accepted
        }
        self.check_balance(found["status"])
        self.check_counters(found["rollups"])
        self.check_nothing_fell(found)

    def check_balance(self, status):
        kinds = Counter(each.status for each in self.model.all())
        counted = [status.pending, status.retrying, status.delivered, status.dead_letter, status.purged]
        assert status.balanced
        assert status.accepted == sum(counted) == self.model.accepted.total()
        assert counted == [
            *(kinds[name] for name in ("pending", "retrying", "delivered", "dead_letter")),
            self.model.purged.total(),
        ]
        assert status.in_flight == sum(
            each.is_leased and each.available_at > self.clock() for each in self.model.all()
        )
        assert status.by_category == Counter(
            each.category or "unknown" for each in self.model.all(status="dead_letter")
        )

    def check_counters(self, rollups):
        counted: Counter[tuple[str, ...]] = Counter()
        for (measure, _minute, *labels, _le), (count, _total) in rollups.items():
            counted[measure, *labels] += count
        assert counted == self.model.counted

    def check_nothing_fell(self, found):
        """Tokens and counters only grow; a history goes on where it was, until a purge takes all of it."""
        seen = self.seen
        tokens = {row["id"]: row["lease_token"] for row in found["deliveries"]}
        histories = {delivery_id: found["histories"].get(delivery_id, []) for delivery_id in tokens}
        for delivery_id in tokens.keys() & seen["tokens"].keys():
            before = seen["histories"][delivery_id]
            assert tokens[delivery_id] >= seen["tokens"][delivery_id]
            assert histories[delivery_id][: len(before)] == before
        for key, (count, total) in seen["rollups"].items():
            assert found["rollups"][key][0] >= count
            assert found["rollups"][key][1] >= total
        self.seen = {"tokens": tokens, "histories": histories, "rollups": found["rollups"]}

    def remember(self, leases, taken):
        """Keep what was claimed, and see that it is what the model says, under a token that nobody ever had."""
        for lease, known in zip(leases, taken, strict=True):
            name = (lease.delivery_id, lease.token)
            assert name not in self.tokens_given, "a token was given twice"
            self.tokens_given.add(name)
            self.remembered[name] = lease
            assert name == (known.id, known.lease_token)
            assert lease.owner == known.lease_owner
            assert lease.event == make(known.event_id, time=lease.event.time)
            for fact in ("endpoint", "attempts", "round", "round_attempts", "round_started_at", "last_delay"):
                assert getattr(lease, fact) == getattr(known, fact), fact

    def outcome(self, lease, decision: Decision | None, *, gone: bool = False) -> Outcome:
        facts: dict[str, Any] = {
            "started_at": START + next(self.sends)
        }  # no two sends start in the same moment
        if decision is None:
            return self.desk.delivered(lease, **facts)
        if decision == GiveUp("permanent"):
            facts |= {"category": "permanent", "code": "http_400", "status_code": 400}
        return self.desk.failed(lease, decision, gone=gone, **facts)

    def record(self, *outcomes: Outcome) -> set[LeaseKey]:
        now = self.clock()
        stands = self.write(record, outcomes, now=now)
        assert stands == self.model.record(outcomes, now)
        self.said += outcomes
        return stands

    def rows_of(self, endpoint):
        return [row for row in self.desk.rows(schema.deliveries) if row["endpoint"] == endpoint]


def make(event_id: str, data: Any = None, time: str | None = None) -> Event:
    """Return the event with this id: always the same, unless it is given other data or a time."""
    event_type = TYPES[EVENT_IDS.index(event_id) % 2]
    return Event(id=event_id, type=event_type, source="/shop", data=data, time=time)


def longest_wait(taken: list[Known]) -> float:
    return max(each.available_at for each in taken)


def replay(connection, selection, owner, limit, now, *, include_permanent):
    return operations.replay(
        connection,
        selection,
        died_before=now,
        include_permanent=include_permanent,
        limit=limit,
        owner=owner,
        now=now,
        lease_seconds=LEASE_SECONDS,
    ).leases


def cancel(connection, selection, limit, now):
    return operations.cancel(connection, selection, limit=limit, now=now).number


def purge(connection, status, ended_before, limit, now):
    conditions = operations.purgeable(status, finished_before=ended_before)
    picked = operations.pick_final(connection, conditions, limit=limit)
    return operations.purge(connection, [key.id for key in picked], now=now)


def empty(connection) -> None:
    """Empty every table: much faster than a new database."""
    tables = [table.name for table in reversed(schema.metadata.sorted_tables)]
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY"))
        return
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(delete(table))
    # The same ids in every example: Hypothesis runs one again, and wants to draw the same from it.
    connection.execute(text("DELETE FROM sqlite_sequence"))


def look(connection, now: float) -> dict[str, Any]:
    """Read all that the model knows of, in one snapshot."""

    def rows(table, *order):
        return connection.execute(select(table).order_by(*order)).mappings().all()

    histories: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows(schema.attempts, schema.attempts.c.id):
        histories.setdefault(row["delivery_id"], []).append(tuple(row[name] for name in ATTEMPT_COLUMNS))
    causes = schema.causes.c
    of_dead_letters = select(
        *(
            schema.deliveries.c.id,
            causes.endpoint,
            causes.event_type,
            causes.reason,
            causes.category,
            causes.code,
        )
    ).where(causes.id == schema.deliveries.c.cause_id, schema.is_dead_letter)
    key = [column.name for column in schema.rollups.primary_key.columns]
    rollups = {tuple(row[name] for name in key): (row["count"], row["total"]) for row in rows(schema.rollups)}
    ledgers = {
        row["name"]: (row["accepted"], row["purged"], row["gone_at"]) for row in rows(schema.endpoints)
    }
    # Acceptances that are not folded yet count too.
    for row in rows(schema.acceptances):
        endpoint, minute = row["endpoint"], int(row["accepted_at"] // 60) * 60
        accepted, purged, gone_at = ledgers.get(endpoint, (0, 0, None))
        ledgers[endpoint] = (accepted + row["count"], purged, gone_at)
        labels = ("accepted", minute, endpoint, row["event_type"], "accepted", "", "", math.inf)
        count, total = rollups.get(labels, (0, 0.0))
        rollups[labels] = (count + row["count"], total)
    return {
        "deliveries": rows(schema.deliveries),
        "histories": histories,
        "causes": {row[0]: tuple(row[1:]) for row in connection.execute(of_dead_letters)},
        "events": [row["id"] for row in rows(schema.events)],
        "endpoints": ledgers,
        "rollups": rollups,
        "status": reads.status(connection, now=now),
    }


def test_whatever_is_done_the_store_agrees_with_a_plain_model(desk, store_url):
    run_state_machine_as_test(
        partial(Machine, desk),
        settings=settings(
            max_examples=examples(60 if store_url.startswith("sqlite") else 20),
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            # Phase.shrink would shorten the program that failed, in minutes: add it to look into one.
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
