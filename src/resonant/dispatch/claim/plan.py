"""What to claim next: ahead of need, fairly between endpoints, within a memory limit.

It changes no flight, and reads no clock. It reads the gates and the limiter, and asks them through functions that it is given.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field

from resonant.dispatch.flights.endpoint_run import EndpointRun
from resonant.dispatch.flights.flights import Flights
from resonant.dispatch.limiting.ahead import ClaimSize
from resonant.dispatch.limiting.limiter import EndpointSlots
from resonant.gate.permission import NO_LIMIT
from resonant.store.queue.leases import Turns

# The most endpoints in one transaction of claims: few if sends to one of them are short, so that it does not wait for others.
_MOST_ENDPOINTS, MOST_BESIDE_SHORT = 128, 16
# The smallest claim for a chunk from an endpoint that has finished deliveries: a task run costs as much as ten sends.
_LEAST_CHUNK = 16
# Claims grow beyond a fair size only up to this many deliveries in total, because of their memory.
MOST_CLAIMED = 5_000
# The most deliveries whose sends begin with their claim: the start of a task run takes a few milliseconds.
_MOST_BEGUN = 4
# If an endpoint's earliest due delivery is overdue for longer, it may have a backlog, and half of a claim is for new events. These
# wait for claimed deliveries, so claims grow only while each is sent quickly.
_LATE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Situation:
    """What a plan depends on, besides the endpoints to claim from.

    Attributes:
        now: the time of the event loop.
        at: the time of the store.
        flights: the flights of the run.
        in_flight: the endpoints with deliveries in flight.
        overdue: for how long each endpoint's earliest due delivery is overdue, in seconds, by name.
        deferred: the endpoints whose deliveries in flight end before the next claim.
        share: returns how many slots an endpoint can expect while others also need slots.
        allowed: returns how many deliveries an endpoint's gate lets this run claim.
        chunk_size: deliveries per chunk; 0 if each is sent alone.
    """

    now: float
    at: float
    flights: Flights
    in_flight: Collection[EndpointRun]
    overdue: Mapping[str, float]
    deferred: Collection[EndpointRun]
    share: Callable[[EndpointSlots], int]
    allowed: Callable[[EndpointRun], float]
    chunk_size: int = 0

    def is_late(self, endpoint: EndpointRun) -> bool:
        """Return whether an endpoint may have a backlog."""
        return self.overdue.get(endpoint.name, 0.0) > _LATE_SECONDS


@dataclass(slots=True)
class Plan:
    """One transaction of claims.

    Attributes:
        limits: how many deliveries to claim, by endpoint.
        total: the sum of the limits.
        most_bytes: the most bytes of the bodies.
        new: how many of them are for new events, by endpoint; none if it has no backlog.
        in_turn: the endpoints whose event types take turns.
        begin_up_to: up to how many claimed deliveries begin with the claim.
        has_more: whether another transaction may claim from further endpoints.
        sizes: the sizes of claims as of this plan, also of some endpoints without room.
    """

    limits: dict[str, int] = field(default_factory=dict)
    total: int = 0
    most_bytes: int = 0
    new: dict[str, float] = field(default_factory=dict)
    in_turn: dict[str, Turns] = field(default_factory=dict)
    begin_up_to: int = 0
    has_more: bool = False
    sizes: dict[EndpointRun, ClaimSize] = field(default_factory=dict)


def plan_claims(claimable: Collection[EndpointRun], given: Situation) -> Plan:
    """Return how many deliveries to claim from each of the next endpoints.

    Endpoints with short sends come first, in a separate transaction. In each kind, the oldest claim comes first. A single
    endpoint leaves half of the memory free, even if the size of its bodies is unknown.
    """
    plan, flights = Plan(), given.flights
    endpoints = sorted(claimable, key=lambda each: (not each.slots.is_short, each.last_claim.at))
    most = MOST_BESIDE_SHORT if endpoints and endpoints[0].slots.is_short else _MOST_ENDPOINTS
    others = len(endpoints) - 1
    others += sum(each.flights.busy > 0 and each not in claimable for each in given.in_flight)
    plan.most_bytes = left = flights.bytes_left
    chosen: list[EndpointRun] = []
    are_short = True
    for endpoint in endpoints:
        is_short = endpoint.slots.is_short
        if chosen and (len(chosen) == most or is_short != are_short):
            plan.has_more = True
            break
        if is_short != are_short:
            are_short = False
            plan.most_bytes = left = flights.bytes_left_for_slow(given.in_flight)
        if left <= 0:
            break
        if (room := _room(plan, endpoint, given, others, left)) > 0:
            chosen.append(endpoint)
            plan.limits[endpoint.name] = room
            plan.total += room
            left -= room * flights.body_bytes(endpoint)
    plan.most_bytes //= 1 if len(chosen) > 1 else 2
    plan.begin_up_to = _begin_up_to(chosen, given)
    _divide(plan, chosen, given)
    return plan


def _room(plan: Plan, endpoint: EndpointRun, given: Situation, others: int, bytes_left: int) -> int:
    """Return how many deliveries to claim now, ahead of need; 0 if there is too little room for a large claim.

    Args:
        others: the number of other endpoints that are busy, or to be claimed from.
        bytes_left: the size of the bodies that may be claimed. An endpoint leaves as much free as it uses, but may use
            one body.
    """
    own, gate, chunk_size = endpoint.flights, endpoint.gate, given.chunk_size
    busy, finished = own.busy, own.finished
    # While the gate paces, it alone limits how many wait: an endpoint with slow answers needs many in flight for its pace.
    # What becomes due before a chunk has started goes into the next chunk, so that many endpoints do not cause small ones.
    is_used_up = endpoint.claims.is_used_up(finished, busy) and not own.chunks
    if not (is_used_up or gate.governs(given.at)) or (endpoint in given.deferred and busy):
        return 0
    if (allowed := given.allowed(endpoint)) == 0:
        return 0
    # Fewer chunks per endpoint if there are more endpoints, since all bodies are in memory.
    share = given.share(endpoint.slots)
    fair = max(4 * share, min(chunk_size, _LEAST_CHUNK), 4 * chunk_size // (others + 2))
    if is_behind := allowed == NO_LIMIT and given.is_late(endpoint) and not gate.failing():
        fair = 2 * share
    left = MOST_CLAIMED - plan.total - (given.flights.counts.busy - busy)
    most = max(fair, min(left, max(4 * endpoint.slots.limit, 2 * chunk_size)))
    plan.sizes[endpoint] = size = copy(endpoint.claims)
    wanted = size.next(
        given.now, finished, busy, fair=fair, most=most, is_alone=not others, is_behind=is_behind
    )
    bodies = (bytes_left - own.bytes) // 2 // given.flights.body_bytes(endpoint)
    wanted = int(min(wanted, endpoint.rate.most_claimed, busy + max(bodies, not own.bytes)))
    room = wanted - busy
    if room > chunk_size > 0:
        room -= room % chunk_size  # the rest would be a small chunk
    if allowed < NO_LIMIT:
        return int(min(room, allowed))
    if room < max(1, (wanted + 1) // 2):
        return 0
    size.note_claim(given.now, finished, wanted)
    return room


def _begin_up_to(chosen: list[EndpointRun], given: Situation) -> int:
    """Return how many claimed deliveries would be sent at once: so their sends begin with the claim, without another commit."""
    if len(chosen) != 1 or given.flights.counts.busy:
        return 0
    [endpoint] = chosen
    if endpoint.gate.takes_turns(given.at) or endpoint.rate.is_limited:
        return 0
    return min(_MOST_BEGUN, endpoint.window.width)


def _divide(plan: Plan, chosen: Iterable[EndpointRun], given: Situation) -> None:
    """Plan which event types take turns, and half of a late endpoint's claim for new events."""
    for endpoint in chosen:
        name = endpoint.name
        if given.is_late(endpoint):
            plan.new[name] = plan.limits[name] / 2
        if endpoint.gate.takes_turns(given.at):
            plan.in_turn[name] = Turns(endpoint.last_claim.event_type, endpoint.gate.failing())
