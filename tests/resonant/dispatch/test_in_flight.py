from resonant.dispatch.in_flight import InFlight
from resonant.events import Event, Lease

EVENT = Event(type="t", source="/s", data=1, id="evt_1")


def lease(delivery_id, token=1, endpoint="orders"):
    return Lease(delivery_id, token, "worker", EVENT, endpoint)


def in_flight(*leases):
    made = InFlight()
    for each in leases:
        made.take(each)
    return made


def test_what_was_claimed_is_busy_until_it_is_dropped():
    one, other = lease(1), lease(2, endpoint="invoices")
    held = in_flight(one, other)
    assert (held.busy("orders"), held.total_busy, held.busy_endpoints()) == (1, 2, {"orders", "invoices"})
    held.drop(one)
    held.drop(one)
    assert (held.busy("orders"), held.total_busy, held.busy_endpoints()) == (0, 1, {"invoices"})
    held.drop(other)
    assert not held


def test_a_delivery_that_waits_for_its_retry_is_in_flight_and_not_busy():
    held = in_flight(lease(1), lease(2))
    held.wait(lease(1))
    assert (held.waiting, held.busy("orders"), held.delivery_ids()) == (1, 1, {1, 2})
    held.resume(lease(1))
    held.resume(lease(1))
    assert (held.waiting, held.busy("orders")) == (0, 2)
    held.wait(lease(1))
    held.drop(lease(1))
    assert (held.waiting, held.busy("orders")) == (0, 1)


def test_attempts_are_counted_on_the_lease_and_the_first_retry_is_told():
    held = in_flight(lease(1))
    assert held.count_attempt(held.get(lease(1).key), delay=3.0)
    assert not held.count_attempt(held.get(lease(1).key), delay=9.0)
    now = held.get(lease(1).key)
    assert (now.attempts, now.round_attempts, now.last_delay) == (2, 2, 9.0)


def test_the_bytes_of_all_bodies_in_flight_are_known():
    large = Lease(3, 1, "worker", Event(type="t", source="/s", data="x" * 998), "orders")
    held = in_flight(lease(1), large)
    held.wait(large)
    assert held.bytes == 1 + 1000
    held.drop(large)
    held.drop(large)
    assert held.bytes == 1


def test_two_leases_of_one_delivery_are_two():
    lost, successor = lease(1, token=1), lease(1, token=2)
    held = in_flight(lost, successor)
    held.drop(lost)
    assert held.get(lost.key) is None
    assert held.get(successor.key) is successor
    assert (held.busy("orders"), held.delivery_ids()) == (1, {1})
