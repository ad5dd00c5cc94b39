"""Processes that share the gate of one endpoint, without a store, at times that the test sets."""

import random
from dataclasses import replace

from resonant.delivery.verdict import Verdict
from resonant.gate.controller import EndpointGate
from resonant.gate.measurements import Answer
from resonant.gate.permission import SEND
from resonant.store.shared.gates import Gate

DELIVERED = Answer(None, 200, 0.01)


def failed(status=503, category="transient", *, duration=0.01, delivery_id=0, event_type="", **verdict):
    """Return the answer to a send that failed; the status is None without an answer."""
    verdict = {"code": f"http_{status}" if status else "connect_refused", **verdict}
    return Answer(Verdict(category, **verdict), status, duration, delivery_id, event_type)


REFUSED = failed(None)


class Row:
    """The store's row, changed by compare-and-set."""

    def __init__(self):
        self.gate = Gate("api")
        self.last_delivered = float("-inf")
        self.writes = 0

    def write(self, change):
        since = change.none_delivered_since
        if change.before.epoch != self.gate.epoch or (since is not None and self.last_delivered > since):
            return False
        self.gate = change.result
        self.writes += 1
        return True

    def set(self, **fields):
        """Change the row as another process would."""
        self.gate = replace(self.gate, epoch=self.gate.epoch + 1, **fields)


class Process:
    """A process with the controller of one endpoint, which sends and is answered at once.

    Attributes:
        probed: the event type of the last probe that it reserved.
    """

    def __init__(self, row, name="one", seed=1):
        self.row = row
        self.gate = EndpointGate(row.gate, name, random.Random(seed))
        self.probed = None

    def write(self, change):
        if change is None:
            return False
        won = self.row.write(change)
        self.gate.see(change.result if won else self.row.gate)
        return won

    def look(self, now, types=("",)):
        """Poll at this time; these event types are due. Return whether the process has reserved a probe."""
        self.gate.see(self.row.gate)
        self.write(self.gate.look(now))
        return self.reserve(self.gate.probe(now), types)

    def reserve(self, probe, types=("",)):
        """Reserve a probe that is due, for the first of these types by rank; return whether it was reserved."""
        allowed = (
            [] if probe is None else [each for each in types if probe.types is None or each in probe.types]
        )
        allowed.sort(key=lambda each: probe.rank(each) if probe else ())
        if not allowed or not self.write(probe.change(allowed[0])):
            return False
        self.gate.may_probe, self.probed = True, allowed[0]
        return True

    def look_until(self, start, until):
        """Look four times a second."""
        for n in range(round(start * 4), round(until * 4)):
            self.look(n / 4)

    def may_send(self, now, in_flight=0, event_type=""):
        """Return whether a delivery of this type may be sent, or a probe that was reserved."""
        if self.gate.may_send_probe(now):
            return True
        return event_type not in self.gate.failing() and self.gate.may_send(now, in_flight) == SEND

    def answer(self, answer, now, sent=None):
        """Count the answer to a send, and write the change that it requires; return whether there was one."""
        return self.write(self.gate.answered(sent or self.gate.sent(now), answer, now))

    def send(self, answer, now, in_flight=0):
        """Send if the gate admits it; return whether it did."""
        if not self.may_send(now, in_flight, answer.event_type):
            return False
        self.answer(answer, now)
        return True

    def fail(self, now, answer=REFUSED, times=20):
        """Fail sends in flight, since the gate admits only a few at first."""
        for n in range(times):
            self.answer(replace(answer, delivery_id=n), now)

    def recover(self, now):
        """Let an outage end with a probe that is delivered at this time."""
        self.fail(now - 2)
        self.look(now)
        assert self.send(DELIVERED, now)
