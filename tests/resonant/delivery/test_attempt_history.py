"""The record of an attempt in the history."""

import asyncio
import weakref

import pytest

from resonant.delivery.attempt import Destination
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import Receipt
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.testing import Receiver, never_answer, reset_before_response, respond
from support.attempts import LEASE, attempt, attempt_runner, destination, failing
from support.redaction import safe_message


async def test_the_type_and_the_text_of_an_error_are_of_the_same_link_in_the_chain():
    async def send(_event):
        try:
            try:
                raise ConnectionResetError(104, "Connection reset by peer")
            except OSError as error:
                raise RuntimeError("read failed") from error
        except RuntimeError as error:
            raise ValueError("could not send") from error

    endpoint = Endpoint("orders", "https://example.com/hook")
    kept = (await attempt(send, describe=lambda error: safe_message(error, endpoint))).attempt

    assert kept.error_type == "ConnectionResetError"
    assert kept.error.startswith("ConnectionResetError: ")


async def test_errors_that_cause_each_other_are_described():
    outer, inner, itself = RuntimeError("outer"), UnexpectedStatus(503), KeyError("itself")
    outer.__cause__, inner.__cause__, itself.__cause__ = inner, outer, itself

    assert (await attempt(failing(outer))).attempt.error_type == "UnexpectedStatus"
    assert (await attempt(failing(itself))).attempt.error_type == "KeyError"


async def test_an_error_without_a_text_is_still_a_failure_like_any_other():
    class Shy(Exception):
        def __str__(self):
            raise RuntimeError("I have no text")

    kept = (await attempt(failing(Shy()))).attempt

    assert (kept.result, kept.error_type, kept.error) == ("failed", "Shy", "Shy")


@pytest.mark.parametrize(
    ("status", "kept"),
    [(503, 503), ("503", None), (-1, None), (2**70, None), (lambda: 503, None), (None, None)],
)
async def test_only_a_valid_status_is_kept(status, kept):
    class Odd(Exception):
        status_code = status

    assert (await attempt(failing(Odd()))).attempt.status_code == kept


async def test_the_status_is_found_in_the_response_of_other_libraries():
    class Response:
        status_code = 503

    class HTTPStatusError(Exception):
        response = Response()

    assert (await attempt(failing(HTTPStatusError()))).attempt.status_code == 503


@pytest.mark.parametrize(
    ("excerpt", "kept"),
    [("a\x00b\nc", "a b c"), ("x" * 5000, "x" * 1024), ("", None), (b"bytes", None), (None, None)],
)
async def test_an_excerpt_is_kept_as_far_as_it_can_be_stored(excerpt, kept):
    class Odd(Exception):
        pass

    error = Odd()
    error.excerpt = excerpt

    async def answer(_event):
        return Receipt(200, excerpt)

    assert (await attempt(failing(error))).attempt.excerpt == kept
    assert (await attempt(answer)).attempt.excerpt == kept


async def test_the_answer_of_a_sink_is_redacted_by_its_endpoint():
    async def send(_event):
        return Receipt(200, "the key s3cret", "s3cret is old")

    async def refuse(_event):
        raise UnexpectedStatus(401, excerpt="no s3cret")

    def redact(text):
        return text.replace("s3cret", "***")

    delivered, refused = [(await attempt(each, redact=redact)).attempt for each in (send, refuse)]
    assert (delivered.excerpt, delivered.warning) == ("the key ***", "*** is old")
    assert refused.excerpt == "no ***"


async def test_an_error_is_freed_after_its_verdict():
    class Large(Exception):
        pass

    async def send(_event):
        error = Large()
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    kept = []
    report = await attempt_runner().attempt(LEASE, destination(send))
    assert report.attempt.error_type == "Large"
    await asyncio.sleep(0)  # until then, the event loop keeps the sink's task
    assert kept[0]() is None


@pytest.mark.parametrize(
    ("script", "error_type", "code", "decision"),
    [
        (respond(200), None, None, None),
        (respond(400, body=b"no such amount"), "UnexpectedStatus", "http_400", "give_up"),
        (reset_before_response(), "ConnectionResetError", "connection_reset", "retry"),
        (never_answer(), "TimeoutError", "timeout", "retry"),
    ],
    ids=["200", "400", "reset", "never answers"],
)
async def test_the_outcome_at_a_real_receiver_is_kept(script, error_type, code, decision):
    async with Receiver(script) as receiver:
        endpoint = Endpoint("orders", f"{receiver.url}/s3cret-path", allow_private=True, timeout=0.3)
        sink = HttpSink(endpoint)
        opened = Destination(
            name="orders",
            sink=sink,
            describe=lambda error: safe_message(error, endpoint),
            close=sink.aclose,
            timeout=endpoint.timeout,
        )
        try:
            kept = (await attempt_runner().attempt(LEASE, opened)).attempt
        finally:
            await opened.close()

    assert (kept.error_type, kept.code, kept.decision) == (error_type, code, decision)
    assert (kept.error or "").partition(":")[0] == (error_type or "")
    assert "s3cret" not in repr(kept)
