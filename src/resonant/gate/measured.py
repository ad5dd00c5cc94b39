"""Measurements of an endpoint in one process, since its gate entered the current state."""

from __future__ import annotations

from math import inf, log

from resonant.gate.window import Accepted, Window

# An outage is this many failures in a row, or fewer over a longer time. Among the first answers, a shorter streak
# is enough if the earlier share of failures makes it improbable.
_STREAK, _FEWEST_STREAK, _IMPROBABLE = 20, 6, 1e-4
_SLOW_STREAK, _SLOW_STREAK_SECONDS = 5, 30.0
# After a pause, a process starts with one send, then a few, and adds more as the endpoint accepts them. After
# `_FIRST_SECONDS` without a failure, only slow answers limit the sends; with failures, the process adds only a few.
_COLD_SECONDS = 10.0
_FIRST_SENDS, _MORE_SENDS, _FIRST_GROWTH = 4, 2, 1.25
_FIRST_SECONDS, _FIRST_ANSWERS = 0.4, 30
_ASK_AGAIN_SECONDS = 0.01
# The wait before a refused change is proposed again. It is refused while other processes can deliver.
_REFUSED_SECONDS = 0.1


class Measured:
    """The answers since the gate entered its state.

    Attributes:
        since: time of the first answer after a pause; until then, of the first send.
        window: the latest answers; bad ones are failures.
        throttled: the latest answers; bad ones are 429s.
        accepted: the accepted answers.
        streak: failures in a row.
        streak_since: time of the first failure in the streak, or of the last accepted answer, if later.
        asked_at: time of the last proposal because of the streak.
        accepted_before: accepted answers per second before the streak.
    """

    def __init__(self, now: float) -> None:
        self.window, self.throttled = Window(), Window()
        self.accepted = Accepted()
        self.accepted_before = 0.0
        self.streak, self.streak_since = 0, now
        self.asked_at = -inf
        self._streak_began = 0
        self._odd: set[int] = set()
        self.since = self._answered_at = -inf
        self._first_answers = self._first_accepted = 0

    def add(self, now: float, number: int, *, works: bool, is_odd: bool, delivery_id: int) -> None:
        """Count an answer. Repeated 500s (odd) of one delivery do not indicate an outage.

        A late answer to a send from before the streak does not change the streak.
        """
        self._first_answers += 1
        if self._first_answers == 1:
            self.since = now  # the number of sends grows from the first answer on
        self._answered_at = now
        if works:
            if number > self._streak_began:
                self.streak = 0
                self._odd.clear()
        elif (self.streak == 0 or number > self._streak_began) and not (is_odd and delivery_id in self._odd):
            if self.streak == 0:
                self.streak_since, self._streak_began = now, number
                self.accepted_before = self.accepted.per_second(now)
            self.streak += 1
        if is_odd:
            self._odd.add(delivery_id)
        if works or is_odd:
            self.accepted.add(now)
            self._first_accepted += 1
            self.streak_since = now

    def is_outage(self, now: float, *, is_paced: bool) -> bool:
        """Return whether the failures in a row are an outage."""
        streak = _STREAK if is_paced or self._first_answers > _FIRST_ANSWERS else self._first_streak()
        lasts = self.streak >= _SLOW_STREAK and now - self.streak_since >= _SLOW_STREAK_SECONDS
        if (self.streak < streak and not lasts) or 0 <= now - self.asked_at < _REFUSED_SECONDS:
            return False
        return not (is_paced and self.has_just_accepted(now))

    def _first_streak(self) -> float:
        before = max(0, self._first_answers - self.streak)
        share_bad = (max(0, before - self._first_accepted) + 0.5) / (before + 1.5)
        return min(_STREAK, max(_FEWEST_STREAK, log(_IMPROBABLE) / log(share_bad)))

    def has_just_accepted(self, now: float) -> bool:
        """Return whether the endpoint accepted a request within the last second."""
        last = self.accepted.last()
        return last is not None and now - last < 1

    def wait(self, now: float, in_flight: int) -> float:
        """Return 0 to send now, or the seconds until the next call. Few sends are allowed before the first answers."""
        if self.since == -inf or now - max(self._answered_at, self.since) > _COLD_SECONDS:
            self.since, self._first_answers, self._first_accepted = now, 0, 0
        if self._first_answers >= _FIRST_ANSWERS:
            return 0.0
        moments = int(max(0.0, now - self.since) / _FIRST_SECONDS)
        has_failed = self._first_answers > self._first_accepted
        if moments and not has_failed:
            return 0.0
        if not moments and not self._first_answers:
            return _ASK_AGAIN_SECONDS if in_flight else 0.0  # the answer may be a 410 or a Retry-After
        most = _FIRST_SENDS + _MORE_SENDS * moments + _FIRST_GROWTH * self._first_accepted
        return 0.0 if self._first_answers + in_flight < most else _ASK_AGAIN_SECONDS
