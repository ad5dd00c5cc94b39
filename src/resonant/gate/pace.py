"""The pace of a paced endpoint: a rate that grows while requests are accepted, and is cut when more fail.

Only the pilot has a pace. It compares the share of failures with the share at a lower pace, so that random failures do not
reduce the rate. Decision 14 (docs/decisions/0014-the-endpoint-gate.md) has the rules.
"""

from collections import deque
from math import ceil, inf, sqrt
from typing import NamedTuple

from resonant.gate.measurements import FEW, FEWEST_ANSWERS, MOST_FACTOR, SECOND, Answer, Latency, Window
from resonant.gate.permission import LOOK_SECONDS, SEND, Send, Wait

# Even an endpoint that accepts nothing is tried every ten seconds.
LOWEST_RATE = 0.1
# Claims cover the time until the next look and a little more, so that a backlog always appears as waiting deliveries.
_AHEAD_SECONDS = 0.35
# After an outage, the rate doubles each second. A cut goes to 99 % of what was accepted, and then the rate grows by 5 % a second, or
# by a quarter of a low rate. With a cut to 90 % and a growth of 10 %, an endpoint for 10 requests per second gets 9.2.
_GROWTH, _CUT = 1.05, 0.99
# Far above the rate after the last cut, the rate doubles again: that cut was due to chance, or the endpoint accepts more now.
_FAR_ABOVE = 1.5
# A cut is judged by the sends that begin a second after it, the window of most receivers: over 3 s, since 1 % shows late, and by
# 10 answers, since fewer show no share.
_JUDGED_SECONDS, _FEWEST_JUDGED = 3.0, 10
# A twentieth of refusals cuts the pace at once; fewer may be limits of single tenants.
_REFUSED_SHARE = 0.05
# If 34 % still fail after two cuts to the accepted rate, failures do not depend on the pace: a token bucket accepts more than
# its rate at first, but not again. If fewer fail, a bucket that is a little slower than the pace may be the cause: a third cut.
_LEAST_RANDOM_SHARE, _MOST_CUTS = 0.34, 3
# More than usual is 2.25 standard deviations: with 1.5, an endpoint that fails a quarter at random took a minute to exceed 2
# requests per second. More than half allows for 1.5 of a few answers: half may fail at random. A usual share is at most 95 %.
_SIGMAS, _MORE_THAN_HALF, _HALF_SIGMAS, _MOST_SHARE = 2.25, 0.55, 1.5, 0.95


class _Usual(NamedTuple):
    """The share of bad answers at a lower pace, and the number of answers."""

    share: float = 0.0
    answers: int = 0

    def limit(self, answers: int, share_bad: float) -> float:
        """Return the share of bad answers above which this many answers are significantly worse than usual."""
        known = max(self.answers, _FEWEST_JUDGED)
        # The variance is pooled: that of the usual share alone is 0 before the first failure.
        pooled = (self.share * known + share_bad * answers) / (known + answers)
        deviation = sqrt(pooled * (1 - pooled) * (1 / answers + 1 / known))
        return self.share + _SIGMAS * deviation

    def updated(self, answers: int, share_bad: float) -> "_Usual":
        """Return the usual share with these further answers, at least one."""
        known = self.answers + answers
        share = (self.share * self.answers + share_bad * answers) / known
        return _Usual(min(_MOST_SHARE, share), known)


class Pace:
    """The rate of a paced endpoint, in the pilot's process.

    Args:
        rate: the initial number of sends per second.
        now: the time, in seconds.
        share_bad: the share of bad answers that led to the pace; None to double the rate every second at first, as after
            an outage.

    Attributes:
        held_at: when the pace last held a delivery back.
    """

    def __init__(self, rate: float, now: float, *, share_bad: float | None = None) -> None:
        self.rate = max(LOWEST_RATE, rate)
        self.held_at = self._filled_at = self._grown_at = now
        self._tokens = 0.0
        self._stopped_until = self._fresh_from = self._last_sent = -inf
        self._rate_after_cut = inf
        self._doubling = share_bad is None
        self._usual = _Usual()
        self._window, self._accepted, self._latency = Window(), Window(FEW), Latency()
        self._cuts = 0
        self._is_judging = False
        # The sends of a second that were accepted, and the most of them since the last cut.
        self._sends: deque[float] = deque()
        self._most_sends = 0
        if share_bad is not None:
            self._judge_from(now, share_bad)

    def may_send(self, now: float) -> Send | Wait:
        """Return whether to send now, which takes a token, or how long to wait."""
        self._fill(now)
        if self._tokens >= 1:
            self._tokens -= 1
            return SEND
        self.held_at = now
        return Wait(min(SECOND, max(0.001, (1 - self._tokens) / self.rate)))

    def forget_failures(self) -> None:
        """Forget the share of failures: they were those of a type that is held from now on."""
        self._usual, self._window = _Usual(), Window()

    def claim_limit(self, now: float, waiting: int) -> int:
        """Return how many more deliveries to claim; ``waiting`` is the number claimed already."""
        return max(0, self.most_within(_AHEAD_SECONDS, now) - waiting)

    def most_within(self, seconds: float, now: float) -> int:
        """Return how many sends the rate admits within this time, at least 1."""
        self._fill(now)
        return ceil(max(1.0, self._tokens + self.rate * seconds))

    def stop(self, until: float, now: float) -> None:
        """Send nothing and save no tokens until ``until``; then continue at the rate that was accepted before.

        The rate doubles as before. If requests were accepted since an earlier stop, the pace is the probable cause, so it
        grows slowly from now on.
        """
        self._tokens, self._filled_at = 0.0, max(self._filled_at, until)
        self._window, self._is_judging, self._fresh_from = Window(), False, max(self._fresh_from, until)
        stopped_until, self._stopped_until = self._stopped_until, until
        if self._accepted.last > stopped_until:
            self.rate = max(LOWEST_RATE, min(self.rate, self._accepted.per_second(now)))
            self._doubling = self._doubling and stopped_until == -inf

    def answered(self, sent_at: float, answer: Answer, now: float) -> None:
        """Count the answer to a request that was sent at ``sent_at``."""
        if answer.is_accepted:
            self._note_accepted(min(sent_at, now), now)  # the clock may have been set back
        if answer.is_500:
            return  # it depends on the event, not on the pace
        is_slow = answer.is_accepted and self._latency.add(now, answer.duration)
        if sent_at >= self._fresh_from:
            self._window.add(now, is_bad=is_slow or not answer.is_accepted)
        if self._is_judging:
            self._judge(now)
        elif is_slow or self._is_too_fast():
            self._cut(now)
        elif answer.is_refusal and self._is_refused_too_much() and self._is_limiting(now):
            self._slow_to_accepted(now)
            self._cut(now)
        elif answer.is_accepted and self._latency.may_be_slow and self._is_limiting(now):
            self._slow_to_accepted(now)
        elif answer.is_accepted:
            self._grow(now)

    def _note_accepted(self, sent_at: float, now: float) -> None:
        self._accepted.add(now)
        self._last_sent = max(self._last_sent, sent_at)
        if sent_at > self._last_sent - SECOND:  # not a late answer
            self._sends.append(sent_at)
        while self._sends and self._sends[0] <= self._last_sent - SECOND:
            self._sends.popleft()
        self._most_sends = max(self._most_sends, len(self._sends))

    def _is_too_fast(self) -> bool:
        window, answers, bad = self._window, len(self._window), self._window.share_bad
        if answers < FEWEST_ANSWERS:
            return False
        if bad > more_than_half(answers):
            self._usual = _Usual()
            return True
        if self._doubling and window.earlier >= _FEWEST_JUDGED:
            self._usual = _Usual(min(window.earlier_bad / window.earlier, _MOST_SHARE), window.earlier)
        return bad > self._usual.limit(answers, bad)

    def _is_refused_too_much(self) -> bool:
        """Return whether refusals are not usual, and more than those of single tenants."""
        return not self._usual.share and self._window.share_bad >= _REFUSED_SHARE

    def _is_limiting(self, now: float) -> bool:
        """Return whether the pace has held deliveries back within the last second, and the endpoint did not ask to wait."""
        return now - self.held_at < SECOND <= now - self._stopped_until

    def _slow_to_accepted(self, now: float) -> None:
        self.rate = max(1.0, min(self.rate, self._accepted.per_second(now)))

    def _cut(self, now: float) -> None:
        if accepted := self._accepted.per_second(now):
            known = 0.0 if self._cuts or self._rate_after_cut == inf else min(self.rate, self._rate_after_cut)
            self.rate = max(LOWEST_RATE, known, _CUT * min(self.rate, accepted / (1 - self._usual.share)))
            self._judge_from(now, self._window.share_bad)

    def _judge_from(self, now: float, share_bad: float) -> None:
        self._doubling = False
        self._share_at_cut = share_bad
        self._is_judging, self._fresh_from = True, now + SECOND
        self._window = Window()
        self._latency.in_a_row = 0
        self._sends.clear()
        self._most_sends = 0

    def _judge(self, now: float) -> None:
        """Check whether the cut reduced the failures; otherwise cut again, or regard them as random."""
        answers, bad = len(self._window) + self._window.earlier, self._window.share_bad
        if answers < _FEWEST_JUDGED or now - self._fresh_from < _JUDGED_SECONDS:
            return
        self._is_judging, self._grown_at = False, now
        excess, excess_at_cut = bad - self._usual.share, self._share_at_cut - self._usual.share
        has_helped = excess <= excess_at_cut / 2
        self._cuts = 0 if has_helped else self._cuts + 1
        is_clear = bad >= _LEAST_RANDOM_SHARE and not self._latency.in_a_row
        if 0 < self._cuts < _MOST_CUTS - is_clear:
            self._cut(now)
            return
        self._cuts, self._rate_after_cut = 0, self.rate
        self._usual = (self._usual if has_helped else _Usual()).updated(answers, bad)
        if not has_helped:
            self._doubling, self._latency = True, Latency()

    def _grow(self, now: float) -> None:
        passed, self._grown_at = min(SECOND, max(0.0, now - self._grown_at)), now
        grown = self.rate * (MOST_FACTOR if self._doubling else _GROWTH) ** passed
        grown = max(grown, self.rate + min(1.0, self.rate / 4) * passed)
        # At most twice the requests that it accepted within a second, plus the usual failures.
        most = max(self.rate, MOST_FACTOR * self._most_sends / (1 - self._usual.share))
        self.rate = min(grown, most)
        self._doubling = self._doubling or self.rate > _FAR_ABOVE * self._rate_after_cut

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled_at)
        self._filled_at = max(self._filled_at, now)
        self._tokens = min(max(1.0, LOOK_SECONDS * self.rate), self._tokens + passed * self.rate)


def more_than_half(answers: int) -> float:
    """Return the share of bad answers above which significantly more than half of the answers are bad."""
    return _MORE_THAN_HALF + _HALF_SIGMAS / sqrt(answers)
