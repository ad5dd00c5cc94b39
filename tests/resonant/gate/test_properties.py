"""Whatever happens to its processes, answers and clocks, a gate leads back to normal once the endpoint works."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from resonant.gate.answers import Answer
from resonant.gate.controller import EndpointGate
from resonant.store.shared.gates import Gate

ANSWERS = {
    "delivered": Answer("delivered", 0.02, 200),
    "refused": Answer("failed", 0.01, None),
    "hung": Answer("failed", 15.0, None),
    "busy": Answer("failed", 0.01, 503),
    "throttled": Answer("failed", 0.01, 429, retry_after=7.0),
    "far": Answer("failed", 0.01, 503, retry_after=100_000.0),
    "odd": Answer("failed", 0.01, 500),
    "invalid": Answer("alive", 0.01, 422),
    "local": Answer("local", 0.01),
    "slow": Answer("delivered", 9.0, 200),
}
TICK = 0.25


class World:
    """A row, processes that look, claim and send, and an endpoint that answers as it is told."""

    def __init__(self, names=("one", "two", "three")):
        self.now = 1_000_000.0
        self.row = Gate("api")
        self.delivered_at = float("-inf")
        self.gates = {name: EndpointGate(self.row, name, random.Random(name)) for name in names}
        self.answers = dict(ANSWERS)
        self.answer = "delivered"
        self.sent = 0
        self.wins = []

    def write(self, gate, change):
        if change is None:
            return
        since = change.none_delivered_since
        won = change.before.epoch == self.row.epoch and not (since is not None and self.delivered_at > since)
        if won:
            self.row = change.result
            self.wins.append(self.row)
        gate.see(change.result if won else self.row)

    def tick(self):
        """Let a quarter of a second pass: each process looks, and sends what the gate lets it send."""
        self.now += TICK
        for gate in list(self.gates.values()):
            gate.see(self.row)
            self.write(gate, gate.look(self.now))
            self.write(gate, gate.probe(self.now))
            for _ in range(30):
                if gate.wait(self.now, 0) != 0:
                    break
                self.send(gate)

    def send(self, gate):
        self.sent += 1
        self.write(gate, gate.answered(gate.sent(self.now), self.answers[self.answer], self.now, 0))
        if self.answer in {"delivered", "slow"}:
            self.delivered_at = self.now

    def die(self, name):
        self.gates[name] = EndpointGate(self.row, f"{name}-{self.sent}-{self.now}", random.Random(name))

    def recovers(self, seconds):
        """Let the endpoint work; tell whether it is normal in time, with something to send all the while."""
        self.answer = "delivered"
        for _ in range(int(seconds / TICK)):
            self.tick()
            if not any(gate.governs(self.now) for gate in self.gates.values()):
                return True
        return False


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from(sorted(ANSWERS))),
        st.tuples(st.just("pass"), st.integers(1, 60)),
        st.tuples(st.just("die"), st.sampled_from(["one", "two", "three"])),
        st.tuples(st.just("leave"), st.sampled_from(["one", "two", "three"])),
        st.tuples(st.just("jump"), st.sampled_from([-86_400.0, -3600.0, -20.0, -0.5, 5.0, 3600.0, 86_400.0])),
    ),
    max_size=12,
)


def play(world, steps):
    for what, value in steps:
        match what:
            case "answer":
                world.answer = value
            case "pass":
                for _ in range(value):
                    world.tick()
            case "die":
                world.die(value)
            case "leave":
                gate = world.gates[value]
                world.write(gate, gate.leave(world.now))
            case "jump":
                world.now += value


@settings(deadline=None, max_examples=40)
@given(STEPS)
def test_every_state_leads_back_to_normal_once_the_endpoint_works(steps):
    world = World()
    play(world, steps)
    # A Retry-After holds for 300 s at most, a probe for 132, and what was written before a clock was put back for as long
    # again and 30 s.
    assert world.recovers(900), (world.row, world.now)


@settings(deadline=None, max_examples=40)
@given(STEPS)
def test_at_most_one_process_sends_while_an_endpoint_is_paced(steps):
    world = World()
    world.answer = "busy"
    for _ in range(20):
        world.tick()
    play(world, steps)
    senders = {
        name
        for name, gate in world.gates.items()
        if world.row.state == "paced" and gate.gate == world.row and (gate.room(world.now, 0) or 0) > 0
    }
    assert len(senders) <= 1


@settings(deadline=None, max_examples=40)
@given(st.permutations(["one", "two", "three"]), st.floats(3.1, 100))
def test_of_processes_that_race_for_the_pilots_place_one_wins(order, passed):
    world = World()
    world.answer = "refused"
    while world.row.state != "probing":
        world.tick()
    world.answer = "delivered"
    while world.row.state != "paced":
        world.tick()
    pilot = next(name for name in world.gates if world.row.pilot == name)
    world.die(pilot)
    now, before = world.now + passed, world.row
    changes = {}
    for name in order:
        world.gates[name].see(world.row)
        changes[name] = world.gates[name].look(now)
    for name in order:
        world.write(world.gates[name], changes[name])
    assert world.row.epoch == before.epoch + 1
    able = [name for name in order if (world.gates[name].room(now + 1, 0) or 0) > 0]
    assert able == [order[0]]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["refused", "hung", "busy"]), st.integers(1, 6))
def test_a_dead_endpoint_gets_little_from_any_number_of_processes(answer, processes):
    world = World([str(number) for number in range(processes)])
    world.answer = answer
    for _ in range(4 * 60):
        world.tick()
    before = world.sent
    for _ in range(4 * 600):
        world.tick()
    assert world.row.state == "probing"
    assert world.sent - before <= 50


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 400))
def test_after_a_retry_after_one_request_is_sent_at_a_time(retry_after):
    world = World()
    world.answer = "asked"
    world.answers["asked"] = Answer("failed", 0.01, 429, retry_after=retry_after)
    for _ in range(8):
        world.tick()
    before, start = world.sent, world.now
    for _ in range(4 * 1200):
        world.tick()
    assert world.sent - before <= (world.now - start) / max(0.9, min(retry_after, 300)) + 2
