"""The HTTP application: ``POST /events`` stores events, and answers 202 after the commit."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route

from resonant.errors import StoreError
from resonant.events import ENDPOINT_NAME, Event
from resonant.intake.accepting import Outcome, accept
from resonant.intake.body import read_body
from resonant.intake.group_commit import GroupCommit
from resonant.intake.problems import Problem, Refusal, refused
from resonant.intake.reading import SINGLE, Mode, mode_of, most_bytes, read_events
from resonant.intake.recent import Recent
from resonant.store.queue.enqueue import Conflict
from resonant.store.views.known_names import known_endpoints
from resonant.suggestions import did_you_mean, no_such_endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sqlalchemy import Connection
    from starlette.requests import Request

    from resonant.intake.limits import Limits
    from resonant.intake.tokens import Access, Grant
    from resonant.store import Store

    Handler = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)

_PARAMETERS = ("endpoint",)
# A larger body is parsed in a thread, so that other requests need not wait.
_LARGE_BYTES = 32 * 1024
_RETRY_AFTER_SECONDS = "2"


def create_app(store: Store, *, access: Access, limits: Limits, routes: Sequence[Route] = ()) -> Starlette:
    """Return the application; it belongs to the event loop of the store.

    Args:
        store: receives the events.
        access: decides which requests are allowed.
        limits: of a request.
        routes: further resources.
    """
    intake = _Intake(store, access, limits)
    return Starlette(
        routes=[resource("/events", POST=intake.post), *routes],
        exception_handlers={
            Problem: _answer_problem,
            StoreError: _answer_store_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )


def resource(path: str, **handlers: Handler) -> Route:
    """Return the route of a path.

    Args:
        path: as Starlette writes it.
        handlers: by method; for others, the answer is 405 with these methods.
    """
    if "GET" in handlers:
        handlers["HEAD"] = handlers["GET"]

    async def handle(request: Request) -> Response:
        return await handlers[request.method](request)

    return Route(path, handle, methods=list(handlers))


class _Intake:
    def __init__(self, store: Store, access: Access, limits: Limits) -> None:
        self._store = store
        self._access = access
        self._limits = limits
        self._group = GroupCommit(store)
        self._endpoints = Recent(store, known_endpoints)

    async def post(self, request: Request) -> Response:
        """Store the events of a request."""
        grant = await self._access.authorize(request)
        endpoint = grant.endpoint(_asked_endpoint(request))
        if endpoint is not None:
            await self._require(endpoint)
        mode = mode_of(request.headers)
        body = await read_body(
            request, most_bytes=most_bytes(mode, self._limits), seconds=self._limits.read_seconds
        )
        given = await self._read(mode, request, body)
        grant.charge(len(given))
        found = [_allowed(index, each, grant) for index, each in enumerate(given)]
        if mode in SINGLE:
            return await self._store_one(found[0], endpoint)
        return await self._store_batch(found, endpoint, is_lenient=_is_lenient(request))

    async def _require(self, endpoint: str) -> None:
        """Raise a Problem if no endpoint has this name."""
        if not ENDPOINT_NAME.fullmatch(endpoint):
            # The message omits the name: it may be a URL with a secret.
            raise Problem(
                422, "endpoint is not a name: it has only lower case letters, digits and single dashes"
            )
        if endpoint not in (known := await self._endpoints.holding(endpoint)):
            raise Problem(422, no_such_endpoint(endpoint, known))

    async def _read(self, mode: Mode, request: Request, body: bytes) -> list[Event | Refusal]:
        if len(body) < _LARGE_BYTES:
            return read_events(mode, request.headers, body, self._limits)
        return await asyncio.to_thread(read_events, mode, request.headers, body, self._limits)

    async def _store_one(self, event: Event | Refusal, endpoint: str | None) -> Response:
        if isinstance(event, Refusal):
            raise refused([event], of=1)
        outcome = await self._group.accept(event, endpoint)
        if outcome.problem:
            raise refused([_refusal(0, outcome)], of=1)
        return _accepted([outcome])

    async def _store_batch(
        self, found: Sequence[Event | Refusal], endpoint: str | None, *, is_lenient: bool
    ) -> Response:
        errors = [each for each in found if isinstance(each, Refusal)]
        if errors and not is_lenient:
            raise refused(errors, of=len(found))
        events = {index: each for index, each in enumerate(found) if isinstance(each, Event)}
        try:
            outcomes = await self._store.write(
                _accept_batch,
                [(event, endpoint) for event in events.values()],
                now=self._store.clock(),
                is_lenient=is_lenient,
            )
        except _NothingStored as rolled_back:
            outcomes = rolled_back.outcomes
        placed = list(zip(events, outcomes, strict=True))
        errors += [_refusal(index, outcome) for index, outcome in placed if outcome.problem]
        stored = [outcome for outcome in outcomes if not outcome.problem]
        if errors and not (is_lenient and stored):
            raise refused(errors, of=len(found))
        return _accepted(stored, sorted(errors, key=lambda error: error.index), is_lenient=is_lenient)


class _NothingStored(Exception):
    """Rolls back a batch of which an event was refused."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


def _accept_batch(
    connection: Connection, wanted: Sequence[tuple[Event, str | None]], *, now: float, is_lenient: bool
) -> list[Outcome]:
    outcomes = accept(connection, wanted, now=now)
    if not is_lenient and any(outcome.problem for outcome in outcomes):
        raise _NothingStored(outcomes)
    return outcomes


def _asked_endpoint(request: Request) -> str | None:
    if not request.scope["query_string"]:
        return None
    for name in request.query_params:
        if name not in _PARAMETERS:
            raise Problem(
                400, f"no query parameter is named {name!r:.80}{did_you_mean(name[:40], _PARAMETERS)}"
            )
    names = request.query_params.getlist("endpoint")
    if len(names) > 1:
        raise Problem(400, "endpoint is given twice: name one, or none and let the subscriptions decide")
    return names[0]


def _is_lenient(request: Request) -> bool:
    preferences = ",".join(request.headers.getlist("prefer")).lower().split(",")
    return any(preference.replace(" ", "").split(";")[0] == "handling=lenient" for preference in preferences)


def _allowed(index: int, each: Event | Refusal, grant: Grant) -> Event | Refusal:
    return each if isinstance(each, Refusal) else grant.refusal(each, index) or each


def _refusal(index: int, outcome: Outcome) -> Refusal:
    code = "conflict" if isinstance(outcome.problem, Conflict) else "unrouted"
    return Refusal(index, str(outcome.problem), code)


def _accepted(
    outcomes: Sequence[Outcome], errors: Sequence[Refusal] = (), *, is_lenient: bool = False
) -> Response:
    document: dict[str, Any] = {
        "events": [
            {
                "id": outcome.event.id,
                "source": outcome.event.source,
                "duplicate": outcome.duplicate,
                "endpoints": outcome.endpoints,
            }
            for outcome in outcomes
        ]
    }
    if errors:
        document["errors"] = [error.document() for error in errors]
    headers = {"Preference-Applied": "handling=lenient"} if is_lenient else None
    return Response(json.dumps(document), 202, headers, "application/json")


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - for mypy
    return error.response()


async def _answer_store_error(_request: Request, error: Exception) -> Response:
    logger.warning("answered 503: %s", error)
    return Problem(
        503,
        "the store cannot be read or written now: send the same request again later",
        headers={"Retry-After": _RETRY_AFTER_SECONDS},
    ).response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for mypy
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{request.url.path} takes {headers['Allow']}, not {request.method}"
    else:
        detail = f"there is nothing at {request.url.path}: events are sent to /events"
    return Problem(error.status_code, detail, headers=headers).response()


async def _answer_bug(_request: Request, _error: Exception) -> Response:
    return Problem(500, "an error of Resonant: its log has the details").response()
