"""What each failure means: the table, row by row, and failures that really happened wherever they can be made to.

``classification.json`` says what the verdict has to be and why. A row about an exception is tried with failures caused
on real sockets, over httpx's own transport and over aiohttp, which report the same trouble as quite different chains.
What cannot be caused on one machine (a name server that is down, an unreachable network) is put together by hand.
"""

import asyncio
import contextlib
import email.utils
import errno
import functools
import importlib
import json
import re
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import httpx
import pydantic
import pytest
import requests
import trustme
import urllib3
from httpx_aiohttp import AiohttpTransport
from hypothesis import example, given
from hypothesis import strategies as st

import resonant.delivery.classification
import resonant.delivery.failure_tables
from resonant.delivery.classification import Classifier, classify
from resonant.delivery.retry_after import parse_retry_after
from resonant.delivery.verdict import Verdict
from resonant.errors import AddressRefused, UnexpectedStatus

HERE = Path(__file__)
TABLE = json.loads(HERE.with_name("classification.json").read_text())
NOW = datetime(2019, 6, 3, 11, 0, 0, tzinfo=UTC).timestamp()
TRANSPORTS = {"httpx": httpx.AsyncHTTPTransport, "aiohttp": AiohttpTransport}


def judge(failure, **options):
    return classify(failure, now=NOW, **options)


# --- statuses ----------------------------------------------------------------------------------------------------

FAMILIES = {
    "1xx (as final)": [100, 101, 103, 199],
    "other 4xx": [417, 418, 424, 451, 499],
    "other 5xx (520-530 CDN, 509)": [507, 509, 520, 530, 599],
}
STATUSES = [
    pytest.param(status, row, id=str(status))
    for row in TABLE["http"]
    if row["category"] != "success"  # a 2xx is the sink's: it raises nothing
    for status in FAMILIES.get(row["status"], [row["status"]])
]


def by_sink(status, retry_after=None):
    return UnexpectedStatus(status, retry_after)


def by_httpx(status, retry_after=None):
    headers = {"retry-after": retry_after} if retry_after else {}
    request = httpx.Request("POST", "http://receiver.example/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, headers=headers))


def by_requests(status, retry_after=None):
    response = requests.Response()
    response.status_code = status
    if retry_after:
        response.headers["retry-after"] = retry_after
    return requests.HTTPError("", response=response)


def by_aiohttp(status, retry_after=None):
    headers = aiohttp.typedefs.CIMultiDict({"retry-after": retry_after} if retry_after else {})
    return aiohttp.ClientResponseError(None, (), status=status, headers=headers)


each_library = pytest.mark.parametrize(
    "answered", [by_sink, by_httpx, by_requests, by_aiohttp], ids=lambda f: f.__name__
)


@each_library
@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_a_status_is_judged_as_its_row_says(answered, status, row):
    verdict = judge(answered(status))
    assert verdict.category == row["category"]
    assert verdict.maybe_processed == row["may_have_been_processed"]
    assert verdict.retry_after is None
    assert verdict.code == ("throttled" if status == 429 else f"http_{status}")
    assert verdict.blame == ("local" if status in {407, 511} else "endpoint")
    assert verdict.gone == (status == 410)


@each_library
@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_retry_after_counts_where_its_row_says(answered, status, row):
    verdict = judge(answered(status, "120"))
    if row["retry_after"]:
        assert (verdict.category, verdict.retry_after) == ("transient", 120.0)
        assert not verdict.gone
    else:
        assert (verdict.category, verdict.retry_after) == (row["category"], None)


@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_a_retry_after_that_is_nonsense_changes_nothing(status, row):
    assert judge(by_sink(status, "soon")) == judge(by_sink(status))


def test_a_locked_resource_is_worth_a_retry():
    assert judge(by_sink(423)).category == "transient"


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 999, 10**9])
def test_a_status_that_is_none_does_not_widen_the_set_of_codes(status):
    assert judge(by_sink(status)) == Verdict("unknown", "http_other", maybe_processed=True)


def test_a_retry_after_date_is_compared_to_the_clock_given():
    assert judge(by_sink(503, "Mon, 03 Jun 2019 11:30:12 GMT")).retry_after == 1812


def test_a_requests_error_without_a_response_is_a_transport_error():
    assert judge(requests.HTTPError("no response")).code == "transport_error"


@pytest.mark.parametrize("category", ["transient", "permanent", "unknown"])
@pytest.mark.parametrize("status", [302, 404, 429, 500])
def test_an_override_decides_the_category_alone(status, category):
    plain, verdict = judge(by_sink(status)), judge(by_sink(status, "120"), overrides={status: category})
    assert verdict.category == category
    assert verdict.retry_after == (None if category == "permanent" else 120.0)
    assert (verdict.code, verdict.maybe_processed, verdict.blame) == (
        plain.code,
        plain.maybe_processed,
        plain.blame,
    )


def test_an_override_for_another_status_changes_nothing():
    assert judge(by_sink(404), overrides={403: "transient"}) == judge(by_sink(404))


def test_an_endpoint_whose_410_is_overridden_is_not_flagged_gone():
    assert not judge(by_sink(410), overrides={410: "transient"}).gone


# --- failures that really happen ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def misbehaving(behave, tls=None):
    """A server that answers every connection with this behaviour, then closes it; yields its port."""

    handlers = set()

    async def handle(reader, writer):
        handlers.add(asyncio.current_task())
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await behave(reader, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if handlers:
            await asyncio.wait(handlers, timeout=5)


async def disconnect(reader, writer):
    """Read the request to its last byte: to close a socket with bytes unread is to reset it."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *([0-9]+)", head)
    await reader.readexactly(int(length[1]) if length else 0)


async def reset(reader, writer):
    await disconnect(reader, writer)
    await reset_at_once(reader, writer)


async def reset_at_once(reader, writer):
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def reset_the_handshake(reader, writer):
    await reader.read(2**16)
    await reset_at_once(reader, writer)


async def say_nothing(reader, writer):
    await reader.read()  # until the client gives up


async def read_nothing(reader, writer):
    writer.transport.pause_reading()
    await asyncio.sleep(0.3)  # longer than the client's patience
    writer.transport.abort()


broken = {"x": "a\nb"}


def says(answer):
    async def say(reader, writer):
        await disconnect(reader, writer)
        writer.write(answer)

    return say


garbage = says(b"no HTTP at all\r\n\r\n")
truncated = says(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nfive!")
truncated_chunk = says(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nfive!")
no_gzip = says(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 5\r\n\r\nfive!")
in_circles = says(b"HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
throttling = says(b"HTTP/1.1 429 Slow Down\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n")
no_proxy_for_you = says(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")


async def hang_up(reader, writer):
    await reader.read(2**16)


async def answer_in_clear(reader, writer):
    await reader.read(2**16)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def failing():
    return pytest.raises(Exception)  # noqa: PT011 - whatever it is, it is to be judged


async def post(url, transport, *, content=b"{}", headers=None, **options):
    """Post with httpx, and return the failure."""
    async with httpx.AsyncClient(transport=transport, **{"timeout": 5.0, **options}) as client:
        with failing() as failure:
            await client.post(url, content=content, headers=headers)
        return failure.value


def to(behave, *, scheme="http", tls=None, url="{scheme}://localhost:{port}/", **options):
    """How to fail against a server that behaves like this, for each transport."""

    async def fail(transport):
        async with misbehaving(behave, tls and tls()) as port:
            return await post(url.format(scheme=scheme, port=port), transport(), **options)

    return fail


async def to_nobody(transport):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        return await post(f"http://127.0.0.1:{unused.getsockname()[1]}/", transport())


@contextlib.contextmanager
def full_backlog():
    """A port that neither accepts nor refuses: its queue of connections is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def to_a_full_backlog(transport):
    with full_backlog() as port:
        return await post(f"http://127.0.0.1:{port}/", transport(), timeout=httpx.Timeout(5, connect=0.2))


async def to_a_scheme(transport):
    return await post("ftp://localhost/", transport())


async def past_the_deadline(transport):
    async with misbehaving(say_nothing) as port:
        with failing() as failure:
            async with asyncio.timeout(0.2):
                await post(f"http://127.0.0.1:{port}/", transport())
        return failure.value


def through_a_proxy(behave):
    async def fail(transport):
        async with misbehaving(behave) as port:
            proxy = httpx.Proxy(f"http://127.0.0.1:{port}")
            return await post("https://receiver.example/", transport(proxy=proxy))

    return fail


async def with_an_exhausted_pool(transport):
    one = transport(limits=httpx.Limits(max_connections=1))
    async with misbehaving(say_nothing) as port, httpx.AsyncClient(transport=one) as client:
        url = f"http://127.0.0.1:{port}/"
        holder = asyncio.create_task(client.post(url, timeout=5))
        await asyncio.sleep(0)  # the holder is served first
        with failing() as failure:
            await client.post(url, timeout=httpx.Timeout(5, pool=0.1))
        holder.cancel()
        await asyncio.wait([holder])
        return failure.value


@functools.cache
def authority():
    return trustme.CA()


def trusting():
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def certificate(name, issuer=authority):
    def server_side():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        issuer().issue_cert(name).configure_cert(context)
        return context

    return server_side


def over_tls(behave, tls=None):
    """Like ``to``, with a client that trusts the test's own authority and no other."""
    fail = to(behave, scheme="https", tls=tls)
    return lambda transport: fail(lambda: transport(verify=trusting()))


def chained(*links):
    """Raise the last of these, from the one before it, and so on."""
    cause = None
    for link in links:
        try:
            raise link from cause
        except type(link) as failure:
            cause = failure
    return cause


@dataclass
class Case:
    """One failure to try a row with."""

    name: str
    make: Callable[[], Awaitable[BaseException]]
    code: str
    blame: str = "endpoint"
    processed: bool | None = None  # where it differs from its row, with the reason beside it


def real(name, fail, code, *, only=None, **rest):
    """The same trouble over each transport."""
    return [
        Case(f"{name} over {library}", functools.partial(fail, transport), code, **rest)
        for library, transport in TRANSPORTS.items()
        if only in {None, library}
    ]


def hand(code, *failures, **rest):
    """Failures put together by hand."""

    async def given(failure):
        return failure

    return [Case(repr(failure)[:60], functools.partial(given, failure), code, **rest) for failure in failures]


def raised(make):
    """What this raises, without a network."""
    with failing() as failure:
        make()
    return failure.value


def cannot_connect(kind, cause):
    """What aiohttp's connector makes of this cause."""
    return chained(cause, kind(SimpleNamespace(host="receiver.example", port=443, ssl=True), cause))


class StrangeError(Exception):
    """Of a kind that nobody told the classifier about."""


def os_errors(*numbers):
    return [OSError(number, "failed") for number in numbers]


CASES = {
    "httpx.ConnectError <- ConnectionRefusedError": [
        *real("a port where nobody listens", to_nobody, "connect_refused"),
        *hand(
            "connect_refused",
            # what anyio makes of a name with two addresses
            chained(
                ExceptionGroup("multiple connection attempts failed", os_errors(errno.ECONNREFUSED) * 2),
                OSError("All connection attempts failed"),
                httpx.ConnectError("All connection attempts failed"),
            ),
        ),
    ],
    "httpx.ConnectError <- socket.gaierror EAI_AGAIN(-3)": hand(
        "dns_temporary",
        chained(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), httpx.ConnectError("")),
        cannot_connect(
            aiohttp.ClientConnectorDNSError, socket.gaierror(socket.EAI_AGAIN, "Temporary failure")
        ),
    ),
    "httpx.ConnectError <- socket.gaierror EAI_NONAME(-2)": hand(
        "dns_not_found",
        chained(socket.gaierror(socket.EAI_NONAME, "Name not known"), httpx.ConnectError("")),
        cannot_connect(aiohttp.ClientConnectorDNSError, OSError(None, "as aiodns says it")),
    ),
    "httpx.ConnectError <- ssl.SSLCertVerificationError": [
        *real(
            "an unknown authority",
            over_tls(disconnect, certificate("localhost", trustme.CA)),
            "tls_certificate",
        ),
        *real("another's certificate", over_tls(disconnect, certificate("other.example")), "tls_certificate"),
    ],
    "httpx.ConnectError <- ssl.SSLError (other handshake)": real(
        "a port that speaks no TLS", over_tls(answer_in_clear), "tls_error"
    ),
    "httpx.ConnectError <- ENETUNREACH/EHOSTUNREACH/ECONNRESET/ETIMEDOUT": [
        *real("a reset in the handshake", over_tls(reset_the_handshake), "connection_reset"),
        *real("a server that hangs up in the handshake", over_tls(hang_up), "disconnected", only="httpx"),
        *real(
            "a server that hangs up in the handshake", over_tls(hang_up), "connection_reset", only="aiohttp"
        ),
        *(
            case
            for number, code in {
                errno.ENETUNREACH: "unreachable",
                errno.EHOSTUNREACH: "unreachable",
                errno.ECONNRESET: "connection_reset",
                errno.ETIMEDOUT: "timeout",
            }.items()
            for case in hand(
                code,
                chained(*os_errors(number), httpx.ConnectError("")),
                cannot_connect(aiohttp.ClientConnectorError, *os_errors(number)),
            )
        ),
    ],
    "httpx.ConnectTimeout": real("a full backlog", to_a_full_backlog, "connect_timeout"),
    "httpx.ReadTimeout": real(
        "a server that says nothing", to(say_nothing, timeout=httpx.Timeout(5, read=0.1)), "read_timeout"
    ),
    "httpx.WriteTimeout": real(
        "a server that reads nothing",
        to(read_nothing, content=bytes(2**25), timeout=httpx.Timeout(5, write=0.1)),
        "write_timeout",
        only="httpx",  # aiohttp knows no time limit for writing
    ),
    "httpx.ReadError": [
        *real("a reset after the request", to(reset), "connection_reset"),
        *hand("connection_reset", aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer")),
        *hand("read_error", httpx.ReadError("")),
    ],
    "httpx.WriteError": [  # httpcore passes over a failed write, and then fails to read
        *hand("write_error", httpx.WriteError("")),
        *hand(
            "broken_pipe",
            chained(BrokenPipeError(), httpx.WriteError("")),
            aiohttp.ClientOSError(errno.EPIPE, "Can not write request body"),
        ),
    ],
    "httpx.RemoteProtocolError": [
        *real("a server that hangs up", to(disconnect), "bad_response", only="httpx"),
        *real("a server that hangs up", to(disconnect), "disconnected", only="aiohttp"),
        *real("an answer that is no HTTP", to(garbage), "bad_response"),
        *real("a truncated body", to(truncated), "bad_response"),
        *real("a truncated chunk", to(truncated_chunk), "bad_response"),
    ],
    "httpx.LocalProtocolError": [
        *real("a line break in a header", to(disconnect, headers=broken), "invalid_request", only="httpx"),
        *real(
            "a line break in a header",
            to(disconnect, headers=broken),
            "value_error",
            only="aiohttp",
            blame="local",
        ),
    ],
    "httpx.UnsupportedProtocol": real("an ftp URL", to_a_scheme, "unsupported_protocol"),
    "httpx.InvalidURL": hand("invalid_url", raised(lambda: httpx.URL("http://receiver.example:port/"))),
    "httpx.TooManyRedirects": real(
        "a redirect to itself", to(in_circles, follow_redirects=True, max_redirects=1), "too_many_redirects"
    ),
    "httpx.ProxyError": real(
        "a proxy that wants a password", through_a_proxy(no_proxy_for_you), "proxy_error", blame="local"
    ),
    "httpx.StreamError family": hand(
        "stream_error",
        raised(lambda: httpx.Response(200, stream=httpx.ByteStream(b"")).content),
        raised(lambda: httpx.Request("POST", "http://receiver.example/", content=iter([b"a"])).content),
    ),
    "TimeoutError == asyncio.TimeoutError (3.11+)": [
        *real("the deadline of the attempt", past_the_deadline, "timeout"),
        *hand("timeout", TimeoutError()),
    ],
    "ConnectionError family (BrokenPipe, Reset, Aborted, Refused)": [
        *hand("broken_pipe", BrokenPipeError()),
        *hand("connection_reset", ConnectionResetError("Connection lost")),
        *hand("connection_aborted", ConnectionAbortedError()),
        *hand("connection_error", ConnectionError()),
        *hand(
            "connect_refused", ConnectionRefusedError(), processed=False
        ),  # "Refused: not sent", notes the row
    ],
    "OSError errno in {EAGAIN,EINTR,ECONN*,EPIPE,ETIMEDOUT,ENETDOWN,ENETUNREACH,EHOSTUNREACH,ENOBUFS,EMFILE,ENFILE}": [
        *hand("os_error", *os_errors(errno.EAGAIN, errno.EINTR)),
        *hand("connect_refused", *os_errors(errno.ECONNREFUSED)),
        *hand("unreachable", *os_errors(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH)),
        *hand("local_resources", *os_errors(errno.ENOBUFS, errno.EMFILE, errno.ENFILE), blame="local"),
        # Python makes ConnectionResetError and so on of these, whose own rows say that they come after sending.
        *hand("connection_aborted", *os_errors(errno.ECONNABORTED), processed=True),
        *hand("connection_reset", *os_errors(errno.ECONNRESET), processed=True),
        *hand("broken_pipe", *os_errors(errno.EPIPE), processed=True),
        *hand("timeout", *os_errors(errno.ETIMEDOUT), processed=True),
    ],
    "OSError ENOSPC/EDQUOT/EROFS/EIO": hand(
        "local_storage", *os_errors(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO), blame="local"
    ),
    "FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError(EACCES/EPERM)": [
        *hand("file_not_found_error", raised(HERE.with_name("no such file").read_bytes), blame="local"),
        *hand("not_a_directory_error", raised((HERE / "inside").read_bytes), blame="local"),
        *hand("is_a_directory_error", raised(HERE.parent.read_bytes), blame="local"),
        *hand("file_exists_error", raised(HERE.parent.mkdir), blame="local"),
        *hand("permission_error", *os_errors(errno.EACCES, errno.EPERM), blame="local"),
    ],
    "ssl.SSLCertVerificationError (raw)": hand(
        "tls_certificate", ssl.SSLCertVerificationError(1, "self-signed")
    ),
    "OSError other / no errno": hand(
        "os_error", OSError(), OSError("said in words"), OSError([], "odd"), *os_errors(errno.ENXIO)
    ),
    "ValueError/KeyError/TypeError/AttributeError/LookupError/AssertionError/NotImplementedError": [
        *hand("value_error", raised(lambda: int("x")), blame="local"),
        *hand("key_error", raised(lambda: {}["x"]), blame="local"),
        *hand("index_error", raised([].pop), blame="local"),
        *hand("lookup_error", LookupError(), blame="local"),
        *hand("type_error", raised(lambda: len(1)), blame="local"),
        *hand("attribute_error", raised(lambda: HERE.nothing), blame="local"),
        *hand("assertion_error", AssertionError(), blame="local"),
        *hand("not_implemented_error", NotImplementedError(), blame="local"),
    ],
    "json.JSONDecodeError / UnicodeDecodeError / pydantic.ValidationError": hand(
        "value_error",
        raised(lambda: json.loads("{")),
        raised(b"\xff".decode),
        raised(lambda: pydantic.TypeAdapter(int).validate_python("x")),
        blame="local",
    ),
    "anything else": hand("unknown", StrangeError(), RuntimeError(), MemoryError(), raised(lambda: 1 / 0)),
}
ROWS = {row["exception"]: row for row in TABLE["exceptions"]}
OTHERWISE_TESTED = {
    "httpx.DecodingError": "test_a_body_that_cannot_be_decoded_is_not_taken_for_a_transport_error",
    "httpx.HTTPStatusError": "test_a_status_is_judged_as_its_row_says",
    "asyncio.CancelledError / KeyboardInterrupt / SystemExit": "test_a_cancellation_passes_through",
    "socket.gaierror raw": "test_a_raw_resolver_error_is_judged_as_a_wrapped_one",
}


def test_every_row_of_the_table_is_tried():
    assert set(CASES) | set(OTHERWISE_TESTED) == set(ROWS)
    assert all(CASES.values())
    assert set(OTHERWISE_TESTED.values()) <= set(globals())


@pytest.mark.parametrize(
    ("row", "case"),
    [
        pytest.param(ROWS[name], case, id=f"{name}: {case.name}")
        for name, cases in CASES.items()
        for case in cases
    ],
)
async def test_a_failure_is_judged_as_its_row_says(row, case):
    processed = row["may_have_been_processed"] if case.processed is None else case.processed
    assert judge(await case.make()) == Verdict(
        row["category"], case.code, blame=case.blame, maybe_processed=processed
    )


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_a_body_that_cannot_be_decoded_is_not_taken_for_a_transport_error(transport):
    failure = await to(no_gzip)(transport)
    assert isinstance(failure, httpx.DecodingError)
    assert judge(failure) == Verdict("unknown", "bad_response", maybe_processed=True)


@pytest.mark.parametrize(
    "failure", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1), GeneratorExit()]
)
def test_a_cancellation_passes_through(failure):
    with pytest.raises(type(failure)) as passed:
        judge(failure)
    assert passed.value is failure


def test_a_group_that_holds_a_cancellation_passes_through():
    with pytest.raises(BaseExceptionGroup):
        judge(BaseExceptionGroup("", [TimeoutError(), asyncio.CancelledError()]))


@pytest.mark.parametrize("number", [socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_FAIL])
def test_a_raw_resolver_error_is_judged_as_a_wrapped_one(number):
    bare = socket.gaierror(number, "no such name")
    assert judge(bare) == judge(chained(bare, httpx.ConnectError("")))
    assert judge(bare).category == ("transient" if number == socket.EAI_AGAIN else "unknown")


@pytest.mark.parametrize("transport", TRANSPORTS.values(), ids=TRANSPORTS)
async def test_a_name_that_does_not_resolve_is_judged_by_what_the_resolver_said(transport):
    with pytest.raises(socket.gaierror) as resolver:
        socket.getaddrinfo("no-such-host.invalid", 80)
    verdict = judge(await post("http://no-such-host.invalid/", transport()))
    # without a network the resolver cannot know that the name does not exist
    assert verdict.code == ("dns_temporary" if resolver.value.errno == socket.EAI_AGAIN else "dns_not_found")


async def test_a_full_pool_is_not_the_endpoints_fault():
    assert judge(await with_an_exhausted_pool(httpx.AsyncHTTPTransport)) == Verdict(
        "transient", "pool_full", blame="local"
    )


async def test_aiohttps_full_pool_looks_like_a_connect_timeout():
    assert judge(await with_an_exhausted_pool(AiohttpTransport)) == Verdict("transient", "connect_timeout")


async def test_a_proxy_that_is_down_is_not_the_endpoints_fault():
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientProxyConnectionError) as failure:
            await session.get("http://receiver.example/", proxy="http://127.0.0.1:1")
        assert judge(failure.value) == Verdict("transient", "proxy_error", blame="local")


def test_a_refused_address_is_permanent():
    assert judge(AddressRefused("10.0.0.1 is private")) == Verdict("permanent", "address_refused")


# --- requests and aiohttp on their own ---------------------------------------------------------------------------


async def by_way_of_requests(behave, *, timeout=5.0, follow=False):
    def send(port):
        with requests.Session() as session:
            session.trust_env = False
            session.max_redirects = 1
            url = f"http://127.0.0.1:{port}/"
            session.post(url, json={}, timeout=timeout, allow_redirects=follow).raise_for_status()

    async with misbehaving(behave) as port:
        with failing() as failure:
            await asyncio.to_thread(send, port)
        return failure.value


@pytest.mark.parametrize(
    ("behave", "options", "verdict"),
    [
        (disconnect, {}, Verdict("transient", "disconnected", maybe_processed=True)),
        (reset, {}, Verdict("transient", "connection_reset", maybe_processed=True)),
        (garbage, {}, Verdict("transient", "bad_response", maybe_processed=True)),
        (truncated_chunk, {}, Verdict("transient", "bad_response", maybe_processed=True)),
        (no_gzip, {}, Verdict("unknown", "bad_response", maybe_processed=True)),
        (say_nothing, {"timeout": 0.1}, Verdict("transient", "read_timeout", maybe_processed=True)),
        (in_circles, {"follow": True}, Verdict("permanent", "too_many_redirects")),
        (throttling, {}, Verdict("transient", "throttled", retry_after=7.0)),
    ],
    ids=[
        "disconnect",
        "reset",
        "garbage",
        "truncated chunk",
        "no gzip",
        "silence",
        "redirects",
        "throttling",
    ],
)
async def test_a_failure_of_requests_is_judged_by_the_same_rules(behave, options, verdict):
    assert judge(await by_way_of_requests(behave, **options)) == verdict


@pytest.mark.parametrize(
    ("url", "code", "category"),
    [
        ("http://127.0.0.1:1/", "connect_refused", "transient"),
        ("receiver.example", "invalid_url", "permanent"),
        ("http://", "invalid_url", "permanent"),
        ("ftp://receiver.example/", "unsupported_protocol", "permanent"),
    ],
)
def test_a_request_of_requests_that_never_left_was_not_processed(url, code, category):
    with pytest.raises(requests.RequestException) as failure:
        requests.post(url, timeout=5, proxies={"all": None})
    assert judge(failure.value) == Verdict(category, code)


def test_a_connect_timeout_of_requests_was_not_processed():
    with full_backlog() as port, pytest.raises(requests.ConnectTimeout) as failure:
        requests.post(f"http://127.0.0.1:{port}/", timeout=0.2, proxies={"all": None})
    assert judge(failure.value) == Verdict("transient", "connect_timeout")


def test_a_proxy_of_requests_that_is_down_is_not_the_endpoints_fault():
    with pytest.raises(requests.exceptions.ProxyError) as failure:
        requests.post("http://receiver.example/", timeout=5, proxies={"http": "http://127.0.0.1:1"})
    assert judge(failure.value) == Verdict("transient", "proxy_error", blame="local")


async def test_a_certificate_that_requests_does_not_trust_is_permanent():
    async with misbehaving(disconnect, certificate("localhost")()) as port:
        with pytest.raises(requests.exceptions.SSLError) as failure:
            await asyncio.to_thread(
                requests.post, f"https://localhost:{port}/", timeout=5, proxies={"all": None}
            )
        assert judge(failure.value) == Verdict("permanent", "tls_certificate")


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (requests.exceptions.ProxyError(), Verdict("transient", "proxy_error", blame="local")),
        (requests.exceptions.StreamConsumedError(), Verdict("permanent", "stream_error")),
        (requests.Timeout(), Verdict("transient", "timeout", maybe_processed=True)),
        (requests.RequestException(), Verdict("transient", "transport_error", maybe_processed=True)),
        (aiohttp.ServerTimeoutError(), Verdict("transient", "timeout", maybe_processed=True)),
        (aiohttp.ClientError(), Verdict("transient", "transport_error", maybe_processed=True)),
        (
            chained(
                TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
                urllib3.exceptions.NewConnectionError(None, "Failed to establish a new connection"),
                requests.ConnectionError(),
            ),
            Verdict("transient", "timeout"),
        ),
    ],
    ids=repr,
)
def test_an_error_of_requests_or_aiohttp_that_did_not_happen_here_is_judged_too(failure, verdict):
    assert judge(failure) == verdict


async def by_way_of_aiohttp(behave, *, url="http://127.0.0.1:{port}/", **options):
    async with misbehaving(behave) as port, aiohttp.ClientSession(raise_for_status=True) as session:
        with failing() as failure:
            async with session.post(url.format(port=port), json={}, **options) as response:
                await response.read()
        return failure.value


@pytest.mark.parametrize(
    ("behave", "options", "verdict"),
    [
        (disconnect, {}, Verdict("transient", "disconnected", maybe_processed=True)),
        (reset, {}, Verdict("transient", "connection_reset", maybe_processed=True)),
        (garbage, {}, Verdict("transient", "bad_response", maybe_processed=True)),
        (truncated, {}, Verdict("transient", "bad_response", maybe_processed=True)),
        (throttling, {}, Verdict("transient", "throttled", retry_after=7.0)),
        (in_circles, {"max_redirects": 1}, Verdict("permanent", "too_many_redirects")),
        (
            say_nothing,
            {"timeout": aiohttp.ClientTimeout(sock_read=0.1)},
            Verdict("transient", "read_timeout", maybe_processed=True),
        ),
        (
            say_nothing,
            {"timeout": aiohttp.ClientTimeout(total=0.1)},
            Verdict("transient", "timeout", maybe_processed=True),
        ),
        (disconnect, {"url": "http://"}, Verdict("permanent", "invalid_url")),
        (disconnect, {"url": "ftp://localhost/"}, Verdict("permanent", "unsupported_protocol")),
    ],
    ids=[
        "disconnect",
        "reset",
        "garbage",
        "truncated",
        "throttling",
        "redirects",
        "silence",
        "deadline",
        "no host",
        "ftp",
    ],
)
async def test_a_failure_of_aiohttp_is_judged_by_the_same_rules(behave, options, verdict):
    assert judge(await by_way_of_aiohttp(behave, **options)) == verdict


PACKAGES = {
    "aiohttp": ["aiohttp", "aiohttp.http_exceptions"],
    "http": ["http.client"],
    "requests": ["requests.exceptions"],
    "resonant": ["resonant.errors"],
    "urllib3": ["urllib3.exceptions"],
}
NAMED = {
    *(key for key in resonant.delivery.failure_tables.RANKED if isinstance(key, str)),
    *resonant.delivery.failure_tables.ANSWERED,
    *resonant.delivery.failure_tables.NAME_RESOLUTION,
    *resonant.delivery.failure_tables.CONNECTING,
}


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_name_in_the_tables_is_the_name_of_an_exception(name):
    package, _, kind = name.partition(".")
    modules = [importlib.import_module(module) for module in PACKAGES.get(package, [package])]
    found = [getattr(module, kind) for module in modules if hasattr(module, kind)]
    assert found
    assert resonant.delivery.classification._package(found[0]) == package
    assert found[0].__qualname__ == kind
    assert issubclass(found[0], Exception)


def test_no_failure_stands_in_the_tables_twice():
    keys = [
        key
        for table in resonant.delivery.failure_tables.TABLES.values()
        for keys in table.values()
        for key in keys
    ]
    assert len(keys) == len(set(keys))


def test_no_http_library_is_imported_to_know_its_errors():
    script = (
        "import runpy, sys; runpy.run_path(sys.argv[1]);"
        "sys.exit(str([name for name in ('httpx', 'requests', 'aiohttp', 'urllib3') if name in sys.modules]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, resonant.delivery.classification.__file__],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stderr.strip() == "[]"


# --- the chain ---------------------------------------------------------------------------------------------------


def test_the_most_telling_link_decides_wherever_it_is():
    refused = ConnectionRefusedError(111, "refused")
    for links in (
        [refused, StrangeError(), ValueError()],
        [refused, OSError(), httpx.ConnectError("")],
        [refused],
    ):
        assert judge(chained(*links)).code == "connect_refused"


def test_an_error_that_was_being_handled_counts_like_a_cause():
    failure = StrangeError()
    with contextlib.suppress(StrangeError):
        try:
            raise ConnectionRefusedError
        finally:
            raise failure
    assert judge(failure).code == "connect_refused"


def test_a_suppressed_context_counts_too_for_httpcore_suppresses_its_own():
    failure = StrangeError()
    failure.__context__ = ConnectionRefusedError()
    failure.__suppress_context__ = True
    assert judge(failure).code == "connect_refused"


@pytest.mark.parametrize(
    "unrelated", [KeyError("cache"), FileNotFoundError(2, "cache"), OSError(), StrangeError()]
)
def test_a_send_from_within_an_unrelated_handler_is_judged_by_the_send(unrelated):
    for failure in (httpx.ConnectError(""), httpx.ReadTimeout(""), httpx.ReadError(""), by_sink(503)):
        alone = judge(failure)
        failure.__context__ = unrelated
        assert judge(failure) == alone


def test_what_happened_inside_a_connection_attempt_was_never_sent():
    reset_by_peer = ConnectionResetError(104, "reset")
    assert judge(chained(reset_by_peer, httpx.ReadError(""))).maybe_processed
    assert not judge(chained(reset_by_peer, httpx.ConnectError(""))).maybe_processed


def test_a_connection_attempt_before_the_failed_read_does_not_make_it_safe():
    assert judge(chained(httpx.ConnectError(""), httpx.ReadTimeout(""))).maybe_processed


@pytest.mark.parametrize(
    ("members", "category", "code"),
    [
        ([ValueError(), TimeoutError()], "transient", "timeout"),
        ([StrangeError(), ValueError(), ConnectionRefusedError()], "transient", "connect_refused"),
        ([ValueError(), TypeError()], "permanent", "value_error"),
        ([ValueError(), StrangeError()], "unknown", "unknown"),
        ([by_sink(404), by_sink(410)], "permanent", "http_404"),
        ([ValueError(), ExceptionGroup("", [ValueError(), by_sink(503)])], "transient", "http_503"),
    ],
    ids=str,
)
def test_a_group_is_transient_if_any_is_and_permanent_if_all_are(members, category, code):
    verdict = judge(ExceptionGroup("", members))
    assert (verdict.category, verdict.code) == (category, code)
    wrapped = judge(chained(ExceptionGroup("", members), StrangeError()))
    assert (wrapped.category, wrapped.code) == (category, code)


def test_a_group_waits_for_the_longest_retry_after():
    assert judge(ExceptionGroup("", [by_sink(503, "5"), by_sink(429, "60"), by_sink(503)])).retry_after == 60


def test_a_group_was_perhaps_processed_if_any_member_was():
    assert judge(ExceptionGroup("", [ConnectionRefusedError(), StrangeError()])).maybe_processed
    assert not judge(ExceptionGroup("", [ConnectionRefusedError(), ValueError()])).maybe_processed


def test_an_endless_chain_is_walked_once():
    first, second = StrangeError(), RuntimeError()
    first.__cause__, second.__cause__ = second, first
    assert judge(first).code == "unknown"
    assert judge(ExceptionGroup("", [first, TimeoutError()])).code == "timeout"


def test_aiohttp_errors_that_cause_each_other_still_get_a_verdict():
    first, second = aiohttp.ClientError(), aiohttp.ClientError()
    first.__cause__, second.__cause__ = second, first
    assert judge(first).code == "unknown"


def test_a_chain_of_any_length_and_a_group_of_any_depth_are_judged_quickly():
    chain = group = StrangeError()
    for _ in range(50_000):
        outer = StrangeError()
        outer.__cause__, chain = chain, outer
    for _ in range(500):
        group = ExceptionGroup("", [group, group])
    started = time.perf_counter()
    assert judge(chain).code == judge(group).code == "unknown"
    assert time.perf_counter() - started < 20


ARGUMENTS = st.one_of(st.text(max_size=5), st.integers(-5, 130), st.none())
KINDS = [
    OSError,
    ConnectionError,
    TimeoutError,
    ValueError,
    KeyError,
    RuntimeError,
    StrangeError,
    ssl.SSLError,
]
KINDS += [socket.gaierror, ssl.SSLCertVerificationError, aiohttp.ClientOSError, requests.ConnectionError]
KINDS += [requests.HTTPError, asyncio.CancelledError, KeyboardInterrupt]
KNOTS = st.one_of(
    st.builds(
        lambda kind, arguments: kind(*arguments), st.sampled_from(KINDS), st.lists(ARGUMENTS, max_size=3)
    ),
    st.builds(
        lambda kind: kind(""), st.sampled_from([httpx.ConnectError, httpx.ReadTimeout, httpx.StreamError])
    ),
    st.builds(UnexpectedStatus, st.integers(), st.none() | st.text()),
    st.builds(by_aiohttp, st.integers(-1, 700), st.text(alphabet="0123456789GMT,: ")),
)


@st.composite
def tangles(draw):
    """Exceptions and groups of them that cause and surround each other without any order, cycles included."""
    knots = draw(st.lists(KNOTS, min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 3))):
        members = draw(st.lists(st.integers(0, len(knots) - 1), min_size=1, max_size=3))
        knots.append(BaseExceptionGroup("", [knots[i] for i in members]))
    anyone = st.none() | st.integers(0, len(knots) - 1)
    for knot in knots:
        cause, context = draw(anyone), draw(anyone)
        knot.__cause__ = None if cause is None else knots[cause]
        knot.__context__ = None if context is None else knots[context]
    return knots[draw(st.integers(0, len(knots) - 1))]


@given(tangles())
def test_every_failure_gets_a_verdict_with_a_bounded_code(failure):
    if not isinstance(failure, Exception):
        with pytest.raises(type(failure)):
            judge(failure)
        return
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,40}", judge(failure).code)


# --- rules of users ----------------------------------------------------------------------------------------------


def test_a_rule_for_a_type_wins_over_the_built_in_ones():
    classifier = Classifier()
    classifier.rule(
        ConnectionError, category="permanent", code="my_error", blame="local", maybe_processed=True
    )
    expected = Verdict("permanent", "my_error", blame="local", maybe_processed=True)
    assert classifier.classify(ConnectionRefusedError(), now=NOW) == expected
    assert classifier.classify(TimeoutError(), now=NOW).code == "timeout"


def test_a_rule_finds_its_failure_anywhere_in_the_chain_and_in_groups():
    classifier = Classifier()
    classifier.rule(StrangeError, category="transient", code="strange")
    for failure in (
        chained(StrangeError(), ConnectionRefusedError()),
        chained(ValueError(), StrangeError(), httpx.ReadTimeout("")),
        ExceptionGroup("", [ValueError(), StrangeError()]),
        chained(ExceptionGroup("", [chained(StrangeError(), OSError())]), RuntimeError()),
    ):
        assert classifier.classify(failure, now=NOW).code == "strange"


def test_the_rule_registered_last_is_asked_first():
    classifier = Classifier()
    classifier.rule(StrangeError, category="transient", code="first")
    classifier.rule(Exception, category="permanent", code="second")
    assert classifier.classify(StrangeError(), now=NOW).code == "second"
    classifier.rule(lambda _: Verdict("transient", "third"))
    assert classifier.classify(StrangeError(), now=NOW).code == "third"


def test_a_callable_is_a_rule_and_may_leave_a_failure_to_others():
    classifier = Classifier()

    @classifier.rule
    def throttled_by_body(failure):
        if isinstance(failure, UnexpectedStatus) and "Throttling" in failure.excerpt:
            return Verdict("transient", "throttled", retry_after=1.0)
        return None

    assert callable(throttled_by_body)
    throttled = UnexpectedStatus(400, excerpt='{"code": "ThrottlingException"}')
    assert classifier.classify(throttled, now=NOW) == Verdict("transient", "throttled", retry_after=1.0)
    assert classifier.classify(by_sink(400), now=NOW).code == "http_400"


def test_a_rule_is_for_its_own_classifier_only():
    Classifier().rule(StrangeError, category="transient", code="strange")
    assert judge(StrangeError()).code == "unknown"


@pytest.mark.parametrize(
    "broken",
    [
        lambda failure: failure.nothing,
        repr,
        lambda failure: Verdict("transient", f"error {failure}"),
        lambda failure: Verdict(str(failure), "my_error"),
        lambda: None,
    ],
    ids=["raises", "no verdict", "unbounded code", "no category", "takes nothing"],
)
def test_a_rule_that_does_not_work_is_logged_and_passed_over(broken, caplog):
    classifier = Classifier()
    classifier.rule(StrangeError, category="transient", code="older_rule")
    classifier.rule(broken)
    secret = "https://user:password@receiver.example/"
    assert classifier.classify(by_sink(503), now=NOW).code == "http_503"
    assert classifier.classify(StrangeError(secret), now=NOW).code == "older_rule"
    assert "classifier rule" in caplog.text
    assert "password" not in caplog.text


def test_a_cancellation_raised_by_a_rule_passes_through():
    classifier = Classifier()

    @classifier.rule
    def interrupted(failure):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.classify(ValueError(), now=NOW)


@pytest.mark.parametrize("code", ["", "Upper", "1st", "with space", "x" * 42, "ünicode", "line\n"])
def test_a_code_that_is_no_label_is_refused_when_the_rule_is_registered(code):
    with pytest.raises(ValueError, match="code"):
        Classifier().rule(StrangeError, category="transient", code=code)


def test_a_category_that_is_none_is_refused_when_the_rule_is_registered():
    with pytest.raises(ValueError, match="transcient"):
        Classifier().rule(StrangeError, category="transcient", code="strange")


# --- Retry-After -------------------------------------------------------------------------------------------------


# The first five are urllib3's (test/test_retry.py).
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("1000", 1000),
        ("\t42 ", 42),
        ("Mon, 03 Jun 2019 11:30:12 GMT", 1812),
        ("Monday, 03-Jun-19 11:30:12 GMT", 1812),
        ("Mon Jun  3 11:30:12 2019", 1812),
        ("Thu Jun 13 11:00:00 2019", 864_000),
        (" Mon, 03 Jun 2019 11:30:12 GMT\t", 1812),
        ("Mon, 03 Jun 2019 11:00:60 GMT", 60),  # a leap second
        ("Mon, 03 Jun 2019 10:59:59 GMT", 0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 2**31),
        ("007", 7),
        ("9" * 5000, 2**31),
    ],
)
def test_retry_after_is_read_by_the_grammar(value, seconds):
    assert parse_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "-1", "+1", "1.0", "1e3", "0x10", "1_000", "\uff11\uff12", "1 2", "", " ", "soon", "\n5", "5s", "nan", "inf", "120, 120",
        "2019-06-03T11:30:12Z", "Mon, 03 Jun 2019 11:30:12 UTC", "Mon, 03 Jun 2019 11:30:12 +0000",
        "Mon, 03 Jun 2019 11:30:12", "Mon, 3 Jun 2019 11:30:12 GMT", "mon, 03 jun 2019 11:30:12 gmt",
        "Mon, 31 Feb 2019 11:30:12 GMT", "Mon, 00 Jun 2019 11:30:12 GMT", "Mon, 03 Jun 2019 24:00:00 GMT",
        "Mon, 03 Jun 2019 11:60:00 GMT", "Mon, 03 Jun 2019 11:30:61 GMT", "Mon, 03 Jun 0000 11:30:12 GMT",
        "Mon, 03-Jun-19 11:30:12 GMT", "Monday, 03-Jun-2019 11:30:12 GMT", "Mon Jun 03 11:30:12 2019 GMT",
    ],
)  # fmt: skip
def test_nonsense_is_logged_and_passed_over(value, caplog):
    assert parse_retry_after(value, NOW) is None
    assert [record.name for record in caplog.records] == ["resonant.delivery.retry_after"]


def test_no_header_is_not_worth_a_log_line(caplog):
    assert parse_retry_after(None, NOW) is None
    assert not caplog.records


def test_the_log_shows_no_more_than_80_characters_on_one_line(caplog):
    parse_retry_after("\n" * 300, NOW)
    parse_retry_after("x" * 300, NOW)
    for record in caplog.records:
        assert len(record.getMessage().partition(": ")[2]) <= 80
        assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("value", "year"),
    [
        ("Sunday, 02-Jun-69 11:00:00 GMT", 2069),
        ("Tuesday, 04-Jun-69 11:00:00 GMT", 1969),  # more than 50 years ahead
        ("Wednesday, 01-Jan-70 00:00:00 GMT", 1970),
        ("Friday, 31-Dec-99 23:59:59 GMT", 1999),
        ("Saturday, 01-Jan-00 00:00:00 GMT", 2000),
        ("Saturday, 29-Feb-20 00:00:00 GMT", 2020),
    ],
)
def test_a_year_of_two_digits_is_never_more_than_fifty_years_ahead(value, year):
    date = datetime.strptime(value.partition(", ")[2][:-4], "%d-%b-%y %H:%M:%S").replace(
        year=year, tzinfo=UTC
    )
    assert parse_retry_after(value, NOW) == min(max(date.timestamp() - NOW, 0), 2**31)


def test_a_year_of_two_digits_may_lie_beyond_the_turn_of_the_century():
    new_years_eve = datetime(2099, 12, 31, 23, 59, 0, tzinfo=UTC).timestamp()
    assert parse_retry_after("Friday, 01-Jan-00 00:01:00 GMT", new_years_eve) == 120


@given(st.integers(0, 2**31))
def test_digits_are_that_many_seconds(seconds):
    assert parse_retry_after(str(seconds), NOW) == seconds


@given(st.integers(round(NOW) - 50 * 365 * 86400, round(NOW) + 50 * 365 * 86400))
def test_the_three_forms_of_a_date_mean_the_same(moment):
    date = datetime.fromtimestamp(moment, UTC)
    for text in (
        email.utils.format_datetime(date, usegmt=True),
        date.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        time.asctime(date.timetuple()),
    ):
        assert parse_retry_after(text, NOW) == max(moment - NOW, 0)


@given(st.text() | st.text(alphabet="0123456789 \t-:,GMTonJu"))
@example("٣")
@example("1" * 10_000)
def test_no_header_is_too_strange_to_be_read(value):
    seconds = parse_retry_after(value, NOW)
    assert seconds is None or 0 <= seconds <= 2**31
