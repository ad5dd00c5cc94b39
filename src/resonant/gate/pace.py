"""The pace of a paced endpoint: a rate that grows while requests are accepted, and is cut when more fail.

Only the pilot has a pace. It compares the share of failures with the share at a lower pace, so that random failures do not
reduce the rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf, sqrt

from resonant.gate.window import Accepted, Latency, Window

# The lowest rate, and the longest time until the next call of `wait`.
LOWEST_RATE = 0.1
_LONGEST_WAIT = 1.0
_BURST_SECONDS = 0.25
# Claims cover the time until the next poll and a little more, so that a backlog always appears as waiting deliveries.
_AHEAD_SECONDS = 0.35
_GROWTH = 1.05
_LEAST_GROWTH, _LEAST_SHARE = 1.0, 0.25
_DOUBLING = 2.0
_CUT = 0.99
_FRESH_SECONDS = 1.0
_JUDGED_ANSWERS = 10
_JUDGING_SECONDS = 3.0
_LONGEST_JUDGING = 10.0
_MOST_CUTS = 3
_HELPLESS_SECONDS = 60.0
HELPLESS_SHARE = 0.95
_TOLERATED = 0.02
_SIGMAS = 2.0
_HALF_SIGMAS = 1.5
# After a Retry-After, one request is sent at a time until one is accepted, for this many seconds at most.
_TRYING_SECONDS = 1.0
_TRY_AGAIN_SECONDS = 0.02
# If the pace seems to be the cause of a Retry-After, it does not grow for ten times as long, a minute at most.
_BRAKE_SECONDS = 1.0
_STILL_FACTOR, _LONGEST_STILL = 10, 60.0


@dataclass(frozen=True, slots=True)
class _Usual:
    """The share of bad answers at a lower pace, and the number of answers."""

    share: float = 0.0
    answers: int = 0

    def limit(self, answers: int, share_bad: float) -> float:
        """Return the share of bad answers above which this many answers are significantly worse than usual."""
        known = max(self.answers, _JUDGED_ANSWERS)
        pooled = (self.share * known + share_bad * answers) / (known + answers)
        return self.share + _TOLERATED + _SIGMAS * sqrt(pooled * (1 - pooled) * (1 / answers + 1 / known))


class Pace:
    """The rate of a paced endpoint, in the pilot's process.

    Args:
        rate: the initial number of sends per second.
        now: the time, in seconds.
        share_bad: the share of bad answers that led to the pace; None to double the rate every second at first, as after
            an outage.
        judged_from: ignore answers to sends before this time.
        helpless_until: until this time, only a very large share of failures counts.
    """

    def __init__(
        self,
        rate: float,
        now: float,
        *,
        share_bad: float | None = None,
        judged_from: float = -inf,
        helpless_until: float | None = None,
    ) -> None:
        self.rate = max(LOWEST_RATE, rate)
        self.helpless_until = helpless_until
        self.held_at = now
        self._tokens = 0.0
        self._filled_at = self._grown_at = now
        self._still_until = self._stopped_until = self._trying_until = -inf
        self._drain_to = inf
        self._doubling = share_bad is None
        self._usual = _Usual()
        self._cuts = 0
        self._window = Window()
        self._accepted = Accepted()
        self._latency = Latency()
        self._fresh_from = judged_from
        self._judging: float | None = None
        if share_bad is not None:
            self._judge_from(now, share_bad)

    def wait(self, now: float, in_flight: int) -> float:
        """Return 0 to send now, which takes a token, or the seconds until the next call."""
        if in_flight and now < self._trying_until:
            self.held_at = now
            return _TRY_AGAIN_SECONDS
        self._fill(now)
        if in_flight <= self._drain_to:
            self._drain_to = inf
        if self._drain_to == inf and self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        self.held_at = now
        if self._drain_to < inf:
            return 0.05
        return min(_LONGEST_WAIT, max(0.001, (1 - self._tokens) / self.rate))

    def room(self, now: float, waiting: int) -> int:
        """Return how many more deliveries to claim; ``waiting`` is the number claimed already."""
        self._fill(now)
        return max(0, ceil(self._tokens + self.rate * _AHEAD_SECONDS) - waiting)

    def stop(self, until: float, retry_after: float, now: float) -> None:
        """Send nothing and save no tokens until ``until``; then continue at the rate that was accepted before.

        The rate doubles as before. If requests were accepted since an earlier stop, the pace is the probable cause, so it
        grows slowly from now on.
        """
        self._tokens, self._filled_at = 0.0, max(self._filled_at, until)
        self._window, self._judging, self._fresh_from = Window(), None, max(self._fresh_from, until)
        self._trying_until = until + _TRYING_SECONDS
        stopped_until, self._stopped_until = self._stopped_until, until
        last = self._accepted.last()
        if last is None or last <= stopped_until:
            return
        self.rate = max(LOWEST_RATE, min(self.rate, self._accepted.per_second(now)))
        if stopped_until > -inf:
            self._doubling = False
            self._still_until = until + min(_STILL_FACTOR * retry_after, _LONGEST_STILL)

    def answered(
        self,
        sent_at: float,
        now: float,
        *,
        is_accepted: bool,
        is_odd: bool,
        is_refusal: bool,
        duration: float,
        in_flight: int,
    ) -> None:
        """Count an answer.

        Args:
            sent_at: when the request was sent.
            now: the time, in seconds.
            is_accepted: whether the endpoint accepted the request.
            is_odd: whether the endpoint answered 500, which does not depend on the pace.
            is_refusal: whether the endpoint asked to slow down or to wait.
            duration: how long the request took, in seconds.
            in_flight: the number of requests without an answer.
        """
        if is_accepted:
            self._accepted.add(now)
            if sent_at >= self._stopped_until:
                self._trying_until = -inf
        if is_odd:
            self._grow(_GROWTH, now)
            return
        if is_accepted:
            self._latency.add(now, duration)
        is_slow = is_accepted and self._latency.is_slow
        if sent_at >= self._fresh_from:
            self._window.add(now, is_bad=not is_accepted or is_slow)
        if self._judging is not None:
            self._judge(now, in_flight)
        elif is_slow or self._is_too_fast(now):
            self._cut(now, in_flight)
        elif is_refusal and self._doubling and not self._is_helpless(now):
            self._brake(now, still=_BRAKE_SECONDS)
        elif is_accepted:
            self._accept(now)

    def _accept(self, now: float) -> None:
        if self._latency.may_be_slow:
            self._brake(now, still=0.0)
        else:
            self._grow(_DOUBLING if self._doubling else _GROWTH, now)

    def _is_too_fast(self, now: float) -> bool:
        answers, bad = len(self._window), self._window.share_bad
        if not answers:
            return False
        if bad > half(answers, is_helpless=self._is_helpless(now)):
            self._usual = _Usual()
            return True
        if self._doubling and self._window.earlier >= _JUDGED_ANSWERS:
            self._usual = _Usual(
                min(self._window.earlier_bad / self._window.earlier, HELPLESS_SHARE), self._window.earlier
            )
        return answers >= _JUDGED_ANSWERS and bad > self._usual.limit(answers, bad)

    def _is_helpless(self, now: float) -> bool:
        return self.helpless_until is not None and now < self.helpless_until

    def _brake(self, now: float, *, still: float) -> None:
        """Slow down to what is accepted, and do not grow for this time: it may not be the pace's fault."""
        if now - self.held_at >= _BRAKE_SECONDS or now - self._stopped_until < _BRAKE_SECONDS:
            return
        self.rate = max(1.0, min(self.rate, self._accepted.per_second(now)))
        self._still_until = max(self._still_until, now + still)

    def _cut(self, now: float, in_flight: int) -> None:
        accepted = self._accepted.per_second(now)
        if not accepted:
            return
        self.rate = max(LOWEST_RATE, self.rate / 2, _CUT * min(self.rate, accepted / (1 - self._usual.share)))
        self._drain_to = in_flight / 2
        self._judge_from(now, self._window.share_bad)

    def _judge_from(self, now: float, share_bad: float) -> None:
        self._doubling = False
        self._share_at_cut = share_bad
        self._judging = now
        self._fresh_from = now + _FRESH_SECONDS
        self._window = Window()
        self._latency.forgive()

    def _judge(self, now: float, in_flight: int) -> None:
        """Check whether the cut reduced the failures."""
        judged_from = self._judging or 0.0
        answers, bad = len(self._window) + self._window.earlier, self._window.share_bad
        is_over = now >= judged_from + _LONGEST_JUDGING
        if not is_over and (answers < _JUDGED_ANSWERS or now < self._fresh_from + _JUDGING_SECONDS):
            return
        self._judging = None
        self._grown_at = now
        excess = bad - self._usual.share
        if excess < _TOLERATED or excess <= (self._share_at_cut - self._usual.share) / 2:
            self._usual, self._cuts = _Usual(min(bad, HELPLESS_SHARE), answers), 0
            return
        self._cuts += 1
        if self._cuts < _MOST_CUTS:
            self._cut(now, in_flight)
            return
        self._usual, self._cuts = _Usual(min(bad, HELPLESS_SHARE), answers), 0
        self._doubling = True
        self._latency = Latency()
        self.helpless_until = now + _HELPLESS_SECONDS

    def _grow(self, factor: float, now: float) -> None:
        if self._judging is not None or now < self._still_until:
            self._grown_at = now
            return
        passed = min(1.0, max(0.0, now - self._grown_at))
        self._grown_at = now
        most = max(self.rate, 2.0, 2 * self._accepted.per_second(now) / (1 - self._usual.share))
        rounds = passed / max(1.0, self._latency.usual)
        least = min(_LEAST_GROWTH, _LEAST_SHARE * self.rate)
        grown = max(self.rate * factor**rounds, self.rate + least * rounds)
        self.rate = min(grown, most)

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled_at)
        self._filled_at = max(self._filled_at, now)
        self._tokens = min(max(1.0, _BURST_SECONDS * self.rate), self._tokens + passed * self.rate)


def half(answers: int, *, is_helpless: bool) -> float:
    """Return the share of bad answers above which significantly more than half of the answers are bad."""
    return HELPLESS_SHARE if is_helpless else 0.55 + _HALF_SIGMAS * answers**-0.5
