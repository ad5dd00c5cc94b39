"""The leases in flight of a run."""

from types import SimpleNamespace

from resonant.dispatch.in_flight import InFlight
from resonant.events import Event, Lease

EVENT = Event(type="t", source="/s", data=1, id="evt_1")


def endpoint(**fields):
    return SimpleNamespace(busy=0, finished=0, probe=None, bytes=0, body_bytes=0, **fields)


def test_no_retry_waits_in_the_process_while_bodies_take_more_than_half_of_the_memory(monkeypatch):
    held = InFlight({"orders": endpoint()}, max_waiting=3)
    leases = [Lease(number, 1, "worker", EVENT, "orders") for number in range(4)]
    monkeypatch.setattr("resonant.dispatch.in_flight.MOST_BYTES", 6 * len(EVENT.body))
    may_wait = []
    for lease in leases:
        held.take(lease)
        may_wait.append(held.may_wait)
    assert may_wait == [True, True, True, False]
    held.drop(leases[0])
    assert held.may_wait


def test_a_probe_is_forgotten_when_its_lease_ends_so_that_another_may_follow():
    orders = endpoint()
    held = InFlight({"orders": orders})
    probe, other = (Lease(number, 1, "worker", EVENT, "orders") for number in (1, 2))
    for lease in (probe, other):
        held.take(lease)
    orders.probe = probe.key
    held.drop(other)
    assert orders.probe == probe.key
    held.drop(probe)
    assert orders.probe is None
