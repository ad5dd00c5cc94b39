"""The Prefect server that ``resonant up`` and sending commands start; it refuses requests from foreign web pages.

CORS is not enough. It stops a page from reading a response and from sending a body marked as JSON. But Prefect parses
an unmarked body as JSON too, and any page may send one. CORS does not cover websockets, which reveal the ids that a
page needs to run a flow. A page whose host name now resolves to 127.0.0.1 (DNS rebinding) has the same origin.

A browser always reveals where a request comes from, in ``Origin``, ``Host`` or ``Sec-Fetch-Site``. Programs send no
``Origin``. ``Host`` can be checked only on loopback, where the valid names are known.

The UI gets a content security policy: it cannot be framed, runs its own scripts only, and loads nothing from other hosts.
This blocks images in untrusted text, and the analytics service that the new UI contacts even where analytics are off.

FastAPI's pages of the API, ``/docs`` and ``/redoc``, are refused: they run scripts that another host serves, and these would
have the rights of the API. ``/openapi.json`` and ``/api/openapi.json`` describe the API.

``python -m deployments.server``, run in the project's folder, reads all settings, including its address, from Prefect.
"""

import logging
import os
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

import uvicorn
from prefect.settings import get_current_settings
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resonant import output
from resonant.errors import PrefectChanged
from resonant.intake.access.foreign_pages import host_name
from resonant.local.compatibility import check_server_names, prefect_application

EVERYBODY = "*"
_HAS_ENDED = "Run is already in terminal state"
API = "/api"
_LOOPBACK = ("127.0.0.1", "localhost")
# Otherwise a page that is open in a browser keeps the server from ending.
_SHUTDOWN_SECONDS = 5
_OWN_SITES = (None, "same-origin", "none")
# The hosts of the logos of Prefect's block types.
_LOGOS = "https://raw.githubusercontent.com https://images.ctfassets.net"
_PAGES_OF_THE_API = ("/docs", "/redoc")
_NO_PAGE = (
    "This server has no page about its API, since such a page runs scripts from another host. "
    "/api/openapi.json describes the API.\n"
)
_REFUSAL = (
    "This server refuses requests from other web pages.\n"
    "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS allows further origins.\n"
)


def hide_actions_on_ended_runs() -> None:
    """Hide Prefect's warning that a run which has ended cannot be marked as crashed.

    Prefect processes the end of a scheduled run up to 15 minutes late if it created the run in the 5 minutes before its start: the
    event of the end waits for that of the creation, which Prefect never sends. Meanwhile, the run's heartbeats seem to have stopped.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return _HAS_ENDED not in record.getMessage()

    logging.getLogger("prefect.server.events.actions").addFilter(is_news)


class OwnPagesAlone:
    """Refuses browser requests from pages of other origins, and prevents those pages from framing its responses."""

    def __init__(self, app: ASGIApp, origins: Iterable[str], *, is_local: bool, api: str = API) -> None:
        """Wrap an application.

        Args:
            origins: the allowed origins.
            is_local: whether the server listens on loopback only, so that ``Host`` must be a loopback name or the host
                of an allowed origin.
            api: the path of the API, which pages of other origins may not link to.
        """
        self._app = app
        self._origins = frozenset(origins)
        self._hosts = {*_LOOPBACK, *(urlsplit(origin).hostname for origin in self._origins)}
        self._is_local = is_local
        self._api = api.rstrip("/")
        self._policy = _content_security_policy(self._origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward allowed requests, and refuse all others."""

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = self._policy
                headers["x-frame-options"] = "SAMEORIGIN"
            await send(message)

        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif self._is_welcome(scope):
            await self._app(scope, receive, send_with_policy)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "a foreign page"})
        else:
            await PlainTextResponse(_REFUSAL, 403)(scope, receive, send_with_policy)

    def _is_welcome(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host")
        if self._is_local and host is not None and host_name(host) not in self._hosts:
            return False
        if origin is not None:
            return origin in self._origins
        # A browser sends no Origin for images and other no-cors reads, nor when it follows a link.
        return headers.get("sec-fetch-site") in _OWN_SITES or self._follows_a_link_to_the_ui(scope, headers)

    def _follows_a_link_to_the_ui(self, scope: Scope, headers: Headers) -> bool:
        asked = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
        if (
            scope["type"] != "http"
            or scope["method"] not in ("GET", "HEAD")
            or asked != ("navigate", "document")
        ):
            return False
        return not f"{scope['path']}/".startswith(f"{self._api}/")


def without_pages_of_the_api(app: ASGIApp, *, api: str = API) -> ASGIApp:
    """Refuse the pages of an application that run scripts from another host.

    Args:
        api: the path of the API.
    """
    refused = tuple(f"{root}{page}/" for root in ("", api.rstrip("/")) for page in _PAGES_OF_THE_API)

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(refused):
            await PlainTextResponse(_NO_PAGE, 404)(scope, receive, send)
        else:
            await app(scope, receive, send)

    return call


def guarded(app: ASGIApp, origins: str, *, address: str = _LOOPBACK[0], api: str = API) -> ASGIApp:
    """Guard an application against pages of other origins, unless all are allowed.

    Args:
        origins: the allowed origins, separated by commas; ``*`` allows all.
        address: the address that the server listens on.
        api: the path of the API.
    """
    allowed = [origin.strip() for origin in origins.split(",")]
    if EVERYBODY in allowed:
        return app
    return OwnPagesAlone(app, allowed, is_local=address in _LOOPBACK, api=api)


def main() -> None:
    """Serve until a signal."""
    # The database contains the endpoints' secrets and the key that encrypts them.
    os.umask(0o077)
    try:
        check_server_names()
    except PrefectChanged as error:
        output.say(f"resonant: {error}")
        sys.exit(1)
    hide_actions_on_ended_runs()
    settings = get_current_settings().server
    api = settings.api.base_path or API
    app = guarded(
        without_pages_of_the_api(prefect_application(), api=api),
        settings.api.cors_allowed_origins,
        address=settings.api.host,
        api=api,
    )
    uvicorn.run(
        app,
        host=settings.api.host,
        port=settings.api.port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _content_security_policy(origins: Iterable[str]) -> str:
    # The UI may be opened under either loopback name, but always calls the API under the configured one.
    pages = sorted(origins)
    sockets = [f"ws{origin.removeprefix('http')}" for origin in pages]
    return "; ".join(
        (
            "default-src 'self'",
            # The library that draws the graph of a run compiles functions.
            "script-src 'self' 'unsafe-eval'",
            "worker-src 'self' blob:",
            "style-src 'self' 'unsafe-inline'",
            "font-src 'self' data:",
            "frame-ancestors 'self'",
            f"img-src 'self' data: blob: {_LOGOS}",
            f"connect-src 'self' {' '.join([*pages, *sockets])}",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
        )
    )


if __name__ == "__main__":
    main()
