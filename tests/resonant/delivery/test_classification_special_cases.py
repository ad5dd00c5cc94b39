"""Failures that the table of exceptions does not list by themselves."""

import asyncio
import socket

import aiohttp
import httpx
import pytest
from httpx_aiohttp import AiohttpTransport

from resonant.delivery.verdict import Verdict
from resonant.errors import AddressRefused
from support.misbehaving import (
    TRANSPORTS,
    chained,
    failing,
    judge,
    misbehaving,
    no_gzip,
    post,
    say_nothing,
    to,
)


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
