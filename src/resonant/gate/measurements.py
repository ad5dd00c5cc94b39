"""A process's measurements of an endpoint: its latest answers, failures in a row, refusals and durations.

Decision 14 (docs/decisions/0014-the-endpoint-gate.md) has the rules.
"""

from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from math import inf, log
from statistics import median
from typing import NamedTuple

from resonant.delivery.verdict import Verdict
from resonant.gate.permission import ASK_SOON, SEND, Send, Wait

# Most receivers limit by the second, so answers count for a second; at low rates, the latest 20, since fewer show no share of
# failures, and the latest 5 for a rate or a duration.
SECOND, FEWEST_ANSWERS, FEW = 1.0, 20, 5
# How long it stays known that an endpoint, or a type of its events, works, and that a pace is needed: a shorter time may be a gap
# between two bursts. After an outage, the known rate halves in each such time.
KNOWN_SECONDS = 10.0
# An endpoint is slow after five slow answers in a row that came over a second: fewer may be one stall. An answer is slow beyond
# twice the median of the first five, when the endpoint was idle, and a tenth of a second.
_SLOW_FACTOR, _SLOW_MARGIN = 2, 0.1
# An outage is 20 failures in a row, or five over half a minute at low rates. While paced, and among the first answers, a shorter
# streak is enough if chance makes it so rarely at the earlier share of failures. From six failures on, one request is sent at a
# time: a rejection takes 3 ms, so 50 at a time would cause hundreds before the gate changes.
_LONG_STREAK_SECONDS, _FEWEST_STREAK, _RARELY = 30.0, 6, 1e-4
# A process that has sent nothing for ten seconds begins with one send, which may be answered with 410. In each second, it sends
# at most twice as many as were accepted in it: an endpoint for 10 requests per second would get hundreds in the first, since a
# rejection takes 3 ms. It sends freely after 0.4 s without a failure. An answer that is accepted this soon after a failure shows
# that the pace is not the cause. A limit leaves 40 to 50 % of failures at this pace. After as long without an answer, another one
# is sent while an outage is likely, since one that hangs must not stop the rest, and a refused change is proposed again.
_SOON_SECONDS, MOST_FACTOR, _FIRST_SENDS, _OFTEN, _HALF = 0.4, 2, 4, 0.4, 0.5
_TIMEOUTS = ("timeout", "read_timeout")


class Sent(NamedTuple):
    """A send: its start, and its number in this process."""

    at: float
    number: int


@dataclass
class Answer:
    """The result of a send.

    Attributes:
        verdict: the classifier's verdict on the failure; None if it was delivered.
        status_code: None if the endpoint did not answer.
        duration: how long the request took, without the lag of this process, in seconds.
        delivery_id: identifies repeated 500s of one delivery, which do not indicate an outage.
        event_type: the type of the event.
        code: the code of the failure; empty if it was delivered.
        is_local: whether the failure is on the sender's side; the gate ignores it.
        is_gone: whether the endpoint answered 410.
        retry_after: the Retry-After, in seconds.
        works: whether the endpoint works: it delivered, answered 2xx although its flow run is unfinished or failed, or rejected only this
            event.
        is_500: whether it is a 500: a bug that depends on the event, not on the load.
        is_accepted: whether the endpoint took the request, at the pace of the sends.
        is_refusal: whether the endpoint asked to slow down, or to wait.
    """

    verdict: Verdict | None
    status_code: int | None
    duration: float
    delivery_id: int = 0
    event_type: str = ""

    def __post_init__(self) -> None:
        verdict, status_code = self.verdict, self.status_code
        self.code = "" if verdict is None else verdict.code
        self.is_local = verdict is not None and verdict.blame == "local"
        self.is_gone = verdict is not None and verdict.gone
        self.retry_after = None if verdict is None else verdict.retry_after
        is_taken = status_code is not None and HTTPStatus.OK <= status_code < HTTPStatus.MULTIPLE_CHOICES
        rejects_event = verdict is not None and verdict.category == "permanent" and status_code is not None
        self.works = verdict is None or is_taken or rejects_event
        self.is_500 = status_code == HTTPStatus.INTERNAL_SERVER_ERROR
        self.is_accepted = self.works or self.is_500
        self.is_refusal = bool(self.retry_after) or status_code == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def failure(self) -> str:
        """The failure in a few words, without text of the receiver; empty if it was delivered."""
        return (
            f"no answer within {self.duration:.1f} s".replace(".0 s", " s")
            if self.code in _TIMEOUTS
            else self.code.replace("_", " ")
        )


class Window:
    """The answers of the last second, or the latest few if that is more; older ones are only counted.

    Args:
        fewest: the number of answers that are kept for longer than a second.

    Attributes:
        seconds: how long an answer is kept.
        bad: the number of bad answers.
        earlier, earlier_bad: the numbers of older answers, and of older bad ones.
        last: the time of the last answer; -inf without one.
    """

    def __init__(self, fewest: int = FEWEST_ANSWERS) -> None:
        self._answers: deque[tuple[float, bool]] = deque()
        self._fewest = fewest
        self.seconds = SECOND
        self.bad = self.earlier = self.earlier_bad = 0
        self.last = -inf

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def share_bad(self) -> float:
        """The share of bad answers; 0 without answers."""
        return self.bad / len(self._answers) if self._answers else 0.0

    def add(self, now: float, *, is_bad: bool = False) -> None:
        """Add an answer."""
        self._answers.append((now, is_bad))
        self.bad += is_bad
        self.last = now
        self.drop(now)

    def per_second(self, now: float) -> float:
        """Return the answers per second, over a second or over the latest few if that is longer."""
        self.drop(now)
        answers, span = len(self._answers), now - self._answers[0][0] if self._answers else 0.0
        # A time that begins with an answer contains half an answer too many.
        return answers / SECOND if span <= SECOND else (answers - 0.5) / span

    def drop(self, now: float) -> None:
        """Drop the answers that are too old."""
        while len(self._answers) > self._fewest and self._answers[0][0] < now - self.seconds:
            _, was_bad = self._answers.popleft()
            self.bad -= was_bad
            self.earlier += 1
            self.earlier_bad += was_bad


class Latency:
    """Compares the durations of accepted answers with those of the first few, when the endpoint was idle.

    Attributes:
        usual: the median of the first durations.
        in_a_row: the number of slow answers in a row.
        may_be_slow: whether at least the last five answers were slow.
    """

    def __init__(self) -> None:
        self._first: list[float] = []
        self._since = self.usual = 0.0
        self.in_a_row = 0
        self.may_be_slow = False

    def add(self, now: float, duration: float) -> bool:
        """Add the duration of an accepted answer; return whether five answers, and all of a second, were slow."""
        if len(self._first) < FEW:
            self._first.append(duration)
            self.usual = median(self._first)
            return False
        if not self.in_a_row:
            self._since = now
        self.in_a_row = self.in_a_row + 1 if duration > _SLOW_FACTOR * self.usual + _SLOW_MARGIN else 0
        self.may_be_slow = self.in_a_row >= FEW
        return self.may_be_slow and now - self._since >= SECOND


class Refusals:
    """The refusals of an endpoint: its 429s, and the answers with a Retry-After.

    If five sends after a first refusal are refused, and most of the sends since, the limit concerns the whole endpoint, not one
    tenant. Only answers to later sends show this; a good one ends the count.
    """

    def __init__(self) -> None:
        self._is_counting = False
        self._first = self._latest = self._refused = 0

    def concern_all(self, number: int, last: int, answer: Answer) -> bool:
        """Count an answer; return whether most of the sends since the first refusal were refused too.

        ``number`` is that of the answered send, ``last`` that of the last send.
        """
        is_later = self._is_counting and number > self._first
        if answer.is_refusal and not self._is_counting:
            self._is_counting, self._first, self._latest, self._refused = True, last, last, 0
        elif answer.is_refusal and is_later:
            self._refused, self._latest = self._refused + 1, max(self._latest, number)
        elif answer.is_accepted and is_later:
            self._is_counting = False
        # Refusals are often faster than other answers, so this counts the sends between them, too.
        is_most = 2 * self._refused > self._latest - self._first
        return self._is_counting and is_most and self._refused >= FEW


class Measurements:
    """The answers since the gate entered its state.

    Attributes:
        since: the time of the first answer after a pause; until then, of the first send.
        window: the latest answers; bad ones are failures.
        refusals: the latest answers; bad ones are refusals.
        accepted: the accepted answers.
        streak: failures in a row.
        streak_since: the time of the first failure in the streak, or of the last accepted answer, if later.
        asked_at: the time of the last proposal because of the streak.
        accepted_before: accepted answers per second before the streak.
    """

    def __init__(self, now: float) -> None:
        self.window, self.refusals, self.accepted = Window(), Window(), Window(FEW)
        self._second, self._is_known, self._is_random, self._failed_at = Window(0), False, False, -inf
        self.accepted_before = 0.0
        self.streak, self.streak_since, self._streak_began = 0, now, 0
        self.asked_at = self.since = self._answered_at = self._alone_at = -inf
        self._answered_500: set[int] = set()
        self._answers = self._accepted = 0

    def add(self, now: float, number: int, answer: Answer) -> None:
        """Count the answer to the send with this number. Repeated 500s of one delivery do not indicate an outage.

        A late answer to a send from before the streak does not change the streak: rejections are faster than acceptances.
        """
        self._answers += 1
        if self._answers == 1:
            self.since = now  # the number of sends grows from the first answer on
        self._answered_at = now
        self.window.add(now, is_bad=not answer.is_accepted)
        self.refusals.add(now, is_bad=answer.is_refusal)
        self._second.add(now, is_bad=not answer.is_accepted)
        is_late = self.streak > 0 and number <= self._streak_began
        is_repeated = answer.is_500 and answer.delivery_id in self._answered_500
        if answer.works and not is_late:
            self._is_random = self._is_random or now - self._failed_at < _SOON_SECONDS
            self.streak = 0
            self._answered_500.clear()
        elif not (answer.works or is_late or is_repeated):
            if self.streak == 0:
                self.streak_since, self._streak_began = now, number
                self.accepted_before = self.accepted.per_second(now)
            self.streak += 1
            self._failed_at = now
        if answer.is_500:
            self._answered_500.add(answer.delivery_id)
        if answer.is_accepted:
            self.accepted.add(now)
            self._accepted += 1
            self._second.seconds = max(SECOND, answer.duration)
            self.streak_since = now
        most_bad = _HALF if self._is_random else _OFTEN
        self._is_known = self._is_known or (
            self._answers >= FEWEST_ANSWERS and self.window.share_bad <= most_bad
        )

    def is_outage(self, now: float, *, is_paced: bool) -> bool:
        """Return whether the failures in a row are an outage."""
        needed = float(FEWEST_ANSWERS)
        if (is_paced and not self.refusals.bad) or self.is_unknown(now):
            before = max(0, self._answers - self.streak)
            share_bad = (max(0, before - self._accepted) + 0.5) / (before + 1.5)
            needed = min(needed, max(_FEWEST_STREAK, log(_RARELY) / log(share_bad)))
        lasts = self.streak >= FEW and now - self.streak_since >= _LONG_STREAK_SECONDS
        if (self.streak < needed and not lasts) or 0 <= now - self.asked_at < _SOON_SECONDS:
            return False
        return not (is_paced and self.has_just_accepted(now))

    def is_unknown(self, now: float) -> bool:
        """Return whether there are too few answers yet to know what the endpoint accepts."""
        return self._has_few(now) or not self._is_known

    def _has_few(self, now: float) -> bool:
        return self._answers < FEWEST_ANSWERS or now - self.since < SECOND

    def is_limited(self, now: float) -> bool:
        """Return whether the first answers show a limit: no request succeeded within 0.4 s of a failure."""
        # After an accepted answer, the second of the sends before is over.
        is_clear = not (self.streak or self._has_few(now) or self._is_known or self._is_random)
        return is_clear and self.window.share_bad <= _HALF

    def has_just_accepted(self, now: float) -> bool:
        """Return whether the endpoint accepted a request within the last second."""
        return now - self.accepted.last < 1

    def may_send(self, now: float, in_flight: int, starting: int) -> Send | Wait:
        """Return whether to send now: few sends are allowed before the first answers."""
        # The time until the first send begins shows nothing.
        is_before_first = not self._answers and in_flight <= starting
        if is_before_first or now - max(self._answered_at, self.since) > KNOWN_SECONDS:
            self.since, self._answers, self._accepted = now, 0, 0
            self._is_known, self._is_random = False, False
        if self.streak >= _FEWEST_STREAK and in_flight:
            if now - max(self._answered_at, self._alone_at) < _SOON_SECONDS:
                return ASK_SOON
            self._alone_at = now
        has_failed = self._answers > self._accepted
        if not self.is_unknown(now) or (not has_failed and now - self.since >= _SOON_SECONDS):
            return SEND
        if self._is_random or (self._answers and not self._accepted):
            return SEND if in_flight < _FIRST_SENDS else ASK_SOON
        # A slow answer makes the time that is counted long.
        if not in_flight and now - self._answered_at >= SECOND:
            return SEND
        self._second.drop(now)
        most = max(1, MOST_FACTOR * (len(self._second) - self._second.bad))
        return SEND if len(self._second) + in_flight < most else ASK_SOON
