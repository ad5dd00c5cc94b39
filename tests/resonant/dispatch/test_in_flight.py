"""The leases in flight of a run."""

from types import SimpleNamespace

from resonant.dispatch.in_flight import InFlight
from resonant.events import Event, Lease

EVENT = Event(type="t", source="/s", data=1, id="evt_1")


def test_a_probe_is_forgotten_when_its_lease_ends_so_that_another_may_follow():
    orders = SimpleNamespace(busy=0, finished=0, probe=None, bytes=0, body_bytes=0)
    held = InFlight({"orders": orders})
    probe, other = (Lease(number, 1, "worker", EVENT, "orders") for number in (1, 2))
    for lease in (probe, other):
        held.take(lease)
    orders.probe = probe.key
    held.drop(other)
    assert orders.probe == probe.key
    held.drop(probe)
    assert orders.probe is None
