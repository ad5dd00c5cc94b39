"""Refuses web pages of other origins where no token is needed: everywhere with ``--no-auth``, otherwise at ``/metrics``.

A browser names the origin of a request in ``Sec-Fetch-Site`` or, to a server without TLS, in ``Origin`` and ``Host``. Programs
send no ``Origin``. ``Host`` matters on loopback: the name of a foreign page may resolve to 127.0.0.1 (DNS rebinding). With
tokens, none of this is necessary, since a browser does not know them.
"""

import re

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from resonant.intake.access.tokens import Grant
from resonant.intake.problems import Problem

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# RFC 9110, 7.2 allows no userinfo.
_HOST = re.compile(r"(?:(?P<name>[a-z0-9._-]+)|\[(?P<address>[0-9a-f:.]+)\])(?::[0-9]*)?", re.IGNORECASE)
OWN_SITES = ("same-origin", "none")


class LocalAccess:
    """Allows everything to programs of this machine, for a server that listens only on loopback."""

    async def authorize(self, request: Request) -> Grant:
        """Allow everything, except to pages of other origins; see ``Access``."""
        if why := _why_not(request.scope, is_local=True):
            raise Problem(403, why)
        return Grant()


def without_foreign_pages(app: ASGIApp, *, is_local: bool) -> ASGIApp:
    """Return the application, which refuses browser requests from pages of other origins with 403.

    Args:
        app: an application that requires no token.
        is_local: whether it listens on loopback only, so that ``Host`` must be a loopback name.
    """

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (why := _why_not(scope, is_local=is_local)):
            await Problem(403, why).response()(scope, receive, send)
        else:
            await app(scope, receive, send)

    return call


def host_name(host: str) -> str | None:
    """Return the name or address in a ``Host`` header, in lower case; None if the header is malformed."""
    found = _HOST.fullmatch(host)
    return found and (found["name"] or found["address"]).lower()


def _why_not(scope: Scope, *, is_local: bool) -> str | None:
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    if is_local and any(host_name(host) not in LOOPBACK for host in hosts):
        return "without a token, this server accepts only 127.0.0.1 and localhost as Host"
    if not _is_own(headers, hosts) and not follows_a_link(scope, headers):
        return "without a token, this server refuses requests from web pages of other origins"
    return None


def _is_own(headers: Headers, hosts: list[str]) -> bool:
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in OWN_SITES
    return origin is None or [origin.partition("://")[2]] == hosts


def follows_a_link(scope: Scope, headers: Headers) -> bool:
    """Return whether a person followed a link to this address, perhaps from a page of another origin."""
    asked = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest"))
    return scope["method"] in ("GET", "HEAD") and asked == ("navigate", "document")
