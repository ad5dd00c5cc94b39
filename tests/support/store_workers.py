"""The actions of producers and workers on the store, and the effects of their crashes."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize

from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.errors import ConflictingEvent
from resonant.routing import new_subscription
from resonant.store.counts import acceptances, counters
from resonant.store.queue import leases as lease_queries
from resonant.store.queue import rescue
from resonant.store.queue.enqueue import enqueue
from resonant.store.shared.subscriptions import add_subscription, remove_subscriptions_of
from support.store_machine import (
    ENDPOINTS,
    REASONS,
    TYPES,
    StoreMachine,
    batches,
    deed,
    delays,
    endpoints,
    has_room,
    is_remembered,
    lease_batches,
    leases,
    limits,
    make,
    owners,
    some,
)
from support.store_model import CRASHES_BEFORE_GIVING_UP, LEASE_SECONDS, Known


class Workers(StoreMachine):
    """Producers and workers; the workers' leases may be valid or expired."""

    # A producer's actions.

    @initialize(identities=batches, limit=limits)
    def begin_at_work(self, identities, limit):
        for endpoint in ENDPOINTS:
            self.enqueue(identities, endpoint)
            self.claim(endpoint, "ann", limit)

    @deed(where=has_room, identities=batches, endpoint=endpoints)
    def enqueue(self, identities, endpoint):
        now = self.clock()
        known = {each.identity for each in self.model.all(endpoint=endpoint)}
        new = [each for each in identities if each not in known]
        accepted = self.write(enqueue, map(make, identities), endpoint, now=now)
        expected = (len(new), len(identities) - len(new))
        assert (accepted.accepted, accepted.known) == expected, f"{accepted}, expected {expected}"
        ids = {(row["source"], row["event_id"]): row["id"] for row in self.rows_of(endpoint)}
        for identity in sorted(new, key=lambda each: (each.id, each.source)):
            self.model.accept(ids[identity], make(identity), endpoint, now)

    @deed(where=has_room, endpoint=endpoints, event_type=st.sampled_from(["order.*", *TYPES]))
    def subscribe(self, endpoint, event_type):
        new = new_subscription(endpoint, {"types": [event_type]})
        self.write(add_subscription, new, who="a test", now=self.clock())
        self.model.subscriptions.add((endpoint, event_type))

    @deed(where=has_room, endpoint=endpoints)
    def unsubscribe(self, endpoint):
        self.write(remove_subscriptions_of, endpoint, who="a test", now=self.clock())
        self.model.subscriptions = {each for each in self.model.subscriptions if each[0] != endpoint}

    @deed(where=has_room, weight=2, identities=batches)
    def route(self, identities):
        now = self.clock()
        found = self.write(enqueue, map(make, identities), now=now, report_conflicts=True)
        expected = {each: self.model.route(make(each)) for each in identities}
        assert {each.event.identity: each.endpoints for each in found.outcomes} == {
            each: tuple(sorted(names)) for each, (names, _) in expected.items()
        }
        assert {each.given.identity for each in found.unrouted} == {
            each for each, (names, _) in expected.items() if not names
        }
        rows = {
            (row["source"], row["event_id"], to): row["id"] for to in ENDPOINTS for row in self.rows_of(to)
        }
        for identity in sorted(identities, key=lambda each: (each.id, each.source)):
            names, is_new = expected[identity]
            for name in names if is_new else ():
                self.model.accept(rows[*identity, name], make(identity), name, now)

    @deed(where=some(), limit=limits)
    def fold(self, limit):
        self.write(acceptances.fold, limit=limit)
        self.write(counters.fold, limit=limit)

    @deed(where=is_remembered, identities=batches, endpoint=endpoints)
    def enqueue_a_known_event_with_other_content(self, identities, endpoint):
        known = min((each.identity for each in self.model.all()), default=None)
        if known is None:
            return
        given = [*map(make, identities), make(known, "other content")]
        with pytest.raises(ConflictingEvent):
            self.write(enqueue, given, endpoint, now=self.clock())

    # A worker's actions, in time or too late.

    @deed(
        where=some(is_final=False),
        endpoint=endpoints,
        owner=owners,
        limit=limits,
        seconds=st.sampled_from([0.0, LEASE_SECONDS]),
    )
    def claim(self, endpoint, owner, limit, seconds=0.0):
        self.clock.advance(seconds)  # an expired lease is not claimed: the rescue decides its cost
        now = self.clock()
        due = self.model.claimable(endpoint, now)
        claimed = self.write(
            lease_queries.claim, {endpoint: limit}, owner=owner, now=now, lease_seconds=LEASE_SECONDS
        )[endpoint]
        taken = [self.model.deliveries[lease.delivery_id] for lease in claimed]
        left = [each for each in due if each not in taken]
        assert len(taken) == min(limit, len(due)), f"claimed {taken} of {due}"
        assert all(each in due for each in taken), "a final, leased or early delivery was claimed"
        assert not (taken and left) or longest_wait(taken) <= min(each.available_at for each in left), (
            f"claimed {taken} before {left}"
        )
        for known in taken:
            known.lease_to(owner, now)
        self.remember(claimed, taken)
        return claimed

    @deed(where=is_remembered, weight=2, batch=lease_batches)
    def begin(self, batch):
        now = self.clock()
        leases = [self.remembered[each] for each in batch]
        begun = self.write(lease_queries.begin, leases, now=now)
        expected = self.model.begin(leases, now)
        assert begun == expected, f"began {begun}, expected {expected}"

    @deed(where=is_remembered, weight=2, lease=leases, begins=st.booleans())
    def deliver(self, lease, begins):
        self.end_attempt(lease, None, begins=begins)

    @deed(where=is_remembered, lease=leases, begins=st.booleans(), delay=delays)
    def fail_and_wait_here(self, lease, begins, delay):
        self.end_attempt(lease, Retry(delay, self.clock() + delay), begins=begins)

    @deed(where=is_remembered, weight=2, lease=leases, begins=st.booleans(), delay=delays)
    def fail_and_park(self, lease, begins, delay):
        self.end_attempt(lease, Park(delay, self.clock() + delay), begins=begins)

    @deed(where=is_remembered, lease=leases, begins=st.booleans(), delay=delays, own_delay=delays)
    def fail_under_a_gate(self, lease, begins, delay, own_delay):
        """A gate may send a delivery before its own backoff is over; failures before then do not count."""
        now, until = self.clock(), self.remembered[lease].backoff_until
        if until is not None and now < until:
            decision = Park(delay, now + delay, backoff_until=until, charged=False)
        else:
            decision = Park(delay, now + delay, backoff_until=now + delay + own_delay)
        self.end_attempt(lease, decision, begins=begins)

    @deed(
        where=is_remembered,
        weight=3,
        lease=leases,
        begins=st.booleans(),
        reason=st.sampled_from(REASONS),
    )
    def fail_for_good(self, lease, begins, reason):
        self.end_attempt(lease, GiveUp(reason), begins=begins)

    def end_attempt(self, lease, decision: Decision | None, *, begins: bool):
        """Send and record, and record again as if the first answer was lost."""
        if begins:
            self.begin([lease])
        held = self.remembered.pop(lease)
        outcome = self.outcome(held, decision)
        if not (stands := self.record(outcome)):
            return
        self.clock.advance(0.5)
        assert self.record(outcome) == stands, "a repeated outcome was not recognised"
        if isinstance(decision, Retry):
            self.remembered[lease] = self.desk.counted_on(held, decision)

    @deed(where=lambda machine: bool(machine.said), back=st.integers(1, 9))
    def say_again(self, back):
        """A worker that never got the answer records again, even if another worker has the delivery by now."""
        self.record(self.said[-min(back, len(self.said))])

    @deed(where=is_remembered, batch=lease_batches)
    def deliver_together(self, batch):
        """Record late and timely outcomes in one write; their workers stay, and may record again later."""
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
        released = self.write(lease_queries.release_all, owner, now=now)
        assert released == len(held), f"released {released}, expected {held}"
        for known in held:
            known.hand_back(now)

    @deed(where=some(is_leased=True), owner=owners)
    def renew(self, owner):
        now = self.clock()
        held = self.model.all(lease_owner=owner)
        renewed = len(self.write(lease_queries.renew, owner, now=now, lease_seconds=LEASE_SECONDS))
        assert renewed == len(held), f"renewed {renewed}, expected {held}"
        for known in held:
            known.available_at = now + LEASE_SECONDS

    @deed(where=is_remembered, lease=leases)
    def crash(self, lease):
        """A worker forgets its lease, which no other process knows."""
        del self.remembered[lease]

    # Time and its effects.

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
        rescued = self.write(rescue.rescue, now=now, endpoint=endpoint)
        assert rescued == len(lost), f"rescued {rescued}, expected {lost}"
        for known in lost:
            self.model.lose(known, now)

    @deed(where=some(is_leased=True), owner=owners)
    def recover_from_an_owner_that_is_over(self, owner):
        now = self.clock()
        lost = self.model.all(lease_owner=owner)
        rescued = self.write(rescue.rescue, now=now, owners=[owner])
        assert rescued == len(lost), f"rescued {rescued}, expected {lost}"
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
        """One worker after the other crashes on the same delivery."""
        known = self.model.held(self.remembered[lease])
        for _ in range(times if known else 0):
            crashes = known.crashes
            self.begin([lease])
            self.rescue(None, LEASE_SECONDS)
            assert known.crashes == crashes + 1, f"the crash was not charged to {known}"
            assert (known.reason == "crashed") == (known.crashes == CRASHES_BEFORE_GIVING_UP), known
            if known.is_final:
                return
            self.claim(known.endpoint, owner, 100)
            lease = (known.id, known.lease_token)


def longest_wait(taken: list[Known]) -> float:
    return max(each.available_at for each in taken)
