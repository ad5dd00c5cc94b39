"""The base of a state machine that acts on a store and compares it with a model."""

from __future__ import annotations

import itertools
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from sqlalchemy import delete, text

from resonant.delivery.retry import Decision, GiveUp
from resonant.events import Event, EventKey, Lease, LeaseKey
from resonant.store import Outcome, schema
from resonant.store.queue.outcomes import record
from resonant.store.views.selection import Selection
from resonant.testing import FixedClock
from support.store_model import Model

if TYPE_CHECKING:
    from collections.abc import Callable

START = 1_700_000_000.0
MOST_UNFINISHED = 6
FACTS_OF_A_LEASE = (
    *("endpoint", "attempts", "round", "round_attempts", "round_started_at", "last_delay", "backoff_until"),
    "crashes",
)

SOURCES = ["/shop", "/crm"]
# Two sources with the same ids, one of which cannot be a webhook-id.
IDENTITIES = [EventKey(source, id_) for id_ in ("evt_0", "evt_1", "evt_2", "1.5") for source in SOURCES]
TYPES = ["order.paid", "order.sent"]
ENDPOINTS = ["orders", "audit"]
OWNERS = ["ann", "bob"]
REASONS = ["permanent", "exhausted", "expired"]

# Halves of seconds: binary fractions, so that the model's sums are exactly the store's.
delays = st.sampled_from([0.0, 0.5, 5.0, 100.0])
endpoints = st.sampled_from(ENDPOINTS)
owners = st.sampled_from(OWNERS)
limits = st.sampled_from([100, 1, 2])
batches = st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=4, unique=True)
id_lists = batches.map(lambda identities: tuple(each.id for each in identities))
sources = st.sampled_from(SOURCES)
filters = st.one_of(
    st.builds(Selection, endpoint=endpoints),
    st.builds(Selection, event_type=st.sampled_from(TYPES)),
    st.builds(Selection, code=st.sampled_from(["http_503", "http_400", "worker_lost"])),
    st.builds(Selection, category=st.sampled_from(["transient", "permanent", "unknown"])),
    st.builds(Selection, reason=st.sampled_from([*REASONS, "crashed", "cancelled"])),
    st.builds(Selection, ids=id_lists),
    st.builds(Selection, source=sources),
    st.builds(Selection, ids=id_lists, source=sources),
)
# Half of them select everything: narrow selections often find nothing.
selections = st.booleans().flatmap(lambda is_narrow: filters if is_narrow else st.just(Selection()))


class Deed(NamedTuple):
    """An operation on the store, shown as a call."""

    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


class Kind(NamedTuple):
    """A kind of deed: its precondition, and the strategy for its arguments."""

    is_possible: Callable[[StoreMachine], object]
    deeds: st.SearchStrategy[Deed]


def deed(*, where: Callable[[StoreMachine], object], weight: int = 1, **arguments: st.SearchStrategy[Any]):
    """Register a method as a deed of the machine, with generated arguments."""

    def register(method):
        made_up = st.fixed_dictionaries(arguments).map(partial(Deed, method.__name__))
        method.kinds = [Kind(where, made_up)] * weight
        return method

    return register


def some(**wanted: Any) -> Callable[[StoreMachine], object]:
    """Return the condition that the store has a matching delivery: otherwise most deeds would do nothing."""
    return lambda machine: machine.model.all(**wanted)


def is_remembered(machine: StoreMachine) -> object:
    return machine.remembered


def has_room(machine: StoreMachine) -> object:
    return len(machine.model.all(is_final=False)) < MOST_UNFINISHED


# Leases are identified by delivery and token.
leases = st.runner().flatmap(lambda machine: st.sampled_from(list(machine.remembered)))
lease_batches = st.lists(leases, min_size=1, max_size=4, unique=True)


class StoreMachine(RuleBasedStateMachine):
    """A store, its model and the workers' leases; subclasses define the deeds."""

    def __init__(self, desk) -> None:
        super().__init__()
        self.desk = desk
        self.clock = desk.clock = desk.store.clock = FixedClock(START)
        self.model = Model()
        self.remembered: dict[tuple[int, int], Lease] = {}
        self.tokens_given: set[tuple[int, int]] = set()
        self.sends = itertools.count()
        self.said: list[Outcome] = []
        self.counters: dict[Any, Any] = {}
        self.write(empty)

    # A single rule: Hypothesis would disable about half of several rules in each example, but the deeds need each other.
    @rule(deed=st.runner().flatmap(lambda machine: machine.possible_deeds()))
    def do(self, deed):
        getattr(self, deed.name)(**deed.arguments)

    @classmethod
    @cache
    def kinds(cls) -> list[Kind]:
        """Return the kinds of deeds of this class and its base classes, in the order of their definition."""
        methods = [method for each in reversed(cls.__mro__) for method in vars(each).values()]
        return [kind for method in methods for kind in getattr(method, "kinds", [])]

    def possible_deeds(self) -> st.SearchStrategy[Deed]:
        possible = [kind.deeds for kind in self.kinds() if kind.is_possible(self)]
        return st.sampled_from(possible).flatmap(lambda deeds: deeds)

    def write(self, operation, *args, **options):
        return self.run(self.desk.store.write(operation, *args, **options))

    def run(self, coroutine):
        # In the desk's loop, without its runner's handling of Ctrl-C, which is slow for thousands of calls.
        return self.desk.runner.get_loop().run_until_complete(coroutine)

    def remember(self, leases, taken):
        """Keep the claimed leases, and check that they match the model and have new tokens."""
        for lease, known in zip(leases, taken, strict=True):
            name = (lease.delivery_id, lease.token)
            assert name not in self.tokens_given, "a token was given twice"
            self.tokens_given.add(name)
            self.remembered[name] = lease
            assert name == (known.id, known.lease_token), f"took {lease}, expected {known}"
            assert lease.owner == known.lease_owner, f"took {lease}, expected {known}"
            assert lease.event == make(known.identity, time=lease.event.time), (
                f"took {lease}, expected {known}"
            )
            for fact in FACTS_OF_A_LEASE:
                assert getattr(lease, fact) == getattr(known, fact), f"{fact}: took {lease}, expected {known}"

    def outcome(self, lease, decision: Decision | None) -> Outcome:
        facts: dict[str, Any] = {
            "started_at": START + next(self.sends)
        }  # no two sends start at the same time
        if decision is None:
            return self.desk.delivered(lease, **facts)
        if decision == GiveUp("permanent"):
            facts |= {"category": "permanent", "code": "http_400", "status_code": 400}
        return self.desk.failed(lease, decision, **facts)

    def record(self, *outcomes: Outcome) -> set[LeaseKey]:
        now = self.clock()
        stands = self.write(record, outcomes, now=now)
        expected = self.model.record(outcomes, now)
        assert stands == expected, f"recorded {stands}, expected {expected}"
        self.said += outcomes
        return stands

    def rows_of(self, endpoint):
        return [row for row in self.desk.rows(schema.deliveries) if row["endpoint"] == endpoint]


def make(identity: EventKey, data: Any = None, time: str | None = None) -> Event:
    """Return the event with this identity: always the same, unless other data or a time is given."""
    event_type = TYPES[IDENTITIES.index(identity) // 2 % 2]
    return Event(id=identity.id, type=event_type, source=identity.source, data=data, time=time)


def empty(connection) -> None:
    """Empty every table: much faster than a new database."""
    tables = [table.name for table in reversed(schema.metadata.sorted_tables)]
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY"))
        return
    for table in reversed(schema.metadata.sorted_tables):
        connection.execute(delete(table))
    # The same ids in every example: Hypothesis repeats examples, and must draw the same values.
    connection.execute(text("DELETE FROM sqlite_sequence"))
