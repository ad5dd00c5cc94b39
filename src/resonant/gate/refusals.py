"""Tells a limit of the whole endpoint from a limit of one tenant, by the answers after a refusal."""

from __future__ import annotations

from math import log

# The refusals after a first one that hold an endpoint: so many that they would be improbable, given the earlier share of
# refusals, if the limit did not concern every request.
_FEWEST, _MOST, _IMPROBABLE = 3, 8, 1e-5
# The share of refusals is that of the last answers; before the first ones, it is this.
_ANSWERS, _PRIOR_SHARE, _PRIOR_ANSWERS = 200, 0.02, 2


class Refusals:
    """The refusals of an endpoint: its 429s, and the answers with a Retry-After.

    Only the answers to sends after a first refusal show whether it concerns every request. A good one ends the count.
    """

    def __init__(self) -> None:
        self._share, self._answers = _PRIOR_SHARE, _PRIOR_ANSWERS
        self._is_counting = False
        self._first = self._latest = self._refused = self._needed = 0

    def add(self, number: int, last: int, *, is_refusal: bool, works: bool) -> None:
        """Count an answer.

        Args:
            number: the number of the send.
            last: the number of the last send.
            is_refusal: whether the endpoint refused it for now.
            works: whether the endpoint accepted it.
        """
        is_later = self._is_counting and number > self._first
        if is_refusal and not self._is_counting:
            self._is_counting, self._first, self._latest, self._refused = True, last, last, 0
            likely = round(log(_IMPROBABLE) / log(min(0.99, self._share)))
            self._needed = max(_FEWEST, min(_MOST, likely))
        elif is_refusal and is_later:
            self._refused += 1
            self._latest = max(self._latest, number)
        elif works and is_later:
            self._is_counting = False
        self._answers = min(_ANSWERS, self._answers + 1)
        self._share += (is_refusal - self._share) / self._answers

    @property
    def concern_all(self) -> bool:
        """Whether most of the sends since the first refusal were refused too."""
        # Refusals are often faster than other answers, so this counts the sends between them, too.
        is_most = 2 * self._refused > self._latest - self._first
        return self._is_counting and self._refused >= self._needed and is_most
