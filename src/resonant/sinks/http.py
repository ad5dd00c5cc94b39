"""The HTTP sink: CloudEvents 1.0 HTTP binding in binary mode, signed as Standard Webhooks.

The body of every attempt is ``Event.body``, which ``resonant.events.encode_data`` has made once.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import math
import re
import ssl
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import aiohttp
import httpx
from standardwebhooks import Webhook

from resonant.errors import EndpointError, UnexpectedStatus
from resonant.sinks.address_guard import guarded_socket_factory
from resonant.sinks.base import Receipt
from resonant.sinks.bounded_connection import HEAD_BYTES, READ_BYTES, AnswerCutOff, BoundedConnection
from resonant.sinks.redaction import Redactor, basic_authorization

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

    from resonant.events import Clock, Event
    from resonant.sinks.endpoint import Endpoint

# Time limit for the body of a 2xx. The event is already delivered; the body is only for the excerpt.
SUCCESS_BODY_SECONDS = 1.0
# Common servers drop idle connections after 5 s. Closing them first avoids a send on a closing connection.
KEEPALIVE_SECONDS = 4.0

_SUCCESS = range(200, 300)

# CloudEvents HTTP binding, 3.1.3.2: printable characters except the double quote and the percent sign are not encoded.
_UNQUOTED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
_NEEDS_NO_QUOTING = re.compile(r"[!#$&-~]*")  # the same characters


class HttpSink:
    """Sends events to an HTTP endpoint. Use it as an async context manager, in one event loop.

    It follows no redirects, keeps no cookies, takes no proxy from the environment and logs no URL. It uses aiohttp, which
    needs a tenth of the CPU of httpx.
    """

    def __init__(self, endpoint: Endpoint, *, clock: Clock = time.time) -> None:
        """Create a sink; it connects when needed.

        Args:
            endpoint: the destination.
            clock: returns seconds since the epoch, for ``webhook-timestamp``.
        """
        self.endpoint = endpoint
        self._clock = clock
        url = httpx.URL(endpoint.url)
        self._url = str(url.copy_with(userinfo=b"", fragment=None))
        self._constant_headers = {
            "user-agent": _user_agent(),
            **{name.lower(): value for name, value in endpoint.headers.items()},
            **({"authorization": basic_authorization(url)} if url.userinfo else {}),
            "accept-encoding": "identity",
            "content-type": "application/json",
            "ce-specversion": "1.0",
        }
        self._webhooks = [
            (Webhook(secret), endpoint.signing_ends.get(secret, math.inf))
            for secret in endpoint.signing_secrets
        ]
        self._redactor = Redactor.of(endpoint)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; sending again opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, event: Event) -> Receipt:
        """POST the event's bytes.

        Returns:
            The receipt of any 2xx, with a warning if its body was broken, slow or long.

        Raises:
            UnexpectedStatus: any other status, even if its body cannot be read.
            TimeoutError: no status within the endpoint's ``timeout``.
            EndpointError: ``ca_file`` cannot be read.
            httpx.RemoteProtocolError: the answer is not HTTP.
            aiohttp.ClientError: any other failure, including a refused address (with ``AddressRefused`` as the cause). Its
                text may contain the URL; ``Redactor.message`` removes it.
        """
        if self._session is None:
            self._session = _open_session(self.endpoint)
        headers = self._constant_headers | self._headers(event)
        response: aiohttp.ClientResponse | None = None
        body = bytearray()
        warning: str | None = None
        try:
            async with (
                asyncio.timeout(self.endpoint.timeout) as deadline,
                self._session.post(
                    self._url, data=event.body, headers=headers, allow_redirects=False
                ) as response,
            ):
                if response.status in _SUCCESS:
                    soon = asyncio.get_running_loop().time() + SUCCESS_BODY_SECONDS
                    deadline.reschedule(min(deadline.when() or soon, soon))
                async for chunk in response.content.iter_any():
                    body += chunk[: READ_BYTES - len(body)]
                    if len(body) == READ_BYTES:
                        warning = f"the response body has {READ_BYTES // 1024} KiB or more"
                        break
        except aiohttp.ClientResponseError as error:
            # Its "status" does not come from the receiver.
            reason = error.message.partition("\n")[0]
            raise httpx.RemoteProtocolError(f"the answer is not HTTP: {reason}") from None
        except Exception as error:
            if response is None:
                if deadline.expired():
                    raise TimeoutError(f"no answer within {self.endpoint.timeout:g} s") from None
                raise
            warning = warning or f"the response body {_problem(error, is_late=deadline.expired())}"
        excerpt = self._redactor.excerpt(body, is_whole=warning is None)
        if response.status not in _SUCCESS:
            retry_after = ", ".join(response.headers.getall("retry-after", ())) or None
            raise UnexpectedStatus(response.status, retry_after, excerpt)
        return Receipt(response.status, excerpt, warning)

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


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make: type[ResponseHandler] = BoundedConnection
        self._factory = functools.partial(make, loop=self._loop)


def _open_session(endpoint: Endpoint) -> aiohttp.ClientSession:
    connector = _Connector(
        limit=0,
        keepalive_timeout=KEEPALIVE_SECONDS,
        socket_factory=None if endpoint.allow_private else guarded_socket_factory,
        ssl=_tls(endpoint) if endpoint.url.lower().startswith("https:") else True,
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(),  # `send` has its own deadline
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy from the environment would bypass the address guard
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
    )


def _problem(error: Exception, *, is_late: bool) -> str:
    if isinstance(error, AnswerCutOff):
        return str(error)
    return "took too long" if is_late else f"broke off ({type(error).__name__})"


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
