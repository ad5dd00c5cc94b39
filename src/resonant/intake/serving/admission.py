"""The outermost layer of the application: bounds what all requests hold together, and measures each."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resonant.intake.limits import TURN, IntakeLimits
from resonant.intake.meters import Meters
from resonant.intake.problems import Problem

logger = logging.getLogger(__name__)

_LOG_SECONDS = 60.0
_REFUSED = 400


class RequestAdmission:
    """An ASGI application that admits requests to another one.

    Args:
        app: answers the requests. It turns a ``Problem`` that ``receive`` raises into an answer.
        limits: bound the bodies in memory, and the requests that wait.
        meters: count requests and what they hold.
    """

    def __init__(self, app: ASGIApp, limits: IntakeLimits, meters: Meters) -> None:
        self._app = app
        self._limits = limits
        self._meters = meters
        self._refusals = RefusalLog()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_at = perf_counter()
        request = _AdmittedRequest(scope, receive, send, self._limits, self._meters)
        try:
            async with request.timeout:
                extensions = {TURN: request.in_turn}
                await self._app({**scope, "extensions": extensions}, request.receive, request.send)
        except asyncio.CancelledError:
            await request.give_up("the server stops")
        except Exception:
            if not request.timeout.expired():
                logger.exception("a request failed")
            await request.give_up_late()
        finally:
            request.release()
            if not request.is_gone:
                self._meters.observe(request.status, perf_counter() - began_at)
                self._refusals.note(request.status)


class RefusalLog:
    """Logs how many requests were refused: one line a minute, so that a flood of requests does not fill the log."""

    def __init__(self) -> None:
        self._numbers: Counter[int] = Counter()

    def note(self, status: int) -> None:
        """Count an answer with this status, if it is a refusal."""
        if status < _REFUSED:
            return
        if not self._numbers:
            asyncio.get_running_loop().call_later(_LOG_SECONDS, self._log)
        self._numbers[status] += 1

    def _log(self) -> None:
        numbers = ", ".join(f"{number:,} with {status}" for status, number in sorted(self._numbers.items()))
        logger.warning("refused requests in the last minute: %s", numbers)
        self._numbers.clear()


class _AdmittedRequest:
    def __init__(
        self, scope: Scope, receive: Receive, send: Send, limits: IntakeLimits, meters: Meters
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._meters = meters
        self._size = 0
        self._is_waiting = False
        self.timeout = asyncio.timeout(limits.store_seconds)
        self._awaits_continue = any(name == b"expect" for name, _ in scope["headers"])
        self.status = 0
        self.is_gone = False
        self.is_in_turn = False

    async def receive(self) -> Message:
        """Return the next part of the body.

        Raises:
            Problem: 503; all requests together are too large, or too many requests wait.
        """
        self._awaits_continue = False  # uvicorn sends 100 Continue
        self.timeout.reschedule(None)  # the connection bounds the time of the client
        message = await self._receive()
        self._begin_to_wait(self._limits.store_seconds)
        if message["type"] == "http.disconnect":
            self.is_gone = True
            return message
        self._hold(len(message["body"]))
        if not message["more_body"]:
            self._wait()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self._awaits_continue:
                # The client may or may not send the body, so the start of its next request is unknown.
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        await self._send(message)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """While a large body waits and is parsed, apply the time limit for turns instead of that for the store."""
        self._begin_to_wait(self._limits.turn_seconds)
        self.is_in_turn = True
        self._meters.in_turn += 1
        try:
            yield
        finally:
            self._meters.in_turn -= 1
        self.is_in_turn = False
        self._begin_to_wait(self._limits.store_seconds)

    async def give_up_late(self) -> None:
        """Answer 503 after a request has waited for too long, unless an answer has begun."""
        limits = self._limits
        if self.is_in_turn:
            reason = (
                f"a large body was not parsed within {limits.turn_seconds:g} s, since others came before it"
            )
            await self.give_up(reason, limits.turn_retry_after)
        else:
            await self.give_up(f"the store did not answer within {limits.store_seconds:g} s")

    async def give_up(self, reason: str, retry_after: int | None = None) -> None:
        """Answer 503, unless an answer has begun."""
        if not self.status:
            logger.warning("answered 503: %s", reason)
            await self._busy(reason, retry_after).response()(self._scope, self.receive, self.send)

    def release(self) -> None:
        """Free what the request has held."""
        self._meters.held_bytes -= self._size
        self._meters.waiting -= self._is_waiting

    def _hold(self, size: int) -> None:
        is_small = self._size + size <= self._limits.free_bytes
        if not is_small and self._meters.held_bytes + size > self._limits.held_bytes:
            raise self._busy("the requests of all clients are too large together")
        self._size += size
        self._meters.held_bytes += size

    def _wait(self) -> None:
        if self._meters.waiting - self._meters.in_turn >= self._limits.waiting:
            raise self._busy("too many requests wait for the store")
        self._is_waiting = True
        self._meters.waiting += 1

    def _begin_to_wait(self, seconds: float) -> None:
        self.timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    def _busy(self, reason: str, retry_after: int | None = None) -> Problem:
        seconds = retry_after or self._limits.retry_after
        headers = {"Retry-After": str(seconds)}
        return Problem(503, f"{reason}: send the same request again in {seconds} s", headers=headers)
