"""Deliveries of expired events are given up without an attempt."""

from resonant.store import schema
from resonant.store.queue.expiry import expire
from support.store_rows import snapshot


def expire_all(desk, leases):
    return desk.write(expire, leases, now=desk.clock())


def test_an_expired_delivery_is_a_dead_letter_without_an_attempt(desk):
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    desk.begin(lease)
    desk.clock.advance(5)
    assert expire_all(desk, [lease]) == {lease.key}
    found = desk.delivery("evt_1")
    assert (found.status, found.reason, found.finished_at) == ("dead_letter", "expired", desk.clock())
    assert (found.category, found.code) == ("permanent", "event_expired")
    assert found.error == "not sent: the event's expirytime has passed"
    assert (found.attempts, found.first_attempt_at, found.next_attempt_at) == (0, None, None)
    assert (found.leased_by, desk.row("evt_1")["sending"]) == (None, False)
    assert desk.history("evt_1") == ()
    assert desk.claim() == []
    assert desk.status().balanced


def test_the_history_of_earlier_attempts_is_kept(desk):
    desk.enqueue("evt_1")
    desk.fail(desk.claim_one(), desk.park_for(60))
    before = desk.delivery("evt_1")
    desk.clock.advance(60)
    lease = desk.claim_one()
    expire_all(desk, [lease])
    found = desk.delivery("evt_1")
    assert (found.attempts, found.first_attempt_at) == (1, before.first_attempt_at)
    assert len(desk.history("evt_1")) == 1
    row = desk.row("evt_1")
    assert (row["round_attempts"], row["backoff_until"]) == (1, None)
    assert '"retries"' in desk.rows(schema.tallies)[-1]["entries"]


def test_expired_deliveries_share_a_cause_and_are_replayed_with_permanent_failures(desk):
    desk.enqueue("evt_1", "evt_2")
    expire_all(desk, desk.claim())
    assert desk.row("evt_1")["cause_id"] == desk.row("evt_2")["cause_id"]
    labels = {"result": "dead_letter", "category": "permanent", "code": "event_expired"}
    assert desk.counted("delivery", **labels) == 2
    assert desk.counted("attempt") == 0
    desk.clock.advance(1)
    assert desk.replay().leases == []
    assert len(desk.replay(include_permanent=True).leases) == 2


def test_a_lost_lease_changes_nothing(desk):
    desk.enqueue("evt_1", "evt_2")
    lost, held = desk.claim(2, owner="late")
    desk.clock.advance(61)
    desk.rescue()
    [successor] = [
        lease for lease in desk.claim(2, owner="successor") if lease.delivery_id == lost.delivery_id
    ]
    before = snapshot(desk)
    assert expire_all(desk, [lost, held]) == set()
    assert snapshot(desk) == before
    assert expire_all(desk, [lost, successor]) == {successor.key}
