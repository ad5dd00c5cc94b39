"""A cancellation gives up unfinished deliveries, except those that are being sent."""

from __future__ import annotations

from resonant.dead_letters.cancel import Cancellable, cancellable
from resonant.store.audit import read_audit
from resonant.store.views.selection import Selection


def test_unfinished_deliveries_become_dead_letters_with_the_reason_cancelled(desk):
    desk.enqueue("evt_pending", "evt_parked")
    desk.fail(desk.claim_one(), desk.park_for(500))
    assert desk.cancel() == 2
    for event_id in ("evt_pending", "evt_parked"):
        row = desk.row(event_id)
        assert (row["status"], row["reason"]) == ("dead_letter", "cancelled")
        assert row["finished_at"] == desk.clock()
        assert (row["available_at"], row["next_attempt_at"], row["lease_owner"]) == (None, None, None)
    assert desk.counted("delivery") == 2
    assert desk.status().balanced


def test_a_delivery_that_is_being_sent_is_counted_and_not_cancelled(desk):
    desk.enqueue("evt_1", "evt_2")
    lease = desk.claim_one()
    desk.begin(lease)
    found = desk.read(cancellable, Selection())
    assert found == Cancellable(number=1, being_sent=1)
    assert str(found) == "1 would be given up; 1 being sent now would not be cancelled"
    assert desk.cancel() == 1
    assert desk.record(desk.delivered(lease))


def test_a_process_that_waits_for_a_retry_loses_its_lease(desk):
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    decision = desk.retry_in(5)
    desk.fail(lease, decision)
    assert desk.cancel() == 1
    assert desk.begin(desk.counted_on(lease, decision)) == set()
    assert desk.delivery("evt_1").reason == "cancelled"


def test_final_and_unselected_deliveries_stay_as_they_are(desk):
    desk.bury("evt_dead")
    desk.enqueue("evt_delivered")
    desk.deliver(desk.claim_one())
    desk.enqueue("evt_1")
    desk.enqueue("evt_2", endpoint="audit")
    assert desk.cancel(endpoint="audit") == 1
    assert desk.delivery("evt_dead").reason == "exhausted"
    assert (desk.status().delivered, desk.status().pending) == (1, 1)


def test_times_select_by_acceptance(desk):
    desk.enqueue("evt_old")
    desk.clock.advance(10)
    desk.enqueue("evt_new")
    assert desk.cancel(until=desk.clock()) == 1
    assert desk.delivery("evt_old").reason == "cancelled"


def test_many_batches_are_one_operation_in_the_audit(desk):
    desk.enqueue(*(f"evt_{number}" for number in range(1_200)))
    assert desk.cancel(endpoint="orders") == 1_200
    [entry] = desk.read(read_audit)
    assert (entry.who, entry.action, entry.count) == ("a test", "cancel", 1_200)
    assert entry.selection == {"endpoint": "orders"}
    assert desk.status().balanced
