"""The leases in flight, and the busy deliveries of each endpoint."""

from types import SimpleNamespace

from resonant.dispatch.in_flight import InFlight
from resonant.events import Event, Lease

EVENT = Event(type="t", source="/s", data=1, id="evt_1")


def lease(delivery_id, token=1, endpoint="orders"):
    return Lease(delivery_id, token, "worker", EVENT, endpoint)


class Held(InFlight):
    """Leases in flight to two endpoints."""

    def __init__(self, *leases):
        names = ("orders", "invoices")
        self.endpoints = {name: SimpleNamespace(busy=0, finished=0, probe=None) for name in names}
        super().__init__(self.endpoints, max_waiting=1)
        for each in leases:
            self.take(each)

    def busy(self, endpoint="orders"):
        return self.endpoints[endpoint].busy


def test_a_claimed_delivery_is_busy_until_it_is_dropped():
    one, other = lease(1), lease(2, endpoint="invoices")
    held = Held(one, other)
    assert (held.busy(), held.busy("invoices"), held.total_busy) == (1, 1, 2)
    held.drop(one)
    held.drop(one)
    assert (held.busy(), held.busy("invoices"), held.total_busy) == (0, 1, 1)
    held.drop(other)
    assert not held


def test_a_delivery_that_waits_for_its_retry_is_in_flight_and_not_busy():
    held = Held(lease(1), lease(2))
    held.wait(lease(1))
    assert (held.may_wait, held.busy(), held.delivery_ids()) == (False, 1, {1, 2})
    held.resume(lease(1))
    held.resume(lease(1))
    assert (held.may_wait, held.busy()) == (True, 2)
    held.wait(lease(1))
    held.drop(lease(1))
    assert (held.may_wait, held.busy(), held.total_busy) == (True, 1, 1)


def test_attempts_are_counted_on_the_lease_and_its_first_retry_is_recognised():
    held = Held(lease(1))
    assert held.count_attempt(held.get(lease(1).key), delay=3.0)
    assert not held.count_attempt(held.get(lease(1).key), delay=9.0)
    now = held.get(lease(1).key)
    assert (now.attempts, now.round_attempts, now.last_delay) == (2, 2, 9.0)


def test_the_bytes_of_all_bodies_in_flight_are_known():
    large = Lease(3, 1, "worker", Event(type="t", source="/s", data="x" * 998), "orders")
    held = Held(lease(1), large)
    held.wait(large)
    assert held.bytes == 1 + 1000
    held.drop(large)
    held.drop(large)
    assert held.bytes == 1


def test_two_leases_of_one_delivery_are_two():
    lost, successor = lease(1, token=1), lease(1, token=2)
    held = Held(lost, successor)
    held.drop(lost)
    assert held.get(lost.key) is None
    assert held.get(successor.key) is successor
    assert (held.busy(), held.delivery_ids()) == (1, {1})


def test_a_probe_is_forgotten_when_its_lease_ends():
    probe, other = lease(1), lease(2)
    held = Held(probe, other)
    orders = held.endpoints["orders"]
    orders.probe = probe.key
    held.finish(other)
    assert orders.probe == probe.key
    held.finish(probe)
    assert (orders.probe, orders.finished) == (None, 2)
