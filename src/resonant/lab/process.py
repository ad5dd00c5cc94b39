"""A simulated sending process, which polls, claims, asks the gate, sends and decides like the dispatcher."""

import random
from collections import deque
from collections.abc import Callable
from functools import partial

from resonant.delivery.retry import GateView, GiveUp, decide
from resonant.delivery.verdict import Verdict
from resonant.gate.controller import EndpointGate
from resonant.gate.measurements import Answer, Sent
from resonant.gate.permission import LOOK_SECONDS, SEND, Permission, Release, Wait
from resonant.lab.receiver import ACCEPTED, Reply
from resonant.lab.world import SimulatedDelivery, World
from resonant.store.shared.gates import GateChange, Probe

# The duration of a store transaction.
COMMIT_SECONDS = 0.004
_MOST_CLAIMED = 500
_CODES = {None: "connect_refused", 429: "throttled", 503: "http_503"}


class NoGate(EndpointGate):
    """Admits every send."""

    def may_send(self, now: float, in_flight: int, starting: int = 0) -> Permission:
        """Send now."""
        del now, in_flight, starting
        return SEND

    def answered(self, sent: Sent, answer: Answer, now: float) -> None:
        """Ignore the answer."""
        del sent, answer, now


class Process:
    """One simulated process.

    Args:
        owner: the process's id.
        rng: draws delays, and the phase of the polls.
        world: what the processes share.
    """

    def __init__(self, owner: str, rng: random.Random, world: World) -> None:
        self._agenda, self._store, self._receiver = world.agenda, world.store, world.receiver
        self._scenario, self._policy, self._journal = world.scenario, world.policy, world.journal
        self._rng = rng
        self.gate = (EndpointGate if world.has_gate else NoGate)(self._store.gate, owner, rng)
        self._waiting: deque[SimulatedDelivery] = deque()
        self._sending: set[SimulatedDelivery] = set()
        self._pump_at = float("inf")
        self._phase = rng.uniform(0, LOOK_SECONDS)
        self._look_at = 0.0
        self._plan_look(self._phase)

    def wake(self) -> None:
        """Poll at the next tick, since the store has changed."""
        ticks = int((self._agenda.now - self._phase) / LOOK_SECONDS) + 1
        when = self._phase + max(0, ticks) * LOOK_SECONDS
        if when < self._look_at:
            self._plan_look(when)

    def _plan_look(self, when: float) -> None:
        self._look_at = when
        self._agenda.at(when, partial(self._look, when))

    def _look(self, planned: float) -> None:
        if planned != self._look_at:
            return
        now = self._agenda.now
        self._plan_look(now + LOOK_SECONDS)
        self.gate.see(self._store.gate)
        self._write(self.gate.look(now), then=self._probe)
        if self.gate.may_connect(now):
            self._agenda.at(now + COMMIT_SECONDS, self._connected)
        self._sleep()

    def _sleep(self) -> None:
        """Skip polls that would find nothing to do, since any change wakes the process."""
        now = self._agenda.now
        if self._waiting or self._sending:
            return
        gate, until = self.gate.row, self._store.next_due()
        if gate.state == "paced" or self.gate.failing():
            return
        if gate.state == "probing":
            until = min(gate.probe_at or now, self.gate.connect_at)
        until = max(until, gate.not_before or now)
        if until == float("inf"):
            self._look_at = until
        elif until > now + 2 * LOOK_SECONDS:
            ticks = int((until - self._phase) / LOOK_SECONDS)
            self._plan_look(self._phase + (ticks + 1) * LOOK_SECONDS)

    def _connected(self) -> None:
        self.gate.connected(
            self._agenda.now, is_accepted=self._receiver.accepts_connections(self._agenda.now)
        )
        self.wake()

    def _probe(self) -> None:
        probe = self.gate.probe(self._agenda.now)
        if probe is not None:
            self._agenda.at(self._agenda.now + COMMIT_SECONDS, partial(self._claim_probe, probe))
        if self.gate.row.state != "probing":
            self._claim()

    def _claim_probe(self, probe: Probe) -> None:
        delivery = self._store.claim_probe(probe, self._agenda.now)
        self.gate.see(self._store.gate)
        if delivery is not None:
            self._send(delivery)

    def _claim(self) -> None:
        now = self._agenda.now
        room = _MOST_CLAIMED - len(self._waiting) - len(self._sending)
        limit = min(room, self.gate.claim_limit(now, len(self._waiting)))
        if limit > 0:
            failing = self.gate.failing()
            in_turn = bool(failing) or self.gate.governs(now)
            self._waiting.extend(self._store.claim(now, int(limit), in_turn=in_turn, leave_out=failing))
        self._pump()

    def _pump(self) -> None:
        """Begin sends while there are free slots and the gate allows it."""
        now = self._agenda.now
        while self._waiting and len(self._sending) < self._scenario.concurrency:
            if self._store.next_slot > now:
                self._pump_later(self._store.next_slot)
                return
            if str(self._waiting[0].event_type) in self.gate.failing():
                self._store.add(self._waiting.popleft())
                continue
            match self.gate.may_send(now, len(self._sending)):
                case Release():
                    while self._waiting:
                        self._store.add(self._waiting.popleft())
                    return
                case Wait(seconds):
                    self._pump_later(now + seconds)
                    return
            if self._scenario.rate:
                self._store.next_slot = now + 1 / self._scenario.rate
            self._send(self._waiting.popleft())

    def _pump_later(self, when: float) -> None:
        if when < self._pump_at or self._pump_at <= self._agenda.now:
            self._pump_at = when
            self._agenda.at(when, partial(self._pump_again, when))

    def _pump_again(self, planned: float) -> None:
        if planned == self._pump_at:
            self._pump_at = float("inf")
            self._pump()

    def _send(self, delivery: SimulatedDelivery) -> None:
        now = self._agenda.now
        reply = self._receiver.take(now, delivery.event_type)
        self._journal.sent_at.append(now)
        self._sending.add(delivery)
        sent = self.gate.sent(now)
        self._agenda.at(now + reply.after, partial(self._answered, delivery, sent, reply))

    def _answered(self, delivery: SimulatedDelivery, sent: Sent, reply: Reply) -> None:
        now = self._agenda.now
        self._sending.discard(delivery)
        delivery.attempts += 1
        status, verdict = reply.status, None
        if status != ACCEPTED:
            retry_after = self._scenario.retry_after or None if status in {429, 503} else None
            verdict = Verdict("transient", _CODES[status], retry_after)
        answer = Answer(verdict, status, reply.after, delivery.id, str(delivery.event_type))
        self._write(self.gate.answered(sent, answer, now))
        if verdict is None:
            self._agenda.at(now + COMMIT_SECONDS, partial(self._store.record_delivered, now + COMMIT_SECONDS))
            self._journal.delivered_at.append(now)
        else:
            self._decide(delivery, verdict, status is not None)
        if self._waiting:
            self._pump()
        elif self._store.next_due() <= now:
            self._claim()

    def _decide(self, delivery: SimulatedDelivery, verdict: Verdict, answered: bool) -> None:
        now = self._agenda.now
        is_held = str(delivery.event_type) in self.gate.failing()
        is_down = is_held or self.gate.row.state in {"probing", "paused"}
        view = GateView(is_held or self.gate.governs(now), is_down)
        decision = decide(
            verdict,
            delivery.round_attempts + 1,
            self._policy,
            self._rng,
            now,
            round_started_at=delivery.started_at,
            last_delay=delivery.last_delay,
            answered=answered,
            gate=view,
            backoff_until=delivery.backoff_until,
        )
        if isinstance(decision, GiveUp):
            self._journal.given_up_at.append(now)
            return
        charged = getattr(decision, "charged", True)
        if charged:
            delivery.round_attempts += 1
            delivery.last_delay = getattr(decision, "own_delay", decision.delay)
            delivery.backoff_until = getattr(decision, "backoff_until", None)
        delivery.due_at = decision.next_attempt_at
        self._store.add(delivery)

    def _write(self, change: GateChange | None, then: Callable[[], None] = lambda: None) -> None:
        """Write a change after the duration of a commit, then call ``then``."""
        if change is None:
            then()
        else:
            self._agenda.at(self._agenda.now + COMMIT_SECONDS, partial(self._written, change, then))

    def _written(self, change: GateChange, then: Callable[[], None]) -> None:
        self._store.write(change)
        self.gate.see(self._store.gate)
        then()
