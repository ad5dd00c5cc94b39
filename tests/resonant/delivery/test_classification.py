"""The verdict on each failure: by the table ``classification.json``, and by tables of failures beside it.

A verdict is written as ``CATEGORY CODE [FLAG...]``. The flags: ``sent`` if the receiver may have processed the event, ``local``
if the fault is on this side, and a number for the seconds of a Retry-After.

Most failures are caused on real sockets, with httpx, requests and aiohttp, which report the same fault as different chains of
errors. Failures that cannot be caused on one machine (an unreachable network) are put together.
"""

import asyncio
import contextlib
import errno
import json
import socket
import ssl
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import httpx
import pydantic
import pytest
import requests
import urllib3

from resonant.delivery.classification import Classifier, classify
from resonant.delivery.verdict import Verdict
from resonant.errors import AddressRefused, UnexpectedStatus
from resonant.testing import (
    Action,
    Authority,
    Receiver,
    bad_gzip,
    full_accept_queue,
    garbage,
    never_answer,
    never_read,
    nobody_listening,
    raw,
    redirect,
    reset_before_response,
    respond,
    retry_after,
    truncated_body,
)
from support.waiting import PATIENCE_SECONDS

NOW = datetime(2019, 6, 3, 11, 0, 0, tzinfo=UTC).timestamp()
HERE = Path(__file__)
TABLE = json.loads(HERE.with_name("classification.json").read_text())
AUTHORITY = Authority()


class StrangeError(Exception):
    """An error that the classifier does not know."""


def judge(failure, **options):
    return classify(failure, now=NOW, **options)


def verdict(text):
    category, code, *flags = text.split()
    seconds = [float(flag) for flag in flags if flag.isdigit()]
    return Verdict(
        category,
        code,
        retry_after=seconds[0] if seconds else None,
        blame="local" if "local" in flags else "endpoint",
        maybe_processed="sent" in flags,
    )


# --- answers with a status ------------------------------------------------------------------------------------------

FAMILIES = {
    "1xx (as final)": [100, 101, 103, 199],
    "other 4xx": [417, 418, 424, 451, 499],
    "other 5xx (520-530 CDN, 509)": [507, 509, 520, 530, 599],
}
STATUSES = [
    pytest.param(status, row, id=str(status))
    for row in TABLE["http"]
    if row["category"] != "success"  # a sink raises nothing for a 2xx
    for status in FAMILIES.get(row["status"], [row["status"]])
]


def by_httpx(status, header=None):
    headers = {"retry-after": header} if header else {}
    request = httpx.Request("POST", "http://receiver.example/")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(status, headers=headers))


def by_requests(status, header=None):
    response = requests.Response()
    response.status_code = status
    if header:
        response.headers["retry-after"] = header
    return requests.HTTPError("", response=response)


def by_aiohttp(status, header=None):
    headers = aiohttp.typedefs.CIMultiDict({"retry-after": header} if header else {})
    return aiohttp.ClientResponseError(None, (), status=status, headers=headers)


@pytest.mark.parametrize("answered", [UnexpectedStatus, by_httpx, by_requests, by_aiohttp])
@pytest.mark.parametrize(("status", "row"), STATUSES)
def test_the_verdict_on_a_status_and_its_retry_after_is_that_of_its_row(answered, status, row):
    plain = Verdict(
        row["category"],
        "throttled" if status == 429 else f"http_{status}",
        blame="local" if status in {407, 511} else "endpoint",
        maybe_processed=row["may_have_been_processed"],
        gone=status == 410,
    )
    assert judge(answered(status)) == judge(answered(status, "soon")) == plain
    waiting = replace(plain, category="transient", retry_after=120.0, gone=False)
    assert judge(answered(status, "120")) == (waiting if row["retry_after"] else plain)


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 999, 10**9])
def test_all_invalid_statuses_share_one_code(status):
    assert judge(UnexpectedStatus(status)) == verdict("unknown http_other sent")


def test_a_retry_after_date_is_compared_with_the_given_clock():
    assert judge(UnexpectedStatus(503, "Mon, 03 Jun 2019 11:30:12 GMT")).retry_after == 1812


@pytest.mark.parametrize("category", ["transient", "permanent", "unknown"])
@pytest.mark.parametrize("status", [302, 404, 429, 500])
def test_an_override_decides_only_the_category(status, category):
    plain = judge(UnexpectedStatus(status))
    found = judge(UnexpectedStatus(status, "120"), overrides={status: category})
    assert found.category == category
    assert found.retry_after == (None if category == "permanent" else 120.0)
    for name in ("code", "maybe_processed", "blame"):
        assert getattr(found, name) == getattr(plain, name)


def test_an_override_applies_to_its_own_status_and_a_transient_410_is_not_gone():
    assert judge(UnexpectedStatus(404), overrides={403: "transient"}) == judge(UnexpectedStatus(404))
    assert not judge(UnexpectedStatus(410), overrides={410: "transient"}).gone


# --- how failures are caused ----------------------------------------------------------------------------------------


def failing():
    return pytest.raises(Exception)  # noqa: PT011 - the classifier must judge any error


async def post(url, *, content=b"{}", headers=None, **options):
    """Post with httpx, and return the failure."""
    async with httpx.AsyncClient(trust_env=False, **{"timeout": PATIENCE_SECONDS, **options}) as client:
        with failing() as failure:
            await client.post(url, content=content, headers=headers)
        return failure.value


def to(action=None, *, tls=None, connection=None, **options):
    """Return a function that posts to a receiver with this action, or this one before the request is read."""

    async def fail():
        async with Receiver(action or respond(200), tls=tls, connection=connection) as receiver:
            return await post(receiver.url, **options)

    return fail


def over_tls(action=None, tls=None):
    """Post over TLS, with a client that trusts the tests' authority, to a receiver that may not speak TLS."""

    async def begin(reader, writer):
        await reader.read(2**16)
        await action.perform(reader, writer)

    async def fail():
        trusting = ssl.create_default_context()
        AUTHORITY._authority.configure_trust(trusting)
        connection = None if action is None else Action("begin", begin)
        async with Receiver(tls=tls, connection=connection) as receiver:
            return await post(f"https://{receiver.url.partition('://')[2]}/", verify=trusting)

    return fail


async def to_nobody():
    with nobody_listening() as url:
        return await post(url)


async def to_a_full_queue():
    with full_accept_queue() as url:
        return await post(url, timeout=httpx.Timeout(PATIENCE_SECONDS, connect=0.2))


async def until_the_deadline():
    async with Receiver(never_answer()) as receiver:
        with failing() as failure:
            async with asyncio.timeout(0.2):
                await post(receiver.url)
        return failure.value


async def through_a_proxy():
    async with Receiver(respond(407)) as proxy:
        return await post("https://receiver.example/", proxy=proxy.url)


async def with_a_full_pool():
    limits = httpx.Limits(max_connections=1)
    async with Receiver(never_answer()) as receiver, httpx.AsyncClient(limits=limits) as client:
        holder = asyncio.create_task(client.post(receiver.url, timeout=PATIENCE_SECONDS))
        await asyncio.sleep(0)  # the holder is served first
        with failing() as failure:
            await client.post(receiver.url, timeout=httpx.Timeout(PATIENCE_SECONDS, pool=0.1))
        holder.cancel()
        await asyncio.wait([holder])
        return failure.value


def with_requests(action=None, *, url=None, tls=None, **options):
    """Return a way to fail with requests, used without httpx."""

    def send(url):
        with requests.Session() as session:
            session.trust_env = False
            session.max_redirects = 1
            given = {"timeout": PATIENCE_SECONDS, "allow_redirects": False} | options
            session.post(url, json={}, **given).raise_for_status()

    async def fail():
        async with Receiver(action or respond(200), tls=tls) as receiver:
            with failing() as failure:
                await asyncio.to_thread(send, url or receiver.url)
            return failure.value

    return fail


def with_aiohttp(action=None, *, url=None, **options):
    """Return a way to fail with aiohttp, used without httpx."""

    async def fail():
        async with (
            Receiver(action or respond(200)) as receiver,
            aiohttp.ClientSession(raise_for_status=True) as session,
        ):
            with failing() as failure:
                async with session.post(url or receiver.url, json={}, **options) as response:
                    await response.read()
            return failure.value

    return fail


async def with_requests_to_a_full_queue():
    with full_accept_queue() as url, failing() as failure:
        requests.post(url, timeout=0.2, proxies={"all": None})
    return failure.value


def raised(make):
    """Return the error that this raises, without a network."""
    with failing() as failure:
        make()
    return failure.value


def chained(*links):
    """Return the last of these errors, each raised from the one before it."""
    cause = None
    for link in links:
        try:
            raise link from cause
        except type(link) as failure:
            cause = failure
    return cause


def cannot_connect(kind, cause):
    """Return the error of aiohttp's connector for this cause."""
    return chained(cause, kind(SimpleNamespace(host="receiver.example", port=443, ssl=True), cause))


def os_errors(*numbers):
    return [OSError(number, "failed") for number in numbers]


def while_connecting(number):
    return [
        chained(*os_errors(number), httpx.ConnectError("")),
        cannot_connect(aiohttp.ClientConnectorError, *os_errors(number)),
    ]


def handled(failure, error):
    """Return a failure that was raised while this error was handled."""
    with contextlib.suppress(StrangeError):
        try:
            raise error
        finally:
            raise failure
    return failure


def with_suppressed_context(failure, context):
    failure.__context__, failure.__suppress_context__ = context, True
    return failure


def in_a_circle(*links):
    for link, cause in zip(links, links[1:] + links[:1], strict=True):
        link.__cause__ = cause
    return links[0]


# --- the rows of the table ------------------------------------------------------------------------------------------

TRUNCATED_CHUNK = raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n64\r\nfive!")
DISCONNECT = raw(b"")
OF_CONNECTIONS = "ConnectionError family (BrokenPipe, Reset, Aborted, Refused)"
OF_NUMBERS = "OSError errno in {EAGAIN,EINTR,ECONN*,EPIPE,ETIMEDOUT,ENETDOWN,ENETUNREACH,EHOSTUNREACH,ENOBUFS,EMFILE,ENFILE}"
CASES = {
    "httpx.ConnectError <- ConnectionRefusedError": {
        "transient connect_refused": [
            to_nobody,
            # anyio's error for a name with two addresses
            chained(
                ExceptionGroup("multiple connection attempts failed", os_errors(errno.ECONNREFUSED) * 2),
                OSError("All connection attempts failed"),
                httpx.ConnectError("All connection attempts failed"),
            ),
        ]
    },
    "httpx.ConnectError <- socket.gaierror EAI_AGAIN(-3)": {
        "transient dns_temporary": [
            chained(socket.gaierror(socket.EAI_AGAIN, ""), httpx.ConnectError("")),
            cannot_connect(aiohttp.ClientConnectorDNSError, socket.gaierror(socket.EAI_AGAIN, "")),
        ]
    },
    "httpx.ConnectError <- socket.gaierror EAI_NONAME(-2)": {
        "unknown dns_not_found": [
            chained(socket.gaierror(socket.EAI_NONAME, ""), httpx.ConnectError("")),
            cannot_connect(aiohttp.ClientConnectorDNSError, OSError(None, "of aiodns")),
        ]
    },
    "httpx.ConnectError <- ssl.SSLCertVerificationError": {
        "permanent tls_certificate": [
            over_tls(tls=Authority().context()),
            over_tls(tls=AUTHORITY.context("wrong_name")),
        ]
    },
    "httpx.ConnectError <- ssl.SSLError (other handshake)": {
        "unknown tls_error": [over_tls(raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"))]
    },
    "httpx.ConnectError <- ENETUNREACH/EHOSTUNREACH/ECONNRESET/ETIMEDOUT": {
        "transient connection_reset": [
            over_tls(reset_before_response()),
            *while_connecting(errno.ECONNRESET),
        ],
        "transient disconnected": [over_tls(DISCONNECT)],
        "transient unreachable": [
            *while_connecting(errno.ENETUNREACH),
            *while_connecting(errno.EHOSTUNREACH),
        ],
        "transient timeout": while_connecting(errno.ETIMEDOUT),
    },
    "httpx.ConnectTimeout": {"transient connect_timeout": [to_a_full_queue]},
    "httpx.ReadTimeout": {
        "transient read_timeout sent": [to(never_answer(), timeout=httpx.Timeout(PATIENCE_SECONDS, read=0.1))]
    },
    "httpx.WriteTimeout": {
        "transient write_timeout sent": [
            to(
                connection=never_read(),
                content=bytes(2**25),
                timeout=httpx.Timeout(PATIENCE_SECONDS, write=0.1),
            )
        ]
    },
    "httpx.ReadError": {
        "transient connection_reset sent": [
            to(reset_before_response()),
            aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"),
        ],
        "transient read_error sent": [httpx.ReadError("")],
    },
    "httpx.WriteError": {  # httpcore ignores a failed write, and then fails to read
        "transient write_error sent": [httpx.WriteError("")],
        "transient broken_pipe sent": [
            chained(BrokenPipeError(), httpx.WriteError("")),
            aiohttp.ClientOSError(errno.EPIPE, "Can not write request body"),
        ],
    },
    "httpx.RemoteProtocolError": {
        "transient bad_response sent": [
            to(DISCONNECT),
            to(garbage()),
            to(truncated_body()),
            to(TRUNCATED_CHUNK),
        ],
    },
    "httpx.LocalProtocolError": {"permanent invalid_request": [to(DISCONNECT, headers={"x": "a\nb"})]},
    "httpx.UnsupportedProtocol": {"permanent unsupported_protocol": [lambda: post("ftp://localhost/")]},
    "httpx.InvalidURL": {
        "permanent invalid_url": [raised(lambda: httpx.URL("http://receiver.example:port/"))]
    },
    "httpx.TooManyRedirects": {
        "permanent too_many_redirects": [to(redirect("/"), follow_redirects=True, max_redirects=1)]
    },
    "httpx.ProxyError": {"transient proxy_error local": [through_a_proxy]},
    "httpx.StreamError family": {
        "permanent stream_error": [
            raised(lambda: httpx.Response(200, stream=httpx.ByteStream(b"")).content),
            raised(lambda: httpx.Request("POST", "http://receiver.example/", content=iter([b"a"])).content),
        ]
    },
    "TimeoutError == asyncio.TimeoutError (3.11+)": {
        "transient timeout sent": [until_the_deadline, TimeoutError()]
    },
    OF_CONNECTIONS: {
        "transient broken_pipe sent": [BrokenPipeError()],
        "transient connection_reset sent": [ConnectionResetError("Connection lost")],
        "transient connection_aborted sent": [ConnectionAbortedError()],
        "transient connection_error sent": [ConnectionError()],
        "transient connect_refused": [ConnectionRefusedError()],
    },
    OF_NUMBERS: {
        "transient os_error": os_errors(errno.EAGAIN, errno.EINTR),
        "transient connect_refused": os_errors(errno.ECONNREFUSED),
        "transient unreachable": os_errors(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH),
        "transient local_resources local": os_errors(errno.ENOBUFS, errno.EMFILE, errno.ENFILE),
        "transient connection_aborted sent": os_errors(errno.ECONNABORTED),
        "transient connection_reset sent": os_errors(errno.ECONNRESET),
        "transient broken_pipe sent": os_errors(errno.EPIPE),
        "transient timeout sent": os_errors(errno.ETIMEDOUT),
    },
    "OSError ENOSPC/EDQUOT/EROFS/EIO": {
        "unknown local_storage local": os_errors(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    },
    "FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError, PermissionError(EACCES/EPERM)": {
        "permanent file_not_found_error local": [raised(HERE.with_name("no such file").read_bytes)],
        "permanent not_a_directory_error local": [raised((HERE / "inside").read_bytes)],
        "permanent is_a_directory_error local": [raised(HERE.parent.read_bytes)],
        "permanent file_exists_error local": [raised(HERE.parent.mkdir)],
        "permanent permission_error local": os_errors(errno.EACCES, errno.EPERM),
    },
    "ssl.SSLCertVerificationError (raw)": {
        "permanent tls_certificate": [ssl.SSLCertVerificationError(1, "self-signed")]
    },
    "OSError other / no errno": {
        "transient os_error": [OSError(), OSError("in words"), OSError([], "odd"), *os_errors(errno.ENXIO)]
    },
    "ValueError/KeyError/TypeError/AttributeError/LookupError/AssertionError/NotImplementedError": {
        "permanent value_error local": [raised(lambda: int("x"))],
        "permanent key_error local": [raised(lambda: {}["x"])],
        "permanent index_error local": [raised([].pop)],
        "permanent lookup_error local": [LookupError()],
        "permanent type_error local": [raised(lambda: len(1))],
        "permanent attribute_error local": [raised(lambda: HERE.nothing)],
        "permanent assertion_error local": [AssertionError()],
        "permanent not_implemented_error local": [NotImplementedError()],
    },
    "json.JSONDecodeError / UnicodeDecodeError / pydantic.ValidationError": {
        "permanent value_error local": [
            raised(lambda: json.loads("{")),
            raised(b"\xff".decode),
            raised(lambda: pydantic.TypeAdapter(int).validate_python("x")),
        ]
    },
    "anything else": {
        "unknown unknown sent": [StrangeError(), RuntimeError(), MemoryError(), raised(lambda: 1 / 0)]
    },
}
# Rows whose category is not a verdict; the table of other cases and the tests of statuses and interruptions have them.
WITHOUT_VERDICT = {
    "httpx.DecodingError",
    "httpx.HTTPStatusError",
    "asyncio.CancelledError / KeyboardInterrupt / SystemExit",
    "socket.gaierror raw",
}
# A refused connection was not sent, as the row notes. Python makes ConnectionResetError and so on of the other numbers; their
# own row says that they come after sending.
PROCESSED_UNLIKE_ROW = {
    OF_CONNECTIONS: {"connect_refused"},
    OF_NUMBERS: {"connection_aborted", "connection_reset", "broken_pipe", "timeout"},
}


def test_the_cases_agree_with_the_rows_of_the_table():
    rows = {row["exception"]: row for row in TABLE["exceptions"]}
    assert CASES.keys() | WITHOUT_VERDICT == rows.keys()
    for name, cases in CASES.items():
        for found in map(verdict, cases):
            assert found.category == rows[name]["category"]
            is_other = found.code in PROCESSED_UNLIKE_ROW.get(name, ())
            assert found.maybe_processed == (rows[name]["may_have_been_processed"] is not is_other)


# --- other cases ----------------------------------------------------------------------------------------------------

GROUPS = {
    "transient timeout sent": [ValueError(), TimeoutError()],
    "transient connect_refused sent": [StrangeError(), ValueError(), ConnectionRefusedError()],
    "transient connect_refused": [ConnectionRefusedError(), ValueError()],
    "permanent value_error local": [ValueError(), TypeError()],
    "unknown unknown sent": [ValueError(), StrangeError()],
    "permanent http_404": [UnexpectedStatus(404), UnexpectedStatus(410)],
    "transient http_503": [ValueError(), ExceptionGroup("", [ValueError(), UnexpectedStatus(503)])],
    "transient throttled 60": [
        UnexpectedStatus(503, "5"),
        UnexpectedStatus(429, "60"),
        UnexpectedStatus(503),
    ],
}
OTHER_CASES = {
    "special cases": {
        "unknown bad_response sent": [to(bad_gzip())],
        "transient dns_temporary": [socket.gaierror(socket.EAI_AGAIN, "")],
        "unknown dns_not_found": [socket.gaierror(n, "") for n in (socket.EAI_NONAME, socket.EAI_FAIL)],
        "transient pool_full local": [with_a_full_pool],
        "permanent address_refused": [AddressRefused("10.0.0.1 is private")],
    },
    "requests": {
        "transient disconnected sent": [with_requests(DISCONNECT)],
        "transient connection_reset sent": [with_requests(reset_before_response())],
        "transient bad_response sent": [with_requests(garbage()), with_requests(TRUNCATED_CHUNK)],
        "unknown bad_response sent": [with_requests(bad_gzip())],
        "transient read_timeout sent": [with_requests(never_answer(), timeout=0.1)],
        "permanent too_many_redirects": [with_requests(redirect("/"), allow_redirects=True)],
        "transient throttled 7": [with_requests(retry_after("7"))],
        "transient connect_refused": [with_requests(url="http://127.0.0.1:1/")],
        "transient connect_timeout": [with_requests_to_a_full_queue],
        "transient proxy_error local": [
            with_requests(url="http://receiver.example/", proxies={"http": "http://127.0.0.1:1"}),
            requests.exceptions.ProxyError(),
        ],
        "permanent tls_certificate": [with_requests(tls=AUTHORITY.context())],
        "permanent invalid_url": [with_requests(url="receiver.example"), with_requests(url="http://")],
        "permanent unsupported_protocol": [with_requests(url="ftp://receiver.example/")],
        "permanent stream_error": [requests.exceptions.StreamConsumedError()],
        "transient timeout sent": [requests.Timeout()],
        "transient transport_error sent": [
            requests.RequestException(),
            requests.HTTPError("without a response"),
        ],
        "transient timeout": [
            chained(
                TimeoutError(errno.ETIMEDOUT, "Connection timed out"),
                urllib3.exceptions.NewConnectionError(None, "Failed to establish a new connection"),
                requests.ConnectionError(),
            )
        ],
    },
    "aiohttp": {
        "transient disconnected sent": [
            with_aiohttp(DISCONNECT),
            # of httpx-aiohttp
            chained(aiohttp.ServerDisconnectedError(), httpx.ConnectTimeout("")),
        ],
        "transient connection_reset sent": [with_aiohttp(reset_before_response())],
        "transient bad_response sent": [with_aiohttp(garbage()), with_aiohttp(truncated_body())],
        "transient throttled 7": [with_aiohttp(retry_after("7"))],
        "permanent too_many_redirects": [with_aiohttp(redirect("/"), max_redirects=1)],
        "transient read_timeout sent": [
            with_aiohttp(never_answer(), timeout=aiohttp.ClientTimeout(sock_read=0.1))
        ],
        "transient timeout sent": [
            with_aiohttp(never_answer(), timeout=aiohttp.ClientTimeout(total=0.1)),
            aiohttp.ServerTimeoutError(),
        ],
        "transient proxy_error local": [
            with_aiohttp(url="http://receiver.example/", proxy="http://127.0.0.1:1")
        ],
        "permanent invalid_url": [with_aiohttp(url="http://")],
        "permanent unsupported_protocol": [with_aiohttp(url="ftp://localhost/")],
        "permanent value_error local": [with_aiohttp(headers={"x": "a\nb"})],
        "transient transport_error sent": [aiohttp.ClientError()],
    },
    # The most specific link decides, and whether something was sent depends on the links that connect.
    "chains": {
        "transient connect_refused": [
            chained(ConnectionRefusedError(), StrangeError(), ValueError()),
            chained(ConnectionRefusedError(), OSError(), httpx.ConnectError("")),
            handled(StrangeError(), ConnectionRefusedError()),
            with_suppressed_context(StrangeError(), ConnectionRefusedError()),  # as httpcore does
        ],
        "transient connection_reset sent": [chained(ConnectionResetError(104, "reset"), httpx.ReadError(""))],
        "transient connection_reset": [chained(ConnectionResetError(104, "reset"), httpx.ConnectError(""))],
        "transient read_timeout sent": [chained(httpx.ConnectError(""), httpx.ReadTimeout(""))],
        "unknown unknown sent": [
            in_a_circle(StrangeError(), RuntimeError()),
            in_a_circle(aiohttp.ClientError(), aiohttp.ClientError()),
        ],
        "transient timeout sent": [
            ExceptionGroup("", [in_a_circle(StrangeError(), RuntimeError()), TimeoutError()])
        ],
    },
    "groups": {text: [ExceptionGroup("", members)] for text, members in GROUPS.items()},
    "groups as causes": {
        text: [chained(ExceptionGroup("", members), StrangeError())] for text, members in GROUPS.items()
    },
}


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        pytest.param(failure, text, id=f"{name}: {text} {number}")
        for name, cases in (CASES | OTHER_CASES).items()
        for text, failures in cases.items()
        for number, failure in enumerate(failures, 1)
    ],
)
async def test_each_failure_has_its_verdict(failure, expected):
    if not isinstance(failure, BaseException):
        failure = await failure()
    assert judge(failure) == verdict(expected)


@pytest.mark.parametrize("send", [post, lambda url: with_aiohttp(url=url)()], ids=["httpx", "aiohttp"])
async def test_a_name_that_does_not_resolve_is_judged_by_the_resolvers_answer(send):
    with pytest.raises(socket.gaierror) as resolver:
        socket.getaddrinfo("no-such-host.invalid", 80)
    found = judge(await send("http://no-such-host.invalid/"))
    # Without a network, the resolver cannot know that the name does not exist.
    assert found.code == ("dns_temporary" if resolver.value.errno == socket.EAI_AGAIN else "dns_not_found")


@pytest.mark.parametrize(
    "failure",
    [
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        BaseExceptionGroup("", [TimeoutError(), asyncio.CancelledError()]),
    ],
    ids=repr,
)
def test_an_interruption_passes_through(failure):
    with pytest.raises(type(failure)) as passed:
        judge(failure)
    assert passed.value is failure


@pytest.mark.parametrize(
    "unrelated", [KeyError("cache"), FileNotFoundError(2, "cache"), OSError(), StrangeError()]
)
def test_a_send_within_an_unrelated_handler_is_judged_by_the_send(unrelated):
    for failure in (
        httpx.ConnectError(""),
        httpx.ReadTimeout(""),
        httpx.ReadError(""),
        UnexpectedStatus(503),
    ):
        alone = judge(failure)
        failure.__context__ = unrelated
        assert judge(failure) == alone


def test_long_chains_and_deep_groups_are_judged_quickly():
    chain = group = StrangeError()
    for _ in range(50_000):
        outer = StrangeError()
        outer.__cause__, chain = chain, outer
    for _ in range(500):
        group = ExceptionGroup("", [group, group])
    started = time.perf_counter()
    assert judge(chain).code == judge(group).code == "unknown"
    assert time.perf_counter() - started < 20


# --- the rules of a user --------------------------------------------------------------------------------------------


@pytest.fixture
def classifier():
    return Classifier()


def code_of(classifier, failure):
    return classifier.classify(failure, now=NOW).code


def test_a_rule_for_a_type_takes_precedence_over_the_built_in_ones(classifier):
    fields = {"category": "permanent", "code": "my_error", "blame": "local", "maybe_processed": True}
    classifier.rule(ConnectionError, **fields)
    assert classifier.classify(ConnectionRefusedError(), now=NOW) == Verdict(**fields)
    assert code_of(classifier, TimeoutError()) == "timeout"
    assert code_of(Classifier(), ConnectionRefusedError()) == "connect_refused"


@pytest.mark.parametrize(
    "failure",
    [
        chained(StrangeError(), ConnectionRefusedError()),
        chained(ValueError(), StrangeError(), httpx.ReadTimeout("")),
        ExceptionGroup("", [ValueError(), StrangeError()]),
        chained(ExceptionGroup("", [chained(StrangeError(), OSError())]), RuntimeError()),
    ],
    ids=repr,
)
def test_a_rule_applies_anywhere_in_the_chain_and_in_groups(classifier, failure):
    classifier.rule(StrangeError, category="transient", code="strange")
    assert code_of(classifier, failure) == "strange"


def test_the_latest_rule_is_tried_first(classifier):
    classifier.rule(StrangeError, category="transient", code="first")
    classifier.rule(Exception, category="permanent", code="second")
    assert code_of(classifier, StrangeError()) == "second"
    classifier.rule(lambda _: Verdict("transient", "third"))
    assert code_of(classifier, StrangeError()) == "third"


def test_a_callable_is_a_rule_and_may_leave_a_failure_to_others(classifier):
    @classifier.rule
    def throttled_by_body(failure):
        if isinstance(failure, UnexpectedStatus) and "Throttling" in failure.excerpt:
            return Verdict("transient", "throttled", retry_after=1.0)
        return None

    assert callable(throttled_by_body)
    throttled = UnexpectedStatus(400, excerpt='{"code": "ThrottlingException"}')
    assert classifier.classify(throttled, now=NOW) == verdict("transient throttled 1")
    assert code_of(classifier, UnexpectedStatus(400)) == "http_400"


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
def test_a_broken_rule_is_logged_without_the_failure_and_ignored(classifier, broken, caplog):
    classifier.rule(StrangeError, category="transient", code="older_rule")
    classifier.rule(broken)
    assert code_of(classifier, UnexpectedStatus(503)) == "http_503"
    assert code_of(classifier, StrangeError("https://user:password@receiver.example/")) == "older_rule"
    assert "classifier rule" in caplog.text
    assert "password" not in caplog.text


def test_an_interruption_raised_by_a_rule_passes_through(classifier):
    @classifier.rule
    def interrupted(failure):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classifier.classify(ValueError(), now=NOW)


@pytest.mark.parametrize(
    ("name", "value"),
    [("category", "transcient")]
    + [("code", each) for each in ("", "Upper", "1st", "with space", "x" * 42, "ünicode", "line\n")],
)
def test_an_invalid_label_is_refused_when_the_rule_is_registered(classifier, name, value):
    with pytest.raises(ValueError, match=name):
        classifier.rule(StrangeError, **{"category": "transient", "code": "strange"} | {name: value})
