"""Failures with causes, and groups of failures."""

import asyncio
import contextlib
import re
import socket
import ssl
import time

import aiohttp
import httpx
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from resonant.errors import UnexpectedStatus
from support.misbehaving import StrangeError, by_aiohttp, by_sink, chained, judge


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
