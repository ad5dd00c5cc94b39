"""The room for retries in the process that paces an endpoint."""

from dataclasses import replace

import pytest

from resonant.dispatch.flights.counts import FlightCounts, State
from resonant.dispatch.flights.endpoint_run import EndpointRun
from support.gate_processes import Process, Row

NOW = 100.0


@pytest.fixture
def process():
    process = Process(Row())
    process.look(NOW)
    process.row.set(state="paced", pace=10.0, pilot="one", pilot_until=NOW + 60)
    process.look(NOW)
    return process


@pytest.fixture
def endpoint(process):
    parts = dict.fromkeys(("destination", "slots", "rate", "window", "claims"))
    return EndpointRun(name="api", gate=process.gate, clock=lambda: NOW, **parts)


def in_flight(*, claimed=0, retrying=0):
    """Return the counts of an endpoint with this many flights."""
    counts = FlightCounts()
    counts.by_state[State.CLAIMED], counts.by_state[State.WAITING] = claimed, retrying
    counts.busy = claimed
    return counts


def test_a_retry_waits_here_if_the_pace_sends_it_soon(endpoint):
    assert endpoint.has_room_to_wait()
    assert not replace(endpoint, flights=in_flight(retrying=20)).has_room_to_wait()
    assert not replace(endpoint, flights=in_flight(claimed=20)).has_room_to_wait()


def test_deliveries_that_a_retry_after_sends_back_take_no_room_from_retries(process, endpoint):
    process.row.set(not_before=NOW + 1)
    process.look(NOW)
    assert replace(endpoint, flights=in_flight(claimed=50, retrying=10)).has_room_to_wait()
    assert not replace(endpoint, flights=in_flight(claimed=50, retrying=20)).has_room_to_wait()
