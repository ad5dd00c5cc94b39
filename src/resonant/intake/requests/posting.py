"""``POST /events``: checks a request, stores its events, and answers after the commit."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from resonant.events import ENDPOINT_NAME, Event
from resonant.intake.access.tokens import Access, Grant
from resonant.intake.answers import json_answer
from resonant.intake.limits import TURN, IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.problems import Problem, Refusal, refused
from resonant.intake.recent import Recent
from resonant.intake.requests.batches import BatchResult, refusal_of, store_batch
from resonant.intake.requests.body import read_body
from resonant.intake.requests.group_commit import GroupCommit
from resonant.intake.requests.lock_turns import LockTurns
from resonant.intake.requests.parsing_turns import ParsingTurns
from resonant.intake.requests.reading import SINGLE, ContentMode, mode_of, most_bytes, read_events
from resonant.store import Store
from resonant.store.queue.accept import Acceptance
from resonant.store.views.known_names import known_endpoints
from resonant.suggestions import did_you_mean, no_such_endpoint

T = TypeVar("T")

PARAMETERS = ("endpoint",)
# RFC 7240: a word may be quoted, and the first of several counts.
_HANDLING = re.compile(r'(?:^|,)\s*handling\s*=\s*"?([^\s",;]*)', re.IGNORECASE)


class Posting:
    """Stores the events of requests.

    Args:
        store: receives the events.
        access: decides which requests are allowed.
        limits: of a request.
        meters: count the events.
    """

    def __init__(self, store: Store, access: Access, limits: IntakeLimits, meters: Meters) -> None:
        self._store = store
        self._access = access
        self._limits = limits
        self._meters = meters
        self._lock_turns = LockTurns(store)
        self._group = GroupCommit(store, self._lock_turns)
        self._endpoints = Recent(store, known_endpoints)
        # Large bodies are parsed in threads, so that small ones need not wait, but one at a time, since a parsed body may be 25 times
        # as large. Bodies of up to the size of an event have their own turns, so that an event need not wait for a batch.
        self._turns, self._turns_of_batches = ParsingTurns(), ParsingTurns()

    async def post(self, request: Request) -> Response:
        """Store the events of a request, and answer 202 after the commit.

        Raises:
            Problem: nothing is stored.
            StoreError: nothing is stored, or the commit is not confirmed.
        """
        grant = await self._access.authorize(request)
        endpoint = grant.endpoint(_asked_endpoint(request))
        if endpoint is not None:
            await self.require(endpoint, grant)
        mode = mode_of(request.headers)
        body = await read_body(request, most_bytes=most_bytes(mode, self._limits), charge=grant.charge_bytes)
        given = await self._read(mode, request, body, grant)
        grant.charge(len(given))
        given = [
            each if isinstance(each, Refusal) else grant.refusal(each, index) or each
            for index, each in enumerate(given)
        ]
        is_lenient = mode not in SINGLE and _is_lenient(request)
        try:
            if mode in SINGLE:
                result = await self._store_one(given[0], endpoint)
            else:
                now = self._store.clock()
                result = await store_batch(self._lock_turns, given, endpoint, now=now, is_lenient=is_lenient)
        except Problem as problem:
            self._count(BatchResult((), problem.errors))
            raise
        self._count(result)
        return _answer(result, is_lenient=is_lenient)

    async def require(self, endpoint: str, grant: Grant) -> None:
        """Raise a Problem if no endpoint has this name."""
        if not ENDPOINT_NAME.fullmatch(endpoint):
            # The message omits the name: it may be a URL with a secret.
            raise Problem(
                422, "endpoint is not a name: it has only lower case letters, digits and single dashes"
            )
        if endpoint not in (known := await self._endpoints.holding(endpoint)):
            raise Problem(422, no_such_endpoint(endpoint, known if grant.sees_names else ()))

    async def _read(
        self, mode: ContentMode, request: Request, body: bytes, grant: Grant
    ) -> list[Event | Refusal]:
        read = partial(read_events, mode, request.headers, body, self._limits)
        return await self.in_turn(request, grant.name, len(body), read)

    async def in_turn(self, request: Request, name: str, size: int, read: Callable[[], T]) -> T:
        """Read a body, a large one in a thread, when it is the producer's turn.

        Args:
            request: has the body.
            name: of the producer.
            size: of the body, in bytes.
            read: reads it.
        """
        if size < self._limits.large_bytes:
            return read()
        turns = self._turns if size <= self._limits.event_bytes else self._turns_of_batches
        with request.scope.get("extensions", {}).get(TURN, nullcontext)():
            return await turns.run(name, read)

    async def accept(self, event: Event, endpoint: str | None) -> Acceptance:
        """Store one event, together with others; see ``GroupCommit``."""
        return await self._group.accept(event, endpoint)

    async def _store_one(self, event: Event | Refusal, endpoint: str | None) -> BatchResult:
        if isinstance(event, Refusal):
            raise refused([event], of=1)
        outcome = await self.accept(event, endpoint)
        if refusal := refusal_of(0, outcome):
            raise refused([refusal], of=1)
        return BatchResult([outcome], ())

    def _count(self, result: BatchResult) -> None:
        for outcome in result.stored:
            self._meters.events["duplicate" if outcome.duplicate else "stored"] += 1
        for refusal in result.refused:
            self._meters.events["unrouted" if refusal.code == "unrouted" else "refused"] += 1


def _asked_endpoint(request: Request) -> str | None:
    if not request.scope["query_string"]:
        return None
    for name in request.query_params:
        if name not in PARAMETERS:
            similar = did_you_mean(name[:40], PARAMETERS)
            raise Problem(400, f"no query parameter is named {name!r:.80}{similar}")
    names = request.query_params.getlist("endpoint")
    if len(names) > 1:
        raise Problem(400, "endpoint is given twice: give one, or none and let the subscriptions decide")
    return names[0] if names else None


def _is_lenient(request: Request) -> bool:
    handling = _HANDLING.search(",".join(request.headers.getlist("prefer")))
    return handling is not None and handling[1].lower() == "lenient"


def _answer(result: BatchResult, *, is_lenient: bool) -> Response:
    document: dict[str, Any] = {"events": [_event(outcome) for outcome in result.stored]}
    if result.refused:
        document["errors"] = [refusal.document() for refusal in result.refused]
    headers = {"Preference-Applied": "handling=lenient"} if is_lenient else None
    return json_answer(document, 202, headers=headers)


def _event(outcome: Acceptance) -> dict[str, Any]:
    return {
        "id": outcome.event.id,
        "source": outcome.event.source,
        "duplicate": outcome.duplicate,
        "endpoints": outcome.endpoints,
        **({"erased": True} if outcome.erased else {}),
    }
