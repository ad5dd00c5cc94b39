"""The receivers of a world: each behaves badly in its own way, for a while."""

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from resonant.errors import UnexpectedStatus
from resonant.events import Event
from resonant.sinks.base import Receipt
from simulation.loop import Process, this_process

OK = "ok"
# What a receiver may do instead of answering 200; "removed": nobody can open its endpoint, but an open one still works.
MODES = ("refuse", "503", "429", "reset before", "reset after", "silent", "slow", "half", "flap", "removed")
_FLAP_SECONDS = 7.0


class Spell(NamedTuple):
    """A time during which a receiver behaves badly, in the loop's time."""

    since: float
    until: float
    mode: str


class Request(NamedTuple):
    """A request that has reached a receiver.

    Attributes:
        is_processed: whether the receiver has processed the event.
        is_answered: whether the sender gets the answer, if it lives.
        sent_at: when it was sent.
    """

    at: float
    endpoint: str
    event_id: str
    process: Process
    is_processed: bool
    is_answered: bool
    sent_at: float


class Receiver:
    """The receiver of one endpoint; also a ``Sink``.

    Args:
        name: of the endpoint.
        spells: when it behaves badly.
        latency: the usual duration of a request in seconds.
        timeout: of a request in seconds.
        bad_type: the event type that it always answers with 503.
        rate: of requests per second; None: no limit.
        concurrency: how many requests a process sends to it at the same time; None: no limit of its own.
        rng: draws durations and failures.
        on_request: called with each request that arrives.
        on_answer: called with the endpoint, the event and the process that has got an answer.
        on_retry_after: called with the endpoint, the event and until when nothing may be sent, when an answer with it has arrived.
    """

    def __init__(
        self,
        name: str,
        spells: list[Spell],
        *,
        latency: float,
        timeout: float,
        bad_type: str | None,
        rate: float | None,
        concurrency: int | None,
        rng: Random,
        world: Process,
        on_request: Callable[[Request], None],
        on_answer: Callable[[str, str, Process], None],
        on_retry_after: Callable[[str, str, float, Process], None],
    ) -> None:
        self.name, self.spells, self.bad_type = name, spells, bad_type
        self.latency, self.timeout = latency, timeout
        self.rate, self.concurrency = rate, concurrency
        self.is_fixed = False
        self.last_at = self.bad_at = 0.0
        self._sending: Counter[Process] = Counter()
        self._rng, self._world = rng, world
        self._on_request, self._on_answer, self._on_retry_after = on_request, on_answer, on_retry_after

    def mode(self, now: float) -> str:
        """Return the present behaviour."""
        for spell in self.spells:
            if spell.since <= now < spell.until:
                if spell.mode == "flap":
                    return "503" if int(now / _FLAP_SECONDS) % 2 else OK
                return spell.mode
        return OK

    @property
    def is_busy(self) -> bool:
        """Whether a living process is sending to it; sends of its bad type count only if they take the place of others."""
        return any(self._sending.values())

    def note_end(self, process: Process) -> None:
        """Note that a process was killed while it may have been sending."""
        if self._sending.pop(process, 0):
            self.last_at = process.loop.time()

    def end_spells(self) -> None:
        """End all spells but those that flap for ever."""
        now = self._world.loop.time()
        self.spells = [
            each if each.mode == "flap" else each._replace(until=min(each.until, now)) for each in self.spells
        ]

    def is_healthy_since(self, at: float) -> bool:
        """Return whether it has answered well since a time, except to its bad type, and was not removed for a minute before."""
        return all(spell.until + 60.0 * (spell.mode == "removed") < at for spell in self.spells)

    def _fails(self, event: Event) -> bool:
        return event.type == self.bad_type and not self.is_fixed

    async def connect(self) -> None:
        """Connect without a request."""
        await asyncio.sleep(0.001)
        if self.mode(asyncio.get_running_loop().time()) == "refuse":
            raise ConnectionRefusedError("refused")

    async def send(self, event: Event) -> Receipt:
        """Send an event; the receiver gets it even if the sender is killed meanwhile."""
        loop, rng, is_bad = asyncio.get_running_loop(), self._rng, self._fails(event)
        counts = not is_bad or self.concurrency is not None
        self._sending[this_process()] += counts
        sent_at = loop.time()
        try:
            await asyncio.sleep(rng.uniform(0.0, 0.002))
            answer = loop.create_future()
            # Not in the process of the sender.
            self._world.call(
                self._arrive,
                event,
                this_process(),
                sent_at,
                answer,
                after=rng.uniform(0.0, 0.2) * self.latency,
            )
            status, retry_after = await answer
            self._on_answer(self.name, event.id, this_process())
        finally:
            self._sending[this_process()] -= counts
            if is_bad:
                self.bad_at = loop.time()
            if counts:
                self.last_at = loop.time()
        if status is None:
            raise ConnectionResetError(f"reset by the receiver of {event.body!r}")
        if status == 0:
            raise ConnectionRefusedError("refused")
        if status != 200:
            if retry_after is not None:
                self._on_retry_after(self.name, event.id, loop.time() + retry_after, this_process())
            text = None if retry_after is None else str(retry_after)
            raise UnexpectedStatus(status, text, excerpt=event.body.decode())
        return Receipt(status)

    def _arrive(
        self,
        event: Event,
        process: Process,
        sent_at: float,
        answer: "asyncio.Future[tuple[int | None, int | None]]",
    ) -> None:
        loop, rng = self._world.loop, self._rng
        now, mode, after = loop.time(), self.mode(loop.time()), self.latency * rng.uniform(0.5, 1.5)
        status: int | None = 200
        retry_after: int | None = None
        if mode in ("refuse", "reset before"):
            status, after = (0 if mode == "refuse" else None), 0.001
        elif mode in ("503", "429") or (mode == "half" and rng.random() < 0.5):
            status, after = (429 if mode == "429" else 503), 0.003
            if mode == "429" or rng.random() < 0.3:
                retry_after = rng.randrange(1, 40)
        elif mode == "slow":
            after = rng.uniform(0.5, 5.0)
        elif self._fails(event):
            status = 503
        elif event.type == "order.refused":
            status = 400
        is_lost = mode == "reset after" and rng.random() < 0.5
        is_silent = mode == "silent"
        if mode not in ("refuse", "reset before"):
            is_processed = status == 200
            is_answered = not (is_lost or is_silent)
            self._on_request(Request(now, self.name, event.id, process, is_processed, is_answered, sent_at))
        if not is_silent:
            result = (None, None) if is_lost else (status, retry_after)
            self._world.call(self._answer, answer, result, after=after)

    @staticmethod
    def _answer(
        answer: "asyncio.Future[tuple[int | None, int | None]]", result: tuple[int | None, int | None]
    ) -> None:
        if not answer.done():
            answer.set_result(result)
