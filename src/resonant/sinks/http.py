"""The HTTP sink: CloudEvents by POST, signed as Standard Webhooks. Every attempt of an event has the same body."""

import asyncio
import functools
import importlib.metadata
import math
import time
from typing import Self, cast

import aiohttp
import httpx
import yarl
from httpx_aiohttp import AiohttpTransport

from resonant.errors import NotReady, UnexpectedStatus
from resonant.events import Clock, Event
from resonant.events.webhook_ids import webhook_id
from resonant.sinks.base import Receipt, TraceHeaders, attempt_trace
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.network.bounded_connection import READ_BYTES, AnswerCutOff
from resonant.sinks.network.proxy_check import ProxyCheck, proxy_check
from resonant.sinks.oauth import OAuth
from resonant.sinks.redaction import Redactor, basic_authorization
from resonant.sinks.signing import signer
from resonant.sinks.token_use import TokenUse
from resonant.sinks.tokens import token_source
from resonant.sinks.transport import ProxyDown, open_transport, read_body
from resonant.sinks.wire import Header, message

# Time limit for the body of a 2xx. The event is already delivered; the body is only for the excerpt.
SUCCESS_BODY_SECONDS = 1.0


class HttpSink:
    """Sends events to an HTTP endpoint. Use it as an async context manager, in one event loop.

    It uses the httpx-aiohttp transport without an ``httpx.AsyncClient``. So it follows no redirects, keeps no cookies
    and logs no URL, and it uses less than half the CPU.
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
        self._url = url.copy_with(userinfo=b"", fragment=None)
        self._own_headers = {
            "user-agent": _user_agent(),
            **{name.lower(): value for name, value in endpoint.headers.items()},
            **({"authorization": basic_authorization(url)} if url.userinfo else {}),
            "accept-encoding": "identity",
        }
        # In httpx's internal form, so that it does not encode them for each event.
        self._constant_headers = httpx.Headers(self._own_headers).raw
        self._signers = [
            (signer(secret), endpoint.signing_ends.get(secret, math.inf))
            for secret in endpoint.signing_secrets
        ]
        self._redactor = Redactor.of(endpoint)
        self._transport: AiohttpTransport | None = None
        self._proxy: ProxyCheck | None = None
        self._through = endpoint.proxy_for(self._url)
        self.may_be_unready = self._through is not None or endpoint.oauth is not None
        self._tokens: TokenUse | None = None
        self._token: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; sending again opens new ones."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    @property
    def tokens(self) -> tuple[str, ...]:
        """The OAuth tokens that were used recently, which no text may contain."""
        return () if self._tokens is None else self._tokens.source.recent

    @property
    def problem(self) -> NotReady | None:
        """Why nothing can be sent now: the proxy is down, or there is no valid OAuth token. None if something can."""
        try:
            if (proxy := self._check()) is not None:
                proxy.demand()
            if self.endpoint.oauth is not None:
                self._use_of(self.endpoint.oauth).current()
        except NotReady as missing:
            return missing
        return None

    async def prepare(self) -> None:
        """Wait for an OAuth token, if the endpoint needs one, for a few seconds at most. Call it before ``send``.

        Raises:
            TokenUnavailable: there is no valid token.
            NotReady: the proxy accepted no connection when it was last tried.
        """
        if (proxy := self._check()) is not None:
            await proxy.prepare()
        if self.endpoint.oauth is not None:
            tokens = self._use_of(self.endpoint.oauth)
            await tokens.prepare()
            tokens.current()

    async def send(self, event: Event) -> Receipt:
        """POST the event in the endpoint's mode.

        Returns:
            The receipt of any 2xx, with a warning if its body was broken, slow or long.

        Raises:
            UnexpectedStatus: any other status, even if its body cannot be read.
            TimeoutError: no status within the endpoint's ``timeout``.
            EndpointError: ``ca_file`` cannot be read.
            TokenUnavailable: the endpoint needs an OAuth token: no valid one exists, or the endpoint refused it.
            httpx.HTTPError: any other failure, including a refused address (with ``AddressRefused`` as the cause). Its
                text may contain the URL; ``Redactor.message`` removes it.
        """
        if self.endpoint.oauth is not None:  # without ``prepare`` if the configuration changed since
            self._use(self._use_of(self.endpoint.oauth).current())
        token = self._token
        transport, request = self._open(), self._request(event)
        response: httpx.Response | None = None
        body = bytearray()
        warning: str | None = None
        try:
            async with asyncio.timeout(self.endpoint.timeout) as deadline:
                response = await transport.handle_async_request(request)
                if response.is_success:
                    soon = asyncio.get_running_loop().time() + SUCCESS_BODY_SECONDS
                    deadline.reschedule(min(deadline.when() or soon, soon))
                try:
                    await read_body(response, body)
                finally:
                    await response.aclose()
        except aiohttp.ClientResponseError as error:
            # The transport does not convert it, and its "status" does not come from the receiver.
            reason = error.message.partition("\n")[0]
            raise httpx.RemoteProtocolError(f"the answer is not HTTP: {reason}") from None
        except Exception as error:
            if response is None:
                if isinstance(error, ProxyDown) and (proxy := self._check()) is not None:
                    proxy.note(self._redactor.message(error))
                if deadline.expired():
                    raise TimeoutError(f"no answer within {self.endpoint.timeout:g} s") from None
                raise
            warning = f"the response body {_problem(error, is_late=deadline.expired())}"
        if len(body) == READ_BYTES:
            warning = f"the response body has {READ_BYTES // 1024} KiB or more"
        excerpt = self._redactor.excerpt(body, is_whole=warning is None)
        self._note_answer(token, response.status_code)
        if not response.is_success:
            raise UnexpectedStatus(response.status_code, response.headers.get("retry-after"), excerpt)
        return Receipt(response.status_code, excerpt, warning)

    async def connect(self) -> None:
        """Open a connection as ``send`` does, with TLS if it uses that, and close it without a request.

        Raises:
            httpx.ProxyError: there is a proxy, which may accept a connection to an endpoint that does not.
            Exception: the errors of ``send`` when it cannot connect. The caller limits the time.
        """
        if self._through is not None:
            raise httpx.ProxyError("a connection through a proxy says nothing about the endpoint")
        connector = cast("aiohttp.TCPConnector", self._open().get_client().connector)
        request = aiohttp.ClientRequest("POST", yarl.URL(str(self._url)))
        connection = await connector.connect(request, [], aiohttp.ClientTimeout())
        connection.close()

    def _check(self) -> ProxyCheck | None:
        if self._proxy is None and self._through is not None:
            self._proxy = proxy_check(self._through)
        return self._proxy

    def _use_of(self, oauth: OAuth) -> TokenUse:
        if self._tokens is None:
            self._tokens = TokenUse(token_source(oauth, self.endpoint), self.endpoint.name)
        return self._tokens

    def _note_answer(self, token: str | None, status_code: int) -> None:
        if token and self._tokens is not None:
            self._tokens.answered(token, status_code)

    def _use(self, token: str) -> None:
        if token != self._token:
            self._token = token
            headers = {**self._own_headers, "authorization": f"Bearer {token}"}
            self._constant_headers = httpx.Headers(headers).raw
            self._redactor = Redactor.of(self.endpoint, also=self.tokens)

    def _open(self) -> AiohttpTransport:
        if self._transport is None:
            self._transport = open_transport(self.endpoint, self._url)
        return self._transport

    def _request(self, event: Event) -> httpx.Request:
        own, body = message(event, self.endpoint.mode)
        own += self._webhook_headers(event.webhook_id or webhook_id(event.identity, is_taken=False), body)
        own += _traces(event)
        headers = httpx.Headers([*self._constant_headers, *own])
        # Passed as a stream: for content, httpx would search the headers several times.
        request = httpx.Request("POST", self._url, headers=headers, stream=httpx.ByteStream(body))
        request.headers.encoding = "ascii"
        request.read()
        return request

    def _webhook_headers(self, message_id: str, body: bytes) -> list[Header]:
        """Return the headers of Standard Webhooks. Its library signs text only."""
        timestamp = int(self._clock())
        name, moment = message_id.encode(), b"%d" % timestamp
        headers = [(b"webhook-id", name), (b"webhook-timestamp", moment)]
        if signers := [sign for sign, ends in self._signers if timestamp < ends]:
            signed = b"%b.%b.%b" % (name, moment, body)
            headers.append((b"webhook-signature", b" ".join([sign(signed) for sign in signers])))
        return headers


def _traces(event: Event) -> list[Header]:
    """Return the headers of the attempt's own span, or else of the trace in which the event was created."""
    if (trace := attempt_trace.get()) is None:
        if event.traceparent is None:
            return []
        trace = TraceHeaders(event.traceparent, event.tracestate)
    headers = [(b"traceparent", trace.traceparent.encode("ascii"))]
    if trace.tracestate is not None:
        headers.append((b"tracestate", trace.tracestate.encode("ascii")))
    return headers


def _problem(error: Exception, *, is_late: bool) -> str:
    if isinstance(error, AnswerCutOff):
        return str(error)
    return "took too long" if is_late else f"broke off ({type(error).__name__})"


@functools.cache
def _user_agent() -> str:
    return f"resonant/{importlib.metadata.version('resonant')}"
