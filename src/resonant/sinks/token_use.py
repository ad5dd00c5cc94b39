"""Judges an endpoint's refusals (401) of OAuth tokens, whose cause may be the token, the endpoint or the event."""

import asyncio
import logging
from http import HTTPStatus
from math import inf

from resonant.errors import TokenUnavailable
from resonant.sinks.tokens import LONGEST_PAUSE, SHORTEST_WAIT, TokenSource, growing_pause

logger = logging.getLogger(__name__)

# Refusals belong together if the pauses between them are shorter than this, which is longer than any wait below.
_TOGETHER_SECONDS = 120.0
# A receiver may learn of a new token late. After this time, its refusals are judged as usual.
_LATEST_SECONDS = 600.0


class TokenUse:
    """One endpoint's use of tokens that it may share with others. While it accepts nothing, it waits longer and longer.

    Args:
        source: gets the tokens.
        name: the endpoint's name.
    """

    def __init__(self, source: TokenSource, name: str) -> None:
        self.source = source
        self._name = name
        self._refused_since = self._refused_at = self._paused_until = -inf
        # Whether the last answer was a refusal, and the number of pauses since the last acceptance.
        self._was_refused = False
        self._pauses = 0

    async def prepare(self) -> None:
        """Wait for a token for a few seconds at most; not during a pause."""
        if not self._pause_left():
            await self.source.prepare()

    def current(self) -> str:
        """Return a valid token.

        Raises:
            TokenUnavailable: during a pause, or without a valid token.
        """
        if left := self._pause_left():
            problem = f"no OAuth token: {self.source.place} gives tokens that the endpoint refuses (401)"
            raise TokenUnavailable(problem, max(SHORTEST_WAIT, left))
        return self.source.current()

    def answered(self, token: str, status_code: int) -> None:
        """Note the answer to a send; drop a refused token (401), unless an event was accepted since the last refusal.

        Args:
            token: the token of the send.
            status_code: the status of the answer.

        Raises:
            TokenUnavailable: the event should be sent again, since it may not be at fault.
        """
        if HTTPStatus.OK <= status_code < HTTPStatus.MULTIPLE_CHOICES:
            self._was_refused, self._pauses, self._paused_until = False, 0, -inf
        if status_code != HTTPStatus.UNAUTHORIZED:
            return
        now = asyncio.get_running_loop().time()
        if now - self._refused_at >= _TOGETHER_SECONDS:
            self._refused_since, self._pauses = now, 0
            if self.source.drop(token):
                logger.warning("endpoint %s refused its token (401): requesting a new one", self._name)
        elif self._was_refused and self.source.drop(token):
            self._pause(now)
        self._refused_at, self._was_refused = now, True
        if (lasted := now - self._refused_since) < _LATEST_SECONDS:
            wait = max(SHORTEST_WAIT, self._pause_left(), min(lasted, LONGEST_PAUSE))
            raise TokenUnavailable("the endpoint refused the OAuth token (401): requesting a new one", wait)

    def _pause(self, now: float) -> None:
        if not self._pauses:
            logger.warning("endpoint %s refused a new token, too (401): deliveries to it wait", self._name)
        self._paused_until = now + growing_pause(self._pauses)
        self._pauses += 1

    def _pause_left(self) -> float:
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())
