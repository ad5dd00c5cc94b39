"""Where events go: the ``Sink`` protocol, and the HTTP sink. A sink sends once, or raises: no judgement, no sleeping.

The wire is the CloudEvents 1.0 HTTP binding in binary mode, signed as Standard Webhooks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import functools
import importlib.metadata
import ipaddress
import math
import re
import ssl
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self, cast
from urllib.parse import quote

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport
from standardwebhooks import Webhook

from resonant.errors import EndpointError, UnexpectedStatus
from resonant.sinks.address_guard import check_address, guarded_socket_factory
from resonant.sinks.redaction import Redactor, basic_authorization

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.connector import Connection

    from resonant.events import Category, Clock, Event

READ_BYTES = 64 * 1024
EXCERPT_BYTES = 1024
# How long the body of a 2xx may take: the delivery is made, only curiosity is left.
SUCCESS_BODY_SECONDS = 1.0
# Common servers drop idle connections after 5 s; who hangs up first does not send into a closing connection.
KEEPALIVE_SECONDS = 4.0

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HEADER_VALUE = re.compile(r"[!-~]([ \t!-~]*[!-~])?")  # RFC 9110, 5.5, without the obsolete octets
_RESERVED_PREFIXES = ("ce-", "webhook-")
_RESERVED_HEADERS = frozenset(
    {"accept-encoding", "connection", "content-length", "content-type", "expect", "host", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
# CloudEvents HTTP binding, 3.1.3.2: everything printable but the double quote and the percent sign stays.
_UNQUOTED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_NEEDS_NO_QUOTING = re.compile(r"[!#$&-~]*")  # the same characters


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a delivery left behind.

    Attributes:
        status_code: 200 to 299; None where there is no HTTP.
        excerpt: the first KiB of the answer, as text on one line.
        warning: what was wrong with the answer, though the event is delivered.
    """

    status_code: int | None = None
    excerpt: str = ""
    warning: str | None = None


class Sink(Protocol):
    """A destination of events."""

    async def send(self, event: Event) -> Receipt | None:
        """Deliver the event once; any exception says that it may not have been delivered."""


class CallableSink:
    """Make a sink of any coroutine function that raises when it could not deliver."""

    def __init__(self, function: Callable[[Event], Awaitable[object]]) -> None:
        self._function = function

    async def send(self, event: Event) -> Receipt | None:
        """Call the function; what it returns counts only if it is a ``Receipt``."""
        result = await self._function(event)
        return result if isinstance(result, Receipt) else None


@dataclass(frozen=True)
class Endpoint:
    """A configured HTTP destination; its ``repr`` holds no secret.

    Attributes:
        name: how everything but this object calls it.
        url: http or https; user and password in it are sent as Basic authentication.
        headers: sent with every event, next to those that Resonant sets.
        signing_secrets: Standard Webhooks secrets (``whsec_`` and base64, the prefix may be missing); while one is
            rotated there are two, and each signs.
        signing_ends: when one of them stops signing, in seconds since the epoch; the others never do.
        rotation: a time that identifies the last rotation of the signing secret; None before the first.
        timeout: seconds for a whole attempt, from connecting to the end of the answer.
        allow_private: whether private and special addresses may be connected to.
        overrides: the endpoint's own categories for statuses.
        ca_file: certificates (PEM) to trust instead of the public ones.

    Raises:
        EndpointError: a value cannot be used; the text says which and holds no secret.
        AddressRefused: the URL names a private or special address, and ``allow_private`` is not set.
    """

    name: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    signing_secrets: tuple[str, ...] = field(default=(), repr=False)
    signing_ends: Mapping[str, float] = field(default_factory=dict, repr=False)
    rotation: float | None = None
    timeout: float = 15.0
    allow_private: bool = False
    overrides: Mapping[int, Category] = field(default_factory=dict)
    ca_file: str | None = None

    def __post_init__(self) -> None:
        url = self._parsed_url()
        self._check_headers(url)
        for secret in self.signing_secrets:
            self._check_secret(secret)
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise self._error(f"its timeout must be a positive number of seconds, not {self.timeout}")
        if not self.allow_private:
            with contextlib.suppress(ValueError):  # a name: its addresses are looked at when connecting
                check_address(str(ipaddress.ip_address(url.host)))

    def _parsed_url(self) -> httpx.URL:
        try:
            url = httpx.URL(self.url)
            host = url.host  # raises if an A-label (xn--) is invalid
        except (httpx.InvalidURL, TypeError, ValueError):
            raise self._error("its URL is not well-formed") from None  # their texts quote the URL
        if url.scheme not in {"http", "https"}:
            raise self._error("its URL must begin with http:// or https://")
        if not host:
            raise self._error("its URL has no host")
        if b"%" in url.raw_host or not _has_valid_labels(url.raw_host):
            raise self._error("its URL has a host that no name or address can be")
        if url.port is not None and not 0 < url.port < 1 << 16:
            raise self._error(f"its URL has port {url.port}, which is not within 1 to 65535")
        return url

    def _check_headers(self, url: httpx.URL) -> None:
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise self._error("one of its headers has an illegal name")
            if not _HEADER_VALUE.fullmatch(value):
                raise self._error(f"the value of header {name} must be printable ASCII on one line")
            if name.lower() in _RESERVED_HEADERS or name.lower().startswith(_RESERVED_PREFIXES):
                raise self._error(f"header {name} is Resonant's own")
            if name.lower() == "authorization" and url.userinfo:
                raise self._error("it has both an Authorization header and a user in its URL")

    def _check_secret(self, secret: str) -> None:
        try:  # the library skips what is not base64, and signs with what is left
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not key:
            raise self._error("a signing secret must be whsec_ and base64")

    def _error(self, problem: str) -> EndpointError:
        return EndpointError(f"endpoint {self.name!r}: {problem}")


class HttpSink:
    """Sends events to an HTTP endpoint; use it as an async context manager, within one event loop.

    It speaks to the httpx-aiohttp transport without an ``httpx.AsyncClient`` between them: nobody to follow a redirect,
    keep a cookie, take a proxy from the environment or log the URL, at less than half the CPU.
    """

    def __init__(self, endpoint: Endpoint, *, clock: Clock = time.time) -> None:
        """Prepare a sink; connections are made when needed.

        Args:
            endpoint: where to.
            clock: returns seconds since the epoch, for ``webhook-timestamp``.
        """
        self._endpoint = endpoint
        self._clock = clock
        url = httpx.URL(endpoint.url)
        self._url = url.copy_with(userinfo=b"", fragment=None)
        constant_headers = {
            "user-agent": _user_agent(),
            **{name.lower(): value for name, value in endpoint.headers.items()},
            **({"authorization": basic_authorization(url)} if url.userinfo else {}),
            "accept-encoding": "identity",
            "content-type": "application/json",
            "ce-specversion": "1.0",
        }
        # As httpx keeps them, so that it need not encode them for each event.
        self._constant_headers = httpx.Headers(constant_headers).raw
        self._webhooks = [
            (Webhook(secret), endpoint.signing_ends.get(secret, math.inf))
            for secret in endpoint.signing_secrets
        ]
        self._redactor = Redactor.of(endpoint)
        self._transport: AiohttpTransport | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; sending again opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    async def send(self, event: Event) -> Receipt:
        """POST the event's bytes.

        Returns:
            The receipt of any 2xx, with a warning where its body was broken, slow or long.

        Raises:
            UnexpectedStatus: any other status, even if its body cannot be read.
            TimeoutError: no status within the endpoint's ``timeout``.
            EndpointError: ``ca_file`` cannot be read.
            httpx.HTTPError: any other failure, including a refused address (with ``AddressRefused`` as the cause). Its
                text may contain the URL; ``Redactor.message`` removes it.
        """
        if self._transport is None:
            self._transport = _open_transport(self._endpoint)
        request = self._request(event)
        response: httpx.Response | None = None
        body = bytearray()
        warning: str | None = None
        try:
            async with asyncio.timeout(self._endpoint.timeout) as deadline:
                response = await self._transport.handle_async_request(request)
                if response.is_success:
                    soon = asyncio.get_running_loop().time() + SUCCESS_BODY_SECONDS
                    deadline.reschedule(min(deadline.when() or soon, soon))
                try:
                    await _read(response, body)
                finally:
                    await response.aclose()
        except (
            aiohttp.ClientResponseError
        ) as error:  # the transport lets it through, and its "status" nobody sent
            reason = error.message.partition("\n")[0]
            raise httpx.RemoteProtocolError(f"the answer is not HTTP: {reason}") from None
        except Exception as error:
            if response is None:
                if deadline.expired():
                    raise TimeoutError(f"no answer within {self._endpoint.timeout:g} s") from None
                raise
            late = "took too long" if deadline.expired() else f"broke off ({type(error).__name__})"
            warning = f"the answer's body {late}"
        if len(body) == READ_BYTES:
            warning = f"the answer's body has {READ_BYTES // 1024} KiB or more"
        excerpt = self._excerpt(body, is_whole=warning is None)
        if not response.is_success:
            raise UnexpectedStatus(response.status_code, response.headers.get("retry-after"), excerpt)
        return Receipt(response.status_code, excerpt, warning)

    def _request(self, event: Event) -> httpx.Request:
        own = [(name.encode(), value.encode()) for name, value in self._headers(event).items()]
        headers = httpx.Headers([*self._constant_headers, *own])
        # As a stream: for content, httpx would look for what it knows already in every header, several times.
        request = httpx.Request("POST", self._url, headers=headers, stream=httpx.ByteStream(event.body))
        request.headers.encoding = "ascii"
        request.read()
        return request

    def _headers(self, event: Event) -> dict[str, str]:
        timestamp = int(self._clock())
        headers = {
            "ce-id": _percent_encoded(event.id),
            "ce-type": _percent_encoded(event.type),
            "ce-source": _percent_encoded(event.source),
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp),
        }
        if event.time is not None:
            headers["ce-time"] = _percent_encoded(event.time)
        if event.subject is not None:
            headers["ce-subject"] = _percent_encoded(event.subject)
        if webhooks := [webhook for webhook, ends in self._webhooks if timestamp < ends]:
            moment, text = datetime.fromtimestamp(timestamp, UTC), event.body.decode()
            headers["webhook-signature"] = " ".join(
                webhook.sign(event.id, moment, text) for webhook in webhooks
            )
        return headers

    def _excerpt(self, body: bytearray, *, is_whole: bool = True) -> str:
        return self._redactor.excerpt(body, EXCERPT_BYTES, is_whole=is_whole) if body else ""


class _HeadFirst(ResponseHandler):
    """Saves the status from a body with bad chunks: aiohttp forgets the head in the same packet, or waits on for more."""

    def is_connected(self) -> bool:
        # Asked before a connection is used again: an answer that nobody waited for would be the next event's.
        return super().is_connected() and not self._buffer

    def data_received(self, data: bytes) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        super().data_received(head + end)
        if body:
            super().data_received(body)
        broken = self.exception()
        if broken is not None and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(broken)


class _Answer(aiohttp.ClientResponse):
    """Has no reason phrase: where it is no UTF-8, as in ``200 Schön``, the transport fails to encode it."""

    async def start(self, connection: Connection) -> Self:
        await super().start(connection)
        self.reason = None
        return self


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make: type[ResponseHandler] = _HeadFirst
        self._factory = functools.partial(make, loop=self._loop)


def _open_transport(endpoint: Endpoint) -> AiohttpTransport:
    connector = _Connector(
        limit=0,
        keepalive_timeout=KEEPALIVE_SECONDS,
        socket_factory=None if endpoint.allow_private else guarded_socket_factory,
        ssl=_tls(endpoint) if endpoint.url.lower().startswith("https:") else True,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        response_class=_Answer,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy from the environment would connect where the guard would not
        max_line_size=READ_BYTES,
        max_field_size=READ_BYTES,
    )
    return AiohttpTransport(client=session, verify=False)  # the session's connector is what verifies


async def _read(response: httpx.Response, body: bytearray) -> None:
    """Read the body, up to ``READ_BYTES`` of it."""
    # Not by ``aiter_raw``, which is for those who read it twice or count it.
    async for chunk in cast("httpx.AsyncByteStream", response.stream):
        body += chunk[: READ_BYTES - len(body)]
        if len(body) == READ_BYTES:
            return


def _tls(endpoint: Endpoint) -> ssl.SSLContext:
    if endpoint.ca_file is None:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=endpoint.ca_file)
    except OSError as error:
        raise EndpointError(
            f"endpoint {endpoint.name!r}: its ca_file cannot be read: {error.strerror}"
        ) from None


@functools.cache
def _user_agent() -> str:
    return f"resonant/{importlib.metadata.version('resonant')}"


def _percent_encoded(value: str) -> str:
    return value if _NEEDS_NO_QUOTING.fullmatch(value) else quote(value, safe=_UNQUOTED)


def _has_valid_labels(host: bytes) -> bool:
    try:
        host.decode("ascii").encode(
            "idna"
        )  # the resolver does the same: it refuses empty and too long labels
    except UnicodeError:
        return False
    return True
