"""The operators' actions on the store, and failing transactions."""

from functools import partial

import pytest
from hypothesis import strategies as st

from resonant.dead_letters.cancel import cancel_batch
from resonant.dead_letters.purge import find_oldest, purge_batch, purgeable
from resonant.dead_letters.replay import ReplayRequest, replay_batch
from resonant.gate.pausing import make_parked_due
from resonant.store.counts import acceptances
from resonant.store.queue import leases as lease_queries
from resonant.store.queue import rescue
from resonant.store.queue.enqueue import enqueue
from resonant.store.queue.outcomes import record
from resonant.store.views.selection import Selection
from support.store_machine import (
    IDENTITIES,
    deed,
    endpoints,
    is_remembered,
    limits,
    make,
    owners,
    selections,
    some,
)
from support.store_model import LEASE_SECONDS
from support.store_workers import Workers


class HalfWay(Exception):
    """Raised within a transaction after its writes, which must be rolled back."""


class Operators(Workers):
    """Adds operators to the workers: replay, also to another endpoint, cancel, make parked deliveries due, and purge."""

    # An operator's actions.

    @deed(
        where=some(status="dead_letter"),
        weight=3,
        selection=selections,
        owner=owners,
        limit=limits,
        include_permanent=st.booleans(),
    )
    def replay(self, selection, owner, limit, include_permanent):
        self.clock.advance(0.5)  # only earlier dead letters are replayed
        now = self.clock()
        dead = self.model.replayable(selection, now, include_permanent=include_permanent)[:limit]
        taken = self.write(replay, selection, owner, limit, now, include_permanent=include_permanent)
        assert [lease.delivery_id for lease in taken] == [known.id for known in dead], (
            f"the oldest first: replayed {taken}, expected {dead}"
        )
        for known in dead:
            self.model.replay(known, owner, now)
        self.remember(taken, dead)

    @deed(
        where=some(status="dead_letter"),
        weight=2,
        selection=selections,
        to=endpoints,
        owner=owners,
        limit=limits,
    )
    def replay_to(self, selection, to, owner, limit):
        if selection.endpoint == to:
            return
        self.clock.advance(0.5)
        now = self.clock()
        dead = self.model.replayable(selection, now, include_permanent=True)
        dead = self.model.elsewhere(dead, to)
        events = dict.fromkeys(each.identity for each in dead[:limit])
        taken = self.write(replay, selection, owner, limit, now, include_permanent=True, to=to)
        assert [lease.event.identity for lease in taken] == [*events], "each event once"
        for lease in taken:
            self.model.accept(lease.delivery_id, lease.event, to, now)
            self.model.deliveries[lease.delivery_id].lease_to(owner, now)
        for known in dead:
            if known.identity in events:
                known.replayed_to = to
        self.remember(taken, [self.model.deliveries[lease.delivery_id] for lease in taken])

    @deed(where=is_remembered, weight=2, selection=selections, begins=st.booleans())
    def cancel(self, selection, begins):
        if begins:
            self.begin(list(self.remembered))  # deliveries in flight are not cancelled
        now = self.clock()
        unfinished = self.model.cancellable(selection)
        cancelled = self.write(cancel_batch, selection, list(self.model.deliveries), now=now)
        assert cancelled == len(unfinished), f"cancelled {cancelled}, expected {unfinished}"
        for known in unfinished:
            self.model.cancel(known, now)

    @deed(where=some(status="retrying", lease_owner=None), weight=2, endpoint=endpoints, limit=limits)
    def make_parked_due(self, endpoint, limit):
        now = self.clock()
        parked = self.model.parked(endpoint, now)[:limit]
        made_due = self.write(make_parked_due, endpoint, limit=limit, now=now)
        assert len(made_due) == len(parked), f"made {made_due.number} due, expected {parked}"
        for known in parked:
            self.model.make_due(known, now)

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
        purged = self.write(purge, status, now - age, limit, now)
        assert purged == len(old), f"purged {purged}, expected {old}"
        for known in old:
            self.model.purge(known)

    # Failures.

    @deed(where=is_remembered, endpoint=endpoints, steps=st.integers(1, 11))
    def raise_half_way(self, endpoint, steps):
        """A transaction that raises rolls back all its writes."""
        now = self.clock() + 1_000  # after every lease, when everything is due
        claim = partial(lease_queries.claim, owner="ann", now=now, lease_seconds=LEASE_SECONDS)
        outcomes = [self.desk.delivered(lease) for lease in self.remembered.values()]
        operations = [
            lambda connection: acceptances.fold(connection, limit=100),
            lambda connection: enqueue(connection, map(make, IDENTITIES), endpoint, now=now),
            lambda connection: enqueue(connection, map(make, IDENTITIES), now=now, allow_unrouted=True),
            lambda connection: lease_queries.begin(
                connection, claim(connection, {endpoint: 100})[endpoint][:2], now=now
            ),
            lambda connection: record(connection, outcomes, now=now),
            lambda connection: rescue.rescue(connection, now=now + LEASE_SECONDS),
            lambda connection: replay(connection, Selection(), "ann", 1, now, include_permanent=True),
            lambda connection: replay(
                connection, Selection(), "ann", 9, now, include_permanent=True, to=endpoint
            ),
            lambda connection: cancel_batch(connection, Selection(), list(self.model.deliveries), now=now),
            lambda connection: purge(connection, "dead_letter", now, 100, now),
            lambda connection: purge(connection, "delivered", now, 100, now),
        ]

        def fail(connection):
            for operation in operations[-steps:]:
                operation(connection)
            raise HalfWay

        with pytest.raises(HalfWay):
            self.write(fail)


def replay(connection, selection, owner, limit, now, *, include_permanent, to=None):
    request = ReplayRequest(selection, include_permanent=include_permanent, everything=True, to=to)
    lease = {"owner": owner, "now": now, "lease_seconds": LEASE_SECONDS}
    return replay_batch(connection, request, died_before=now, limit=limit, **lease).leases


def purge(connection, status, ended_before, limit, now):
    rule = purgeable(status, finished_before=ended_before)
    found = find_oldest(connection, rule, limit=limit)
    purged, _ = purge_batch(connection, found, rule, now=now)
    return purged
