"""Replay: send dead letters again, oldest first, in a new round each, at a limited rate with a slow start.

With ``to``, a replay sends their events to another endpoint instead: see ``redirect``.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, case, func, select, update

from resonant.dead_letters.redirect import is_new_to, send_elsewhere
from resonant.dead_letters.slow_start import SlowStart
from resonant.dead_letters.walking import SEARCHED
from resonant.display import counted
from resonant.errors import EmptySelection, EndpointError
from resonant.events import Lease
from resonant.store import Store, WorkerStore, schema
from resonant.store.audit import add_to_audit, audited
from resonant.store.counts.counters import Tally
from resonant.store.counts.sketches import begin_of
from resonant.store.engine.availability import retry_while_unavailable
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.attempts import without_polls
from resonant.store.queue.leases import leases_of, note_claims, release_all
from resonant.store.queue.locked_rows import still_held
from resonant.store.views.dead_letters import (
    DeadLetters,
    Position,
    after_deaths,
    earliest,
    find_earliest,
    positions,
)
from resonant.store.views.selection import Selection

_UNPACED_BATCH = 100
_d = schema.deliveries


def require_restricted(selection: Selection, *, everything: bool) -> None:
    """Refuse an empty selection, unless ``everything`` is set.

    Raises:
        EmptySelection: the selection is empty.
    """
    if selection.is_empty and not everything:
        raise EmptySelection("the selection is empty: add a filter, or select all explicitly")


@dataclass(frozen=True, slots=True)
class ReplayRequest:
    """Which dead letters to send again, and how.

    Attributes:
        selection: selects the dead letters.
        include_permanent: include permanent failures.
        limit: the maximum number.
        rate: dead letters per second, after the slow start; None for no limit.
        max_rounds: skip dead letters that were given up in this many rounds, unless ids are selected; None for no limit.
        everything: allow an empty selection, which selects all.
        to: send the events to this endpoint instead, unless it already has a delivery of them.
        without_endpoints: skip the dead letters of these endpoints.
        erased: select only dead letters whose events were erased, to count them: they cannot be sent.

    Raises:
        EmptySelection: the selection is empty, but ``everything`` is not set.
        EndpointError: only dead letters of the endpoint ``to`` are selected.
    """

    selection: Selection
    include_permanent: bool = False
    limit: int | None = None
    rate: float | None = None
    max_rounds: int | None = None
    everything: bool = False
    to: str | None = None
    without_endpoints: frozenset[str] = frozenset()
    erased: bool = False

    def __post_init__(self) -> None:
        require_restricted(self.selection, everything=self.everything)
        if self.to is not None and self.to == self.selection.endpoint:
            raise EndpointError(
                f"the selected dead letters are those of {self.to}: to send them to it again, leave out `to` (--to)"
            )

    @property
    def target(self) -> str | None:
        """The only endpoint that the replay sends to; None if it may send to several."""
        return self.to or self.selection.endpoint

    def as_dict(self) -> dict[str, object]:
        """Return the request, for the audit."""
        asked = {
            "all": self.everything,
            "include_permanent": self.include_permanent,
            "limit": self.limit,
            "rate": self.rate,
            "max_rounds": self.max_rounds,
            "to": self.to,
        }
        return {**self.selection.as_dict(), **{name: value for name, value in asked.items() if value}}

    def as_parameters(self) -> dict[str, Any]:
        """Return the request as parameters of the flow ``replay-dead-letters``."""
        return {
            **self.selection.as_parameters(),
            "all_dead_letters": self.everything,
            "include_permanent": self.include_permanent,
            "limit": self.limit,
            "rate": self.rate,
            "max_rounds": self.max_rounds,
            "to": self.to,
        }

    def dead_letters(self, connection: Connection) -> DeadLetters:
        """Return the requested dead letters."""
        return DeadLetters.of(
            connection,
            self.selection,
            include_permanent=self.include_permanent,
            without_endpoints=self.without_endpoints,
            max_rounds=self.max_rounds,
            erased=self.erased,
        )

    def conditions(self, connection: Connection, *, died_before: float) -> list[ColumnElement[bool]]:
        """Return the SQL conditions of the dead letters to take, given up before this time, seconds since the epoch."""
        found = [*self.dead_letters(connection).conditions(), _d.c.finished_at < died_before]
        return found if self.to is None else [*found, is_new_to(self.to)]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """The number of dead letters that a replay would send now, and that it would skip.

    Attributes:
        selected: dead letters that would be sent again; with ``to``, events that would be sent to it.
        permanent: those skipped because their failure was permanent.
        beyond_limit: those skipped because of the limit.
        existing: events skipped because the endpoint ``to`` already has a delivery of them.
        to: the other endpoint, if any.
        too_often: those skipped because they were given up in ``max_rounds`` rounds or more.
        erased: those skipped because their events were erased.
    """

    selected: int
    permanent: int
    beyond_limit: int
    existing: int = 0
    to: str | None = None
    too_often: int = 0
    erased: int = 0
    max_rounds: int | None = None

    def __str__(self) -> str:
        return "; ".join([f"{self.selected:,} would be {self.sent}", *self.left_out])

    @property
    def sent(self) -> str:
        """Where they are sent: ``sent again``, or to which other endpoint."""
        return "sent again" if self.to is None else f"sent to {self.to}"

    @property
    def left_out(self) -> list[str]:
        """Descriptions of the skipped dead letters."""
        found = []
        if self.permanent:
            found.append(
                f"{self.permanent:,} skipped because their failure was permanent: include_permanent=True "
                "(`resonant replay --include-permanent`) sends them too"
            )
        if self.erased:
            found.append(f"{self.erased:,} skipped: the event was erased")
        if self.too_often:
            found.append(f"{self.too_often:,} skipped: {counted(self.max_rounds or 0, 'round')} or more")
        if self.beyond_limit:
            found.append(f"{self.beyond_limit:,} skipped because of the limit")
        if self.existing:
            found.append(f"{self.existing:,} skipped because {self.to} already has a delivery of the event")
        return found


async def plan(store: Store, request: ReplayRequest) -> ReplayPlan:
    """Count the dead letters that a replay would take, without changing anything."""
    return await store.read(count_replay, request, now=store.clock())


def count_replay(connection: Connection, request: ReplayRequest, *, now: float) -> ReplayPlan:
    """Count the dead letters that a replay would take at ``now``, in seconds since the epoch, and those that it would skip."""
    died_before = after_deaths(connection, now=now)
    any_rounds = replace(request, max_rounds=None)
    everything = replace(any_rounds, include_permanent=True)
    requests = [everything, any_rounds, request, replace(everything, erased=True, to=None)]
    # Without a limit of rounds, two of them are the same, and counting takes long in a large store.
    counts = {each: _count(connection, each, died_before=died_before) for each in set(requests)}
    (total, _), (of_any_rounds, _), (taken, existing), (erased, _) = (counts[each] for each in requests)
    selected = taken if request.limit is None else min(taken, request.limit)
    return ReplayPlan(
        selected,
        total - of_any_rounds,
        taken - selected,
        existing,
        request.to,
        of_any_rounds - taken,
        erased,
        request.max_rounds,
    )


def _count(connection: Connection, request: ReplayRequest, *, died_before: float) -> tuple[int, int]:
    """Return the number of dead letters to take, or of events to send elsewhere; and of events that are there already."""
    if request.to is None:
        return request.dead_letters(connection).count(connection, died_before=died_before), 0
    query = select(func.count(_d.c.event_key.distinct()))
    new, selected = (
        connection.execute(query.where(*each.conditions(connection, died_before=died_before))).scalar_one()
        for each in (request, replace(request, to=None))
    )
    return new, selected - new


async def take_dead_letters(
    store: WorkerStore, request: ReplayRequest, *, owner: str, audit_id: int
) -> AsyncIterator[list[Lease]]:
    """Take the requested dead letters out of the queue in batches, at the requested rate, and lease them to the owner.

    A dead letter that fails again meanwhile is not taken again, and one that another replay holds is skipped.
    """
    died_before = await store.read(after_deaths, now=store.clock())
    taken: list[int] = []
    was_set_back = False
    loop = asyncio.get_running_loop()
    start = loop.time()
    rate = None if request.rate is None else SlowStart(request.rate)
    left = request.limit
    last, took_any = None, False
    while left is None or left > 0:
        wanted = _UNPACED_BATCH if rate is None else rate.take(loop.time() - start)
        if rate is not None and not wanted:
            await asyncio.sleep(rate.pause())
            continue
        # If the clock was set back, what was taken may die again before `died_before`.
        was_set_back = was_set_back or store.clock() < died_before
        found, last = await _search(
            store,
            request,
            died_before=died_before,
            besides=taken if was_set_back else (),
            limit=wanted if left is None else min(wanted, left),
            after=last,
        )
        take = partial(
            store.write_leases,
            partial(_take_again, []),
            request,
            died_before=died_before,
            limit=len(found),
            owner=owner,
            audit_id=audit_id,
            among=[each.id for each in found],
        )
        leases = (await retry_while_unavailable(take, store.lease_seconds / 3)).leases if found else []
        taken += [lease.delivery_id for lease in leases]
        if left is not None:
            left -= len(leases)
        if leases:
            yield leases
        took_any = took_any or bool(leases)
        if last is None:
            # Search again from the beginning for rows that were skipped because they were locked.
            if not took_any:
                return
            took_any = False


async def _search(
    store: WorkerStore,
    request: ReplayRequest,
    *,
    died_before: float,
    besides: Collection[int],
    limit: int,
    after: Position | None,
) -> tuple[list[Position], Position | None]:
    """Find dead letters to take, oldest first, without locks; return also where to continue, None at the end."""

    def find(connection: Connection) -> tuple[list[Position], Position | None]:
        others = request.conditions(connection, died_before=died_before)
        if besides:
            others.append(~is_any_of(_d.c.id, besides))
        is_before = _d.c.finished_at < died_before
        return find_earliest(
            connection, schema.is_dead_letter, is_before, others, searched=SEARCHED, limit=limit, after=after
        )

    while True:
        found, after = await retry_while_unavailable(partial(store.read, find), store.lease_seconds / 3)
        if found or after is None:
            return found, after


async def put_back(
    store: WorkerStore,
    request: ReplayRequest,
    *,
    who: str,
    owner: str,
    on_begin: Callable[[int], None] = lambda _audit_id: None,
) -> None:
    """Begin a new round for the requested dead letters, at the requested rate, and leave their sends to the drains.

    Args:
        owner: of the leases, which end at once; no other process has this name.
        on_begin: called with the id of the row of the audit, before the first change.
    """
    async with audited(store, who=who, action="replay", selection=request.as_dict()) as audit_id:
        on_begin(audit_id)
        try:
            async for _ in take_dead_letters(store, request, owner=owner, audit_id=audit_id):
                await store.write(release_all, owner, now=store.clock())
        finally:
            await store.release_all(owner)


def _take_again(tries: list["Replayed"], connection: Connection, *args: Any, **options: Any) -> "Replayed":
    """Take a batch. If an earlier try took one and only the answer to its commit was lost, return that batch."""
    if tries and (held := still_held(connection, tries[-1].leases)):
        return Replayed([each for each in tries[-1].leases if each.key in held], tries[-1].last)
    tries.append(replay_batch(connection, *args, **options))
    return tries[-1]


class Replayed(NamedTuple):
    """Dead letters taken out of the queue, oldest first, and the place of the last."""

    leases: list[Lease]
    last: Position | None


def replay_batch(
    connection: Connection,
    request: ReplayRequest,
    *,
    died_before: float,
    limit: int,
    owner: str,
    now: float,
    lease_seconds: float,
    audit_id: int | None = None,
    after: Position | None = None,
    among: Collection[int] | None = None,
) -> Replayed:
    """Begin a new round for up to ``limit`` dead letters, oldest first, and lease them. Their history is kept.

    If the request names another endpoint, they stay dead letters, and its new deliveries of their events are leased.

    Concurrent replays never take the same dead letter: each skips the rows that the other has locked, and a taken
    delivery is no longer a dead letter. The leases of a killed replay expire, like those of any worker.

    Args:
        connection: in a write transaction.
        request: selects the dead letters; its own limit does not apply.
        died_before: the replay's start, or just after the last death if that is later, seconds since the epoch, so that no
            dead letter is taken twice.
        limit: the maximum number.
        owner: the owner of the leases.
        now: seconds since the epoch.
        lease_seconds: the duration of the leases.
        audit_id: the id that ``begin_audit`` returned.
        after: continue after this dead letter, which avoids a scan of skipped rows.
        among: take only these, which a search has found.
    """
    conditions = request.conditions(connection, died_before=died_before)
    if among is None:
        query = earliest(conditions, limit=limit, after=after)
    else:
        # Without an order, so that the rows are looked up by their ids.
        query = select(_d.c.finished_at, _d.c.id).where(is_any_of(_d.c.id, among), *conditions)
    picked = sorted(positions(connection, query.with_for_update(skip_locked=True)))
    if not picked:
        return Replayed([], None)
    place = {each.id: number for number, each in enumerate(picked)}
    if request.to is not None:
        # Also the other dead letters of these events, which need a note: a later batch would not find them.
        # The keys are read first: PostgreSQL would scan the queue for a subquery.
        events = connection.execute(select(_d.c.event_key).where(is_any_of(_d.c.id, list(place)))).scalars()
        of_same_events = connection.execute(
            select(_d.c.id)
            .where(*conditions, is_any_of(_d.c.event_key, list(events)))
            .order_by(_d.c.id)
            .with_for_update(skip_locked=True)
        ).scalars()
        leases = send_elsewhere(
            connection,
            dict.fromkeys([*place, *of_same_events]),
            request.to,
            owner=owner,
            now=now,
            lease_seconds=lease_seconds,
        )
        add_to_audit(connection, audit_id, len(leases))
        note_claims(connection, {lease.endpoint for lease in leases}, now)
        return Replayed(leases, picked[-1])
    _take_back(connection, place, now=now)
    rows = connection.execute(
        update(_d)
        .where(is_any_of(_d.c.id, list(place)))
        .values(
            # A delivery cancelled before its first attempt becomes pending again.
            status=case((_d.c.attempts == 0, "pending"), else_="retrying"),
            round=_d.c.round + 1,
            round_started_at=now,
            round_attempts=0,
            crashes=0,
            last_delay=None,
            backoff_until=None,
            reason=None,
            finished_at=None,
            next_attempt_at=now,
            available_at=now + lease_seconds,
            lease_owner=owner,
            lease_token=_d.c.lease_token + 1,
            sending=False,
        )
        .returning(_d)
    ).all()
    tally = Tally(now)
    for (endpoint, event_type), count in Counter((row.endpoint, row.event_type) for row in rows).items():
        tally.add("replay", endpoint, event_type, "replayed", count=count)
    tally.write(connection)
    add_to_audit(connection, audit_id, len(rows))
    note_claims(connection, {row.endpoint for row in rows}, now)
    leases = sorted(leases_of(connection, rows), key=lambda lease: place[lease.delivery_id])
    return Replayed(leases, picked[-1])


def _take_back(connection: Connection, delivery_ids: Collection[int], *, now: float) -> None:
    """Subtract each dead letter from the statistics of the hour in which it was given up."""
    query = select(_d.c.id, _d.c.endpoint, _d.c.event_type, _d.c.reason, _d.c.finished_at, _d.c.attempts)
    tallies: dict[int, Tally] = {}
    rows = connection.execute(query.where(is_any_of(_d.c.id, delivery_ids))).all()
    tried = without_polls(connection, {row.id: row.attempts for row in rows})
    for delivery_id, endpoint, event_type, reason, finished_at, _ in rows:
        begin = begin_of(finished_at, now=now)
        tally = tallies.setdefault(begin, Tally(begin))
        attempts = tried[delivery_id]
        retries = attempts - 1 if attempts else None
        tally.add("replayed", endpoint, event_type, "dead_letter", detail=reason, seconds=retries)
    for tally in tallies.values():
        tally.write(connection)
