"""HTTP connections with limits that uvicorn lacks: on headers, on the time to send a request, on pipelined requests."""

import asyncio
import sys
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.problems import Problem

# How long a refused client may go on sending. If the connection were closed at once, it would not see the answer.
_LINGER_SECONDS = 1.0
_VERSIONS = ("1.0", "1.1")  # the parser accepts others, too
_AROUND_HEADER = len(b": \r\n")


class Connection(HttpToolsProtocol):
    """A connection of uvicorn.

    Args:
        limits: bound the headers, the time, and the connections.
        meters: count the connections and the refused requests.
        sending: the connections that have sent a part of a request, the slowest first; shared by all connections.
        idle: the connections before their first byte or between two requests, the longest idle first; shared by all
            connections.
        given: the arguments of uvicorn.
    """

    def __init__(
        self,
        limits: IntakeLimits,
        meters: Meters,
        sending: "dict[Connection, None]",
        idle: "dict[Connection, None]",
        **given: Any,
    ) -> None:
        super().__init__(**given)
        self._limits = limits
        self._meters = meters
        self._sending = sending
        self._idle = idle
        self._deadline: asyncio.TimerHandle | None = None
        # Consecutive bytes outside a body: headers, trailers, extensions of chunks.
        self._extra_bytes = 0
        self._is_in_head = False
        self._is_refused = False
        self._received = b""
        self._head_without_upgrade = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection. Beyond the limit, close the slowest if more are sending than idle, else the longest idle."""
        transport.max_size = self._limits.header_bytes  # type: ignore[attr-defined]  # of a read
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self._limits.read_seconds, self._give_up)
        self._idle[self] = None
        self._meters.connections = len(self.connections)
        if len(self.connections) > self._limits.connections:
            # So a flood of idle or slow connections displaces itself.
            larger = max(self._sending, self._idle, key=len)
            next(iter(larger)).make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._end_request()
        self._idle.pop(self, None)
        super().connection_lost(exc)
        self._meters.connections = len(self.connections)

    def data_received(self, data: bytes) -> None:
        """Parse data."""
        if self._is_refused:
            return
        if self not in self._sending:
            self._await_request(self._limits.read_seconds)
        self._extra_bytes += len(data)
        self._received = data
        super().data_received(data)
        self._received = b""
        if self._extra_bytes > self._limits.header_bytes and not self._is_refused:
            self._refuse(self._too_large())
        elif self._deadline and self._has_body_to_take:
            # Read more when the application has taken this.
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        """Begin to parse a request."""
        self._is_in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check the headers of a request, and hand it over."""
        if problem := self._problem_of_headers():
            raise problem
        if self.parser.should_upgrade():
            self._head_without_upgrade = self._without_upgrade()
            return
        super().on_headers_complete()
        self._is_in_head = False
        self._extra_bytes = 0
        self.headers = []  # for trailers, which are not headers

    def on_body(self, body: bytes) -> None:
        """Hand over a part of a body."""
        self._extra_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish a request."""
        if self._head_without_upgrade:
            return
        self._extra_bytes = 0
        self._end_request()
        super().on_message_complete()
        self._note_idle()

    def on_response_complete(self) -> None:
        """Finish an answer, and begin the next request that was received."""
        super().on_response_complete()
        self._note_idle()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Refuse what the parser refuses, or what a method above refuses."""
        error = sys.exception()
        cause = error.__context__ if error else None
        if not isinstance(cause, Problem):
            cause = Problem(400, "the request is not valid HTTP/1.1: see RFC 9112")
        self._refuse(cause)

    def _unsupported_upgrade_warning(self) -> None:
        """Parse a request again as if it had asked for no other protocol: the parser has skipped its body."""
        error = sys.exception()
        rest = self._received[error.args[0] :] if error else b""
        head, self._head_without_upgrade = self._head_without_upgrade, b""
        self._received = head + rest
        super().data_received(self._received)

    def shutdown(self) -> None:
        """Finish the requests that were received, and wait half of the time for the rest of another."""
        super().shutdown()
        if self._deadline is not None:
            self._await_request(self._limits.stop_seconds / 2)

    def make_room(self) -> None:
        """Close this connection because there are too many."""
        awaits_request = self._deadline is not None
        self._idle.pop(self, None)
        self._end_request()
        if awaits_request and not self._owes_answer:
            self._answer(self._busy("too many connections"))
        self.transport.close()

    def _await_request(self, seconds: float) -> None:
        self._end_request()
        self._deadline = self.loop.call_later(seconds, self._give_up)
        self._sending[self] = None
        self._idle.pop(self, None)

    def _end_request(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            self._sending.pop(self, None)

    def _note_idle(self) -> None:
        if self._deadline is None and not self._owes_answer and not self.transport.is_closing():
            self._idle[self] = None

    def _give_up(self) -> None:
        if self._owes_answer or (self.cycle is None and not self._is_in_head):
            self.transport.close()
        else:
            seconds = self._limits.read_seconds
            self._refuse(Problem(408, f"the request was not complete within {seconds:g} s"))

    def _without_upgrade(self) -> bytes:
        first = b"%b %b HTTP/%b" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        headers = [b"%b: %b" % each for each in self.headers if each[0] != b"upgrade"]
        return b"\r\n".join([first, *headers, b"", b""])

    def _problem_of_headers(self) -> Problem | None:
        size = len(self.url) + sum(len(name) + len(value) + _AROUND_HEADER for name, value in self.headers)
        if size > self._limits.header_bytes:
            return self._too_large()
        if len(self.pipeline) >= self._limits.pipelined:
            return self._busy("too many pipelined requests")
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            return Problem(400, f"HTTP/{version} is not accepted: use HTTP/1.1")
        if self.parser.get_method() == b"CONNECT":
            return Problem(400, "CONNECT is refused: this server is not a proxy")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version != "1.0"):
            return Problem(400, "the request needs one Host header")
        return None

    def _too_large(self) -> Problem:
        limit = self._limits.header_bytes
        return Problem(431, f"the headers have more than {limit:,} bytes", limit=limit)

    def _busy(self, reason: str) -> Problem:
        return Problem(503, reason, headers={"Retry-After": str(self._limits.retry_after)})

    @property
    def _has_body_to_take(self) -> bool:
        return self.cycle is not None and bool(self.cycle.body) and not self.cycle.response_complete

    @property
    def _owes_answer(self) -> bool:
        """Whether a request before the one that is being received has no answer yet."""
        if self.cycle is None or self.pipeline:
            return self.cycle is not None
        is_received = self._is_in_head or not self.cycle.more_body
        return is_received and not self.cycle.response_complete

    def _refuse(self, problem: Problem) -> None:
        """Answer, then close the connection; without an answer of its own if an earlier request has none yet."""
        if self._owes_answer:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        is_current = self.cycle is not None and not self._is_in_head and self.cycle.more_body
        if not (is_current and self.cycle.response_started):
            self._answer(problem)
        if is_current:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._hang_up()

    def _answer(self, problem: Problem) -> None:
        answer = problem.response()
        first = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()
        headers = [b"%b: %b" % each for each in (*answer.raw_headers, (b"connection", b"close"))]
        self.transport.write(b"\r\n".join([first, *headers, b"", bytes(answer.body)]))
        self._meters.requests[problem.status] += 1

    def _hang_up(self) -> None:
        self._is_refused = True
        self._end_request()
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(_LINGER_SECONDS, self.transport.close)
