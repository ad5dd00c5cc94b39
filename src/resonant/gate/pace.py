"""The pace of a paced endpoint: a rate that grows while requests are accepted, and is cut when more fail.

Only the pilot has a pace. It compares the share of failures with the share at a lower pace, so that random failures do not
reduce the rate. Decision 14 (docs/decisions/0014-the-endpoint-gate.md) has the rules.
"""

from collections import deque
from math import ceil, inf, sqrt
from typing import NamedTuple

from resonant.gate.measurements import FEWEST_ACCEPTED, FEWEST_ANSWERS, Answer, Latency, Window
from resonant.gate.permission import SEND, Send, Wait

# Even an endpoint that accepts nothing is tried every ten seconds.
LOWEST_RATE = 0.1
# A process that waits for a token asks again within a second, since its gate may change; for answers in flight, sooner.
_LONGEST_WAIT_SECONDS, _DRAIN_WAIT_SECONDS = 1.0, 0.05
# With a burst of a tenth of a second, a process that wakes four times a second never grew beyond 10 requests per second.
_BURST_SECONDS = 0.25
# Claims cover the time until the next poll and a little more, so that a backlog always appears as waiting deliveries.
_AHEAD_SECONDS = 0.35
# After an outage the rate doubles each second (1.5 to 3 times made no difference). A cut goes to 99 % of what was accepted, and
# then the rate grows by 5 % a second, and by 1 or a quarter at least: with 90 % and 10 %, an endpoint for 10 per second gets 9.2.
_DOUBLING, _GROWTH, _CUT, _LEAST_GROWTH, _LEAST_SHARE = 2.0, 1.05, 0.99, 1.0, 0.25
# Far above the rate after the last cut, the rate doubles again: that cut was due to chance, or the endpoint accepts more now.
_FAR_ABOVE = 1.5
# The rate stays below twice what was accepted, so that it does not grow while there is little to send; but not below 4.
_MOST_FACTOR, _LOWEST_MOST = 2.0, 4.0
# A cut is at most to half, unless 20 answers show that this share fails: the accepted requests of a second may be few by chance.
# With half at most, an endpoint for 5 per second got 28, since failures after a cut that is too small seem usual.
_CERTAIN_SHARE = 0.3
# At a rate this low, judging a cut takes ten seconds, so the first one needs 20 answers.
_LOW_RATE = 3.0
# A cut is judged by the sends that begin a second after it, the window of most receivers: over 3 s, since 1 % shows late, and by
# 10 answers, since fewer show no share; after 9 s by those that there are.
_FRESH_SECONDS, _JUDGED_SECONDS, _LONGEST_JUDGING_SECONDS, _FEWEST_JUDGED = 1.0, 3.0, 9.0, 10
# After three cuts without effect, failures do not depend on the pace: for a minute, only nearly all of them slow it down.
_MOST_CUTS, _LENIENT_SECONDS, LENIENT_SHARE = 3, 60.0, 0.95
# One cut without effect is enough if all sends of some second were accepted: a limit below the pace accepts fewer each second. A
# second with one send shows nothing, so the first cut leaves two. A longer time without an accepted answer may be an outage. If
# fewer than this share fail, a token bucket that is a little slower than the pace may be the cause: it accepts all of some second.
_FEWEST_IN_A_SECOND, _LONGEST_GAP_SECONDS, _LEAST_RANDOM_SHARE = 2, 1.6, 0.34
# The usual share is that of the latest answers, so that it follows the endpoint.
_MOST_USUAL = 100
# More than usual is 2 % and two standard deviations: with 1.5, an endpoint that fails a quarter at random took a minute to
# exceed 2 requests per second. More than half allows for 1.5 of a few answers: half may fail at random.
_TOLERATED_SHARE, _SIGMAS, _MORE_THAN_HALF, _HALF_SIGMAS = 0.02, 2.0, 0.55, 1.5
# After a Retry-After, one request is sent at a time until one is accepted, for a second at most, since it may be slow.
_TRYING_SECONDS, _TRY_AGAIN_SECONDS = 1.0, 0.02
# A refusal while the rate doubles delays it by a second: an endpoint that rejects excess requests with 429 then gets 1.35 times
# its capacity in its first second, not 1.74 times.
_REFUSED_SECONDS = 1.0
# A second Retry-After is probably due to the pace, which then does not grow for ten times as long, a minute at most.
_CONSTANT_FACTOR, _LONGEST_CONSTANT_SECONDS = 10, 60.0


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
        return self.share + _TOLERATED_SHARE + _SIGMAS * deviation

    def updated(self, answers: int, share_bad: float) -> "_Usual":
        """Return the usual share with these further answers."""
        known = min(_MOST_USUAL, self.answers)
        share = (self.share * known + share_bad * answers) / max(1, known + answers)
        return _Usual(min(share, LENIENT_SHARE), known + answers)


class Pace:
    """The rate of a paced endpoint, in the pilot's process.

    Args:
        rate: the initial number of sends per second.
        now: the time, in seconds.
        share_bad: the share of bad answers that led to the pace; None to double the rate every second at first, as after
            an outage.

    Attributes:
        held_at: when the pace last held a delivery back.
        lenient_until: until this time, only a very large share of failures counts, since slowing down did not help.
    """

    def __init__(self, rate: float, now: float, *, share_bad: float | None = None) -> None:
        self.rate = max(LOWEST_RATE, rate)
        self.lenient_until: float | None = None
        self.held_at = self._filled_at = self._grown_at = now
        self._tokens = 0.0
        self._constant_until = self._stopped_until = self._trying_until = self._fresh_from = -inf
        self._drain_to = self._rate_after_cut = inf
        self._doubling = share_bad is None
        self._usual = _Usual()
        self._window, self._accepted, self._latency = Window(), Window(FEWEST_ACCEPTED), Latency()
        self._cuts = 0
        self._is_judging = self._is_unclear = False
        self._accepted_sends: deque[float] = deque()
        self._most_in_a_second = 0
        if share_bad is not None:
            self._judge_from(now, share_bad)

    def may_send(self, now: float, in_flight: int) -> Send | Wait:
        """Return whether to send now, which takes a token, or how long to wait."""
        self._fill(now)
        if in_flight <= self._drain_to:
            self._drain_to = inf
        if in_flight and now < self._trying_until:
            wait = _TRY_AGAIN_SECONDS
        elif self._drain_to < inf:
            wait = _DRAIN_WAIT_SECONDS
        elif self._tokens < 1:
            wait = min(_LONGEST_WAIT_SECONDS, max(0.001, (1 - self._tokens) / self.rate))
        else:
            self._tokens -= 1
            return SEND
        self.held_at = now
        return Wait(wait)

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

    def stop(self, until: float, retry_after: float, now: float) -> None:
        """Send nothing and save no tokens until ``until``; then continue at the rate that was accepted before.

        The rate doubles as before. If requests were accepted since an earlier stop, the pace is the probable cause, so it
        grows slowly from now on.
        """
        self._tokens, self._filled_at = 0.0, max(self._filled_at, until)
        self._window, self._is_judging, self._fresh_from = Window(), False, max(self._fresh_from, until)
        self._trying_until = until + _TRYING_SECONDS
        stopped_until, self._stopped_until = self._stopped_until, until
        if self._accepted.last <= stopped_until:
            return
        self.rate = max(LOWEST_RATE, min(self.rate, self._accepted.per_second(now)))
        if stopped_until > -inf:
            self._doubling = False
            self._constant_until = until + min(_CONSTANT_FACTOR * retry_after, _LONGEST_CONSTANT_SECONDS)

    def answered(self, sent_at: float, answer: Answer, now: float, in_flight: int) -> None:
        """Count the answer to a request that was sent at ``sent_at``; ``in_flight`` requests have no answer yet."""
        if answer.is_accepted:
            self._accepted.add(now)
            if sent_at >= self._stopped_until:
                self._trying_until = -inf
        if answer.is_500:
            self._grow(_GROWTH, now)
            return
        is_slow = answer.is_accepted and self._latency.add(now, answer.duration)
        if sent_at >= self._fresh_from:
            self._window.add(now, is_bad=is_slow or not answer.is_accepted)
        if self._is_judging:
            self._note_for_judgement(sent_at, answer, now)
            self._judge(now, in_flight)
        elif is_slow or self._is_too_fast(now):
            self._cut(now, in_flight)
        elif answer.is_refusal and self._doubling and not self._is_lenient(now):
            self._slow_to_accepted(now, constant_for=_REFUSED_SECONDS)
        elif answer.is_accepted and self._latency.may_be_slow:
            self._slow_to_accepted(now, constant_for=0.0)
        elif answer.is_accepted:
            self._grow(_DOUBLING if self._doubling else _GROWTH, now)

    def _is_too_fast(self, now: float) -> bool:
        window, answers, bad = self._window, len(self._window), self._window.share_bad
        if not answers:
            return False
        if bad > more_than_half(answers, is_lenient=self._is_lenient(now)):
            self._usual = _Usual()
            return True
        if self._doubling and window.earlier >= _FEWEST_JUDGED:
            self._usual = _Usual(min(window.earlier_bad / window.earlier, LENIENT_SHARE), window.earlier)
        is_first_at_low_rate = not self._usual.answers and self.rate < _LOW_RATE
        fewest = FEWEST_ANSWERS if is_first_at_low_rate else _FEWEST_JUDGED
        return answers >= fewest and bad > self._usual.limit(answers, bad)

    def _is_lenient(self, now: float) -> bool:
        return now < (self.lenient_until or 0.0)

    def _slow_to_accepted(self, now: float, *, constant_for: float) -> None:
        """Lower the rate to the accepted one, and do not raise it for this time: the pace may not be the cause."""
        if now - self.held_at >= _REFUSED_SECONDS or now - self._stopped_until < _REFUSED_SECONDS:
            return
        self.rate = max(1.0, min(self.rate, self._accepted.per_second(now)))
        self._constant_until = max(self._constant_until, now + constant_for)

    def _cut(self, now: float, in_flight: int) -> None:
        if not (accepted := self._accepted.per_second(now)):
            return
        is_certain = len(self._window) >= FEWEST_ANSWERS and self._window.share_bad >= _CERTAIN_SHARE
        least = LOWEST_RATE if is_certain else max(LOWEST_RATE, self.rate / 2)
        if not (self._usual.answers or self._cuts) and self.rate >= _FEWEST_IN_A_SECOND:
            least = max(least, _FEWEST_IN_A_SECOND)
        self.rate = max(least, _CUT * min(self.rate, accepted / (1 - self._usual.share)))
        self._drain_to = in_flight / 2
        self._judge_from(now, self._window.share_bad)

    def _judge_from(self, now: float, share_bad: float) -> None:
        self._doubling = False
        self._share_at_cut = share_bad
        self._is_judging, self._fresh_from = True, now + _FRESH_SECONDS
        self._window = Window()
        self._latency.in_a_row = 0
        self._accepted_sends.clear()
        self._most_in_a_second, self._is_unclear = 0, False

    def _note_for_judgement(self, sent_at: float, answer: Answer, now: float) -> None:
        """Count the accepted sends of the last second, and notice slow answers and a long time without an accepted one."""
        if sent_at < self._fresh_from:
            return
        sends = self._accepted_sends
        if self._latency.in_a_row:
            self._is_unclear = True
        if answer.is_accepted:
            sends.append(sent_at)
            while sends[0] <= sent_at - 1:
                sends.popleft()
            self._most_in_a_second = max(self._most_in_a_second, len(sends))
        elif now - max(self._accepted.last, self._fresh_from) > _LONGEST_GAP_SECONDS:
            self._is_unclear = True

    def _judge(self, now: float, in_flight: int) -> None:
        """Check whether the cut reduced the failures; otherwise cut again, or regard them as random."""
        answers, bad = len(self._window) + self._window.earlier, self._window.share_bad
        lasts = now - self._fresh_from
        if lasts < _LONGEST_JUDGING_SECONDS and (answers < _FEWEST_JUDGED or lasts < _JUDGED_SECONDS):
            return
        self._is_judging, self._grown_at, self._rate_after_cut = False, now, self.rate
        excess, excess_at_cut = bad - self._usual.share, self._share_at_cut - self._usual.share
        has_helped = excess < _TOLERATED_SHARE or excess <= excess_at_cut / 2
        self._cuts = 0 if has_helped else self._cuts + 1
        is_clear = bad >= _LEAST_RANDOM_SHARE and not self._is_unclear
        is_random = is_clear and self._most_in_a_second >= max(_FEWEST_IN_A_SECOND, self.rate)
        if 0 < self._cuts < _MOST_CUTS and not is_random:
            self._cut(now, in_flight)
            return
        is_lenient = self._cuts >= _MOST_CUTS
        self._cuts = 0
        self._usual = (self._usual if has_helped else _Usual()).updated(answers, bad)
        if not has_helped:
            self._doubling, self._latency = True, Latency()
        if is_lenient:
            self.lenient_until = now + _LENIENT_SECONDS

    def _grow(self, factor: float, now: float) -> None:
        passed, self._grown_at = min(1.0, max(0.0, now - self._grown_at)), now
        if self._is_judging or now < self._constant_until:
            return
        accepted = self._accepted.per_second(now) / (1 - self._usual.share)
        rounds = passed / max(1.0, self._latency.usual)
        least = min(_LEAST_GROWTH, _LEAST_SHARE * self.rate)
        grown = max(self.rate * factor**rounds, self.rate + least * rounds)
        self.rate = min(grown, max(self.rate, _LOWEST_MOST, _MOST_FACTOR * accepted))
        self._doubling = self._doubling or self.rate > _FAR_ABOVE * self._rate_after_cut

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._filled_at)
        self._filled_at = max(self._filled_at, now)
        self._tokens = min(max(1.0, _BURST_SECONDS * self.rate), self._tokens + passed * self.rate)


def more_than_half(answers: int, *, is_lenient: bool) -> float:
    """Return the share of bad answers above which significantly more than half of the answers are bad."""
    return LENIENT_SHARE if is_lenient else _MORE_THAN_HALF + _HALF_SIGMAS * answers**-0.5
