"""A cancellation gives up unfinished deliveries, except those that are being sent; see also the simulation."""

from resonant.dead_letters.cancel import Cancellable, cancellable
from resonant.store.audit import read_audit
from resonant.store.views.selection import Selection


def test_a_delivery_that_is_being_sent_is_counted_and_not_cancelled(desk):
    desk.enqueue("evt_1", "evt_2")
    lease = desk.claim_one()
    desk.begin(lease)
    found = desk.read(cancellable, Selection())
    assert found == Cancellable(number=1, being_sent=1)
    assert str(found) == "1 would be given up; 1 being sent now would not be cancelled"
    assert desk.cancel() == 1
    assert desk.record(desk.delivered(lease))


def test_the_process_that_waits_to_retry_it_has_lost_it(desk):
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    desk.fail(lease, desk.retry_in(5.0))
    assert desk.cancel() == 1
    assert desk.begin(lease) == set()
    assert desk.row("evt_1")["lease_token"] > lease.token


def test_many_batches_are_one_operation_in_the_audit(desk, monkeypatch):
    monkeypatch.setattr("resonant.dead_letters.walking._FIRST", 20)
    desk.enqueue(*(f"evt_{number}" for number in range(50)))
    assert desk.cancel(endpoint="orders") == 50
    [entry] = desk.read(read_audit)
    assert (entry.who, entry.action, entry.count) == ("a test", "cancel", 50)
    assert entry.selection == {"endpoint": "orders"}
    assert desk.status().balanced


def test_a_delivery_that_was_accepted_before_the_clock_was_set_back_is_cancelled(desk):
    desk.enqueue("evt_1")
    desk.clock.advance(-3_600)
    assert desk.read(cancellable, Selection()).number == desk.cancel() == 1
