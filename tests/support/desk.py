"""A store with a clock, and short names for the actions of a worker."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Executable, select, text

from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.purge import Chosen, Retention, purge
from resonant.dead_letters.replay import Replayed, ReplayRequest, replay_batch, take_dead_letters
from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.events import Attempt, Delivery, Event, Lease, LeaseKey
from resonant.store import Outcome, Store, WorkerStore, schema
from resonant.store.audit import audited
from resonant.store.counts.counters import read_ever
from resonant.store.counts.sketches import Labels, Sketch
from resonant.store.queue.rescue import ExpiryWatch
from resonant.store.views.selection import Selection
from resonant.testing import FixedClock

START = 1_700_000_000.0


@dataclass
class Desk:
    """A store with synchronous methods for tests."""

    store: Store
    clock: FixedClock
    runner: asyncio.Runner

    def run(self, coroutine):
        """Run it in the loop that the store belongs to."""
        return self.runner.run(coroutine)

    def read(self, operation, *args, **kwargs):
        return self.run(self.store.read(operation, *args, **kwargs))

    def write(self, operation, *args, **kwargs):
        return self.run(self.store.write(operation, *args, **kwargs))

    def execute(self, statement: Executable | str) -> None:
        """Run a statement that returns no rows, as an operator's SQL would."""
        statement = text(statement) if isinstance(statement, str) else statement
        self.write(lambda connection: connection.execute(statement) and None)

    def enqueue(self, *events: Event | str, endpoint: str = "orders", apart: float = 0.0, **options: Any):
        """Store events, at once or so many seconds apart; of a text an event with that id is made.

        Claims take those of one time in no particular order.
        """
        if apart:
            for event in events:
                self.enqueue(event, endpoint=endpoint, **options)
                self.clock.advance(apart)
            return None
        given = [self.make(event) if isinstance(event, str) else event for event in events]
        return self.run(self.store.enqueue(given, endpoint, **options))

    def claim(self, limit: int = 100, *, owner: str = "worker", endpoint: str = "orders") -> list[Lease]:
        return self.run(self.store.claim(endpoint, owner=owner, limit=limit))

    def claim_one(self, *, owner: str = "worker", endpoint: str = "orders") -> Lease:
        [lease] = self.claim(1, owner=owner, endpoint=endpoint)
        return lease

    def begin(self, *leases: Lease) -> set[LeaseKey]:
        return self.run(self.store.begin(leases))

    def record(self, *outcomes: Outcome) -> set[LeaseKey]:
        return self.run(self.store.record(outcomes))

    def deliver(self, *leases: Lease) -> set[LeaseKey]:
        """Send with success, and record it."""
        self.begin(*leases)
        return self.record(*(self.delivered(lease) for lease in leases))

    def fail(self, lease: Lease, decision: Decision, **attempt: Any) -> bool:
        """Send without success, and record the decision."""
        self.begin(lease)
        return bool(self.record(self.failed(lease, decision, **attempt)))

    def bury(
        self, *events: Event | str, endpoint: str = "orders", reason: str = "exhausted", apart=0.0, **attempt
    ):
        """Store events and give them up, at once or so many seconds apart."""
        if apart:
            for event in events:
                self.bury(event, endpoint=endpoint, reason=reason, **attempt)
                self.clock.advance(apart)
            return
        self.enqueue(*events, endpoint=endpoint)
        leases = self.claim(len(events), endpoint=endpoint)
        self.begin(*leases)
        self.record(*(self.failed(lease, GiveUp(reason), **attempt) for lease in leases))

    def retry_in(self, seconds: float) -> Retry:
        return Retry(seconds, self.clock() + seconds)

    def park_for(self, seconds: float) -> Park:
        return Park(seconds, self.clock() + seconds)

    def replay(
        self,
        selection: Selection = Selection(),  # noqa: B008 - frozen
        *,
        limit: int = 100,
        died_before: float | None = None,
        include_permanent: bool = False,
        to: str | None = None,
        max_rounds: int | None = None,
        **options: Any,
    ) -> Replayed:
        """Begin a new round for dead letters, or send their events to another endpoint; return the leases."""
        request = ReplayRequest(
            selection, include_permanent=include_permanent, everything=True, to=to, max_rounds=max_rounds
        )
        died_before = self.clock() if died_before is None else died_before
        options |= {"died_before": died_before, "limit": limit, "owner": "replay"}
        return self.run(self.store.write_leases(replay_batch, request, **options))

    def cancel(self, **selection: Any) -> int:
        """Cancel the selected unfinished deliveries."""
        return self.run(cancel(self.store, Selection(**selection), who="a test"))

    def purge(self, what: Retention | Chosen | None = None, **options: Any) -> int:
        """Remove all final deliveries, or these, by the clock."""
        options = {"now": self.clock(), **options}
        return self.run(purge(self.store, what or Retention(0, 0), who="a test", **options)).purged

    def rescue(self, watch: ExpiryWatch | None = None, **options: Any) -> int:
        return self.run(self.store.rescue(watch or at_once(), **options))

    def rescue_from(self, *owners: str) -> int:
        return self.run(self.store.rescue_from(owners))

    def fold(self) -> None:
        """Fold acceptances into the ledgers and tallies into the sketches."""
        self.run(self.store.fold())

    def counters(self, measure: str | None = None) -> dict[Labels, Sketch]:
        """Return the counts of one or all measures, by labels, including those not folded yet."""
        found = self.read(read_ever)
        return {labels: each for labels, each in found.items() if measure in (None, labels.measure)}

    def counted(self, measure: str, **labels: str) -> int:
        """Return the number that Prometheus counts of a measure, with these labels."""
        found = self.counters(measure).items()
        return sum(each.count for key, each in found if labels.items() <= key._asdict().items())

    def status(self, **options: Any):
        return self.run(self.store.status(**options))

    def detail(self, event_id: str):
        return self.run(self.store.detail(event_id))

    def delivery(self, event_id: str, endpoint: str = "orders") -> Delivery:
        [found] = [each for each, _ in self.detail(event_id).deliveries if each.endpoint == endpoint]
        return found

    def history(self, event_id: str) -> tuple[Attempt, ...]:
        [(_, attempts)] = self.detail(event_id).deliveries
        return attempts

    def rows(self, table) -> list[dict[str, Any]]:
        """Return a whole table, in the order of its key; deliveries with the id and source of their event."""
        query = select(table).order_by(*table.primary_key.columns)
        if table is schema.deliveries:
            events = schema.events.c
            query = query.add_columns(events.id.label("event_id"), events.source)
            query = query.join(schema.events, events.key == table.c.event_key)
        return self.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])

    def row(self, event_id: str) -> dict[str, Any]:
        """Return every column of a delivery."""
        [row] = [row for row in self.rows(schema.deliveries) if row["event_id"] == event_id]
        return row

    @staticmethod
    def make(event_id: str, data: Any = None, *, event_type: str = "order.paid") -> Event:
        return Event(id=event_id, type=event_type, source="/shop", data=data)

    @staticmethod
    def counted_on(lease: Lease, decision: Decision) -> Lease:
        """Return the lease as its holder keeps it for the next attempt."""
        return replace(
            lease,
            attempts=lease.attempts + 1,
            round_attempts=lease.round_attempts + 1,
            last_delay=decision.delay,
            backoff_until=None,
        )

    @staticmethod
    def delivered(lease: Lease, **attempt: Any) -> Outcome:
        return Outcome(lease, _attempt(lease, result="delivered", **{"status_code": 200} | attempt), None)

    @staticmethod
    def failed(lease: Lease, decision: Decision, **attempt: Any) -> Outcome:
        names = {Retry: "retry", Park: "park", GiveUp: "give_up"}
        values = {
            "status_code": 503,
            "category": "transient",
            "code": "http_503",
            "blame": "endpoint",
            "maybe_processed": True,
            "error_type": "UnexpectedStatus",
            "error": "the endpoint answered 503",
            "decision": names[type(decision)],
            "delay": getattr(decision, "delay", None),
            "next_attempt_at": getattr(decision, "next_attempt_at", None),
            "early": not getattr(decision, "charged", True),
        }
        return Outcome(lease, _attempt(lease, result="failed", **values | attempt), decision)


def at_once() -> ExpiryWatch:
    """Return the watch of a process that has watched for long enough."""
    return ExpiryWatch(0.0, lambda: 0.0)


def _attempt(lease: Lease, **values: Any) -> Attempt:
    defaults = {"started_at": START, "duration": 0.02, "owner": lease.owner}
    return Attempt(number=lease.attempts + 1, round=lease.round, **defaults | values)


@contextmanager
def opened_desk(url: str, clock: FixedClock) -> Iterator[Desk]:
    """Open a store with this clock."""
    with asyncio.Runner() as runner:
        store = runner.run(WorkerStore.open(url, clock=clock))
        try:
            yield Desk(store, clock, runner)
        finally:
            runner.run(store.close())


async def send(
    store: WorkerStore,
    endpoint: str,
    *decisions: Decision | None,
    leases: list[Lease] | None = None,
    **attempt: Any,
) -> None:
    """Claim a delivery for each decision (None: it is delivered), and record its attempt at the store's time."""
    if leases is None:
        leases = await store.claim(endpoint, owner="worker", limit=len(decisions))
    await store.begin(leases)
    values = {"started_at": store.clock()} | attempt
    outcomes = [
        Desk.delivered(lease, **values) if decision is None else Desk.failed(lease, decision, **values)
        for lease, decision in zip(leases, decisions, strict=True)
    ]
    await store.record(outcomes)


async def take(
    desk: Desk, request: ReplayRequest, *, then: Callable[[list[Lease]], Awaitable[None]] | None = None
) -> list[str]:
    """Take the requested dead letters as the flow does; return the ids of the events that are sent."""
    taken = []
    async with audited(desk.store, who="Zoë", action="replay", selection=request.as_dict()) as audit_id:
        async for leases in take_dead_letters(desk.store, request, owner="replay", audit_id=audit_id):
            taken += [lease.event.id for lease in leases]
            if then:
                await then(leases)
    return taken
