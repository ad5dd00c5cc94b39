"""The connections of the HTTP sink. They bound an answer before it is parsed.

All sends of a process share one event loop, and aiohttp parses everything that arrives. Without bounds, a receiver that
sends interim answers, further answers or chunks of one byte without end would occupy the loop.
"""

from http import HTTPStatus
from typing import Any

from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.http_exceptions import HttpProcessingError

# The limits of one answer: of all its heads, of its body, of the answers 1xx before the final one, and of what is around
# the body's chunks (4 KiB are about 800 chunks of one byte).
HEAD_BYTES = READ_BYTES = 64 * 1024
MAX_INTERIM_ANSWERS = 16
MAX_FRAMING_BYTES = 4 * 1024

# The parser gets this much at once, so that it cannot exceed a limit by far.
_SLICE_BYTES = 2 * 1024
_END_OF_HEAD = b"\r\n\r\n"
_INTERIM = frozenset(range(100, 200)) - {HTTPStatus.SWITCHING_PROTOCOLS}


class AnswerCutOff(Exception):
    """The rest of an answer's body was not read, since it exceeds a limit."""


class BoundedConnection(ResponseHandler):
    """A connection that parses one answer per request, up to its limits, and closes if more arrives.

    It feeds the head to the parser first. So the status is kept if the body has bad chunks: aiohttp drops a head in the
    same packet, or waits for more data.
    """

    _body: StreamReader | None = None  # set when the final head has been parsed
    _fed_bytes = 0  # of the heads; then of the body
    _interim_answers = 0

    def set_response_params(self, **params: Any) -> None:
        """Prepare for the answer to the next request."""
        self._body = None
        self._fed_bytes = self._interim_answers = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, up to the first limit."""
        if self._parser is None or not data:
            super().data_received(data)
            return
        start = 0
        while start < len(data):
            body, end = self._body, start + _SLICE_BYTES
            if body is None:
                if (found := data.find(_END_OF_HEAD, start, end)) >= 0:
                    end = found + len(_END_OF_HEAD)
            elif body.is_eof():
                # Otherwise, it could be mistaken for the answer to the next event.
                self._hang_up()
                return
            piece = data[start:end]
            self._fed_bytes += len(piece)
            super().data_received(piece)
            if not self._may_continue():
                return
            start = end

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Take a head from the parser: keep the first final one, and count the interim ones."""
        message, body = data
        if self._body is not None:
            self.force_close()
        elif message.code in _INTERIM:
            self._interim_answers += 1
        else:
            self._body, self._fed_bytes = body, 0
            super().feed_data(data, size)

    def _may_continue(self) -> bool:
        """Return whether more may be parsed; otherwise, the reader of the answer gets an error if it needs one."""
        body = self._body
        if self._exception is not None:
            if body is not None and not body.is_eof():
                body.set_exception(self._exception)
            return False
        if body is None:
            return self._may_continue_heads()
        if body.is_eof():
            return True
        if self._fed_bytes - body.total_bytes > MAX_FRAMING_BYTES:
            self._hang_up()
            body.set_exception(AnswerCutOff("was cut off: too many chunks or trailers"))
            return False
        return body.total_bytes < READ_BYTES  # the sink reads no more, and closes the connection

    def _may_continue_heads(self) -> bool:
        if self._interim_answers > MAX_INTERIM_ANSWERS:
            problem = f"it has more than {MAX_INTERIM_ANSWERS} interim answers"
        elif self._fed_bytes > HEAD_BYTES:
            problem = f"its head has more than {HEAD_BYTES // 1024} KiB"
        else:
            return True
        self._hang_up()
        self.set_exception(HttpProcessingError(code=HTTPStatus.BAD_REQUEST, message=problem))
        return False

    def _hang_up(self) -> None:
        """Close at once, and keep what was parsed for its reader."""
        self.force_close()
        transport, self.transport, self._payload = self.transport, None, None
        if transport is not None:
            transport.abort()
