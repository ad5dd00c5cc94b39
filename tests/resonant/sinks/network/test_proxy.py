"""Sends through a proxy: what it sees, what the endpoint sees, and whose failure it is."""

import asyncio
import base64
import contextlib

import httpx
import pytest

from resonant.delivery.classification import classify
from resonant.delivery.verdict import Verdict
from resonant.errors import AddressRefused, EndpointError, NotReady
from resonant.sinks import transport
from resonant.sinks.base import Receipt
from resonant.sinks.http import HttpSink
from resonant.sinks.network.proxy import Proxy, check_bypass, proxy_of
from resonant.sinks.redaction import Redactor
from resonant.sinks.reloading import ReloadingSink
from resonant.testing import (
    Receiver,
    never_answer,
    nobody_listening,
    reset_before_response,
    respond,
)
from support.http_sinks import EVENT, endpoint
from support.ports import free_port
from support.proxies import tinyproxy, with_tls
from support.waiting import until

PROXY_ERROR = Verdict("transient", "proxy_error", blame="local")
UNREACHABLE = Verdict("transient", "unreachable")
USER, PASSWORD = "resonant", "pr0xy-passw0rd"
HOOKS = "https://hooks.example.com/"


@pytest.fixture(scope="module")
def open_proxy(tmp_path_factory):
    with tinyproxy(tmp_path_factory.mktemp("open")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def locked_proxy(tmp_path_factory):
    with tinyproxy(tmp_path_factory.mktemp("locked"), f"BasicAuth {USER} {PASSWORD}") as proxy:
        yield proxy


async def outcome(url, proxy, **fields):
    """Send through a proxy; return the receipt or the exception, and its verdict."""
    async with HttpSink(endpoint(url, proxy=Proxy(proxy), **fields)) as sink:
        try:
            return await sink.send(EVENT), None
        except Exception as error:  # noqa: BLE001 - tests inspect it
            return error, classify(error, now=0.0)


# --- a real proxy -----------------------------------------------------------------------------------------------------


@pytest.mark.program
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("has_user", [False, True])
async def test_an_event_reaches_the_endpoint_through_the_proxy(
    scheme, has_user, open_proxy, locked_proxy, authority, ca_file
):
    proxy = locked_proxy if has_user else open_proxy
    url = proxy.with_user(USER, PASSWORD) if has_user else proxy.url
    async with (
        Receiver(tls=authority.context() if scheme == "https" else None) as receiver,
        HttpSink(endpoint(receiver.url, proxy=Proxy(url), ca_file=ca_file)) as sink,
    ):
        for _ in range(2):
            assert (await sink.send(EVENT)).status_code == 200
    port = httpx.URL(receiver.url).port
    method = "CONNECT" if scheme == "https" else "POST"
    assert any(str(port) in line for line in proxy.lines(f"{method} "))
    assert len(receiver.journal) == 2
    for request in receiver.journal:
        assert request.headers["host"] == f"127.0.0.1:{port}"
        assert "proxy-authorization" not in request.headers
        # Only plain HTTP is visible to the proxy, which then says so.
        assert ("via" in request.headers) == (scheme == "http")


# tinyproxy answers 407 without a password, and 401 to a wrong one.
@pytest.mark.program
@pytest.mark.parametrize(
    ("scheme", "user", "code"),
    [("http", "", "http_407"), ("https", "", "proxy_error"), ("https", f"{USER}:wrong@", "proxy_error")],
)
async def test_a_missing_or_wrong_password_for_the_proxy_is_a_local_fault(
    scheme, user, code, locked_proxy, authority, ca_file
):
    url = locked_proxy.url.replace("://", f"://{user}")
    async with Receiver(tls=authority.context() if scheme == "https" else None) as receiver:
        _, verdict = await outcome(receiver.url, url, ca_file=ca_file)
    assert verdict == Verdict("transient", code, blame="local")
    assert not receiver.journal


@pytest.mark.program
async def test_the_proxy_resolves_the_names_of_endpoints(open_proxy):
    _, verdict = await outcome("https://no-such-name.invalid/", open_proxy.url, allow_private=False)
    assert verdict == UNREACHABLE
    assert open_proxy.lines("no-such-name.invalid")


@pytest.mark.program
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_may_itself_use_tls(scheme, open_proxy, authority, ca_file, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    monkeypatch.setattr(transport, "public_tls", httpx.create_ssl_context)
    async with (
        with_tls(open_proxy, authority.context()) as url,
        Receiver(tls=authority.context() if scheme == "https" else None) as receiver,
    ):
        receipt, _ = await outcome(receiver.url, url)
    assert receipt == Receipt(200, "")
    assert len(receiver.journal) == 1


@pytest.mark.program
async def test_the_certificates_of_an_endpoint_are_not_for_its_proxy(open_proxy, authority, ca_file):
    async with (
        with_tls(open_proxy, authority.context()) as url,
        Receiver(tls=authority.context()) as receiver,
    ):
        error, verdict = await outcome(receiver.url, url, ca_file=ca_file)
    assert verdict == PROXY_ERROR
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


@pytest.mark.program
@pytest.mark.parametrize("flaw", ["expired", "wrong_name"])
async def test_the_endpoints_certificate_is_verified_through_the_proxy(flaw, open_proxy, authority, ca_file):
    async with Receiver(tls=authority.context(flaw)) as receiver:
        _, verdict = await outcome(receiver.url, open_proxy.url, ca_file=ca_file)
    assert verdict == Verdict("permanent", "tls_certificate")
    assert not receiver.journal


# --- a proxy that fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statuses", "expected", "said"),
    [
        ((403, 407, 302, 204), PROXY_ERROR, "the proxy refuses to connect to the endpoint: it answered "),
        ((500, 502, 503, 504), UNREACHABLE, "the proxy cannot reach the endpoint"),
    ],
    ids=["refused", "unreachable"],
)
async def test_an_answer_to_connect_is_never_a_delivery(statuses, expected, said):
    for status in statuses:
        async with Receiver(respond(status)) as proxy:
            error, verdict = await outcome(HOOKS, proxy.url)
        assert verdict == expected
        assert said in str(error)
        assert [request.method for request in proxy.journal] == ["CONNECT"]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_down_is_a_local_fault(scheme):
    with nobody_listening() as url:
        error, verdict = await outcome(f"{scheme}://hooks.example.com/", url)
    assert verdict == PROXY_ERROR
    assert str(error).startswith("no connection to the proxy: ")


async def test_a_proxy_that_has_no_address_hangs_up_or_is_silent_is_a_local_fault(monkeypatch):
    _, verdict = await outcome(HOOKS, "http://no-such-proxy.invalid:3128")
    assert verdict == PROXY_ERROR
    async with Receiver(lambda _: reset_before_response()) as proxy:
        _, verdict = await outcome(HOOKS, proxy.url)
    assert verdict == PROXY_ERROR
    async with Receiver(connection=never_answer()) as silent:
        url = silent.url.replace("http://", "https://")  # its TLS handshake never ends
        monkeypatch.setattr(transport, "PROXY_SECONDS", 0.1)
        error, verdict = await outcome(HOOKS, url)
    assert (str(error), verdict) == ("no connection to the proxy within 0.1 s", PROXY_ERROR)


async def test_nothing_is_sent_until_the_proxy_accepts_a_connection_at_first_and_after_a_failure():
    now = asyncio.get_running_loop().time
    async with HttpSink(endpoint(HOOKS, proxy=Proxy("http://127.0.0.1:1"))) as sink:
        assert str(sink.problem) == "the proxy has not been tried yet"
        async with Receiver(port=free_port()) as proxy:
            sink._proxy._address = "127.0.0.1", httpx.URL(proxy.url).port
            for _ in range(2):
                await sink.prepare()
                assert sink.problem is None
            assert (proxy.journal, proxy.accepted) == ([], 1)
        with pytest.raises(httpx.ProxyError, match="no connection to the proxy: "):
            await sink.send(EVENT)
        assert str(sink.problem).startswith("ProxyDown: no connection to the proxy: ")
        for longest in (1.0, 2.0, 4.0):
            began_at = now()
            with pytest.raises(NotReady, match="no connection to the proxy"):
                await sink.prepare()
            assert began_at + 0.7 * longest < sink._proxy._check_at <= now() + longest
            sink._proxy._check_at = 0.0
        async with Receiver(port=sink._proxy._address[1]):
            await sink.prepare()
        assert sink.problem is None


@pytest.mark.parametrize("host", ["no-such-proxy.invalid", f"{'a' * 64}.example"])
async def test_a_proxy_whose_name_is_unusable_holds_the_sends_and_the_reason_names_it(host):
    proxy = Proxy(f"http://jo:secret@{host}:3128")
    async with contextlib.aclosing(ReloadingSink(endpoint(HOOKS, proxy=proxy), None)) as sink:
        with pytest.raises(NotReady, match=f"^no connection to the proxy http://{host}:3128: [^\n]+$"):
            await sink.prepare()
        assert str(sink.problem()).startswith(f"no connection to the proxy http://{host}:3128: ")


async def test_endpoints_with_the_same_proxy_share_its_checks():
    accepted = 0

    async def accept(_reader, writer):
        nonlocal accepted
        accepted += 1
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1")
    async with server, contextlib.AsyncExitStack() as stack:
        url = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        proxies = [Proxy(f"http://user-{number}:secret@{url}") for number in range(50)]
        hooks = [endpoint(HOOKS, proxy=proxy) for proxy in proxies]
        sinks = [await stack.enter_async_context(HttpSink(each)) for each in hooks]
        await asyncio.gather(*(sink.prepare() for sink in sinks))
        await until(lambda: accepted)
        assert {sink.problem for sink in sinks} == {None}
    assert accepted == 1


@pytest.mark.program
async def test_a_gate_gets_no_answer_from_a_connection_through_a_proxy(open_proxy):
    async with Receiver() as receiver, HttpSink(endpoint(receiver.url, proxy=Proxy(open_proxy.url))) as sink:
        with pytest.raises(httpx.ProxyError):
            await sink.connect()


# --- which hosts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bypass", "direct", "through"),
    [
        ("*", ["example.com", "10.0.0.1"], []),
        (
            "example.com",
            ["example.com", "EXAMPLE.com.", "a.b.example.com"],
            ["badexample.com", "example.org"],
        ),
        (".example.com", ["example.com", "a.example.com"], ["badexample.com"]),
        ("10.0.0.1", ["10.0.0.1"], ["10.0.0.11", "10.0.0.2"]),
        ("10.0.0.0/8", ["10.1.2.3"], ["11.0.0.1", "example.com"]),
        ("fd00::/8", ["fd00::1"], ["fe80::1", "10.0.0.1"]),
        ("localhost", ["localhost"], ["127.0.0.1"]),
    ],
)
def test_a_bypass_names_the_hosts_that_are_reached_directly(bypass, direct, through):
    check_bypass(bypass)
    proxy = Proxy("http://proxy:3128", (bypass,))
    assert [host for host in direct if proxy.serves(host)] == []
    assert [host for host in through if not proxy.serves(host)] == []


def test_an_international_name_is_bypassed_by_its_form_in_dns():
    proxy = Proxy("http://proxy:3128", ("xn--bcher-kva.example",))
    hooks = endpoint("https://bücher.example/", proxy=proxy)
    assert hooks.proxy_for(httpx.URL(hooks.url)) is None


@pytest.mark.parametrize(
    "entry", ["example.com:8080", "http://example.com", "*.example.com", "10.0.0.0/33", "a b"]
)
def test_a_bypass_that_matches_nothing_is_refused(entry):
    with pytest.raises(ValueError, match="must be a host name"):
        check_bypass(entry)


async def test_a_bypassed_endpoint_is_reached_directly():
    async with Receiver() as receiver, Receiver() as proxy:
        bypassed = endpoint(receiver.url, proxy=Proxy(proxy.url, ("127.0.0.0/8",)))
        async with HttpSink(bypassed) as sink:
            await sink.send(EVENT)
            await sink.connect()
    assert (len(receiver.journal), len(proxy.journal)) == (1, 0)


PRIVATE = [
    "127.0.0.1",
    "0x7f.1",
    "2130706433",
    "127.1",
    "[::1]",
    "localhost",
    "a.localhost.",
    "169.254.169.254",
]


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_is_refused_in_every_notation_behind_a_proxy(host):
    with pytest.raises(AddressRefused, match="private or special"):
        endpoint(f"https://{host}/", proxy=Proxy("http://10.0.0.1:3128"), allow_private=False)


async def test_another_url_of_an_endpoint_is_checked_and_bypassed_by_its_own_host():
    proxy = Proxy("http://10.0.0.1:3128", ("example.org",))
    hooks = endpoint(HOOKS, proxy=proxy, allow_private=False)
    with pytest.raises(AddressRefused):
        transport.open_transport(hooks, httpx.URL("https://127.1/token"))
    assert hooks.proxy_for(httpx.URL("https://login.example.org/token")) is None


# --- its URL ----------------------------------------------------------------------------------------------------------


MALFORMED = [
    "proxy:3128",
    "socks5://proxy:1080",
    "http://",
    "http://proxy:3128/path",
    "http://proxy:0",
    "http://proxy:x",
    "http://pr oxy",
    "http://user:s3cret#@proxy:3128",
    "http://user:s3crét@proxy:3128",
    "http://user:s3cr%C3%A9t@proxy:3128",
    "http://us%3Aer:s3cret@proxy:3128",
    "http://user:s3cr\\et@proxy:3128",
    "http://user:s3cr et@proxy:3128",
    "http://user:s3cret@proxy:3128\n",
]


@pytest.mark.parametrize("url", MALFORMED)
def test_a_malformed_proxy_is_refused_without_its_password(url):
    with pytest.raises(EndpointError, match="endpoint 'orders': its proxy ") as caught:
        proxy_of("orders", url, lambda: None)
    assert "s3cr" not in str(caught.value)


def test_an_endpoint_may_refuse_the_default_proxy():
    default = Proxy("http://proxy:3128")
    assert proxy_of("orders", "", lambda: default) is default
    assert proxy_of("orders", "none", lambda: default) is None


def test_the_user_of_a_proxy_is_secret():
    proxy = Proxy(f"http://{USER}:s3cret%40word@proxy:3128")
    shown = endpoint(HOOKS, proxy=proxy)
    assert proxy.origin == "http://proxy:3128"
    assert "s3cret" not in repr(shown)
    encoded = base64.b64encode(f"{USER}:s3cret@word".encode()).decode()
    for text in ("s3cret%40word", "s3cret@word", encoded, proxy.url):
        assert Redactor.of(shown).line(f"a {text} b") == "a *** b"
