"""The HTTP application: ``POST /events`` and the answers to what it refuses."""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resonant.errors import ConflictingEvent, StoreError
from resonant.intake.access.tokens import Access, OpenAccess
from resonant.intake.description import docs_page
from resonant.intake.description.openapi import openapi
from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.problems import Problem
from resonant.intake.requests.handshake import handshake
from resonant.intake.requests.lookup import lookup
from resonant.intake.requests.posting import Posting
from resonant.intake.sources.receiving import Receiving
from resonant.intake.sources.source import Source
from resonant.store import Store

Handler = Callable[[Request], Awaitable[Response]]

logger = logging.getLogger(__name__)


def create_app(
    store: Store,
    *,
    access: Access,
    limits: IntakeLimits,
    meters: Meters,
    allowed_origins: Collection[str] = (),
    sources: Mapping[str, Source] | None = None,
    routes: Sequence[Route] = (),
) -> Starlette:
    """Return the application; it belongs to the event loop of the store.

    Args:
        store: receives the events.
        access: decides which requests are allowed.
        limits: of a request.
        meters: count the events.
        allowed_origins: hosts that the handshake of CloudEvents' webhooks allows.
        sources: those whose webhooks are accepted, by name; None: no webhooks.
        routes: further resources.
    """

    async def answer_store_error(_request: Request, error: Exception) -> Response:
        logger.warning("answered 503: %s", error)
        return Problem(
            503,
            "the store cannot be read or written now: send the same request again",
            headers={"Retry-After": str(limits.retry_after)},
        ).response()

    posting, asked = Posting(store, access, limits, meters), handshake(allowed_origins)
    receiving: list[Route] = []
    if sources is not None:
        webhooks = Receiving(sources, posting, limits, meters, clock=store.clock, steady=store.steady)
        receiving = [resource("/sources/{name}", POST=webhooks.post, OPTIONS=asked)]
    needs_token = not isinstance(access, OpenAccess)
    document = openapi(limits, needs_token=needs_token, has_sources=sources is not None)
    app = Starlette(
        routes=[
            resource("/events", POST=posting.post, OPTIONS=asked),
            *receiving,
            resource("/events/{source:path}/{id:path}", GET=lookup(store, access)),
            resource("/openapi.json", GET=_fixed(json.dumps(document) + "\n", "application/json")),
            resource("/docs", GET=_fixed(docs_page.page(document), "text/html", docs_page.HEADERS)),
            *routes,
        ],
        exception_handlers={
            Problem: _answer_problem,
            ConflictingEvent: _answer_conflict,
            StoreError: answer_store_error,
            HTTPException: _answer_http_error,
            Exception: _answer_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


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

    route = Route(path, handle, methods=list(handlers))
    # `$` would also match before a final line feed, but a proxy's rule for the path would not.
    route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    return route


def _fixed(content: str, kind: str, headers: Mapping[str, str] | None = None) -> Handler:
    """Return a handler that always answers the same."""

    async def answer(_request: Request) -> Response:
        return Response(content, headers=headers, media_type=kind)

    return answer


async def _answer_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - for mypy
    return error.response()


async def _answer_conflict(_request: Request, error: Exception) -> Response:
    return Problem(409, str(error)).response()


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - for mypy
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"this path takes {headers['Allow']}, not {request.method}"
    else:
        # The message omits the path: it may contain a token.
        detail = "no such path: send events to /events"
    return Problem(error.status_code, detail, headers=headers).response()


async def _answer_bug(_request: Request, _error: Exception) -> Response:
    return Problem(500, "an error of Resonant: its log has the details").response()
