"""The rig of the fault suite: an emission with real parts, and the accounts that must be consistent after each fault.

``RESONANT_CHAOS=long`` is the long form, as in the kill suite.
"""

import asyncio
import itertools
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
from chaos_facts import Database, Look, histories, problems_of_journal, sent_beyond_records

from resonant.delivery.attempt import Destination
from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.counts import Counts
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limiting.ahead import PrefetchWindow
from resonant.dispatch.limits import Limits
from resonant.errors import StoreUnavailable
from resonant.events import Clock, Event
from resonant.store import WorkerStore
from support.dispatching import dispatching, emit, http_target, opened
from support.machine import Machine
from support.receivers import ReceiverProcess
from support.waiting import until

IS_LONG = os.environ.get("RESONANT_CHAOS", "short") == "long"
PROJECT = Path(__file__).parents[2]
ENDPOINT = "hooks"
DATABASE = "faults"  # in PostgreSQL
# It outlasts every fault here, and is quick.
POLICY = RetryPolicy(max_attempts=12, base=0.1, factor=2.0, cap=0.5, park_after=10.0)
# The lane auto sends in chunks as the lane bulk does, and single deliveries beside them.
_OF_LANES: dict[str, dict[str, int]] = {
    "task": {},
    "bulk": {"chunk_size": 100},
    "auto": {"chunk_size": 100, "alone": 20},
}
# `make test` tries the faults in the task lane.
LANES = pytest.mark.parametrize("lane", ["task", pytest.param("auto", marks=pytest.mark.slow)])
# The short form of the suite tests most faults in one lane, and the long form in each.
TASK_LANE_FIRST = LANES if IS_LONG else pytest.mark.parametrize("lane", ["task"])
BULK_LANE_FIRST = pytest.mark.parametrize("lane", list(_OF_LANES) if IS_LONG else ["bulk"])
AUTO_LANE_FIRST = LANES if IS_LONG else pytest.mark.parametrize("lane", ["auto"])
_LIMITS = Limits(concurrency=32, endpoint_concurrency=16)
_PATIENCE_SECONDS = 120.0
_numbers = itertools.count()


def most_begun(lane: str, width: int = _LIMITS.endpoint_concurrency) -> int:
    """Return how many sends to one endpoint may have begun without an outcome in the store.

    In the task lane each has a slot, and the commit of its outcome begins the next one. Chunks begin more ahead.
    """
    return width if lane == "task" else width * (PrefetchWindow.MOST_BEGUN + 1)


def long_form_only(why: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not IS_LONG, reason=f"{why}: RESONANT_CHAOS=long")


def make_events(count: int, event_type: str = "chaos.good") -> list[Event]:
    """Make events with unique ids and bodies."""
    numbers = [next(_numbers) for _ in range(count)]
    return [
        Event(type=event_type, source="/chaos", data={"n": n, "x": "ü" * (n % 40)}, id=f"fault-{n:06d}")
        for n in numbers
    ]


def write_lines(path: Path, events: Sequence[Event]) -> Path:
    """Write events as JSON Lines, as commands read them."""
    lines = [
        json.dumps(
            {"id": event.id, "type": event.type, "source": event.source, "data": json.loads(event.body)}
        )
        for event in events
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@dataclass
class Fault:
    """A store, a receiver, and the events that were stored for it.

    Attributes:
        url: the store's URL.
        receiver: the receiver's journal.
        host: the host in the endpoint's URL.
        timeout: the timeout of an attempt, in seconds.
        timeouts: the timeouts of other endpoints, by name.
        more_receivers: the journals of other endpoints' receivers.
        given: the bodies that the store must have, by event id.
        failure: the error of the last emission that failed.
        refused: how many transactions of emissions the store has refused.
        renewals: how often emissions have renewed their leases.
    """

    url: str
    receiver: ReceiverProcess
    lane: str = "task"
    lease_seconds: float = 30.0
    policy: RetryPolicy = POLICY
    clock: Clock = time.time
    host: str = "127.0.0.1"
    timeout: float = 30.0
    timeouts: dict[str, float] = field(default_factory=dict)
    more_receivers: tuple[ReceiverProcess, ...] = ()
    given: dict[str, bytes] = field(default_factory=dict)
    failure: Exception | None = None
    refused: int = 0
    renewals: int = 0

    def __post_init__(self) -> None:
        self.receiver.mark()
        self._requests_before = self.requests

    async def enqueue(
        self, count: int, endpoint: str = ENDPOINT, *, store: WorkerStore | None = None
    ) -> set[str]:
        """Store this many events, through an open store if one is given, and return their ids."""
        events = make_events(count)
        async with nullcontext(store) if store else self.opened_store() as opened_one:
            await opened_one.enqueue(events, endpoint)
        self.given |= {event.id: event.body for event in events}
        return {event.id for event in events}

    def opened_store(self, url: str | None = None) -> AbstractAsyncContextManager[WorkerStore]:
        """Open the store, at another URL if one is given."""
        return opened(url or self.url, clock=self.clock, lease_seconds=self.lease_seconds)

    def opened_emission(
        self,
        store: WorkerStore,
        *,
        owner: str = "worker",
        urls: dict[str, str] | None = None,
        **limits: float,
    ) -> AbstractAsyncContextManager[Dispatcher]:
        urls = urls or {ENDPOINT: self.receiver.url.replace("127.0.0.1", self.host)}

        async def open_destination(name: str) -> Destination:
            return http_target(name, urls[name], timeout=self.timeouts.get(name, self.timeout))

        return dispatching(
            store,
            None,
            open_destination=open_destination,
            policy=self.policy,
            seed=None,
            owner=owner,
            limits=replace(_LIMITS, **_OF_LANES[self.lane] | limits),
        )

    async def emit(self, **options) -> Counts:
        """Run one emission to its end."""
        self.failure = None
        try:
            async with (
                asyncio.timeout(_PATIENCE_SECONDS),
                self.opened_store() as store,
                self.opened_emission(store, **options) as dispatcher,
            ):
                self._watch(store)
                return await emit(dispatcher)
        except Exception as error:
            self.failure = error
            raise

    def _watch(self, store: WorkerStore) -> None:
        def noting(write):
            async def note(*args, **options):
                try:
                    return await write(*args, **options)
                except StoreUnavailable:
                    self.refused += 1
                    raise

            return note

        async def renew(*args, **options):
            self.renewals += 1
            return await renew_in_store(*args, **options)

        renew_in_store, store.renew = store.renew, renew
        store.write, store.write_unsynced = noting(store.write), noting(store.write_unsynced)

    async def when_refused(self) -> None:
        """Wait until the store refuses a transaction of the emission from now on, and one more."""
        before = self.refused
        await until(lambda: self.failure or self.refused >= before + 2)
        if self.failure is not None:
            raise self.failure

    async def started(self, count: int, *, received: int) -> asyncio.Task[Counts]:
        """Store this many events, start to emit them, and wait until the receiver has this many requests."""
        await self.enqueue(count)
        emitting = asyncio.create_task(self.emit())
        await self.when_received(received)
        return emitting

    async def emit_all(self, **options) -> None:
        """Emit until no delivery is unfinished."""
        async with asyncio.timeout(_PATIENCE_SECONDS), self.opened_store() as store:
            while await store.unfinished():
                async with self.opened_emission(store, owner="after", **options) as dispatcher:
                    await emit(dispatcher)
                await asyncio.sleep(0.05)

    async def is_settled(self) -> bool:
        """Return whether every delivery has ended."""
        async with self.opened_store() as store:
            return not await store.unfinished()

    def all_leases_have_expired(self) -> bool:
        leased = "SELECT max(available_at) AS ends_at FROM resonant_deliveries WHERE lease_owner IS NOT NULL"
        [row] = Database(self.url).query(leased)
        return row["ends_at"] is not None and row["ends_at"] < time.time()

    async def when_received(self, count: int) -> None:
        """Wait until the receiver has this many requests; if the emission fails before, raise its error."""
        await until(lambda: self.failure or self.requests - self._requests_before >= count)
        if self.failure is not None:
            raise self.failure

    @property
    def requests(self) -> int:
        return self.receiver.path.read_bytes().count(b"\n")

    def account(self, *, most_twice: int = 0, dead: dict[str, int] | None = None) -> Counter[str]:
        """Compare the stored events, the receiver's journal and the store.

        Args:
            most_twice: the most requests without a recorded attempt.
            dead: the number of dead letters, by reason.
        """
        database = Database(self.url)
        with database.opened() as snapshot:
            look = Look.at(snapshot)
        stored = histories(database)
        received = self.receiver.received()
        for each in self.more_receivers:
            received |= each.received()
        problems = [*look.problems(), *(problem for each in stored.values() for problem in each.problems())]
        if stored.keys() != self.given.keys():
            lost, unknown = self.given.keys() - stored.keys(), stored.keys() - self.given.keys()
            problems.append(f"{len(lost)} are lost, {len(unknown)} are unknown")
        problems += problems_of_journal(stored, received, self.given.get)
        twice = sum(sent_beyond_records(stored, received).values())
        if twice > most_twice:
            problems.append(f"{twice} requests without a recorded attempt, at most {most_twice} expected")
        reasons = Counter(
            each.delivery["reason"] for each in stored.values() if each.delivery["status"] == "dead_letter"
        )
        if reasons != (dead or {}):
            problems.append(f"dead letters: {dict(reasons)}, expected {dead or {}}")
        assert not problems, "\n".join(problems[:20])
        return look.statuses + Counter(twice=twice, received=sum(map(len, received.values())))

    def attempts(self, columns: str) -> list[dict]:
        return Database(self.url).query(f"SELECT {columns} FROM resonant_attempts")


def machine_of(home: Path, store_url: str, prefect_api: str = "", **variables: str) -> Machine:
    """Return a machine whose commands use this store and the faults' policy."""
    fixed = {
        "RESONANT_DATABASE_URL": store_url,
        "RESONANT_POLICIES": json.dumps({"faults": asdict(POLICY)}),
        "RESONANT_DEFAULT_POLICY": "faults",
    }
    return Machine(home, prefect_api, fixed | variables)


def assert_one_line(finished: subprocess.CompletedProcess[str], *fragments: str) -> None:
    """Assert that the command failed with exactly one line of Resonant's that says why, and no traceback."""
    assert finished.returncode == 1, finished.stderr
    assert "Traceback" not in finished.stderr, finished.stderr
    assert "Traceback" not in finished.stdout, finished.stdout
    lines = [line for line in finished.stderr.splitlines() if line.startswith("resonant: ")]
    assert len(lines) == 1, finished.stderr
    for fragment in fragments:
        assert fragment in lines[0]


def note_figures(name: str, figures: dict[str, object]) -> None:
    """Print figures, and add them to a file beside the kill suite's report, if there is one."""
    print(f"{name}: {json.dumps(figures)}")
    if report := os.environ.get("RESONANT_CHAOS_REPORT"):
        path = Path(report)
        path = path.with_name(f"{path.stem}-faults{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | {name: figures}, indent=1))
