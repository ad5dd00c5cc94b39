"""Decides which requests are allowed: by token, or all with ``--no-auth``.

``Recent`` reads the tokens. So a new token works at once, a revoked one for at most a second, and a flood of wrong tokens costs
the store at most ten queries per second.
"""

import asyncio
import hmac
import logging
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Protocol
from urllib.parse import unquote

from starlette.requests import Request

from resonant.errors import StoreError
from resonant.events import Clock, Delivery, Event
from resonant.intake.problems import Problem, Refusal
from resonant.intake.recent import Recent
from resonant.routing.globs import any_glob
from resonant.store import Store
from resonant.store.shared.tokens import USE_NOTED_EVERY_SECONDS, Token, note_use, valid_tokens

logger = logging.getLogger(__name__)

TOKEN_PREFIX = "rsn_"  # noqa: S105 - not a secret
_CHALLENGE = 'Bearer realm="resonant"'
# Receivers differ in where a segment ends: some cut off parameters, or stop at a NUL.
_DOT_SEGMENT = re.compile(r"(?:\A|[/\\])\.\.?(?:\Z|[/\\;\0?#])")


def digest_of(text: str) -> str:
    """Return the digest of a token's text, by which the store knows it."""
    return sha256(text.encode()).hexdigest()


class Access(Protocol):
    """Decides which requests are allowed."""

    async def authorize(self, request: Request) -> "Grant":
        """Return what the request may do. It needs the head of the request only.

        Raises:
            Problem: 401 without a valid token, 429 above its rate, 400 for a token in the query.
            StoreError: the tokens cannot be read.
        """


class OpenAccess:
    """Allows everything, for ``--no-auth``."""

    async def authorize(self, request: Request) -> "Grant":
        """Allow everything, except a token in the query."""
        _refuse_token_in_query(request)
        return Grant()


class TokenAccess:
    """Allows what the request's token allows.

    Args:
        store: has the tokens.
        bytes_rate: how many bytes of bodies each token may send per second; None for no limit.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, store: Store, *, bytes_rate: float | None = None, clock: Clock = time.monotonic
    ) -> None:
        self._store = store
        self._bytes_rate = bytes_rate
        self._clock = clock
        self._tokens = Recent(store, valid_tokens, clock=clock)
        self._budgets: dict[tuple[str, str], Budget] = {}
        self._noted: dict[str, float] = {}
        self._notes: set[asyncio.Task[None]] = set()

    async def authorize(self, request: Request) -> "Grant":
        """Return what the token of the request allows; see ``Access``."""
        _refuse_token_in_query(request)
        digest = digest_of(_bearer(request))
        token = (await self._tokens.holding(digest)).get(digest)
        # The look-up compares hashes of secrets, so its duration reveals nothing about a token.
        if token is None or not hmac.compare_digest(token.digest, digest):
            raise _unauthorized("unknown or revoked token", 'error="invalid_token"')
        of_bytes = self._budget(token, self._bytes_rate, "bytes per second")
        grant = Grant(token, self._budget(token, token.rate, "events per second"), of_bytes)
        if grant.budget:
            grant.budget.take()
        self._note_use(digest)
        return grant

    def _budget(self, token: Token, rate: float | None, what: str) -> "Budget | None":
        if rate is None:
            return None
        if (token.digest, what) not in self._budgets:
            self._budgets[token.digest, what] = Budget(rate, self._clock, what)
        return self._budgets[token.digest, what]

    def _note_use(self, digest: str) -> None:
        """Record the use of a token in the background, at most once a minute."""
        now = self._store.clock()
        if now - self._noted.get(digest, -math.inf) < USE_NOTED_EVERY_SECONDS:
            return
        self._noted[digest] = now
        task = asyncio.create_task(self._write_use(digest, now))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _write_use(self, digest: str, now: float) -> None:
        try:
            await self._store.write(note_use, digest, now=now)
        except StoreError as error:
            logger.warning("the last use of a token was not recorded: %s", error)


class Budget:
    """The events or bytes that a token or a source may still send to this process, at most as many as its rate allows in a second.

    A batch may exceed it; later requests are refused until the average is within the rate.
    """

    def __init__(
        self, rate: float, clock: Clock, what: str = "events per second", *, who: str = "the token"
    ) -> None:
        self._rate = rate
        self._who = who
        self._what = what
        self._clock = clock
        self._left = self._most = max(1.0, rate)
        self._at = clock()

    def take(self) -> None:
        """Count the first event or byte of a request.

        Raises:
            Problem: 429; the budget is used up.
        """
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            seconds = math.ceil((1 - self._left) / self._rate)
            raise Problem(
                429,
                f"{self._who} may send {self._rate:,.10g} {self._what}: try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )
        self._left -= 1

    def charge(self, number: int) -> None:
        """Count further events or bytes of the same request, even if fewer are left."""
        self._left -= number


@dataclass(frozen=True, slots=True)
class Grant:
    """What a request may do.

    Attributes:
        token: restricts it; None allows everything.
        budget: the events of the token; None for no limit.
        budget_of_bytes: the bytes of its bodies; None for no limit.
    """

    token: Token | None = None
    budget: Budget | None = None
    budget_of_bytes: Budget | None = None

    def charge(self, events: int) -> None:
        """Count the events of the request, of which ``authorize`` has counted one."""
        if self.budget and events > 1:
            self.budget.charge(events - 1)

    def charge_bytes(self, size: int) -> None:
        """Count a body of this size in bytes.

        Raises:
            Problem: 429; the token has sent too many bytes.
        """
        if self.budget_of_bytes:
            self.budget_of_bytes.take()
            self.budget_of_bytes.charge(size - 1)

    def endpoint(self, asked: str | None) -> str | None:
        """Return the endpoint that the events go to; None: they are routed.

        Args:
            asked: the endpoint in the query, if any.

        Raises:
            Problem: 403; the token is for another endpoint.
        """
        only = self.token and self.token.endpoint
        if only and asked not in (None, only):
            raise forbidden(f"the token {self.name} may only send to the endpoint {only}")
        return only or asked

    def refusal(self, event: Event, index: int) -> Refusal | None:
        """Return why the token may not send the event at this position of the request; None if it may."""
        for attribute, value in (("source", event.source), ("type", event.type)):
            if not self._covers(attribute, value):
                glob = getattr(self.token, attribute)
                detail = f"the token {self.name} may only send events of the {attribute} {glob!r}"
                if attribute == "source" and has_dot_segment(value):
                    detail += ", without the segments . and .. in its path"
                return Refusal(index, detail, "forbidden", f"/{attribute}")
        return None

    def require_read(self) -> None:
        """Refuse a token that may not read.

        Raises:
            Problem: 403.
        """
        if self.token and not self.token.can_read:
            raise forbidden(f"the token {self.name} may not read: create one with --read")

    def may_see(self, delivery: Delivery) -> bool:
        """Return whether a delivery is within the scopes of the token."""
        endpoint = self.token and self.token.endpoint
        is_covered = self._covers("source", delivery.source) and self._covers("type", delivery.event_type)
        return is_covered and endpoint in (None, delivery.endpoint)

    def _covers(self, attribute: str, value: str) -> bool:
        glob = self.token and getattr(self.token, attribute)
        if not glob:
            return True
        # A receiver that resolves the dots of a source would see another source.
        return _matcher(glob)(value) and not (attribute == "source" and has_dot_segment(value))

    @property
    def sees_names(self) -> bool:
        """Whether answers may name endpoints that the request has not named."""
        return self.token is None

    @property
    def name(self) -> str:
        """The name of the token."""
        return self.token.name if self.token else ""


def forbidden(detail: str) -> Problem:
    """Return the problem of a token that is valid, but not for this request."""
    headers = {"WWW-Authenticate": f'{_CHALLENGE}, error="insufficient_scope"'}
    return Problem(403, detail, headers=headers)


@lru_cache(maxsize=1024)
def _matcher(glob: str) -> Callable[[str], bool]:
    return any_glob((glob,))


def has_dot_segment(source: str) -> bool:
    """Return whether the path of a source has the segments . or .., also encoded."""
    if "." not in source and "%" not in source:
        return False
    path = re.split("[?#]", source, maxsplit=1)[0]
    while (decoded := unquote(path)) != path:
        path = decoded
    return _DOT_SEGMENT.search(path) is not None


def _bearer(request: Request) -> str:
    given = request.headers.getlist("authorization")
    if not given:
        raise _unauthorized("no token: send `Authorization: Bearer rsn_...`")
    scheme, _, text = given[0].partition(" ")
    if len(given) > 1 or scheme.lower() != "bearer" or not text.strip():
        raise _unauthorized("send one header `Authorization: Bearer rsn_...`")
    return text.strip()


def _refuse_token_in_query(request: Request) -> None:
    if not request.scope["query_string"]:
        return
    for name, value in request.query_params.multi_items():
        if name == "access_token" or TOKEN_PREFIX in name or TOKEN_PREFIX in value:
            raise Problem(
                400,
                "a token in the query is refused, since logs contain queries: send it as `Authorization: Bearer ...`, "
                "and replace this one (resonant token revoke, resonant token create)",
            )


def _unauthorized(detail: str, error: str = "") -> Problem:
    challenge = ", ".join(filter(None, (_CHALLENGE, error)))
    return Problem(401, detail, headers={"WWW-Authenticate": challenge})
