"""A server with small limits, and clients that exceed them, on real sockets."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from resonant.errors import ResonantError
from resonant.intake.limits import TURN, IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.problems import Problem
from resonant.intake.serving.server import listen, serve
from support.http_connections import Answer, Connection, connected
from support.waiting import until

HEAD = b"POST /events HTTP/1.1\r\nHost: a\r\n"
POST = HEAD + b"Content-Length: 2\r\n\r\nhi"


@dataclass
class Served:
    """A server in this process. It stores nothing, and answers with the size of the body.

    Attributes:
        store_answers: clear it, and requests wait for the store.
        turn: requests with a header ``Turn`` wait for it.
    """

    meters: Meters = field(default_factory=Meters)
    store_answers: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    is_stopping: bool = False

    def stop(self) -> None:
        """Send a signal, unless one was sent: another one would end the tests."""
        if not self.is_stopping:
            os.kill(os.getpid(), signal.SIGTERM)
        self.is_stopping = True

    async def post(self, request: Request) -> Response:
        if "refuse" in request.headers:
            raise Problem(413, "the body has more than 10 bytes", limit=10)
        if "large" in request.headers:
            return Response(bytes(20_000_000))
        if "early" in request.headers:
            await self.store_answers.wait()
        body = await request.body()
        if body == b"bug":
            raise ZeroDivisionError
        if "turn" in request.headers:
            with request.scope["extensions"][TURN]():
                await self.turn.wait()
        await self.store_answers.wait()
        return Response(str(len(body)), 202)

    async def answer_problem(self, _request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        return problem.response()


@asynccontextmanager
async def served(**limits: float) -> AsyncIterator[Served]:
    server = Served()
    server.store_answers.set()
    started = asyncio.Event()
    app = Starlette(
        routes=[Route("/events", server.post, methods=["POST"])],
        exception_handlers={Problem: server.answer_problem},
    )
    with listen("127.0.0.1", 0) as listener:
        server.port = listener.getsockname()[1]
        running = asyncio.create_task(
            serve(app, listener, limits=IntakeLimits(**limits), meters=server.meters, on_start=started.set)
        )
        await started.wait()
        try:
            yield server
        finally:
            server.store_answers.set()
            server.stop()
            await running


@asynccontextmanager
async def waiting_server(**limits: float) -> AsyncIterator[Served]:
    """Run a server whose store does not answer."""
    async with served(**limits) as server:
        server.store_answers.clear()
        yield server


async def ask(port: int, request: bytes = POST) -> Answer:
    """Send a request on a connection of its own."""
    async with connected(port) as client:
        return await client.ask(request)


@asynccontextmanager
async def asking(port: int, number: int, request: bytes = POST) -> AsyncIterator[list[Connection]]:
    """Send a request on each of several connections."""
    async with AsyncExitStack() as opened:
        clients = [await opened.enter_async_context(connected(port)) for _ in range(number)]
        for client in clients:
            await client.send(request)
        yield clients


def document(answer: Answer) -> dict[str, object]:
    assert answer.headers["content-type"] == "application/problem+json"
    return json.loads(answer.body)


async def test_refuses_headers_of_more_than_32_kib():
    async with served() as server:
        most = 32 * 1024
        fits = HEAD + b"Content-Length: 2\r\n"
        value = b"a" * (most - len(fits) - 100)
        assert (await ask(server.port, fits + b"X: " + value + b"\r\n\r\nhi")).status == 202
        answer = await ask(server.port, fits + b"X: " + value + b"a" * 200 + b"\r\n\r\nhi")
    assert (answer.status, document(answer)["limit"]) == (431, most)
    assert answer.headers["connection"] == "close"


MIB = b"a" * 2**20
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "headers": HEAD + (b"X: " + b"a" * 1000 + b"\r\n") * 40,
    "a value": HEAD + b"X: " + 3 * MIB,
    "a name": HEAD + b"X" + MIB,
    "a target": b"POST /events?endpoint=" + MIB,
    "empty lines": b"\r\n" * 2**20,
    "a chunk size": IN_CHUNKS + b"0" * 2**20,
    "extensions of chunks": IN_CHUNKS + b"2;" + b"a" * 99_000,
    "trailers": IN_CHUNKS + b"2\r\nhi\r\n0\r\n" + b"X: y\r\n" * 20_000,
}


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
async def test_refuses_a_request_whose_head_or_framing_does_not_end(endless):
    """The client sees the refusal, although it has sent more than the server reads."""
    async with served() as server, connected(server.port) as client:
        assert (await client.ask(endless)).status == 431
        assert await client.rest() == b""


async def test_reads_a_body_whose_chunk_sizes_come_in_packets_of_their_own():
    async with served() as server, connected(server.port) as client:
        await client.send(b"\r\n\r\n")
        await client.send(IN_CHUNKS)
        for packet in (b"2\r\n", b"hi", b"\r\n", b"3", b"\r\n", b"abc\r\n", b"0\r\n", b"\r\n"):
            await asyncio.sleep(0.01)
            await client.send(packet)
        assert (await client.answer()).body == b"5"


async def test_does_not_treat_trailers_as_headers():
    async with served() as server:
        body = b"2\r\nhi\r\n0\r\nRefuse: yes\r\n\r\n"
        assert (await ask(server.port, IN_CHUNKS + body)).status == 202


@pytest.mark.parametrize("part", [HEAD, HEAD + b"Content-Length: 9\r\n\r\nhi"], ids=["headers", "body"])
async def test_answers_408_if_a_request_takes_too_long_although_bytes_arrive(part):
    async with served(read_seconds=0.3) as server, connected(server.port) as client:
        await client.send(part)
        drip = b"X: y\r\n" if part == HEAD else b"h"
        for _ in range(3):
            await asyncio.sleep(0.05)
            await client.send(drip)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert await client.rest() == b""
        assert server.meters.requests == {408: 1}


async def test_closes_a_connection_without_a_request_silently():
    async with served(read_seconds=0.1) as server, connected(server.port) as client:
        assert await client.rest() == b""


async def test_a_slow_body_does_not_count_as_a_wait_for_the_store():
    async with served(store_seconds=0.1) as server, connected(server.port) as client:
        await client.send(HEAD + b"Content-Length: 2\r\n\r\nh")
        await until(lambda: server.meters.held_bytes == 1)
        await asyncio.sleep(0.3)
        assert server.meters.requests == {}, "it is not answered"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such timeout")
async def test_closes_the_connection_of_a_client_that_does_not_read_the_answer():
    large = HEAD + b"Large: yes\r\nContent-Length: 0\r\n\r\n"
    async with served(read_seconds=0.3) as server, asking(server.port, 1, large):
        await until(lambda: server.meters.connections == 1)
        await until(lambda: server.meters.connections == 0)


async def test_keeps_a_connection_open_until_it_is_idle():
    async with served(idle_seconds=0.1) as server, connected(server.port) as client:
        answer = await client.ask(POST)
        assert (answer.status, "connection" in answer.headers) == (202, False)
        assert await client.rest() == b""


async def test_closes_the_slowest_of_too_many_connections():
    async with served(connections=5) as server, asking(server.port, 5, HEAD) as slow:
        await until(lambda: server.meters.connections == 5)
        assert (await ask(server.port)).status == 202
        answer = await slow[0].answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await slow[1].ask(b"Content-Length: 2\r\n\r\nhi")).status == 202


@pytest.mark.parametrize("status", [202, 404])
async def test_of_too_many_connections_the_one_that_has_been_idle_longest_is_closed(status):
    request = POST if status == 202 else b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with served(connections=3) as server, asking(server.port, 3, request) as idle:
        for each in idle:
            assert (await each.answer()).status == status
        assert (await idle[0].ask(request)).status == status

        async with connected(server.port) as client:
            for _ in range(2):
                assert (await client.ask(POST)).status == 202
            assert await idle[1].rest() == b"", "it closes without an answer, as after `idle_seconds`"
            for each in (idle[2], idle[0]):
                assert (await each.ask(request)).status == status


async def test_idle_connections_are_closed_before_slow_senders_and_never_requests_that_wait():
    async with (
        served(connections=3) as server,
        asking(server.port, 1, HEAD) as [slow],
        asking(server.port, 1) as [idle],
    ):
        assert (await idle.answer()).status == 202
        server.store_answers.clear()
        async with asking(server.port, 1) as [waiting]:
            await until(lambda: server.meters.waiting == 1)
            async with asking(server.port, 1) as [second]:
                assert await idle.rest() == b""
                await until(lambda: server.meters.waiting == 2)
                async with asking(server.port, 1) as [third]:
                    assert (await slow.answer()).status == 503
                    await until(lambda: server.meters.waiting == 3)
                    assert (await ask(server.port)).status == 503, "nothing else can be closed"
                    server.store_answers.set()
                    for each in (waiting, second, third):
                        assert (await each.answer()).status == 202


async def test_a_client_with_work_gets_in_while_idle_connections_come_all_the_time():
    """Each connection without a token asks once, and then keeps the connection."""
    async with served(connections=8) as server, AsyncExitStack() as opened:
        for _ in range(40):
            idle = await opened.enter_async_context(connected(server.port))
            assert (await idle.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).status == 404
            assert (await ask(server.port)).status == 202
        assert server.meters.requests == {404: 40, 202: 40}


async def test_silent_connections_are_closed_before_one_whose_client_keeps_asking():
    async with served(connections=4) as server, AsyncExitStack() as opened:
        client = await opened.enter_async_context(connected(server.port))
        silent = []
        for _ in range(12):
            assert (await client.ask(POST)).status == 202
            silent.append(await opened.enter_async_context(connected(server.port)))
        answer = await silent[0].answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await silent[-1].ask(POST)).status == 202


async def test_a_client_may_take_time_to_its_first_byte_while_slow_senders_come():
    async with (
        served(connections=10) as server,
        asking(server.port, 10, HEAD) as slow,
        connected(server.port) as client,
    ):
        assert (await slow[0].answer()).status == 503
        async with asking(server.port, 3, HEAD):
            for each in slow[1:4]:
                assert (await each.answer()).status == 503
            assert (await client.ask(POST)).status == 202


async def test_the_wait_for_a_turn_is_not_the_time_of_the_store():
    in_turn = HEAD + b"Turn: yes\r\nContent-Length: 2\r\n\r\nhi"
    async with (
        waiting_server(store_seconds=0.1, turn_seconds=60, waiting=1) as server,
        asking(server.port, 1, in_turn) as [first],
    ):
        await until(lambda: server.meters.in_turn == 1)
        late = await ask(server.port)
        assert (late.status, late.headers["retry-after"]) == (503, "1"), "a request that waits for the store"
        assert "the store did not answer" in str(document(late)["detail"])
        server.turn.set()
        answer = await first.answer()
        assert "the store did not answer within 0.1 s" in str(document(answer)["detail"]), "from here on"
        assert (server.meters.in_turn, server.meters.waiting) == (0, 0)


async def test_a_large_body_whose_turn_does_not_come_is_503_with_a_longer_retry_after(caplog):
    in_turn = HEAD + b"Turn: yes\r\nContent-Length: 2\r\n\r\nhi"
    async with served(turn_seconds=0.1) as server:
        answer = await ask(server.port, in_turn)
        assert (answer.status, answer.headers["retry-after"]) == (503, "10")
        assert "a large body was not parsed within 0.1 s" in str(document(answer)["detail"])
        assert "the store" not in caplog.text
        assert (server.meters.in_turn, server.meters.waiting) == (0, 0)


async def test_large_bodies_in_memory_do_not_keep_out_small_ones():
    large = HEAD + b"Content-Length: 90000\r\n\r\n" + b" " * 80_000
    async with (
        served(held_bytes=80_000, free_bytes=1_000) as server,
        asking(server.port, 1, large) as [first],
    ):
        await until(lambda: server.meters.held_bytes == 80_000)
        refused = await ask(server.port, large + b" " * 10_000)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert (await ask(server.port)).status == 202
        assert (await first.ask(b" " * 10_000)).status == 503
        await until(lambda: server.meters.held_bytes == 0)


async def test_answers_503_when_too_many_requests_wait_for_the_store():
    async with waiting_server(waiting=3) as server:
        async with asking(server.port, 3) as waiting:
            await until(lambda: server.meters.waiting == 3)
            answer = await ask(server.port)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert "too many requests wait for the store" in str(document(answer)["detail"])
            server.store_answers.set()
            assert [(await each.answer()).status for each in waiting] == [202] * 3
        assert (await ask(server.port)).status == 202


@pytest.mark.parametrize(
    "asked", [POST, HEAD + b"Early: yes\r\nContent-Length: 2\r\n\r\n"], ids=["after", "before"]
)
async def test_answers_503_when_the_store_takes_too_long_before_or_after_the_body(asked, caplog):
    async with waiting_server(store_seconds=0.1) as server:
        answer = await ask(server.port, asked)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert server.meters.waiting == 0
    assert "answered 503: the store did not answer within 0.1 s" in caplog.text


async def test_an_answer_does_not_wait_for_an_acknowledgement():
    async with served() as server, connected(server.port) as connection:
        durations = []
        for _ in range(60):
            began_at = time.perf_counter()
            await connection.send(POST)
            await connection.answer()
            durations.append(time.perf_counter() - began_at)
    # Linux delays each acknowledgement by 40 ms, except the first ones of a connection.
    assert min(durations[30:]) < 0.03


async def test_answers_pipelined_requests_in_their_order():
    async with served() as server, connected(server.port) as client:
        await client.send(
            b"".join(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * size for size in range(9))
        )
        assert [(await client.answer()).body for _ in range(9)] == [b"%d" % size for size in range(9)]


UPGRADE = HEAD + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"


async def test_reads_the_body_of_a_request_that_asks_for_another_protocol():
    async with served() as server, connected(server.port) as client:
        await client.send(
            (UPGRADE + b"Content-Length: 2\r\n\r\nhi") * 2 + UPGRADE + CHUNKED + UPGRADE + b"\r\n" + POST
        )
        answers = [await client.answer() for _ in range(5)]
        assert [(each.status, each.body) for each in answers] == [
            (202, size) for size in (b"2", b"2", b"2", b"0", b"2")
        ]
        assert server.meters.requests == {202: 5}


async def test_reads_the_body_of_a_request_that_asks_for_another_protocol_in_parts():
    async with served() as server, connected(server.port) as client:
        for part in (UPGRADE, b"Content-Length: %d\r\n\r\n" % len(POST), POST[:9], POST[9:]):
            await client.send(part)
            await asyncio.sleep(0.01)
        assert (await client.answer()).body == b"%d" % len(POST)
        assert (await client.ask(POST)).body == b"2"
        assert server.meters.requests == {202: 2}


async def test_refuses_too_many_pipelined_requests_that_ask_for_another_protocol():
    async with served() as server, connected(server.port) as client:
        await client.send((UPGRADE + b"\r\n") * 400)
        assert (await client.rest()).count(b"HTTP/1.1 202 ") == 17


async def test_closes_a_connection_after_its_answers_if_too_many_requests_are_pipelined():
    async with waiting_server(pipelined=3) as server, connected(server.port) as client:
        await client.send(POST * 10)
        await until(lambda: server.meters.waiting == 1)
        server.store_answers.set()
        assert (await client.rest()).count(b"HTTP/1.1 202 ") == 4


async def test_sends_100_continue_before_it_reads_a_body():
    async with served() as server, connected(server.port) as client:
        assert (await client.ask(HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")).status == 100
        assert (await client.ask(b"hi")).status == 202
        assert (await client.ask(POST)).status == 202


async def test_closes_a_connection_whose_client_may_or_may_not_send_a_refused_body():
    async with served() as server:
        answer = await ask(
            server.port, HEAD + b"Refuse: yes\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
    assert (answer.status, answer.headers["connection"]) == (413, "close")


async def test_a_client_sees_the_refusal_of_a_body_that_it_goes_on_sending():
    async with served() as server, connected(server.port) as client:
        large = HEAD + b"Refuse: yes\r\nContent-Length: 9000000\r\n\r\n" + b" " * 9_000_000
        assert (await client.ask(large)).status == 413
        assert (await client.ask(POST)).status == 202


@pytest.mark.parametrize(
    "head",
    [b"POST /events HTTP/1.0\r\n", HEAD + b"Connection: close\r\n"],
    ids=["HTTP/1.0", "Connection: close"],
)
async def test_closes_the_connection_if_the_client_asks_for_it(head):
    async with served() as server, connected(server.port) as client:
        answer = await client.ask(head + b"Content-Length: 2\r\n\r\nhi")
        assert (answer.status, answer.headers["connection"]) == (202, "close")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"POST /events HTTP/1.1\r\n\r\n",
        HEAD + b"Host: b\r\n\r\n",
        b"CONNECT /events HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        IN_CHUNKS + b"2\r\nhixx\r\n",
    ],
    ids=["TLS", "no Host", "two Hosts", "CONNECT", "wrong chunks"],
)
async def test_refuses_invalid_http(garbage):
    async with served() as server:
        answer = await ask(server.port, garbage)
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert document(answer)["status"] == 400


async def test_answers_the_request_before_garbage_and_closes():
    async with waiting_server() as server, connected(server.port) as client:
        await client.send(POST + b"more than Content-Length says\r\n\r\n")
        await until(lambda: server.meters.waiting == 1)
        server.store_answers.set()
        assert (await client.answer()).status == 202
        assert await client.rest() == b""


async def test_answers_500_after_a_bug_and_logs_it(caplog):
    async with served() as server:
        answer = await ask(server.port, HEAD + b"Content-Length: 3\r\n\r\nbug")
        assert (await ask(server.port)).status == 202
    assert answer.status == 500
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


async def test_forgets_a_client_that_goes_away():
    async with served() as server:
        async with connected(server.port) as client:
            await client.send(HEAD + b"Content-Length: 9\r\n\r\nhi")
            await until(lambda: server.meters.held_bytes == 2)
        await until(lambda: server.meters.held_bytes == 0)
        assert (server.meters.connections, server.meters.requests) == (0, {})


async def test_a_signal_lets_requests_finish_and_refuses_new_ones():
    async with waiting_server() as server, asking(server.port, 3) as clients, connected(server.port) as idle:
        await until(lambda: server.meters.waiting == 3)
        server.stop()
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await ask(server.port)
        server.store_answers.set()
        answers = [await each.answer() for each in clients]
        assert [(each.status, each.headers["connection"]) for each in answers] == [(202, "close")] * 3


async def test_a_signal_ends_the_wait_for_slow_clients_and_for_the_store():
    body = HEAD + b"Content-Length: 9\r\n\r\nhi"
    async with (
        waiting_server(stop_seconds=1) as server,
        asking(server.port, 1) as [waiting],
        asking(server.port, 1, body) as [slow],
    ):
        await until(lambda: server.meters.held_bytes == 4)
        server.stop()
        assert (await slow.answer()).status == 408
        answer = await waiting.answer()
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")


def test_a_port_in_use_is_an_error_on_one_line():
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            ResonantError, match=rf"^cannot listen on 127.0.0.1 port {port}: Address already in use: choose"
        ):
            listen("127.0.0.1", port)


def test_listens_on_ipv6():
    with listen("::1", 0) as listener:
        assert listener.getsockname()[0] == "::1"
