"""With any behaviour of processes, answers and clocks, a gate returns to normal once the endpoint works."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from support.gate_processes import DELIVERED, REFUSED, Process, Row, failed

ANSWERS = {
    "delivered": DELIVERED,
    "refused": REFUSED,
    "hung": failed(None, duration=15.0),
    "busy": failed(),
    "throttled": failed(429, retry_after=7.0),
    "far": failed(retry_after=100_000.0),
    "broken": failed(500),
    "invalid": failed(422, "permanent"),
    "local": failed(None, blame="local"),
    "slow": replace(DELIVERED, duration=9.0),
}
TICK = 0.25


class World:
    """Processes that look, claim and send, and an endpoint that always gives the answer ``answer``."""

    def __init__(self, names=("one", "two", "three")):
        self.now = 1_000_000.0
        self.row = Row()
        self.processes = {name: Process(self.row, name, name) for name in names}
        self.answer = ANSWERS["delivered"]
        self.sent = 0

    def tick(self):
        """Let a quarter of a second pass: each process reads the row, and sends as much as the gate admits."""
        self.now += TICK
        for process in list(self.processes.values()):
            process.look(self.now)
            for _ in range(30):
                if not process.send(self.answer, self.now):
                    break
                self.sent += 1
                if self.answer.verdict is None:
                    self.row.last_delivered = self.now

    def run(self, seconds):
        """Let time pass; return the number of sends."""
        before = self.sent
        for _ in range(int(seconds / TICK)):
            self.tick()
        return self.sent - before

    def run_until(self, state):
        while self.row.gate.state != state:
            self.tick()

    def die(self, name):
        self.processes[name] = Process(self.row, f"{name}-{self.sent}-{self.now}", name)

    def play(self, steps):
        for step, value in steps:
            match step:
                case "answer":
                    self.answer = ANSWERS[value]
                case "pass":
                    self.run(value * TICK)
                case "die":
                    self.die(value)
                case "leave":
                    process = self.processes[value]
                    process.write(process.gate.look(self.now, may_be_pilot=False))
                case "jump":
                    self.now += value

    def recovers(self, seconds):
        """Let the endpoint work; return whether it is normal in time, with something to send all the while."""
        self.answer = ANSWERS["delivered"]
        for _ in range(int(seconds / TICK)):
            self.tick()
            if not any(each.gate.governs(self.now) for each in self.processes.values()):
                return True
        return False


NAMES = st.sampled_from(["one", "two", "three"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from(sorted(ANSWERS))),
        st.tuples(st.just("pass"), st.integers(1, 60)),
        st.tuples(st.just("die"), NAMES),
        st.tuples(st.just("leave"), NAMES),
        st.tuples(st.just("jump"), st.sampled_from([-86_400.0, -3600.0, -20.0, -0.5, 5.0, 3600.0, 86_400.0])),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(STEPS)
def test_every_state_leads_back_to_normal_once_the_endpoint_works(steps):
    world = World()
    world.play(steps)
    # A Retry-After holds for 300 s at most, a probe for 132, and a time stored before the clock was set back for as long again
    # and 30 s.
    assert world.recovers(900), (world.row.gate, world.now)


@settings(deadline=None, max_examples=40)
@given(STEPS)
def test_at_most_one_process_sends_while_an_endpoint_is_paced(steps):
    world = World()
    world.answer = ANSWERS["busy"]
    world.run(5)
    world.play(steps)
    gates = [each.gate for each in world.processes.values() if each.gate.row == world.row.gate]
    is_paced = world.row.gate.state == "paced"
    assert not is_paced or sum(gate.claim_limit(world.now, 0) != 0 for gate in gates) <= 1


@settings(deadline=None, max_examples=40)
@given(st.permutations(["one", "two", "three"]), st.floats(3.1, 100))
def test_one_of_the_processes_that_race_for_the_pilots_place_wins(order, passed):
    world = World()
    world.answer = ANSWERS["refused"]
    world.run_until("probing")
    world.answer = ANSWERS["delivered"]
    world.run_until("paced")
    world.die(world.row.gate.pilot)
    now, before = world.now + passed, world.row.gate
    racing = [world.processes[name] for name in order]
    for process in racing:
        process.gate.see(world.row.gate)
    for process, change in [(process, process.gate.look(now)) for process in racing]:
        process.write(change)
    assert world.row.gate.epoch > before.epoch
    able = [process for process in racing if process.gate.claim_limit(now + 1, 0) != 0]
    assert able == [racing[0]]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(["refused", "hung", "busy"]), st.integers(1, 6))
def test_a_dead_endpoint_gets_few_requests_from_any_number_of_processes(answer, processes):
    world = World([str(number) for number in range(processes)])
    world.answer = ANSWERS[answer]
    world.run(60)
    assert world.run(600) <= 50
    assert world.row.gate.state == "probing"


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 400))
def test_one_request_is_sent_after_each_retry_after(retry_after):
    world = World()
    world.answer = failed(429, retry_after=retry_after)
    world.run(2)
    assert world.run(1200) <= 1200 / max(0.9, min(retry_after, 300)) + 4
