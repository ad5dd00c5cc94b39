"""Prefect's server as ``resonant up`` and commands that send start it: ``prefect server start``, and no foreign web page gets in.

CORS alone does not do that. It keeps a page from reading an answer, and from sending what says that it is JSON; but Prefect
takes a body that says nothing for JSON, and any page may send that. Websockets, which know no CORS, tell it the ids it
needs, and together they run a flow. And a page whose own name has come to mean 127.0.0.1 (DNS rebinding) is no foreign page
to the browser. But each time the browser says where the page is from, by ``Origin`` or ``Host``; programs say no origin. Only a
server of this machine alone knows by what names it may be called.

``python -m deployments.server`` in the project's folder takes its address, like all else, from Prefect's settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import uvicorn
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Receive, Scope, Send

EVERYBODY = "*"
_LOOPBACK = ("127.0.0.1", "localhost")
_REFUSAL = (
    "This server answers pages of its own alone; PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS names others.\n"
)


class OwnPagesAlone:
    """Refuses whatever a browser sends for a page of another origin."""

    def __init__(self, app: ASGIApp, origins: Iterable[str], *, is_local: bool) -> None:
        """Stand before an application.

        Args:
            app: the application.
            origins: whose pages may come.
            is_local: whether the server is this machine's alone, so that it is called by loopback's names or those origins'.
        """
        self._app = app
        self._origins = frozenset(origins)
        self._hosts = {*_LOOPBACK, *(urlsplit(origin).hostname for origin in self._origins)}
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is welcome."""
        if scope["type"] == "lifespan" or self._is_welcome(Headers(scope=scope)):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "a foreign page"})
        else:
            await PlainTextResponse(_REFUSAL, 403)(scope, receive, send)

    def _is_welcome(self, headers: Headers) -> bool:
        origin, host = headers.get("origin"), headers.get("host")
        is_called_right = host is None or not self._is_local or _name(host) in self._hosts
        return is_called_right and (origin is None or origin in self._origins)


def guarded(app: ASGIApp, origins: str, *, address: str = _LOOPBACK[0]) -> ASGIApp:
    """Guard an application from foreign pages, unless everybody's may come.

    Args:
        app: the application.
        origins: as Prefect has them, with commas between.
        address: what the server listens on.
    """
    allowed = [origin.strip() for origin in origins.split(",")]
    return app if EVERYBODY in allowed else OwnPagesAlone(app, allowed, is_local=address in _LOOPBACK)


def main() -> None:
    """Serve until a signal."""
    settings = get_current_settings().server
    uvicorn.run(
        guarded(create_app(final=True), settings.api.cors_allowed_origins, address=settings.api.host),
        host=settings.api.host,
        port=settings.api.port,
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
    )


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


if __name__ == "__main__":
    main()
