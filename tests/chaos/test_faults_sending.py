"""Faults of the sender's own machine: names that do not resolve, a clock that jumps, no descriptor left."""

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from chaos_facts import Database
from faults import AUTO_LANE_FIRST, ENDPOINT, IS_LONG, LANES, POLICY, TASK_LANE_FIRST, Fault, most_begun

from resonant.dead_letters.replay import ReplayRequest, take_dead_letters
from resonant.delivery.retry import Retry, RetryPolicy
from resonant.store.audit import audited
from resonant.store.views.selection import Selection
from support.dispatching import emit
from support.receivers import started_receiver
from support.waiting import until

HOST = "hooks.example.test"
HOUR = 3600.0
_HOLDING = "SELECT state FROM resonant_gates WHERE state = 'probing'"


@pytest.fixture
def make_fault(sqlite_url, receiver, lane):
    def make(**fields) -> Fault:
        return Fault(sqlite_url, receiver, lane, **fields)

    return make


class Resolver:
    """The system's resolver for ``HOST``.

    Attributes:
        error: an ``EAI_`` number; None is an answer.
        asked: how often it was.
    """

    def __init__(self, real) -> None:
        self.error: int | None = None
        self.asked = 0
        self._real = real

    def __call__(self, host, *arguments, **options):
        if host != HOST:
            return self._real(host, *arguments, **options)
        self.asked += 1
        if self.error is not None:
            raise socket.gaierror(self.error, "the resolver says no")
        return self._real("127.0.0.1", *arguments, **options)


@pytest.fixture
def resolver(monkeypatch):
    made = Resolver(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


class TestNamesDoNotResolve:
    @TASK_LANE_FIRST
    async def test_for_a_while_and_everything_is_delivered_once_they_do(self, make_fault, resolver):
        fault = make_fault(host=HOST)

        await fault.enqueue(300)
        resolver.error = socket.EAI_AGAIN
        emitting = asyncio.create_task(fault.emit())
        await until(lambda: resolver.asked > 2)
        assert not emitting.done()
        resolver.error = None
        assert (await emitting).delivered == 300
        failed = Counter(
            (each["category"], each["code"])
            for each in fault.attempts("category, code, result")
            if each["code"]
        )
        assert failed.keys() == {("transient", "dns_temporary")}
        assert fault.account()["received"] == 300, "nothing was sent while there was no address"

    @pytest.mark.slow
    @AUTO_LANE_FIRST
    async def test_at_all_and_everything_is_held_until_they_do(self, make_fault, resolver):
        # The gate is down long before any delivery has failed three times.
        fault = make_fault(host=HOST, policy=RetryPolicy(base=3.0, factor=1.0, max_attempts=50))

        def is_held() -> bool:
            return Database(fault.url).query(_HOLDING) != []

        await fault.enqueue(100)
        resolver.error = socket.EAI_NONAME
        emitting = asyncio.create_task(fault.emit())
        await until(is_held, every=0.05)
        asked = resolver.asked
        await until(lambda: resolver.asked > asked)  # by a probe
        assert not emitting.done()
        resolver.error = None
        summary = await emitting
        assert (summary.delivered, summary.dead_letters) == (100, {})
        assert fault.account()["received"] == 100

    @TASK_LANE_FIRST
    async def test_for_two_deliveries_which_are_given_up_and_can_be_replayed(self, make_fault, resolver):
        fault = make_fault(host=HOST)

        await fault.enqueue(2)  # too few failures for the gate to hold anything
        resolver.error = socket.EAI_NONAME
        summary = await fault.emit()
        assert summary.dead_letters == {"exhausted": 2}
        assert summary.attempts == 2 * POLICY.unknown_max_attempts
        fault.account(dead={"exhausted": 2})

        resolver.error = None
        request = ReplayRequest(Selection(), everything=True)
        async with (
            fault.opened_store() as store,
            fault.opened_emission(store) as dispatcher,
            audited(store, who="test", action="replay", selection=request.as_dict()) as audit_id,
        ):

            async def emit_one(lease):
                while isinstance((await dispatcher.attempt(lease.key)).decision, Retry):
                    await asyncio.sleep(0.1)

            taken = take_dead_letters(store, request, owner="worker", audit_id=audit_id)
            await dispatcher.emit_given(emit_one, taken)

        assert fault.account()["delivered"] == 2


class JumpingClock:
    """The time, as an administrator or a time server may change it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture(scope="module")
def shaky_receiver(tmp_path_factory):
    with started_receiver(tmp_path_factory.mktemp("receiver"), "support.receiver_scripts:shaky") as started:
        yield started


class TestTheClockJumps:
    @LANES
    @pytest.mark.parametrize("jumps", [(HOUR, -HOUR), *[(HOUR,), (-HOUR,)] * IS_LONG])
    async def test_in_mid_run_and_only_sends_in_flight_are_repeated(
        self, sqlite_url, shaky_receiver, lane, jumps
    ):
        clock = JumpingClock()
        fault = Fault(sqlite_url, shaky_receiver, lane, clock=clock, lease_seconds=6.0)

        emitting = await fault.started(600, received=150)
        for number, jump in enumerate(jumps):
            await fault.when_received(150 * (number + 1))
            clock.ahead += jump
            # Until the leases are checked against the new time.
            checked = fault.renewals
            await until(lambda: emitting.done() or fault.renewals > checked)  # noqa: B023 - waits here
        await emitting
        # Events accepted or postponed by a clock that was ahead are due when that time comes.
        clock.ahead = max(0.0, clock.ahead) + HOUR
        await fault.emit_all()

        account = fault.account(most_twice=len(jumps) * most_begun(lane))
        assert account["delivered"] == 600
        attempts = fault.attempts("late, result")
        late = sum(bool(each["late"]) for each in attempts)
        # A jump ends every lease: each send in flight is charged once, and nothing is sent without a lease.
        assert account["twice"] == late <= sum(each["result"] == "lost" for each in attempts)


@contextmanager
def no_descriptor_left(but: int):
    """Take all but a few of the descriptors that this process may have; yield a function that gives them back."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def give_back() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        while taken:
            os.close(taken.pop())

    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, before[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(but):
            os.close(taken.pop())
        yield give_back
    finally:
        give_back()


class TestNoDescriptorIsLeft:
    @TASK_LANE_FIRST
    @pytest.mark.parametrize("but", [0, *[2] * IS_LONG])
    async def test_for_a_while_without_a_busy_loop_and_all_is_delivered_afterwards(self, make_fault, but):
        policy = RetryPolicy(max_attempts=20, base=0.2, factor=2.0, cap=0.5, park_after=10.0)
        fault = make_fault(policy=policy)

        await fault.enqueue(500)
        async with fault.opened_store() as store, fault.opened_emission(store) as dispatcher:
            # The store's connections for readers are open.
            await asyncio.gather(*(store.look() for _ in range(6)))
            # Opening the endpoint takes a descriptor too.
            assert not await dispatcher.unavailable_endpoints([ENDPOINT])
            with no_descriptor_left(but) as give_back:
                emitting = asyncio.create_task(emit(dispatcher))
                failed = dispatcher.counts.attempts
                await until(lambda: dispatcher.counts.attempts > failed + 100)
                assert not emitting.done()
                give_back()
                assert (await emitting).delivered == 500
        failed = [
            each for each in fault.attempts("category, code, blame, result") if each["result"] == "failed"
        ]
        verdicts = Counter((each["category"], each["code"], each["blame"]) for each in failed)
        assert verdicts.keys() == {("transient", "local_resources", "local")}
        # A wait of 0.2 to 0.5 s between two attempts: a busy loop makes thousands of them.
        assert verdicts.total() < 500 * 12
        fault.account()
