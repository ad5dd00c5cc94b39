"""Sends to a receiver that causes faults, and their expected outcomes."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import psutil
import pytest

from resonant.delivery.classification import classify
from resonant.delivery.verdict import Verdict
from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import EXCERPT_BYTES, HttpSink
from resonant.testing import (
    Receiver,
    Request,
    respond,
)
from support.events import changed
from support.waiting import until

EVENT = Event(type="com.example.order.paid", source="/orders", data={"order": 42}, id="evt_1")
DEADLINE = 1.0
# Seconds by which an attempt may exceed its deadline on a busy machine.
GRACE = 10.0
NOW = 1_700_000_000.0
TIMEOUT = Verdict("transient", "timeout", maybe_processed=True)
DISCONNECTED = Verdict("transient", "disconnected", maybe_processed=True)
RESET = Verdict("transient", "connection_reset", maybe_processed=True)
NO_HTTP = Verdict("transient", "bad_response", maybe_processed=True)
UNAVAILABLE = Verdict("transient", "http_503")
THROTTLED = Verdict("transient", "throttled")
# Dates are compared with a real clock.
SOON = pytest.approx(5.0, abs=3.0)
REDIRECTED = Verdict("permanent", "http_302")


def delivered(warning=None):
    """Return the expected text for a delivery, with a warning about the response body."""
    return f"delivered, {warning}" if warning else "delivered"


BROKE_OFF, CUT_OFF, TOO_LATE, TOO_LONG = (
    delivered("the response body broke off"),
    delivered("the response body was cut off: too many chunks or trailers"),
    delivered("the response body took too long"),
    delivered("the response body has 64 KiB or more"),
)
EXPECTED = {
    "bad-gzip": delivered(),
    "bad-gzip-503": UNAVAILABLE,
    "endless-answers": delivered(),
    "endless-answers-503": UNAVAILABLE,
    "endless-body": TOO_LONG,
    "endless-body-503": UNAVAILABLE,
    "endless-chunks": CUT_OFF,
    "endless-chunks-503": UNAVAILABLE,
    "endless-continue": NO_HTTP,
    "endless-headers": NO_HTTP,
    "endless-interim": NO_HTTP,
    "endless-status-line": NO_HTTP,
    "endless-trailers": BROKE_OFF,
    "endless-trailers-503": UNAVAILABLE,
    "garbage": NO_HTTP,
    "gzip-bomb": TOO_LONG,
    "gzip-bomb-503": UNAVAILABLE,
    "half-close": DISCONNECTED,
    "half-close-mid-body": BROKE_OFF,
    "huge-header": NO_HTTP,
    "interim-only": DISCONNECTED,
    "interim-only-silent": TIMEOUT,
    "many-headers": NO_HTTP,
    "redirect-loop": REDIRECTED,
    "reset-after-headers": BROKE_OFF,
    "reset-after-headers-503": UNAVAILABLE,
    "reset-before-response": RESET,
    "reset-mid-body": BROKE_OFF,
    "reset-mid-body-503": UNAVAILABLE,
    "reset-mid-response": RESET,
    "retry-after-asctime": replace(THROTTLED, retry_after=SOON),
    "retry-after-fractional": THROTTLED,
    "retry-after-huge": replace(THROTTLED, retry_after=24 * 3600),
    "retry-after-imf-fixdate": replace(THROTTLED, retry_after=SOON),
    "retry-after-negative": THROTTLED,
    "retry-after-nonsense": THROTTLED,
    "retry-after-past": replace(THROTTLED, retry_after=0),
    "retry-after-rfc-850": replace(THROTTLED, retry_after=SOON),
    "retry-after-seconds": replace(THROTTLED, retry_after=5),
    "retry-after-seconds-503": replace(UNAVAILABLE, retry_after=5),
    "silent": TIMEOUT,
    "slow-body": TOO_LATE,
    "slow-body-503": UNAVAILABLE,
    "slow-headers": TIMEOUT,
    "surplus-body": delivered(),
    "surplus-body-503": UNAVAILABLE,
    "truncated-body": BROKE_OFF,
    "truncated-body-503": UNAVAILABLE,
}


def endpoint(url, **fields):
    return Endpoint("orders", url, **{"allow_private": True, "timeout": DEADLINE} | fields)


async def outcome_of(sink, event=EVENT, clock=lambda: NOW):
    """Send once; return a delivery in words or the verdict, and check the invariants of every attempt."""
    start = time.monotonic()
    try:
        receipt = await sink.send(event)
    # `send` may raise only its documented errors.
    except (UnexpectedStatus, TimeoutError, EndpointError, httpx.HTTPError) as error:
        outcome, excerpt = classify(error, now=clock()), getattr(error, "excerpt", "")
    else:
        outcome, excerpt = delivered(receipt.warning and receipt.warning.partition(" (")[0]), receipt.excerpt
    assert time.monotonic() - start < DEADLINE + GRACE
    assert len(excerpt.encode()) <= EXCERPT_BYTES
    return outcome


@asynccontextmanager
async def no_socket_left():
    """Check that the block leaves no descriptor open."""
    descriptors = psutil.Process().num_fds
    before = descriptors()
    yield
    await until(lambda: descriptors() <= before)


async def meet(script, *, tls=None, ca_file=None, clock=lambda: NOW):
    """Send to a fault, then to the recovered receiver, with one sink; return the first outcome."""
    async with no_socket_left(), Receiver(script, tls=tls) as receiver:
        async with HttpSink(endpoint(receiver.url, ca_file=ca_file)) as sink:
            outcome = await outcome_of(sink, clock=clock)
            assert await outcome_of(sink, changed(EVENT, id="evt_2")) == delivered(), "the sink is broken"
            assert not sink._transport.client.connector._acquired, "a connection was not released"
        return outcome


def first_meets(action):
    """Make a script that applies the action to the first event, and accepts all others."""
    return lambda request: action if request.webhook_id == EVENT.id else respond(200)


# TLS


def request(webhook_id, try_number, event_type="t"):
    return Request(webhook_id, try_number, "POST", "/", {"ce-type": event_type}, b"", NOW)
