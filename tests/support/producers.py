"""Producers that send events over HTTP, and repeat each request until it is answered 202, as the documentation says."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

_ACCEPTED, _UNAVAILABLE = 202, 503
_PAUSE_SECONDS = 0.02
# Every second request has one event, which shares a transaction with others; the others are batches of this many.
_BATCH = 20
_KIND = "application/cloudevents+json"
_BATCH_KIND = "application/cloudevents-batch+json"


@dataclass
class Producers:
    """Threads that send events of their own to one server, each over a connection that it keeps.

    Attributes:
        answered: the ids of the events that were answered 202, and whether the answer called them duplicates.
        repeated: the number of requests that had to be repeated.
        problems: other answers.
        pause: the time between two requests of a producer, in seconds.
    """

    make_client: Callable[[], httpx.Client]
    pause: float = 0.0
    answered: dict[str, bool] = field(default_factory=dict)
    repeated: int = 0
    problems: list[str] = field(default_factory=list)
    _is_done: threading.Event = field(default_factory=threading.Event)
    _is_over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def duplicates(self) -> int:
        """The events that were stored, but whose first answer was lost."""
        return sum(self.answered.values())

    @contextmanager
    def at_work(self, number: int = 4) -> Iterator[None]:
        """Run producers during the block, or until ``finish``."""
        self._threads = [threading.Thread(target=self._produce, args=(each,)) for each in range(number)]
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            self.finish()

    def finish(self) -> None:
        """Wait until each producer has got the answer to its request."""
        self._is_done.set()
        for thread in self._threads:
            thread.join()

    def _produce(self, number: int) -> None:
        ids = (f"{number}-{n}" for n in itertools.count())
        sizes = itertools.cycle((1, _BATCH))
        with self.make_client() as client:
            while not self._is_done.is_set() and not self.problems:
                self._send(client, list(itertools.islice(ids, next(sizes))))
                self._is_done.wait(self.pause)

    def _send(self, client: httpx.Client, ids: list[str]) -> None:
        events = [
            {"specversion": "1.0", "id": each, "type": "t", "source": "/s", "data": each} for each in ids
        ]
        while (answer := self._post(client, events)) is None:
            self.repeated += 1
            if self._is_over.wait(_PAUSE_SECONDS):
                return
        if answer.status_code != _ACCEPTED:
            self.problems.append(f"{answer.status_code} {answer.text}")
            return
        found = answer.json()["events"]
        if [each["id"] for each in found] != ids:
            self.problems.append(f"the answer to {ids} was {found}")
        self.answered |= {each["id"]: each["duplicate"] for each in found}

    def _post(self, client: httpx.Client, events: list[dict]) -> httpx.Response | None:
        """Return the answer; None if the request has to be repeated."""
        kind, body = (_KIND, events[0]) if len(events) == 1 else (_BATCH_KIND, events)
        try:
            answer = client.post(
                "/events", params={"endpoint": "shop"}, json=body, headers={"content-type": kind}
            )
        except httpx.TransportError:
            return None
        return None if answer.status_code == _UNAVAILABLE else answer
