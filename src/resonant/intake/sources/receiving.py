"""``POST /sources/NAME``: checks a webhook, stores its event, and answers after the commit as its sender expects."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from resonant.errors import InvalidEvent
from resonant.events import Clock, Event
from resonant.intake.access.foreign_pages import LocalAccess
from resonant.intake.access.tokens import Budget, Grant
from resonant.intake.answers import json_answer
from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters, SourceResult
from resonant.intake.problems import Problem
from resonant.intake.requests.body import read_body
from resonant.intake.requests.posting import Posting
from resonant.intake.sources.schemes import TOLERANCE_SECONDS, Forged
from resonant.intake.sources.source import Source, Stale
from resonant.intake.sources.templates import Received
from resonant.store.queue.accept import Acceptance, Conflict

# A source, a type and a signature.
_Content = tuple[str, str, str]
# Remembered webhooks, to recognise copies under other ids.
_MOST_REMEMBERED = 100_000
_RESULTS: Mapping[int, SourceResult] = {
    401: "forged",
    403: "stale",
    409: "conflict",
    429: "limited",
    503: "failed",
}
_INVALID = {"not_json": 400, "too_large": 413}


class Receiving:
    """Stores the webhooks of sources.

    Args:
        sources: by name.
        posting: stores events.
        limits: of a request.
        meters: count the requests.
        clock: the time, in seconds since the epoch.
        steady: never goes back, in seconds.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        posting: Posting,
        limits: IntakeLimits,
        meters: Meters,
        *,
        clock: Clock,
        steady: Clock,
    ) -> None:
        self.sources = sources
        self._posting = posting
        self._limits = limits
        self._meters = meters
        self._clock = clock
        self._steady = steady
        self._budgets: dict[tuple[str, float], Budget] = {}
        self._copies = _Copies(steady)
        self._storing: dict[_Content, asyncio.Event] = {}
        self._local = LocalAccess()

    async def post(self, request: Request) -> Response:
        """Store the event of a webhook, and answer after the commit.

        Raises:
            Problem: nothing is stored.
            StoreError: nothing is stored, or the commit is not confirmed.
        """
        if (source := self.sources.get(request.path_params["name"])) is None:
            raise Problem(404, "no such source")
        result: SourceResult = "failed"
        try:
            result, answer = await self._receive(request, source)
        except Problem as problem:
            result = _RESULTS.get(problem.status, "refused")
            if result == "stale" and source.verify == "none":  # it came from a web page
                result = "refused"
            raise
        finally:
            self._meters.sources[source.name, result] += 1
        return answer

    async def _receive(self, request: Request, source: Source) -> tuple[SourceResult, Response]:
        if source.verify == "none":
            await self._local.authorize(request)
        most_bytes = min(source.max_bytes or self._limits.event_bytes, self._limits.event_bytes)
        kind = request.headers.get("content-type", "")
        body = await read_body(
            request,
            most_bytes=min(source.longest_body(kind, most_bytes), self._limits.held_bytes),
            charge=lambda _: None,
        )
        received, query = Received(request.headers, body), request.scope["query_string"].decode("latin-1")
        event = await self._posting.in_turn(
            request, source.name, len(body), lambda: self._judge(source, received, query, most_bytes)
        )
        if isinstance(event, Response):
            return "challenge", event
        self._charge(source)
        if not source.may_be_copied:
            return await self._store(source, event)
        # Shopify sends the same body for several topics, which are types.
        key = (source.name, event.type, received.headers[source.options.header])
        while (storing := self._storing.get(key)) is not None:
            await storing.wait()
        if (known := self._copies.get(key)) not in (None, event.id):
            return "duplicate", _answer(source, Acceptance(event, duplicate=True), known)
        self._storing[key] = storing = asyncio.Event()
        try:
            result, answer = await self._store(source, event)
            if result in ("stored", "duplicate"):
                self._copies.add(key, event.id)
        finally:
            del self._storing[key]
            storing.set()
        return result, answer

    def _judge(self, source: Source, received: Received, query: str, most_bytes: int) -> Event | Response:
        try:
            source.check(received, query, self._clock())
        except Forged:
            # Some senders give their password only after this question.
            headers = {"WWW-Authenticate": 'Basic realm="resonant"'} if source.verify == "basic" else None
            raise Problem(401, "the signature, token or password does not fit", headers=headers) from None
        except Stale:
            raise Problem(403, "the request was signed too long ago, or by a wrong clock") from None
        if challenge := _challenge(source, received):
            return challenge
        try:
            return source.event(received, most_bytes=most_bytes)
        except InvalidEvent as error:
            raise Problem(_INVALID.get(error.code, 422), str(error)) from None

    def _charge(self, source: Source) -> None:
        if source.rate is not None:
            key = (source.name, source.rate)
            if key not in self._budgets:
                self._budgets[key] = Budget(
                    source.rate, self._steady, "requests per second", who="the source"
                )
            self._budgets[key].take()

    async def _store(self, source: Source, event: Event) -> tuple[SourceResult, Response]:
        if source.endpoint is not None:
            try:
                await self._posting.require(source.endpoint, Grant())
            except Problem as problem:
                # The sender cannot mend it, and may send again.
                raise Problem(503, "the source's endpoint does not exist") from problem
        outcome = await self._posting.accept(event, source.endpoint)
        if outcome.problem is None:
            return "duplicate" if outcome.duplicate else "stored", _answer(source, outcome)
        if isinstance(outcome.problem, Conflict):
            if source.keeps_conflicts:
                return "kept", _answer(source, outcome)
            raise Problem(409, outcome.problem.without_content)
        if source.keeps_unrouted:
            return "unrouted", _answer(source, outcome)
        raise Problem(422, "no subscription matches the event")


class _Copies:
    """The ids of the events of recently stored contents, in this process."""

    def __init__(self, steady: Clock) -> None:
        self._steady = steady
        # An ordered one finds its first key at once, also after many were removed.
        self._stored: OrderedDict[_Content, tuple[float, str]] = OrderedDict()

    def get(self, key: _Content) -> str | None:
        until, event_id = self._stored.get(key, (0.0, None))
        return event_id if self._steady() < until else None

    def add(self, key: _Content, event_id: str) -> None:
        now, stored = self._steady(), self._stored
        while stored and (len(stored) >= _MOST_REMEMBERED or next(iter(stored.values()))[0] <= now):
            stored.popitem(last=False)
        stored.setdefault(key, (now + TOLERANCE_SECONDS, event_id))


def _challenge(source: Source, received: Received) -> Response | None:
    """Return the answer to Slack's ``url_verification`` request; None for other requests."""
    if source.verify != "slack" or b"url_verification" not in received.body:
        return None
    try:
        data = received.data
    except InvalidEvent:
        return None
    is_asked = isinstance(data, dict) and data.get("type") == "url_verification"
    return json_answer({"challenge": data.get("challenge")}) if is_asked else None


def _answer(source: Source, outcome: Acceptance, stored_id: str | None = None) -> Response:
    match source.verify:
        case "slack":  # shows the body of the answer to a command
            return Response(status_code=200)
        case "twilio":
            return Response("<Response/>", media_type="text/xml")
    document: dict[str, Any] = {"id": stored_id or outcome.event.id, "source": outcome.event.source}
    if isinstance(outcome.problem, Conflict):
        return json_answer(document | {"conflict": True})
    if outcome.problem is not None:
        return json_answer(document | {"unrouted": True}, 202)
    return json_answer(document | {"duplicate": outcome.duplicate}, 202)
