"""The flights of a run: their states, the counts of these, and the limits."""

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from resonant.dispatch.flights.chunk import Chunk
from resonant.dispatch.flights.counts import FlightCounts, State
from resonant.dispatch.flights.flight import NEXT
from resonant.dispatch.flights.flights import Flights
from resonant.events import Event, Lease

ENDS = {State.FINISHED, State.RETURNED}


def endpoint(flights):
    return SimpleNamespace(flights=FlightCounts(flights.counts))


def lease(number, size=1):
    return Lease(number, 1, "worker", Event(type="t", source="/s", data="x" * size), "orders")


class FlightsOfARun(RuleBasedStateMachine):
    """Drives flights of two endpoints through their states, and counts each flight again after every step."""

    known = Bundle("known")

    @initialize()
    def begin(self):
        self.flights = Flights(max_waiting=3)
        self.endpoints = [endpoint(self.flights), endpoint(self.flights)]
        self.all, self.probes, self.chunks = [], {}, Counter()

    @rule(target=known, to=st.sampled_from([0, 1]), size=st.integers(0, 99), is_probe=st.booleans())
    def claim(self, to, size, is_probe):
        given = lease(len(self.all), size)
        flight = self.flights.claim(given, self.endpoints[to], is_probe=is_probe)
        self.all.append(flight)
        if is_probe:
            self.probes[to] = flight
        return flight

    @rule(flight=known, state=st.sampled_from(State))
    def move(self, flight, state):
        before = flight.state
        if state in NEXT[before]:
            flight.to(state)
            assert flight.state is state
        else:
            with pytest.raises(RuntimeError, match=f"{before.name} cannot be {state.name}"):
                flight.to(state)
            assert flight.state is before

    @rule(flight=known)
    def retry(self, flight):
        before, was_retried = flight.lease, flight.retried
        assert flight.note_retry(1.5) is not was_retried
        assert (flight.lease.attempts, flight.lease.key) == (before.attempts + 1, flight.key)

    chunks_made = Bundle("chunks")

    @rule(target=chunks_made, to=st.sampled_from([0, 1]))
    def gather(self, to):
        self.chunks[to] += 1
        return to, Chunk.of(self.endpoints[to], [])

    @rule(made=consumes(chunks_made))
    def begin_chunk(self, made):
        to, chunk = made
        chunk.begin()
        chunk.begin()
        self.chunks[to] -= 1

    @invariant()
    def each_flight_is_counted_once(self):
        for to, each in enumerate(self.endpoints):
            own = [flight for flight in self.all if flight.endpoint is each]
            self._agree(each.flights, own)
            assert each.flights.chunks == self.chunks[to]
            probe = self.probes.get(to)
            is_in_flight = probe is not None and probe.state not in ENDS
            assert each.flights.probe == (probe.key if is_in_flight else None)
            assert [flight for flight in own if flight.is_probe] == ([probe] if is_in_flight else [])
        self._agree(self.flights.counts, self.all)

    @invariant()
    def a_flight_is_known_until_it_ends(self):
        for flight in self.all:
            assert flight.has_ended == (flight.state in ENDS)
            assert self.flights.get(flight.key) is (None if flight.has_ended else flight)
        in_flight = {flight.key for flight in self.all if not flight.has_ended}
        assert (self.flights.lease_keys(), bool(self.flights)) == (in_flight, bool(in_flight))
        assert self.flights.may_wait == (self.flights.counts.retrying < 3)

    @staticmethod
    def _agree(counts, flights):
        states = Counter(flight.state for flight in flights)
        assert counts.by_state == [states[state] for state in State]
        placed = states[State.ADMITTED] + states[State.SENDING]
        assert counts.busy == placed + states[State.CLAIMED] + states[State.ANSWERED]
        assert (counts.sending, counts.waiting) == (placed, counts.busy - placed)
        assert (counts.retrying, counts.finished) == (states[State.WAITING], states[State.FINISHED])
        assert counts.bytes == sum(len(each.lease.event.body) for each in flights if not each.has_ended)


TestFlightsOfARun = FlightsOfARun.TestCase


def test_no_retry_waits_in_the_process_while_bodies_take_more_than_half_of_the_memory(monkeypatch):
    flights = Flights(max_waiting=3)
    orders = endpoint(flights)
    monkeypatch.setattr("resonant.dispatch.flights.flights.MOST_BYTES", 6 * len(lease(0).event.body))
    claimed, may_wait = [], []
    for number in range(4):
        claimed.append(flights.claim(lease(number), orders))
        may_wait.append(flights.may_wait)
    assert may_wait == [True, True, True, False]
    claimed[0].to(State.RETURNED)
    assert flights.may_wait


def test_a_probe_is_forgotten_when_its_flight_ends_so_that_another_may_follow():
    flights = Flights()
    orders = endpoint(flights)
    probe, other = flights.claim(lease(1), orders, is_probe=True), flights.claim(lease(2), orders)
    other.to(State.RETURNED)
    assert (orders.flights.probe, probe.is_probe) == (probe.key, True)
    probe.to(State.RETURNED)
    assert (orders.flights.probe, orders.flights.was_probed) == (None, True)


def test_two_flights_with_the_same_key_both_end():
    flights = Flights()
    first, second = (flights.claim(lease(1), endpoint(flights)) for _ in range(2))
    first.to(State.RETURNED)
    assert flights.get(second.key) is second
    second.to(State.RETURNED)
    assert not flights
    assert flights.counts.busy == 0
