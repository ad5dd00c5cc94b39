"""The controller of an endpoint's gate: decides whether and how fast this process may send.

All processes share the state, one row in the store (``resonant.store.shared.gates``). A controller proposes changes; the caller
writes them with compare-and-set and passes the resulting row to ``see``. Short-lived data, such as the answers of the last
second, stays in the process. A controller does no I/O, and takes the time as an argument.

Decision 14 (docs/decisions/0014-the-endpoint-gate.md) has the rules.
"""

import random
from dataclasses import replace
from math import inf
from typing import Any

from resonant.gate.failing import TypeFailures
from resonant.gate.measurements import (
    FEWEST_ANSWERS,
    KNOWN_SECONDS,
    SECOND,
    Answer,
    Measurements,
    Refusals,
    Sent,
)
from resonant.gate.pace import LOWEST_RATE, Pace, more_than_half
from resonant.gate.permission import ASK_SOON, LOOK_SECONDS, NO_LIMIT, RELEASE, Permission, Wait
from resonant.store.shared.gates import (
    KEPT_SECONDS,
    LAST_FAILURE,
    MOST_FAILING,
    RECENT_SECONDS,
    FailingType,
    Gate,
    GateChange,
    GateState,
    Probe,
)

# A pilot that died is replaced after three seconds, which a commit rarely takes; renewing at two saves three of four writes.
PILOT_SECONDS, _RENEW_SECONDS = 3.0, 2.0
# The wait for the next probe, as a share of the outage so far: with a look each quarter of a second, recovery is noticed within
# a ninth of the outage. Two minutes at most: with 30 s, three hours of outage cost 360 requests.
_PROBE_SHARE, _LATEST_PROBE_SECONDS, _PROBE_SPREAD = 0.08, 120.0, 0.1
# An endpoint that refuses connections is connected to this often, since that costs it nothing.
CONNECT_SECONDS = 5.0
# An absurd Retry-After holds an endpoint for five minutes at most; a single delivery may wait longer.
LONGEST_RETRY_AFTER = 300.0
# A Retry-After is written if it is later by a tenth than the stored one: each of many equal ones would cost a write.
_CLEARLY_LATER_SHARE = 0.1
# An endpoint that refuses a tenth of the requests asks for a pace; fewer may be limits of single tenants.
_REFUSED_SHARE = 0.1
# A stored time further ahead than its longest wait and this is from before the clock was set back.
_SLACK_SECONDS = 30.0
# The fields that a gate keeps in a new state; an operator's pause keeps less.
_KEPT = ("endpoint", "probed_type", "not_before", "failing")


class EndpointGate:
    """The gate of one endpoint in one process.

    Args:
        row: the current row in the store.
        owner: the id of this process.
        rng: randomizes the times of probes.

    Attributes:
        row: the row as last read by this process.
        may_probe: whether this process has reserved a probe and not sent it yet; set by the caller that wrote the change.
        connect_at: when to connect next, while probing; infinite if the endpoint is known to accept connections.
    """

    def __init__(self, row: Gate, owner: str, rng: random.Random) -> None:
        self.row = row
        self._owner, self._rng = owner, rng
        self._now = self._not_before = self._entered_at = -inf
        self._sends = self._sends_before = 0
        self._is_writing = False
        self._pace: Pace | None = None
        self._next_pace: Pace | None = None
        self._outage: Gate | None = None
        self.may_probe = self._has_worked = False
        self._failure = ""
        self.connect_at = -inf
        self._has_refused = self._accepts_again = False
        self._measured = Measurements(row.since)
        self._refusals = Refusals()
        self._types = TypeFailures()
        self._next_of_type_at = -inf
        # The types that were found to fail, or to work again (None), and are not in the row yet.
        self._found: dict[str, FailingType | None] = {}

    def failing(self) -> dict[str, FailingType]:
        """Return the event types that fail while others work: only probes of them are sent."""
        if not (self.row.failing or self._found):
            return {}
        found = self.row.failing_at(self._now) | self._found
        return {name: each for name, each in found.items() if each is not None}

    def governs(self, now: float) -> bool:
        """Return whether the gate holds deliveries or paces them."""
        return self.row.state != "normal" or self.must_wait(now)

    def takes_turns(self, now: float) -> bool:
        """Return whether the event types are claimed in turn: the endpoint is held or paced, or some of its types fail."""
        return self.governs(now) or bool(self.failing())

    def must_wait(self, now: float) -> bool:
        """Return whether a Retry-After of the endpoint is in effect."""
        return self._not_before > now or not _is_due(self.row.not_before, now, LONGEST_RETRY_AFTER)

    def see(self, row: Gate, *, at: float = -inf) -> None:
        """Accept a row from the store, unless it is older than the known one; ``at`` is the time when it was read, if known."""
        if row.epoch <= self.row.epoch:
            if row.epoch in (0, self.row.epoch):  # 0 if it was removed
                self._is_writing = False  # refused or unwritten: it may be proposed again
            # A row is removed an hour after the gate became normal. This process may have been unable to read the store meanwhile.
            if not row.epoch == 0 < self.row.epoch < 1000 * (at - KEPT_SECONDS):
                return
            if self.row.state == "normal":
                self.row = row  # the measurements stay
                return
        before, self.row = self.row, row
        next_pace, self._next_pace, self._is_writing = self._next_pace, None, False
        self._drop_written()
        if (row.state, row.since) != (before.state, before.since):
            if row.since != self._entered_at:  # not an own change, during whose write it may have come
                self._not_before = -inf  # an operator may have dropped it, and otherwise it is in the row
            self._sends_before = self._sends
            self._forget(self._now)
        # Before the first use, the pilot can only be an earlier run with this id: its lease has to end first.
        if row.state != "paced" or row.pilot != self._owner or self._now == -inf:
            self._pace = None
        elif self._pace is None:
            self._pace = next_pace or Pace(row.pace or 1.0, self._now)
            if self._not_before > self._now:  # it may have come during the write
                self._pace.stop(self._not_before, self._now)

    def _drop_written(self) -> None:
        """Drop findings that the row already has, or has no room for."""
        written = {each.event_type for each in self.row.failing}
        found = self._found.items()
        self._found = {name: each for name, each in found if (each is None) == (name in written)}
        if not self._are_failing_new():
            self._found = {}

    def look(self, now: float, *, may_be_pilot: bool = True) -> GateChange | None:
        """Return a change to write: a pilot's lease or its end, a new pace, a Retry-After, or the return to normal."""
        self._notice(now)
        if self._is_writing:
            return None
        if self.row.state == "paced":
            return self._look_at_pace(now, may_be_pilot=may_be_pilot)
        is_unwritten = self.row.state == "probing" and self._has_worked
        return self._recover(now) if is_unwritten else self._write_found()

    def _look_at_pace(self, now: float, *, may_be_pilot: bool) -> GateChange | None:
        row, pace = self.row, self._pace
        if pace is None:
            is_free = may_be_pilot and _is_due(row.pilot_until, now, PILOT_SECONDS)
            half = max(1.0, (row.pace or 1.0) / 2)
            return self._propose(replace(row, **self._piloted(now, half))) if is_free else None
        if not may_be_pilot:
            return self._propose(replace(row, pilot=None, pilot_until=None, pace=pace.rate))
        if self.must_wait(now):
            pace.held_at = now
        elif now - pace.held_at >= KNOWN_SECONDS:
            return self._enter("normal", now, "the pace no longer limits the sends", pace=pace.rate)
        if row.pilot_until is not None and row.pilot_until - now > _RENEW_SECONDS:
            return self._write_found()
        return self._propose(replace(row, **self._piloted(now, pace.rate)))

    def probe(self, now: float) -> Probe | None:
        """Return the next probe, if one is due. The process that writes its change sends it."""
        self._notice(now)
        row = self.row
        if row.state == "paused" or self._is_writing or self.must_wait(now):
            return None
        if row.state != "probing":
            return self._probe_of_type(now)
        if not (self._accepts_again or _is_due(row.probe_at, now, _LATEST_PROBE_SECONDS)):
            return None
        self._accepts_again = False
        next_probe, (reason, last, _) = (
            self._next_probe(row.down_since, now),
            (row.reason or "").partition(LAST_FAILURE),
        )
        known = row.reason if not (last and self._failure) else f"{reason}{LAST_FAILURE}{self._failure}"
        reserved = self._propose(replace(row, probe_at=next_probe, reason=known)).after
        return Probe(row, {None: reserved}, self._types.last_failures(), now)

    def _probe_of_type(self, now: float) -> Probe | None:
        """Return the next probe of a failing type, if one is due; at most once per look."""
        failing = self.failing()
        if not failing or now < self._next_of_type_at or self._are_failing_new():
            return None
        self._next_of_type_at = now + LOOK_SECONDS
        reserved: dict[str | None, Gate] = {}
        for name, each in failing.items():
            if _is_due(each.probe_at, now, _LATEST_PROBE_SECONDS):
                tried = replace(each, probe_at=self._next_probe(each.since, now), tried_at=now)
                if last := self._types.failure(name):
                    tried = replace(tried, failure=last.failure, code=last.code)
                reserved[name] = self.row.with_failing((failing | {name: tried}).values())
        tried_at = {name: each.tried_at for name, each in failing.items()}
        return Probe(self.row, reserved, tried_at, now) if reserved else None

    def may_connect(self, now: float) -> bool:
        """Return whether to connect now, without a request; the caller passes the result to ``connected``."""
        if self.row.state != "probing" or now < self.connect_at or self.must_wait(now):
            return False
        self.connect_at = inf
        return True

    def connected(self, now: float, *, is_accepted: bool) -> None:
        """Note whether the endpoint accepted a connection. If it had refused the one before, a probe is due now."""
        self._has_refused, self._accepts_again = not is_accepted, is_accepted and self._has_refused
        if not is_accepted:
            self.connect_at = now + CONNECT_SECONDS

    def claim_limit(self, now: float, waiting: int) -> float:
        """Return how many deliveries to claim; ``waiting`` is the number of claimed deliveries that are not sent yet."""
        self._notice(now)
        if self.must_wait(now):
            return 0
        if self.row.state == "normal":
            return NO_LIMIT
        return 0 if self._pace is None else self._pace.claim_limit(now, waiting)

    def most_within(self, seconds: float, now: float) -> int:
        """Return how many sends the pace of this process admits within this time; 0 if it does not pace.

        A pace counts from its proposal on, so that retries need not leave this process while it is written.
        """
        pace = self._pace or (self._next_pace if self._is_writing else None)
        return 0 if pace is None else pace.most_within(seconds, now)

    def may_send_probe(self, now: float) -> bool:
        """Return whether to send the reserved probe; clears the reservation."""
        self._notice(now)
        may_probe, self.may_probe = self.may_probe and not self.must_wait(now), False
        return may_probe

    def may_send(self, now: float, in_flight: int, starting: int = 0) -> Permission:
        """Return whether to send a regular delivery now; sending takes a token.

        Args:
            now: the time, in seconds.
            in_flight: the number of requests without an answer, including those that have not begun.
            starting: the number of those that have not begun.
        """
        self._notice(now)
        row = self.row
        if self.must_wait(now):
            return RELEASE
        if row.state == "normal":
            # The change that is being written will slow or stop the sends.
            return ASK_SOON if self._is_writing else self._measured.may_send(now, in_flight, starting)
        if self._pace is None:
            return RELEASE
        if row.pilot_until is None or now >= row.pilot_until:
            return Wait(LOOK_SECONDS)  # `look` renews the pilot's lease, or finds another pilot
        return self._pace.may_send(now)

    def sent(self, now: float) -> Sent:
        """Record the start of a send."""
        self._sends += 1
        return Sent(now, self._sends)

    def answered(self, sent: Sent, answer: Answer, now: float) -> GateChange | None:
        """Count the answer to a send; return the change that it requires, if any."""
        self._notice(now)
        if answer.is_local:
            return None
        self._types.add(now, answer)
        concerns_all = self._refusals.concern_all(sent.number, self._sends, answer)
        if answer.retry_after and (concerns_all or self.row.state == "probing"):
            self._not_before = max(self._not_before, now + min(answer.retry_after, LONGEST_RETRY_AFTER))
            if self._pace is not None:
                self._pace.stop(self._not_before, now)
        self._failure = answer.failure or self._failure
        is_current = sent.number > self._sends_before
        change = self._count(sent, answer, now) if is_current else None
        return change or self._write_found()

    def _count(self, sent: Sent, answer: Answer, now: float) -> GateChange | None:
        state = self.row.state
        # An answer shows that the endpoint accepts connections. Without one, only connecting shows it.
        self.connect_at = now + CONNECT_SECONDS if answer.status_code is None else inf
        if answer.is_gone and state != "paused":
            return self._enter("paused", now, "it answered 410", failing_since=self.row.failing_since)
        if self._is_due_to_its_type(now, answer):
            return None
        self._measured.add(now, sent.number, answer)
        if state == "probing":
            self._has_worked = answer.works
            return self._recover(now) if answer.works else None
        if state == "normal":
            return self._begin_outage(now) or self._slow_down(now)
        if self._pace is None:
            return None
        self._pace.answered(sent.at, answer, now)
        return self._begin_outage(now)

    def _is_due_to_its_type(self, now: float, answer: Answer) -> bool:
        """Return whether to ignore a failure since only its type fails; hold the type if it fails often."""
        name, held = answer.event_type, self.failing().get(answer.event_type)
        if answer.works:
            if held is not None:
                self._found[name] = None
            return False
        if held is not None:
            return True
        if answer.is_refusal or self.row.state == "probing" or not self._types.is_cause(now, name):
            return False
        if self._types.is_to_hold(name) and len(self.failing()) < MOST_FAILING:
            since = self._types.since(name)
            probe_at = self._next_probe(since, now)
            self._found[name] = FailingType(name, since, answer.failure, probe_at, now, answer.code)
            if self._pace is not None:
                self._pace.forget_failures()
        return True

    def _recover(self, now: float) -> GateChange:
        """Return the change from probing to paced, after a successful probe."""
        self._outage = row = self.row
        # They were not probed during the outage.
        for name, each in self.failing().items():
            self._found.setdefault(name, replace(each, tried_at=now))
        rate = max(1.0, (row.pace or 1.0) * 0.5 ** (max(0.0, now - row.down_since) / KNOWN_SECONDS))
        return self._begin_pace(Pace(rate, now), now, "a probe was delivered", failing_since=row.down_since)

    def _begin_outage(self, now: float) -> GateChange | None:
        """Return the change to probing, if the failures in a row are an outage."""
        row, measured, outage = self.row, self._measured, self._outage
        is_paced = row.state == "paced"
        if self._is_writing or not measured.is_outage(now, is_paced=is_paced):
            return None
        measured.asked_at = now
        began, rate = now, max(LOWEST_RATE, measured.accepted_before)
        if is_paced and outage is not None and 0 <= now - row.since < RECENT_SECONDS:
            began, rate = outage.down_since, outage.pace or rate
        elif self._pace is not None:
            rate = self._pace.rate
        reason, probe_at = (
            f"{measured.streak} failures in a row{LAST_FAILURE}{self._failure}",
            self._next_probe(began, now),
        )
        change = self._enter("probing", now, reason, failing_since=began, pace=rate, probe_at=probe_at)
        if measured.is_unknown(now) and measured.has_just_accepted(now):
            return change  # own deliveries are recorded after the answers, and would refuse it
        return replace(change, none_delivered_since=max(measured.streak_since, now - RECENT_SECONDS))

    def _slow_down(self, now: float) -> GateChange | None:
        """Return the change from normal to paced, if the endpoint accepts requests but too many fail."""
        measured = self._measured
        answers, bad = len(measured.window), measured.window.share_bad
        is_too_much = (
            answers >= FEWEST_ANSWERS
            and (
                bad > more_than_half(answers) + 0.5 * answers**-0.5
                or (self.row.epoch == 0 and measured.is_limited(now))
            )
            and measured.has_just_accepted(now)
        )
        must_wait = self.must_wait(now)
        is_refused = must_wait or (measured.refusals.bad > 1 and measured.refusals.share_bad > _REFUSED_SHARE)
        if self._is_writing or not (is_too_much or is_refused):
            return None
        rate = max(1.0, measured.accepted.per_second(now), measured.accepted_before if measured.streak else 0)
        # After a Retry-After, and before the rate is known, the pace doubles to find it.
        is_unknown = must_wait or now < measured.since + SECOND
        reason = (
            "it asked to slow down"
            if is_refused
            else f"{bad:.0%} of requests failed{LAST_FAILURE}{self._failure}"
        )
        return self._begin_pace(Pace(rate, now, share_bad=None if is_unknown else bad), now, reason)

    def _begin_pace(self, pace: Pace, now: float, reason: str, **fields: Any) -> GateChange:
        """Return the change to paced, with this process as the pilot."""
        change = self._enter("paced", now, reason, **fields, **self._piloted(now, pace.rate))
        self._next_pace = pace
        return change

    def _write_found(self) -> GateChange | None:
        """Return the change that writes a later Retry-After, or the types that were found to fail or to work."""
        if self.row.state == "paused" or self._is_writing:
            return None
        is_wanted = self._later() is not None or self._are_failing_new()
        return self._propose(self.row) if is_wanted else None

    def _are_failing_new(self) -> bool:
        """Return whether the failing types differ from those in the row."""
        if not self._found:
            return len(self.failing()) < len(self.row.failing)  # some were forgotten
        return self.row.with_failing(self.failing().values()).failing != self.row.failing

    def _later(self) -> float | None:
        """Return the end of the last Retry-After, if it is clearly later than the one in the row."""
        now, wanted, known = self._now, self._not_before, self.row.not_before
        known = now if known is None or _is_due(known, now, LONGEST_RETRY_AFTER) else known
        return wanted if wanted > now and wanted > known + _CLEARLY_LATER_SHARE * (wanted - now) else None

    def _piloted(self, now: float, pace: float) -> dict[str, Any]:
        return {"pilot": self._owner, "pilot_until": now + PILOT_SECONDS, "pace": pace}

    def _next_probe(self, down_since: float, now: float) -> float:
        share = _PROBE_SHARE * (now - down_since)
        wait = min(max(share, SECOND), _LATEST_PROBE_SECONDS)
        return now + wait * self._rng.uniform(1 - _PROBE_SPREAD, 1 + _PROBE_SPREAD)

    def _enter(self, state: GateState, now: float, reason: str, **fields: Any) -> GateChange:
        """Return the change to a new state."""
        self._entered_at = now
        kept = {name: getattr(self.row, name) for name in _KEPT}
        return self._propose(Gate(**kept, state=state, since=now, reason=reason, **fields))

    def _propose(self, after: Gate) -> GateChange:
        self._is_writing, self._next_pace = True, None
        later = self._later()
        after = after if later is None else replace(after, not_before=later)
        after = after.with_failing(self.failing().values())
        return GateChange(self.row, after, at=self._now)

    def _notice(self, now: float) -> None:
        """Store the time. If the clock was set back, drop all measurements, and move a Retry-After that is in effect."""
        if now < self._now - 1:
            known = self.row.not_before
            if known is not None and not _is_due(known, self._now, LONGEST_RETRY_AFTER):
                self._not_before = max(self._not_before, known)
            self._not_before -= self._now - now
            pace, self._is_writing = self._pace, False
            self.connect_at = min(self.connect_at, now)
            self._forget(now)
            self._types, self._next_of_type_at = TypeFailures(), -inf
            self._pace = None if pace is None else Pace(pace.rate, now)
        self._now = now

    def _forget(self, now: float) -> None:
        """Reset the measurements after a change of the state or the clock."""
        self._pace = None
        self.may_probe = self._has_worked = self._has_refused = self._accepts_again = False
        self._measured = Measurements(now)


def _is_due(at: float | None, now: float, longest: float) -> bool:
    """Return whether a time has come. A time too far ahead counts as past, since the clock was set back."""
    return at is None or at <= now or at > now + longest + _SLACK_SECONDS
