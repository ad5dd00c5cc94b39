"""The limits of an answer, and the connection after an unexpected one."""

import asyncio

import pytest

from resonant.errors import UnexpectedStatus
from resonant.sinks.bounded_connection import HEAD_BYTES, MAX_FRAMING_BYTES, MAX_INTERIM_ANSWERS
from resonant.sinks.http import HttpSink
from resonant.testing import Action, Receiver, endless_answers, endless_interim, raw
from support.events import changed
from support.faulty_receivers import (
    CUT_OFF,
    EVENT,
    NO_HTTP,
    UNAVAILABLE,
    delivered,
    endpoint,
    first_meets,
    meet,
    no_socket_left,
    outcome_of,
)
from support.waiting import until

pytestmark = pytest.mark.filterwarnings("error")
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
FINAL = b"HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\nno"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
# With its size and the two ends of lines, a chunk of one byte has five bytes around it.
MOST_CHUNKS = (MAX_FRAMING_BYTES - len(b"0\r\n\r\n")) // 5


def answers(data):
    return first_meets(raw(data, end="keep"))


async def refusal_of(action):
    """Return the text of the error with which this answer is refused."""
    async with Receiver(action) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        with pytest.raises(Exception) as refused:  # noqa: PT011 - its text is compared
            await sink.send(EVENT)
    return str(refused.value)


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"], ids=["CR LF", "LF"])
async def test_interim_answers_are_skipped_up_to_their_limit(line_end):
    interim = INTERIM.replace(b"\r\n", line_end)
    assert await meet(answers(interim * MAX_INTERIM_ANSWERS + FINAL)) == UNAVAILABLE
    assert await meet(answers(interim * (MAX_INTERIM_ANSWERS + 300) + FINAL)) == NO_HTTP


async def test_the_error_names_the_limit():
    assert (
        await refusal_of(endless_interim()) == "the answer is not HTTP: it has more than 16 interim answers"
    )
    assert (
        await refusal_of(raw(b"\r\n\r\n" * 1000))
        == "the answer is not HTTP: it has more than 16 interim answers"
    )
    fields = b"".join(b"x-%d: %s\r\n" % (number, b"x" * 1000) for number in range(100))
    head = b"HTTP/1.1 200 OK\r\n" + fields
    assert await refusal_of(raw(head)) == "the answer is not HTTP: its head has more than 64 KiB"


async def test_a_head_may_have_64_kib():
    field = b"x-long: " + b"x" * (HEAD_BYTES - 200) + b"\r\n"
    assert await meet(answers(FINAL.replace(b"content-length", field + b"content-length"))) == UNAVAILABLE


async def test_many_small_chunks_are_read_up_to_their_limit():
    assert await meet(answers(CHUNKED + b"1\r\nx\r\n" * MOST_CHUNKS + b"0\r\n\r\n")) == delivered()
    assert await meet(answers(CHUNKED + b"1\r\nx\r\n" * 2 * MOST_CHUNKS + b"0\r\n\r\n")) == CUT_OFF


async def test_an_extension_of_a_chunk_is_bounded():
    assert await meet(answers(CHUNKED + b"1;" + b"x" * 10_000)) == CUT_OFF


async def test_a_large_body_in_large_chunks_is_read():
    chunks = b"1000\r\n" + b"x" * 4096 + b"\r\n"
    assert await meet(answers(CHUNKED + chunks * 15 + b"0\r\n\r\n")) == delivered()


async def test_the_status_and_the_excerpt_are_those_of_the_first_of_many_answers():
    data = (
        b"HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy"
        + b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * 5000
    )
    async with Receiver(raw(data, end="keep")) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        with pytest.raises(UnexpectedStatus) as refused:
            await sink.send(EVENT)
    assert (refused.value.status_code, refused.value.excerpt) == (503, "busy")


async def test_a_receiver_that_goes_on_after_its_answer_is_disconnected():
    """Its connection is idle then, and nothing reads from it."""
    ended = asyncio.Event()

    async def answer_then_flood(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await asyncio.sleep(0.05)
        try:
            await endless_answers().perform(reader, writer)
        finally:
            ended.set()

    script = first_meets(Action("answer, then flood", answer_then_flood))
    async with no_socket_left(), Receiver(script) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        assert await outcome_of(sink) == delivered()
        await until(ended.is_set)
        assert await outcome_of(sink, changed(EVENT, id="evt_2")) == delivered()
        assert receiver.accepted == 2


async def test_an_answer_in_single_bytes_is_read_whole():
    async def in_bytes(_, writer):
        for byte in FINAL.replace(b"503 No", b"200 OK"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with Receiver(Action("in bytes", in_bytes)) as receiver, HttpSink(endpoint(receiver.url)) as sink:
        receipt = await sink.send(EVENT)
        await sink.send(EVENT)
        assert (receipt.excerpt, receipt.warning, receiver.accepted) == ("no", None, 1)
