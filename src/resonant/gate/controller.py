"""The controller of an endpoint's gate: decides whether and how fast this process may send.

All processes share the state, one row in the store (``resonant.store.shared.gates``). A controller proposes changes; the caller
writes them with compare-and-set and passes the resulting row to ``see``. Short-lived data, such as the answers of the last
second, stays in the process. A controller does no I/O, and takes the time as an argument.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from resonant.gate.answers import Sent
from resonant.gate.measured import Measured
from resonant.gate.pace import HELPLESS_SHARE, LOWEST_RATE, Pace, half
from resonant.gate.refusals import Refusals
from resonant.gate.window import FEWEST_ANSWERS
from resonant.store.shared.gates import Gate, GateChange

if TYPE_CHECKING:
    import random

    from resonant.gate.answers import Answer

# The duration of the pilot's lease, and the remaining time at which it is renewed, in seconds.
PILOT_SECONDS = 3.0
_RENEW_SECONDS = 2.0
# The wait for the next probe, as a share of the outage so far, and its bounds in seconds. Including the poll interval,
# recovery is detected within a ninth of the outage.
_PROBE_SHARE = 0.08
_SOONEST_PROBE, _LATEST_PROBE = 1.0, 120.0
# The longest time for which a Retry-After holds an endpoint. A single delivery may wait longer.
LONGEST_RETRY_AFTER = 300.0
# Failures within this time after recovery continue the same outage.
_RELAPSE_SECONDS = 3.0
_NORMAL_SECONDS = 10.0
# Successes may be recorded late. Only recent ones show that other processes can still deliver.
_RECORDED_SECONDS = 3.0
_THROTTLED_SHARE = 0.1
# The time after which an unanswered proposal is repeated.
_PATIENCE = 1.0
_A_MOMENT, _UNTIL_A_LOOK = 0.01, 0.25
_SLACK = 30.0


class EndpointGate:
    """The gate of one endpoint in one process.

    Args:
        gate: the current row in the store.
        owner: the id of this process.
        rng: randomizes the times of probes.

    Attributes:
        gate: the row as last read by this process.
        may_probe: whether this process has reserved a probe and not sent it yet.
    """

    def __init__(self, gate: Gate, owner: str, rng: random.Random) -> None:
        self.gate = gate
        self._owner = owner
        self._rng = rng
        self._now = -inf
        self._sends = 0
        self._not_before = -inf
        self._proposed: GateChange | None = None
        self._proposed_at = -inf
        self._next_pace: Pace | None = None
        self._outage: Gate | None = None
        self._pace: Pace | None = None
        self.may_probe = self._has_worked = False
        self._entered = gate.epoch
        self._measured = Measured(gate.since)
        self._refusals = Refusals()

    def governs(self, now: float) -> bool:
        """Return whether the gate holds deliveries or paces them."""
        return self.gate.state != "normal" or self.is_told_to_wait(now)

    def see(self, gate: Gate) -> None:
        """Accept a row from the store, unless it is older than the known one."""
        if gate.epoch <= self.gate.epoch:
            if gate.epoch == self.gate.epoch:
                self._proposed_at = -inf  # refused or unwritten: it may be proposed again
            return
        before, self.gate = self.gate, gate
        is_mine = self._proposed is not None and gate == replace(
            self._proposed.result, probed_type=gate.probed_type
        )
        next_pace = self._next_pace if is_mine else None
        self._proposed = self._next_pace = None
        is_new_state = (gate.state, gate.since) != (before.state, before.since)
        if is_new_state:
            if not is_mine:
                self._not_before = -inf  # an operator may have dropped it, and otherwise it is in the row
            self._forget(self._now)
        elif is_mine and gate.state == "probing" and gate.probe_at != before.probe_at:
            self.may_probe = True
        if not self._is_pilot:
            self._pace = None
        elif self._pace is None:
            self._pace = next_pace or Pace(gate.pace or 1.0, self._now, helpless_until=gate.helpless_until)
            if self._not_before > self._now:  # it may have come during the write
                self._pace.stop(self._not_before, 0.0, self._now)

    def look(self, now: float) -> GateChange | None:
        """Return a change to write: a pilot's lease, a new pace, a Retry-After, or the return to normal."""
        self._notice(now)
        if self._is_waiting_for_store(now):
            return None
        if self.gate.state != "paced":
            is_unwritten = self.gate.state == "probing" and self._has_worked
            return self._recover(now) if is_unwritten else self._write_retry_after(now)
        if self._pace is None:
            return self._take_place(now)
        if self.is_told_to_wait(now):
            self._pace.held_at = now
        elif now - self._pace.held_at >= _NORMAL_SECONDS:
            return self._propose(_normal(self.gate, now, self._pace.rate))
        until = self.gate.pilot_until
        if until is not None and until - now > _RENEW_SECONDS:
            return self._write_retry_after(now)
        kept = replace(self.gate, helpless_until=self._pace.helpless_until)
        return self._propose(self._piloted(kept, now, self._pace.rate))

    def probe(self, now: float) -> GateChange | None:
        """Return the change that reserves the next probe, if one is due. The process that writes it sends the probe."""
        self._notice(now)
        gate = self.gate
        if gate.state != "probing" or self._is_waiting_for_store(now) or self.is_told_to_wait(now):
            return None
        if not _is_due(gate.probe_at, now, _LATEST_PROBE):
            return None
        return self._propose(replace(gate, probe_at=self._next_probe(gate, now)))

    def room(self, now: float, waiting: int) -> int | None:
        """Return how many deliveries to claim; None for no limit.

        Args:
            now: the time, in seconds.
            waiting: the number of claimed deliveries that are not sent yet.
        """
        self._notice(now)
        if self.is_told_to_wait(now):
            return 0
        if self.gate.state == "normal":
            return None
        return 0 if self._pace is None else self._pace.room(now, waiting)

    def wait(self, now: float, in_flight: int) -> float | None:
        """Return 0 to send now (takes a token), the seconds until the next call, or None to release the delivery.

        Args:
            now: the time, in seconds.
            in_flight: the number of requests without an answer.
        """
        self._notice(now)
        if self.is_told_to_wait(now):
            return None
        if self.gate.state == "normal":
            # The change that is being written will slow or stop the sends.
            return _A_MOMENT if self._is_waiting_for_store(now) else self._measured.wait(now, in_flight)
        if self.may_probe:
            self.may_probe = False
            return 0.0
        if self._pace is None:
            return None
        if self.gate.pilot_until is None or now >= self.gate.pilot_until:
            return _UNTIL_A_LOOK  # `look` renews the pilot's lease, or finds another pilot
        return self._pace.wait(now, in_flight)

    def sent(self, now: float) -> Sent:
        """Record the start of a send."""
        self._sends += 1
        return Sent(now, self.gate.epoch, self._sends)

    def answered(self, sent: Sent, answer: Answer, now: float, in_flight: int) -> GateChange | None:
        """Count an answer; return the change that it requires, if any.

        Args:
            sent: the return value of ``sent``.
            answer: the result of the send.
            now: the time, in seconds.
            in_flight: the number of requests without an answer.
        """
        self._notice(now)
        if answer.kind == "local":
            return None
        self._refusals.add(
            sent.number,
            self._sends,
            is_refusal=answer.is_refusal,
            works=answer.works or answer.is_odd,
        )
        if answer.retry_after and (self._refusals.concern_all or self.gate.state == "probing"):
            self._heed(answer.retry_after, now)
        if sent.epoch < self._entered:
            return self._write_retry_after(now)
        if answer.gone and self.gate.state != "paused":
            return self._propose(_paused(self.gate, now))
        change = self._account(sent, answer, now, in_flight)
        return change or self._write_retry_after(now)

    def leave(self, now: float) -> GateChange | None:
        """Return the change that ends this process's role as the pilot; None if it is not the pilot."""
        self._notice(now)
        if self._pace is None:
            return None
        return self._propose(replace(self.gate, pilot=None, pilot_until=None, pace=self._pace.rate))

    def _take_place(self, now: float) -> GateChange | None:
        """Return the change that makes this process the pilot, at half the last pace, if there is no pilot."""
        if not _is_due(self.gate.pilot_until, now, PILOT_SECONDS):
            return None
        return self._propose(self._piloted(self.gate, now, max(1.0, (self.gate.pace or 1.0) / 2)))

    def _account(self, sent: Sent, answer: Answer, now: float, in_flight: int) -> GateChange | None:
        works, is_odd = answer.works, answer.is_odd
        self._measured.add(now, sent.number, works=works, is_odd=is_odd, delivery_id=answer.delivery_id)
        match self.gate.state:
            case "probing":
                self._has_worked = works
                return self._recover(now) if works else None
            case "paced" if self._pace is not None:
                self._pace.answered(
                    sent.at,
                    now,
                    is_accepted=works or is_odd,
                    is_odd=is_odd,
                    is_refusal=answer.is_refusal,
                    duration=answer.duration,
                    in_flight=in_flight,
                )
                return self._fail(now)
            case "normal":
                return self._fail(now) or self._slow_down(answer, now, is_bad=not works and not is_odd)
        return None

    def _recover(self, now: float) -> GateChange:
        """Return the change from probing to paced, after a successful probe."""
        gate = self.gate
        lasted = max(0.0, now - (now if gate.failing_since is None else gate.failing_since))
        rate = max(1.0, (gate.pace or 1.0) * 0.5 ** (lasted / 10))
        self._next_pace = Pace(rate, now, helpless_until=gate.helpless_until)
        self._outage = gate
        after = replace(gate, state="paced", since=now, paced_at=now, failing_since=None, probe_at=None)
        return self._propose(replace(self._piloted(after, now, rate), reason="a probe was delivered"))

    def _fail(self, now: float) -> GateChange | None:
        """Return the change to probing, if the failures in a row are an outage."""
        gate, measured = self.gate, self._measured
        if not measured.is_outage(now, is_paced=gate.state == "paced") or self._is_waiting_for_store(now):
            return None
        outage = self._outage
        has_relapsed = gate.paced_at is not None and 0 <= now - gate.paced_at < _RELAPSE_SECONDS
        if gate.state == "paced" and outage is not None and has_relapsed:
            failing_since, pace = outage.failing_since, outage.pace
        elif self._pace is not None:
            failing_since, pace = now, self._pace.rate
        else:
            failing_since, pace = now, max(LOWEST_RATE, measured.accepted_before)
        measured.asked_at = now
        after = replace(
            gate,
            state="probing",
            since=now,
            reason=f"{measured.streak} failures in a row",
            failing_since=failing_since,
            probe_at=None,
            pilot=None,
            pilot_until=None,
            paced_at=None,
            pace=pace,
        )
        after = replace(after, probe_at=self._next_probe(after, now))
        since = max(measured.streak_since, now - _RECORDED_SECONDS)
        return self._propose(after, none_delivered_since=since)

    def _slow_down(self, answer: Answer, now: float, *, is_bad: bool) -> GateChange | None:
        """Return the change from normal to paced, if the endpoint accepts requests but too many fail."""
        measured = self._measured
        measured.window.add(now, is_bad=is_bad)
        measured.throttled.add(now, is_bad=answer.is_refusal)
        answers, bad = len(measured.window), measured.window.share_bad
        is_too_much = (
            answers >= FEWEST_ANSWERS
            and bad > half(answers, is_helpless=self._is_helpless(now)) + 0.5 * answers**-0.5
            and measured.has_just_accepted(now)
        )
        is_told_to_wait = self.is_told_to_wait(now)
        is_throttled = is_told_to_wait or self._is_throttled(now)
        if self._is_waiting_for_store(now) or not (is_too_much or is_throttled):
            return None
        rate = max(1.0, measured.accepted.per_second(now), measured.accepted_before if measured.streak else 0)
        if is_told_to_wait:
            self._next_pace = Pace(rate, now, helpless_until=self.gate.helpless_until)
        elif now - measured.since >= 1:
            self._next_pace = Pace(rate, now, share_bad=bad, helpless_until=self.gate.helpless_until)
        else:  # too early to measure the rate, so let the pace find it
            self._next_pace = Pace(rate, now, judged_from=measured.since + 1)
        reason = "it asks to slow down" if is_throttled else f"{bad:.0%} of requests fail"
        after = replace(self.gate, state="paced", since=now, paced_at=now, reason=reason)
        return self._propose(self._piloted(after, now, rate))

    def _is_throttled(self, now: float) -> bool:
        throttled = self._measured.throttled
        most = HELPLESS_SHARE if self._is_helpless(now) else _THROTTLED_SHARE
        return throttled.bad > 1 and throttled.share_bad > most

    def _heed(self, retry_after: float, now: float) -> None:
        self._not_before = max(self._not_before, now + min(retry_after, LONGEST_RETRY_AFTER))
        if self._pace is not None:
            self._pace.stop(self._not_before, retry_after, now)

    def _later(self, gate: Gate, now: float) -> float | None:
        """Return the end of the last Retry-After, if it is clearly later than the one in the row."""
        known = now if gate.not_before is None else gate.not_before
        wanted = self._not_before
        return wanted if wanted > now and wanted > known + 0.1 * (wanted - now) else None

    def _write_retry_after(self, now: float) -> GateChange | None:
        if self.gate.state == "paused" or self._is_waiting_for_store(now):
            return None
        return None if self._later(self.gate, now) is None else self._propose(self.gate)

    def is_told_to_wait(self, now: float) -> bool:
        """Return whether a Retry-After of the endpoint is in effect."""
        row = self.gate.not_before
        return self._not_before > now or not _is_due(row, now, LONGEST_RETRY_AFTER)

    def _is_helpless(self, now: float) -> bool:
        return self.gate.helpless_until is not None and now < self.gate.helpless_until

    @property
    def _is_pilot(self) -> bool:
        return self.gate.state == "paced" and self.gate.pilot == self._owner

    def _piloted(self, gate: Gate, now: float, pace: float) -> Gate:
        return replace(gate, pilot=self._owner, pilot_until=now + PILOT_SECONDS, pace=pace)

    def _next_probe(self, gate: Gate, now: float) -> float:
        lasted = now - (now if gate.failing_since is None else gate.failing_since)
        wait = min(max(_PROBE_SHARE * lasted, _SOONEST_PROBE), _LATEST_PROBE)
        return now + wait * self._rng.uniform(0.9, 1.1)

    def _propose(self, after: Gate, *, none_delivered_since: float | None = None) -> GateChange:
        if (later := self._later(after, self._now)) is not None:
            after = replace(after, not_before=later)
        self._proposed = GateChange(self.gate, after, none_delivered_since=none_delivered_since)
        self._proposed_at = self._now
        return self._proposed

    def _is_waiting_for_store(self, now: float) -> bool:
        return self._proposed is not None and now - self._proposed_at < _PATIENCE

    def _notice(self, now: float) -> None:
        """Store the time, and drop all measurements if the clock was set back."""
        if now < self._now - 1:
            pace, self._not_before, self._proposed_at = self._pace, -inf, -inf
            self._forget(now)
            self._pace = None if pace is None else Pace(pace.rate, now)
        self._now = now

    def _forget(self, now: float) -> None:
        """Reset the measurements after a change of the state or the clock."""
        self._entered = self.gate.epoch
        self._pace = None
        self.may_probe = self._has_worked = False
        self._measured = Measured(now)


def _normal(gate: Gate, now: float, pace: float) -> Gate:
    after = Gate(gate.endpoint, since=now, reason="the pace no longer limits the sends", pace=pace)
    return replace(after, helpless_until=gate.helpless_until, not_before=gate.not_before)


def _paused(gate: Gate, now: float) -> Gate:
    return Gate(
        gate.endpoint, "paused", since=now, reason="it answered 410", failing_since=gate.failing_since
    )


def _is_due(at: float | None, now: float, longest: float) -> bool:
    """Return whether a time has come. A time too far ahead counts as past, since the clock was set back."""
    return at is None or at <= now or at > now + longest + _SLACK
