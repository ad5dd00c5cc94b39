"""No connection to a private address is made, whether a URL, a name, an answer or the environment points to it.

Each case that an endpoint accepts is a whole send, beside a server on every address of this machine that counts its requests.
"""

import asyncio
import contextlib
import socket

import pytest

from resonant.delivery.classification import classify
from resonant.errors import AddressRefused, EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.sinks.network import address_guard
from resonant.sinks.redaction import root_cause

EVENT = Event(type="order.paid", source="/shop", data={"order": 42})
# Stands for an address of the internet, which a test cannot listen on; PRIVATE for one that nobody may reach.
PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"

# By where each URL is refused, with the reason. PORT is the counting server's.
REFUSED_AS_ADDRESS = {  # when the endpoint is saved: the host is one of the addresses of test_address_guard.py
    "http://127.0.0.1:PORT/": "loopback",
    "https://127.0.0.1:PORT/": "loopback, by TLS",
    "HTTP://127.0.0.1:PORT/": "the scheme's case does not matter",
    "http://0.0.0.0:PORT/": "the kernel takes it for this machine",
    "http://[::]:PORT/": "the same in IPv6",
    "http://[::1]:PORT/": "loopback",
    "http://169.254.169.254/latest/meta-data/": "a cloud's metadata service",
    "http://[fd00:ec2::254]/latest/meta-data/": "the same in IPv6",
    "http://[::ffff:127.0.0.1]:PORT/": "IPv4-mapped",
    "http://[::ffff:7f00:1]:PORT/": "IPv4-mapped, in hexadecimal",
    "http://[0:0:0:0:0:ffff:127.0.0.1]:PORT/": "IPv4-mapped, in full",
    "http://good.example@127.0.0.1:PORT/": "the text before the @ is a user, no host",
    "http://good.example:80@127.0.0.1:PORT/": "a user and a password",
    "http://good.example%40@127.0.0.1:PORT/": "an encoded @ in the user",
    "http://good.example\\@127.0.0.1:PORT/": "a backslash ends no host here",
    "http://127.0.0.1:PORT#@good.example/": "the text after the # is a fragment",
    "http://127.0.0.1:PORT?@good.example/": "the text after the ? is a query",
    "http://127\u30020\u30020\u30021:PORT/": "ideographic full stops are dots (IDNA)",
    "http://127\uff0e0\uff0e0\uff0e1:PORT/": "so are full-width ones",
}
REFUSED_AS_URL = {  # when the endpoint is saved: not an HTTP URL with a host
    "http://0177.0.0.1:PORT/": "octal",
    "http://127.000.000.001:PORT/": "leading zeros, which some take for octal",
    "http://[::1%25lo]:PORT/": "a zone",
    "http://[::1%lo]:PORT/": "a zone, not encoded",
    "http://[fe80::1%25eth0]:PORT/": "a zone of a link-local address",
    "http://[::ffff:127.0.0.1%25lo]:PORT/": "a zone of an IPv4-mapped address",
    "http://\uff11\uff12\uff17.0.0.1:PORT/": "full-width digits",
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:PORT/": "circled digits",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3:PORT/": "localhost in circled letters",
    "http://%31%32%37.0.0.1:PORT/": "encoded digits",
    "http://127%2e0.0.1:PORT/": "an encoded dot",
    "http://127.0.0.1%00.good.example:PORT/": "an encoded NUL",
    "http://127.0.0.1%0d%0a:PORT/": "an encoded line end",
    "http://127.0.0.1\t:PORT/": "a tab",
    "http://127.0.0.1\r\nHost: good.example:PORT/": "a line end",
    "http:127.0.0.1:PORT/": "no //",
    "http:///127.0.0.1:PORT/": "an empty host",
    "//127.0.0.1:PORT/": "no scheme",
    "http://127.0.0.1:0/": "port 0",
    "http+unix://%2Fvar%2Frun%2Fdocker.sock/": "a socket's path as a host",
    "unix:///var/run/docker.sock": "a socket",
    "file:///etc/passwd": "a file",
    "gopher://127.0.0.1:PORT/": "another protocol",
}
REFUSED_WHEN_CONNECTING = {  # the resolver returns a private address
    "http://localhost:PORT/": "a name of loopback",
    "http://LOCALHOST:PORT/": "case does not matter",
    "http://0x7f000001:PORT/": "hexadecimal",
    "http://0x7f.0.0.1:PORT/": "hexadecimal in part",
}
REFUSED_OR_UNKNOWN = {  # refused when connecting, or not a host, depending on the resolver
    "http://localhost.:PORT/": "the root's dot",
    "http://localhost.localdomain:PORT/": "another name of loopback",
    "http://127.0.0.1.:PORT/": "the root's dot behind an address",
    "http://2130706433:PORT/": "decimal",
    "http://017700000001:PORT/": "octal",
    "http://127.1:PORT/": "two parts",
    "http://127.0.1:PORT/": "three parts",
    "http://0:PORT/": "0.0.0.0 in one part",
    "http://unix:/var/run/docker.sock:/": "a socket's path behind a host named unix",
}


@contextlib.asynccontextmanager
async def counting_server(host=None, answer=b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"):
    """A server that answers everybody alike; yields its port, and the heads of the requests it received."""
    received = []

    async def reply(reader, writer):
        received.append(b"")
        received[-1] = await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(reply, sock=listening_on(host))
    try:
        yield server.sockets[0].getsockname()[1], received
    finally:
        server.close()


def listening_on(host):
    if host is None and socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server((host or "", 0))


async def send(url, **fields):
    """Send once; return the exception or the receipt."""
    try:
        async with HttpSink(Endpoint("orders", url, **{"timeout": 60.0} | fields)) as sink:
            return await sink.send(EVENT)
    except Exception as failure:  # noqa: BLE001 - tests inspect the outcome
        return failure


async def send_beside_the_server(url, **fields):
    async with counting_server() as (port, received):
        return await send(url.replace("PORT", str(port)), **fields), received


def urls(cases, *expected):
    return [pytest.param(url, *expected, id=reason) for url, reason in cases.items()]


@pytest.mark.parametrize(
    ("url", "refusal", "allow_private"),
    [
        *urls(REFUSED_AS_ADDRESS, AddressRefused, False),
        *urls(REFUSED_AS_URL, EndpointError, False),
        *urls(REFUSED_AS_URL, EndpointError, True),
    ],
)
def test_a_url_is_refused_when_it_is_saved(url, refusal, allow_private):
    with pytest.raises(refusal):
        Endpoint("orders", url.replace("PORT", "80"), allow_private=allow_private)


@pytest.mark.parametrize(
    ("url", "codes"),
    [
        *urls(REFUSED_WHEN_CONNECTING, {"address_refused"}),
        # aiohttp from 3.14 on refuses some of these hosts before they are looked up.
        *urls(REFUSED_OR_UNKNOWN, {"address_refused", "invalid_url", "dns_not_found", "dns_temporary"}),
    ],
)
async def test_a_name_of_a_private_address_is_refused_when_connecting(url, codes):
    outcome, received = await send_beside_the_server(url)
    verdict = classify(outcome, now=0.0)
    assert verdict.code in codes
    assert (verdict.category, verdict.maybe_processed) == ("permanent", False) or "dns" in verdict.code
    assert received == []


async def test_where_private_addresses_are_allowed_the_server_is_reached():
    outcome, received = await send_beside_the_server("http://localhost:PORT/", allow_private=True)
    assert outcome.status_code == 204
    assert len(received) == 1


# --- with an address that stands for the internet


@pytest.fixture
def public(monkeypatch):
    """Let one loopback address pass for a public one."""
    judged = address_guard.is_allowed
    monkeypatch.setattr(address_guard, "is_allowed", lambda address: address == PUBLIC or judged(address))


@pytest.fixture
async def names(monkeypatch):
    """The answers of a name server for ``*.example``, in turn and the last one again; and the names it was asked for."""
    loop_class = type(asyncio.get_running_loop())
    answers, asked, resolve = [], [], loop_class.getaddrinfo

    async def getaddrinfo(loop, host, port, **options):
        if not str(host).endswith(".example"):
            return await resolve(loop, host, port, **options)
        asked.append(host)
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (each, port, 0, 0))
            if ":" in each
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in found
        ]

    monkeypatch.setattr(loop_class, "getaddrinfo", getaddrinfo)
    return answers, asked


@pytest.fixture
async def connected_to(monkeypatch):
    """The addresses that the event loop is asked to connect to, as they are given to it."""
    loop_class = type(asyncio.get_running_loop())
    addresses, connect = [], loop_class.sock_connect

    async def sock_connect(loop, sock, address):
        addresses.append(address[0])
        return await connect(loop, sock, address)

    monkeypatch.setattr(loop_class, "sock_connect", sock_connect)
    return addresses


async def test_a_dns_answer_that_changes_between_check_and_connect_has_no_effect(public, names, connected_to):
    """DNS rebinding: asked once, the name is public; asked again, it is private."""
    answers, asked = names
    answers += [[PUBLIC], [PRIVATE]]

    async with counting_server(PUBLIC) as (port, received), counting_server(PRIVATE) as (_, private):
        first = await send(f"http://rebound.example:{port}/")
        asked_then = len(asked)
        second = await send(f"http://rebound.example:{port}/")
    assert first.status_code == 204
    assert (asked_then, len(received)) == (1, 1)
    assert connected_to == [PUBLIC], "the checked address is connected to, not the name"
    assert classify(second, now=0.0).code == "address_refused"
    assert private == []


@pytest.mark.parametrize(
    "addresses",
    [
        [PRIVATE, "10.0.0.1", PUBLIC, "169.254.169.254"],
        ["10.0.0.1", PUBLIC],
        [PUBLIC, "10.0.0.1"],
        ["fe80::1", PUBLIC],
    ],
    ids=" ".join,
)
async def test_only_the_public_address_of_a_name_is_connected_to(public, names, connected_to, addresses):
    names[0].append(addresses)
    async with counting_server(PUBLIC) as (port, received):
        outcome = await send(f"http://mixed.example:{port}/")
    assert outcome.status_code == 204
    assert (len(received), connected_to) == (1, [PUBLIC])


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["127.0.0.1", "127.0.0.3"],
        ["127.0.0.1", "::1"],
        ["::1", "10.0.0.1", "fe80::1", "192.168.0.1"],
    ],
    ids=" ".join,
)
async def test_a_name_with_only_private_addresses_is_refused(names, connected_to, addresses):
    names[0].append(addresses)
    outcome, received = await send_beside_the_server("http://private.example:PORT/")
    assert classify(outcome, now=0.0).code == "address_refused"
    assert root_cause(outcome).args[0].split()[0] in addresses
    assert (received, connected_to) == ([], [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300, 200])
@pytest.mark.parametrize(
    ("target", "location"),
    [(PRIVATE, "http://{}/"), (PUBLIC, "//{}/")],
    ids=["inwards", "to a public host"],
)
async def test_a_redirect_is_never_followed(public, connected_to, status, target, location):
    async with counting_server(target) as (target_port, redirected):
        where = location.format(f"{target}:{target_port}")
        answer = (
            f"HTTP/1.1 {status} X\r\nLocation: {where}\r\nContent-Location: {where}\r\nRefresh: 0; url={where}\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n"
        )
        async with counting_server(PUBLIC, answer.encode()) as (port, received):
            outcome = await send(f"http://{PUBLIC}:{port}/")
    assert outcome.status_code == status
    assert isinstance(outcome, UnexpectedStatus) == (status != 200)
    assert (len(received), redirected, connected_to) == (1, [], [PUBLIC])


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_a_proxy_in_the_environment_is_not_asked(public, names, connected_to, monkeypatch, scheme):
    """It would connect on our behalf to addresses that the guard never sees."""
    answers, _ = names
    answers += [[PUBLIC]]
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

    async with counting_server(PRIVATE) as (proxy, asked), counting_server(PUBLIC) as (port, received):
        for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(variable, f"{scheme}://{PRIVATE}:{proxy}")
        outcome = await send(f"http://hooks.example:{port}/")
    assert outcome.status_code == 204
    assert (len(received), asked, connected_to) == (1, [], [PUBLIC])


async def test_credentials_of_the_users_netrc_are_not_sent(public, names, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine hooks.example login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    answers, _ = names
    answers += [[PUBLIC]]

    async with counting_server(PUBLIC) as (port, received):
        await send(f"http://hooks.example:{port}/")
        [head] = received
    assert b"uthorization" not in head
