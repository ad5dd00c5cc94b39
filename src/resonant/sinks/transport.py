"""Opens connections for an endpoint: its proxy, its TLS, the address guard, and bounded answers."""

import asyncio
import errno
import functools
import ssl
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Self, cast

import aiohttp
import httpx
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from httpx_aiohttp import AiohttpTransport

from resonant.errors import EndpointError
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.network.address_guard import check_host, guarded_socket_factory
from resonant.sinks.network.bounded_connection import HEAD_BYTES, READ_BYTES, BoundedConnection

# Common servers drop idle connections after 5 s. Closing them first avoids a send on a closing connection.
KEEPALIVE_SECONDS = 4.0
# The longest time to connect to a proxy, which is near, and at most half of the endpoint's timeout: a proxy that is down must
# not look like an endpoint that is slow.
PROXY_SECONDS = 5.0


class _PlainRequest(aiohttp.ClientRequest):
    """Adds no content type to a request without one: the data of such an event has no known type."""

    def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
        # Not an option of the session, which costs more for every request.
        if "content-type" not in self.headers:
            skip_auto_headers = ("content-type",)
        super().update_auto_headers(skip_auto_headers)


class _Response(aiohttp.ClientResponse):
    """Drops the reason phrase: the transport cannot encode one that is not UTF-8, such as ``200 Schön`` in Latin-1."""

    async def start(self, connection: Connection) -> Self:
        await super().start(connection)
        self.reason = None
        return self


class _Connector(aiohttp.TCPConnector):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        make: type[ResponseHandler] = BoundedConnection
        self._factory = functools.partial(make, loop=self._loop)


class ProxyDown(httpx.ProxyError):
    """The proxy accepts no connection."""


class _ProxyConnector(_Connector):
    """Connects through a proxy, and reports the proxy's failures as such: they say nothing about the endpoint."""

    def __init__(self, *, seconds: float, **options: Any) -> None:
        super().__init__(**options)
        self._seconds = seconds

    async def _create_direct_connection(self, *args: Any, **options: Any) -> Any:
        try:
            async with asyncio.timeout(self._seconds):
                return await super()._create_direct_connection(*args, **options)
        except TimeoutError:
            raise ProxyDown(f"no connection to the proxy within {self._seconds:g} s") from None
        except aiohttp.ClientSSLError as error:
            raise httpx.ProxyError(f"no connection to the proxy: {error}") from None
        except aiohttp.ClientError as error:
            raise ProxyDown(f"no connection to the proxy: {error}") from None

    async def _create_proxy_connection(self, *args: Any, **options: Any) -> Any:
        try:
            return await super()._create_proxy_connection(*args, **options)
        except aiohttp.ClientHttpProxyError as error:
            if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                raise OSError(
                    errno.EHOSTUNREACH, f"the proxy cannot reach the endpoint: it answered {error.status}"
                ) from None
            raise httpx.ProxyError(
                f"the proxy refuses to connect to the endpoint: it answered {error.status}"
            ) from None
        except aiohttp.ClientConnectorError:
            raise  # of the endpoint's TLS
        except aiohttp.ClientError as error:
            raise httpx.ProxyError(f"no answer from the proxy: {type(error).__name__}") from None

    def _get_ssl_context(self, req: aiohttp.ClientRequest) -> ssl.SSLContext | None:
        # The endpoint's authorities and client certificate are not for the proxy.
        if isinstance(req, _PlainRequest):
            return super()._get_ssl_context(req)
        return public_tls() if req.is_ssl() else None


def open_transport(endpoint: Endpoint, url: httpx.URL) -> AiohttpTransport:
    """Return a transport for requests to one host, as an endpoint's configuration demands.

    It connects through the endpoint's proxy or checks the address, trusts the endpoint's authorities, and has its client
    certificate. It follows no redirects, and keeps no cookies.

    Args:
        endpoint: the endpoint.
        url: where requests go: the endpoint's URL, or another one that it needs.

    Raises:
        EndpointError: ``ca_file`` cannot be read.
        AddressRefused: a proxy would connect to a private address, and the endpoint does not allow that.
    """
    proxy = endpoint.proxy_for(url)
    if proxy is not None and not endpoint.allow_private:
        check_host(url.host)
    tls: Any = tls_context(endpoint) if url.scheme == "https" else True
    keep: dict[str, Any] = {"keepalive_timeout": KEEPALIVE_SECONDS}
    if proxy is None:
        factory = None if endpoint.allow_private else guarded_socket_factory
        connector = _Connector(limit=0, ssl=tls, socket_factory=factory, **keep)
    else:
        if url.scheme == "http":  # some proxies close the connection after the answer, and do not say so
            keep = {"force_close": True}
        seconds = min(PROXY_SECONDS, endpoint.timeout / 2)
        connector = _ProxyConnector(seconds=seconds, limit=0, ssl=tls, **keep)
    session = aiohttp.ClientSession(
        connector=connector,
        proxy=None if proxy is None else proxy.url,
        request_class=_PlainRequest,
        response_class=_Response,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # only a proxy that Resonant's own settings name
        max_line_size=HEAD_BYTES,
        max_field_size=HEAD_BYTES,
    )
    return AiohttpTransport(client=session, verify=_unused_tls())  # the session's connector verifies


async def read_body(response: httpx.Response, body: bytearray) -> None:
    """Read up to ``READ_BYTES`` of the body."""
    # Not ``aiter_raw``, which adds overhead for repeated reads and counting.
    async for chunk in cast("httpx.AsyncByteStream", response.stream):
        body += chunk[: READ_BYTES - len(body)]
        if len(body) == READ_BYTES:
            return


def tls_context(endpoint: Endpoint) -> ssl.SSLContext:
    """Return the TLS context of an endpoint; those without own certificates share one.

    Raises:
        EndpointError: ``ca_file`` cannot be read.
    """
    if endpoint.ca_file is None:
        if endpoint.client_certificate is None:
            return public_tls()
        context = httpx.create_ssl_context()
    else:
        try:
            context = ssl.create_default_context(cafile=endpoint.ca_file)
        except OSError as error:
            raise EndpointError(
                f"endpoint {endpoint.name!r}: its ca_file cannot be read: {error.strerror}"
            ) from None
    if endpoint.client_certificate is not None:
        endpoint.client_certificate.load_into(context)
    return context


# One context takes 0.9 MB and 7 ms, which adds up for a thousand endpoints.
public_tls = functools.cache(httpx.create_ssl_context)


@functools.cache
def _unused_tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(verify=False)
