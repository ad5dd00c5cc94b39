"""Gets OAuth tokens, and renews them before they expire: one request at a time for all senders of a process."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
from http import HTTPStatus
from math import inf, isfinite
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import httpx

from resonant.errors import TokenUnavailable
from resonant.sinks.network.bounded_connection import READ_BYTES
from resonant.sinks.redaction import Redactor
from resonant.sinks.transport import open_transport, read_body

if TYPE_CHECKING:
    from resonant.sinks.endpoint import Endpoint
    from resonant.sinks.oauth import OAuth

logger = logging.getLogger(__name__)

# The time limit of a token request.
REQUEST_SECONDS = 10.0
# How long a send waits for a token before its delivery is given back to the store.
WAIT_SECONDS = 5.0
# The lifetime of a token whose answer does not say it, and the bounds of what the answer says.
_DEFAULT_LIFETIME, _SHORTEST_LIFETIME, _LONGEST_LIFETIME = 300.0, 1.0, 86_400.0
# A token is renewed when this share of its lifetime is left, or this many seconds if that is less.
_MARGIN_SHARE, _MARGIN_SECONDS = 0.1, 30.0
# The pause after a failed request; it doubles with each further failure. `resonant emit` does not wait for the longest one.
_FIRST_PAUSE, LONGEST_PAUSE = 0.25, 60.0
# The shortest wait of a delivery without a token.
SHORTEST_WAIT = 1.0
_TOKEN = re.compile(r"[!-~]+")


class _Failed(Exception):
    """The token endpoint's answer has no usable token; the text contains no secret."""


class TokenSource:
    """The tokens for one set of settings. Old tokens are used until they expire if a renewal fails.

    Attributes:
        problem: why the last request failed, on one line without secrets; None if it succeeded.
        recent: the last tokens, which must be removed from texts.
        place: the server of the token endpoint, for messages.
    """

    def __init__(self, oauth: OAuth, endpoint: Endpoint) -> None:
        """Prepare.

        Args:
            oauth: the endpoint's settings for tokens.
            endpoint: its proxy, certificates and address guard also apply to token requests.
        """
        self.problem: str | None = None
        self.recent: tuple[str, ...] = ()
        self._oauth = oauth
        self._endpoint = endpoint
        self._url = httpx.URL(oauth.token_url)
        port = "" if self._url.port is None else f":{self._url.port}"
        self.place = f"the server {self._url.scheme}://{self._url.host}{port}"
        self._redactor = Redactor.of(endpoint)
        self._token = ""
        self._renew_at = self._expires_at = self._retry_at = -inf
        self._failures = 0
        self._renewal: asyncio.Task[None] | None = None

    async def prepare(self) -> None:
        """Renew the token if it is time; without a valid one, wait for it for at most ``WAIT_SECONDS``.

        It does not wait if the next request is due later.
        """
        now = asyncio.get_running_loop().time
        if now() < self._renew_at:
            return
        self._begin_renewal(now())
        until = now() + WAIT_SECONDS
        while now() >= self._expires_at and (left := until - now()) > 0:
            if self._begin_renewal(now()) is not None:
                await asyncio.wait([self._renewal] if self._renewal else [], timeout=left)
            elif self._retry_at > until:
                return
            else:
                await asyncio.sleep(max(0.0, self._retry_at - now()))

    def current(self) -> str:
        """Return a valid token.

        Raises:
            TokenUnavailable: without a valid token.
        """
        now = asyncio.get_running_loop().time()
        if now < self._expires_at:
            return self._token
        problem = self.problem or f"{self.place} has not answered yet"
        raise TokenUnavailable(f"no OAuth token: {problem}", max(SHORTEST_WAIT, self._retry_at - now))

    def drop(self, token: str) -> bool:
        """Drop a token that an endpoint refused; return whether it was still in use."""
        is_current = token == self._token and asyncio.get_running_loop().time() < self._expires_at
        if is_current:
            self._token = ""
            self._renew_at = self._expires_at = -inf
        return is_current

    def _begin_renewal(self, now: float) -> asyncio.Task[None] | None:
        """Return the running renewal; start one unless a request has just failed."""
        if (self._renewal is None or self._renewal.done()) and now >= self._retry_at:
            self._renewal = asyncio.create_task(self._renew())
        return None if self._renewal is None or self._renewal.done() else self._renewal

    async def _renew(self) -> None:
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                token, lifetime = await self._request()
        except Exception as error:  # noqa: BLE001 - sends report the problem, and the next renewal may succeed
            self._fail(error)
            return
        if self.problem is not None:
            logger.info("endpoint %s has an OAuth token again", self._endpoint.name)
        self.problem, self._failures = None, 0
        self._token, self.recent = token, (*self.recent, token)[-3:]
        self._expires_at = began + lifetime
        self._renew_at = self._expires_at - min(_MARGIN_SHARE * lifetime, _MARGIN_SECONDS)

    def _fail(self, error: Exception) -> None:
        if isinstance(error, _Failed):
            problem = f"{self.place} {error}"
        elif isinstance(error, TimeoutError):
            problem = f"{self.place} did not answer within {REQUEST_SECONDS:g} s"
        else:
            problem = f"no answer from {self.place}: {self._redactor.message(error)}"
        if problem != self.problem:
            logger.warning("endpoint %s: no OAuth token: %s", self._endpoint.name, problem)
        self.problem = problem
        self._retry_at = asyncio.get_running_loop().time() + growing_pause(self._failures)
        self._failures += 1

    async def _request(self) -> tuple[str, float]:
        headers, content = self._oauth.request()
        request = httpx.Request("POST", self._url, headers=headers, content=content)
        transport = open_transport(self._endpoint, self._url)
        body = bytearray()
        try:
            response = await transport.handle_async_request(request)
            await read_body(response, body)
            await response.aclose()
        finally:
            await transport.aclose()
        if len(body) == READ_BYTES:
            raise _Failed(f"answered with {READ_BYTES // 1024} KiB or more")
        return self._read(response.status_code, bytes(body))

    def _read(self, status: int, body: bytes) -> tuple[str, float]:
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            answer = {}
        if status != HTTPStatus.OK:
            said = [str(answer[key]) for key in ("error", "error_description") if answer.get(key)]
            if answer.get("error") == "invalid_client" or status == HTTPStatus.UNAUTHORIZED:
                said.append("check the client id and the client secret")
            elif status in range(300, 400):
                said.append("redirects are not followed")
            raise _Failed(self._redactor.line(": ".join([f"answered {status}", *said]))[:200])
        token, kind = answer.get("access_token"), answer.get("token_type", "bearer")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise _Failed("answered without an access_token of printable ASCII")
        if str(kind).lower() != "bearer":
            raise _Failed(self._redactor.line(f"answered with a token of type {kind!r}, not bearer")[:200])
        return token, _lifetime(answer.get("expires_in"))


def growing_pause(before: int) -> float:
    """Return the pause after a failure, in seconds; it doubles with each earlier failure."""
    pause = min(LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(before, 10))
    return random.uniform(0.75 * pause, pause)


def _lifetime(given: Any) -> float:
    """Return a token's lifetime in seconds. Some servers write it as text."""
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        return _DEFAULT_LIFETIME
    if not isfinite(seconds):
        return _DEFAULT_LIFETIME
    return min(max(seconds, _SHORTEST_LIFETIME), _LONGEST_LIFETIME)


# Shared by the endpoints of an event loop that get the same tokens in the same way.
_sources: WeakValueDictionary[tuple[object, ...], TokenSource] = WeakValueDictionary()


def token_source(oauth: OAuth, endpoint: Endpoint) -> TokenSource:
    """Return the source of an endpoint's tokens, which other endpoints with the same settings share."""
    how = (endpoint.proxy, endpoint.client_certificate, endpoint.ca_file, endpoint.allow_private)
    key = (asyncio.get_running_loop(), oauth, *how)
    found = _sources.get(key)
    if found is None:
        found = _sources[key] = TokenSource(oauth, endpoint)
    return found
