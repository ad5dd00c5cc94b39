"""Decides which endpoint this run probes next."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from math import inf

from resonant.dispatch.flights.endpoint_run import EndpointRun

# The shortest time between two probes of a run, and the share of its time that claiming them may take: with many endpoints
# down, each is probed less often.
PROBE_SECONDS = 0.1
_PROBE_SHARE = 0.05


@dataclass(slots=True, eq=False)
class ProbeTurns:
    """Lets the endpoints that need probes take turns: a few probes in a second at most, since many endpoints may be down.

    Attributes:
        opened: all open endpoints of the run.
        stays: whether the run continues when only held deliveries are left.
        again_at: when another endpoint may get its probe; infinite unless the last turns claimed one.
    """

    opened: Collection[EndpointRun]
    stays: bool
    again_at: float = inf
    _next_at: float = 0.0
    _held: deque[EndpointRun] = field(default_factory=deque)

    def note_found(self, held: Iterable[EndpointRun], due: Iterable[EndpointRun]) -> None:
        """Note the endpoints that need probes: those held, and those with types that fail. Those probed longest ago stay in front."""
        probed = {*held, *(endpoint for endpoint in due if endpoint.gate.failing())}
        known = [endpoint for endpoint in self._held if endpoint in probed]
        new = sorted(probed.difference(known), key=lambda endpoint: endpoint.name)
        self._held = deque([*known, *new])

    def turns(self, now: float, *, has_room: bool) -> Iterator[EndpointRun]:
        """Yield the endpoints to probe, if it is time for a probe and there is room; stop once a probe was claimed."""
        self.again_at = inf
        if now < self._next_at or not has_room:
            return
        for _ in range(len(self._held)):
            endpoint = self._held.popleft()
            self._held.append(endpoint)
            if not self._leaves(endpoint):
                yield endpoint

    def note_probe(self, began_at: float, took: float) -> None:
        """Note the time of a claimed probe, and how long its claim took."""
        self.again_at = self._next_at = began_at + max(PROBE_SECONDS, took / _PROBE_SHARE)

    def _leaves(self, endpoint: EndpointRun) -> bool:
        """Return whether to leave further probes of an endpoint to other runs, so that they do not keep this run from ending."""
        if self.stays or not (endpoint.flights.was_probed and endpoint.holds_for_long()):
            return False
        busy = (each for each in self.opened if each.flights.busy or each.flights.retrying)
        return all(each.holds_for_long() for each in busy)
