"""Processes that share the gate of one endpoint, without a store, at times that the test sets."""

from __future__ import annotations

import random
from dataclasses import replace

from resonant.gate.answers import Answer
from resonant.gate.controller import EndpointGate
from resonant.store.shared.gates import Gate

DELIVERED = Answer("delivered", 0.01, 200)
REFUSED = Answer("failed", 0.01, None)
BUSY = Answer("failed", 0.01, 503)


class Row:
    """The store's row, changed by compare-and-set."""

    def __init__(self):
        self.gate = Gate("api")
        self.last_delivered = float("-inf")

    def write(self, change):
        since = change.none_delivered_since
        if change.before.epoch != self.gate.epoch or (since is not None and self.last_delivered > since):
            return False
        self.gate = change.result
        return True


class Process:
    """A process with the controller of one endpoint, which sends and is answered at once."""

    def __init__(self, row, name="one", seed=1):
        self.row = row
        self.gate = EndpointGate(row.gate, name, random.Random(seed))

    def write(self, change):
        if change is None:
            return False
        won = self.row.write(change)
        self.gate.see(change.result if won else self.row.gate)
        return won

    def look(self, now):
        self.gate.see(self.row.gate)
        self.write(self.gate.look(now))
        return self.write(self.gate.probe(now))

    def send(self, answer, now, in_flight=0):
        """Send if the gate admits it; return whether it did."""
        if self.gate.wait(now, in_flight) != 0:
            return False
        self.write(self.gate.answered(self.gate.sent(now), answer, now, in_flight))
        return True

    def fail(self, now, answer=REFUSED, times=20):
        """Fail sends in flight, since the gate admits only a few at first."""
        for n in range(times):
            change = self.gate.answered(self.gate.sent(now), replace(answer, delivery_id=n), now, 0)
            self.write(change)
