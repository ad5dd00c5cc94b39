"""What a run claims next."""

import random
from copy import deepcopy
from dataclasses import replace

import pytest

from resonant.dispatch.claim.plan import MOST_BESIDE_SHORT, Situation, plan_claims
from resonant.dispatch.flights.counts import FlightCounts, State
from resonant.dispatch.flights.endpoint_run import EndpointRun, LastClaim
from resonant.dispatch.flights.flights import Flights
from resonant.dispatch.limiting.ahead import FIRST_ALONE, ClaimSize, PrefetchWindow
from resonant.dispatch.limiting.limiter import EndpointSlots
from resonant.dispatch.limiting.rate import NoRate
from resonant.events import Event, Lease
from resonant.gate.controller import EndpointGate
from resonant.gate.permission import NO_LIMIT
from resonant.store.shared.gates import Gate

NOW = 1_800_000_000.0
SIZE = 1_000_000


@pytest.fixture
def flights():
    return Flights()


@pytest.fixture
def opened(flights):
    """Return a function that opens an endpoint."""

    def open_one(name, *, claimed_at=0.0, is_short=False, finished=0):
        slots = EndpointSlots(30)
        slots.is_short = is_short
        endpoint = EndpointRun(
            name,
            destination=None,
            gate=EndpointGate(Gate(name), "run", random.Random(1)),
            slots=slots,
            rate=NoRate(),
            window=PrefetchWindow(20),
            claims=ClaimSize(),
            clock=lambda: NOW,
            flights=FlightCounts(flights.counts),
            last_claim=LastClaim(claimed_at, "a"),
        )
        for number in range(finished):
            flights.claim(lease(-number, name), endpoint).to(State.FINISHED)
        return endpoint

    return open_one


def lease(number, endpoint, size=8):
    return Lease(number, 1, "run", Event(type="t", source="/s", data="x" * size), endpoint)


def plan(endpoints, flights, **given):
    situation = Situation(
        now=10.0,
        at=NOW,
        flights=flights,
        in_flight=[each for each in endpoints if each.flights.busy],
        overdue={},
        deferred=(),
        share=lambda _slots: 3,
        allowed=lambda _endpoint: NO_LIMIT,
    )
    return plan_claims(dict.fromkeys(endpoints), replace(situation, **given))


def test_a_plan_changes_nothing(flights, opened):
    endpoints = [opened(name, finished=30) for name in "ab"]
    sizes = [deepcopy(vars(each.claims)) for each in endpoints]
    first, second = (plan(endpoints, flights, overdue={"a": 2.0}) for _ in range(2))
    assert (first.limits, first.new) == (second.limits, second.new)
    assert [vars(each.claims) for each in endpoints] == sizes
    assert vars(first.sizes[endpoints[0]]) != sizes[0], "the fetcher keeps it, once it claims"


def test_the_only_endpoint_fills_its_slots_and_its_first_sends_begin_with_the_claim(flights, opened):
    found = plan([opened("a")], flights)
    assert (found.limits, found.begin_up_to, found.has_more) == ({"a": FIRST_ALONE}, 4, False)


def test_an_endpoint_whose_claim_is_not_used_up_waits(flights, opened):
    endpoint = opened("a")
    for number in range(3):
        flights.claim(lease(number, "a"), endpoint)
    assert plan([endpoint], flights).limits == {}


def test_short_sends_come_first_in_a_transaction_of_their_own(flights, opened):
    slow, short = opened("slow"), opened("short", claimed_at=5.0, is_short=True)
    found = plan([slow, short], flights)
    assert (list(found.limits), found.has_more) == (["short"], True)
    assert list(plan([slow], flights).limits) == ["slow"]


def test_the_oldest_claim_comes_first_and_few_endpoints_share_a_transaction(flights, opened):
    endpoints = [opened(f"e-{at}", claimed_at=-at, is_short=True) for at in range(20)]
    found = plan(endpoints, flights)
    assert list(found.limits) == [f"e-{at}" for at in reversed(range(20 - MOST_BESIDE_SHORT, 20))]
    assert found.has_more


@pytest.mark.parametrize(("allowed", "limit"), [(0, None), (2, 2)])
def test_the_gate_limits_a_claim(flights, opened, allowed, limit):
    assert plan([opened("a")], flights, allowed=lambda _endpoint: allowed).limits.get("a") == limit


def test_a_deferred_endpoint_waits_until_its_deliveries_have_ended(flights, opened):
    endpoint = opened("a")
    flight = flights.claim(lease(1, "a"), endpoint)
    assert not plan([endpoint], flights, deferred={endpoint}).limits
    flight.to(State.RETURNED)
    assert plan([endpoint], flights, deferred={endpoint}).limits


def test_half_of_a_late_endpoints_claim_is_for_new_events(flights, opened):
    endpoint = opened("a", finished=30)
    found = plan([endpoint], flights, overdue={"a": 2.0}, allowed=lambda _endpoint: 5)
    assert (found.limits, found.new) == ({"a": 5}, {"a": 2.5})
    assert plan([endpoint], flights, overdue={"a": 0.5}).new == {}


def test_the_event_types_of_a_governed_endpoint_take_turns(flights, opened):
    endpoint = opened("a")
    endpoint.see(Gate("a", state="paced", epoch=1))
    found = plan([endpoint], flights, allowed=lambda _endpoint: 3)
    assert (found.in_turn["a"].after, found.begin_up_to) == ("a", 0)


def test_a_single_endpoint_leaves_half_of_the_memory_free(flights, opened):
    endpoint = opened("a", finished=30, is_short=True)
    flights.claim(lease(1, "a", SIZE), endpoint)
    found = plan([endpoint], flights)
    assert found.most_bytes == flights.bytes_left // 2
    assert found.limits["a"] * SIZE <= found.most_bytes
