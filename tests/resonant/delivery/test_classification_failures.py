"""What each failure means: the table, row by row, with failures that really happened wherever they can be made to.

A row about an exception is tried with failures caused on real sockets, over httpx's own transport and over aiohttp, which
report the same trouble as quite different chains. What cannot be caused on one machine (a name server that is down, an
unreachable network) is put together by hand.
"""

import asyncio
import errno
import functools
import json
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import httpx
import pydantic
import pytest
import trustme

from resonant.delivery.verdict import Verdict
from support.misbehaving import (
    TRANSPORTS,
    StrangeError,
    authority,
    broken,
    certificate,
    chained,
    disconnect,
    failing,
    full_backlog,
    garbage,
    in_circles,
    judge,
    misbehaving,
    post,
    reset,
    reset_at_once,
    say_nothing,
    says,
    to,
    truncated,
    truncated_chunk,
)

HERE = Path(__file__)
TABLE = json.loads(HERE.with_name("classification.json").read_text())


async def reset_the_handshake(reader, writer):
    await reader.read(2**16)
    await reset_at_once(reader, writer)


async def read_nothing(reader, writer):
    writer.transport.pause_reading()
    await asyncio.sleep(0.3)  # longer than the client's patience
    writer.transport.abort()


no_proxy_for_you = says(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")


async def hang_up(reader, writer):
    await reader.read(2**16)


async def answer_in_clear(reader, writer):
    await reader.read(2**16)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def to_nobody(transport):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        return await post(f"http://127.0.0.1:{unused.getsockname()[1]}/", transport())


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


def trusting():
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def over_tls(behave, tls=None):
    """Like ``to``, with a client that trusts the test's own authority and no other."""
    fail = to(behave, scheme="https", tls=tls)
    return lambda transport: fail(lambda: transport(verify=trusting()))


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


def names_of_tests():
    files = HERE.parent.glob("test_classification*.py")
    return {
        name
        for file in files
        for name in re.findall(r"^(?:async )?def (\w+)", file.read_text(), re.MULTILINE)
    }


def test_every_row_of_the_table_is_tried():
    assert set(CASES) | set(OTHERWISE_TESTED) == set(ROWS)
    assert all(CASES.values())
    assert set(OTHERWISE_TESTED.values()) <= names_of_tests()


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
