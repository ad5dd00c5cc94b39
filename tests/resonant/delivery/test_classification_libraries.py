"""What the failures of requests and of aiohttp mean, used without httpx."""

import asyncio
import errno

import aiohttp
import pytest
import requests
import urllib3

from resonant.delivery.verdict import Verdict
from support.misbehaving import (
    certificate,
    chained,
    disconnect,
    failing,
    full_backlog,
    garbage,
    in_circles,
    judge,
    misbehaving,
    no_gzip,
    reset,
    say_nothing,
    says,
    truncated,
    truncated_chunk,
)

throttling = says(b"HTTP/1.1 429 Slow Down\r\nretry-after: 7\r\ncontent-length: 0\r\n\r\n")


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
