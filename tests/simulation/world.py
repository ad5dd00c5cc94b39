"""A world: processes, a database, receivers and operators, and what happens to them."""

import asyncio
import gc
import hashlib
import math
import sys
from collections import Counter
from functools import partial
from random import Random
from unittest.mock import patch

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.flights import flights
from resonant.dispatch.limits import LANES, Limits
from resonant.errors import EndpointError, StoreUnavailable, UnknownEndpoint
from resonant.store import WorkerStore
from resonant.store.shared.erased import make_erasure_key
from simulation.broken import Broken
from simulation.database import OpenServer, SimulatedDatabase, SQLiteServer, Trouble
from simulation.loop import Process, WorldLoop
from simulation.observer import Observer
from simulation.operators import ACTIONS, emit_one, operate
from simulation.plan import CALM_SECONDS, NEWEST_OPERATOR, TYPES, Fault, Plan
from simulation.producers import Producers
from simulation.receivers import MODES, Receiver, Spell

_START = 1_800_000_000.0
_POLICY = RetryPolicy(max_attempts=8, base=1.0, factor=2.0, cap=30.0, park_after=10.0)
_TROUBLES = (
    Trouble(fails=0.3),
    Trouble(loses=0.3),
    Trouble(slow=0.1, seconds=40.0),
    Trouble(fails=0.03, loses=0.03, slow=0.03, seconds=20.0),
    Trouble(fails=1.0),
)
# All deliveries are final this long after the last fault: a Retry-After, then the whole backoff, at an endpoint that flaps.
SETTLED_SECONDS = 900.0
_LOOK_SECONDS = 1.0
# Only the deaths of processes on the first machine are seen by others.
_FIRST_MACHINE = ("w0", "w1", "operator")


class World:
    """One run of a plan.

    Attributes:
        trace: what happened, one line each.
        has_little_memory: whether claims often wait for memory, so that endpoints may be idle.
        are_runs_long: whether only faults end the runs, so that nothing else renews what they remember.
        most_bytes: the most bytes of bodies in flight in one process.
        workers: the living process of each slot, and the operator that started last.
        dispatchers: by the owner of their leases, with their processes.
        drains: the processes of the present runs, since when they run, and their ends, by owner.
    """

    def __init__(self, plan: Plan, open_server: OpenServer = SQLiteServer) -> None:
        self.plan = plan
        self.trace: list[str] = []
        self.loop = WorldLoop(self.rng("order"))
        self.host = Process("host", self.loop)
        self.server_ahead = 0.0
        self.has_little_memory = self.rng("memory").random() < 0.3
        self.are_runs_long = self.rng("runs").random() < 0.8
        self.most_bytes = 15_000 if self.has_little_memory else flights.MOST_BYTES
        self.clock_of: dict[Process, float] = {}
        self.server = open_server(self.clock, self.rng("database"))
        self.is_over = False
        self.drains: dict[str, tuple[Process, float, float]] = {}
        self.endpoints = [f"e{number}" for number in range(plan.endpoints)]
        self.observer = Observer(self)
        self.receivers = {name: self._receiver(name) for name in self.endpoints}
        self.workers: dict[int, Process] = {}
        self.dispatchers: dict[str, tuple[Process, Dispatcher]] = {}
        self.processes: dict[str, Process] = {}
        self._until: dict[tuple[object, str], float] = {}
        self._numbers: Counter[str] = Counter()
        self.producers = Producers(self)

    def rng(self, name: str) -> Random:
        """Return a generator of the seed, for one purpose."""
        return Random(f"{self.plan.seed}/{name}")

    def clock(self) -> float:
        """Return the time of the database's server."""
        return _START + self.loop.time() + self.server_ahead

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.loop.time() - 1_000:9.4f} {text}")

    def process(self, name: str, ahead: float = 0.0) -> Process:
        """Start a process whose clock is ahead by this many seconds."""
        self._numbers[name] += 1
        process = Process(f"{name}.{self._numbers[name]}", self.loop)
        self.clock_of[process] = ahead
        self.processes[process.name] = process
        return process

    def open_store(self, process: Process) -> WorkerStore:
        """Open the store in a process, whose clock may be fast or slow."""
        drift = self.rng(f"drift {process.name}").choice((0.0, 0.0, 0.01, -0.01))
        return WorkerStore(
            SimulatedDatabase(self.server),
            process_clock=lambda: _START + self.loop.time() * (1 + drift) + self.clock_of[process],
            steady=self.loop.time,
            lease_seconds=self.plan.lease_seconds,
        )

    def dispatcher(self, process: Process, owner: str, limits: Limits | None = None) -> Dispatcher:
        """Return a dispatcher on a new connection to the store."""
        store = self.open_store(process)
        runner = AttemptRunner(clock=store.clock, rng=self.rng(owner), policy=lambda _name: _POLICY)
        found = Dispatcher(
            store,
            runner,
            self._open_destination,
            owner=owner,
            limits=limits,
            process=lambda: process.name,
            has_ended=self.has_ended,
        )
        self.dispatchers[owner] = (process, found)
        return found

    def has_ended(self, name: str) -> bool:
        """Return whether the process with this name has ended, if it was on the first machine."""
        return name.startswith(_FIRST_MACHINE) and not self.processes[name].is_alive

    # The run.

    def run(self) -> None:
        """Run the plan, and then until all is settled.

        Raises:
            Broken: an invariant does not hold.
        """
        key = patch.dict(make_erasure_key.__kwdefaults__, draw=lambda _bytes: "0" * 64)
        try:
            with key, patch.object(flights, "MOST_BYTES", self.most_bytes):
                self.loop.run_until_complete(self.host.start(self._run()))
        finally:
            self._bury()

    def digest(self) -> str:
        """Return a hash of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    async def _run(self) -> None:
        begin = self.loop.time()
        for fault in self.plan.faults:
            self.host.call(self._happen, fault, after=fault.at)
        for slot in range(self.plan.processes):
            self._start_worker(slot)
        self.producers.start()
        while self.loop.time() < begin + self.plan.seconds:
            await self._pass(_LOOK_SECONDS)
        self._heal()
        until = self.loop.time() + SETTLED_SECONDS
        self.host.call(self._resume_all, after=CALM_SECONDS)  # also what an operator has paused meanwhile
        while not self.producers.are_done or self.observer.unfinished():
            if self.loop.time() >= until:
                raise Broken("finality", self.observer.why_unfinished())
            await self._pass(_LOOK_SECONDS)
        await self._pass(10.0)
        self.say("settled")
        self.observer.check_end()

    async def _pass(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.observer.broken is not None:
            raise self.observer.broken
        self.observer.look()

    def _heal(self) -> None:
        self.say("the faults end")
        self.is_over = True
        self.observer.end_faults()
        self.server.is_away, self.server.locked_until, self.server.trouble = False, 0.0, Trouble()
        for process in self.processes.values():
            process.is_frozen = False
        for receiver in self.receivers.values():
            receiver.end_spells()
            self.host.call(setattr, receiver, "is_fixed", True, after=CALM_SECONDS)
        self._resume_all()

    def _resume_all(self) -> None:
        for (name,) in self.server.query("SELECT endpoint FROM resonant_gates WHERE state = 'paused'"):
            self.start_operator("resume", name)

    def start_operator(self, action: str, endpoint: str) -> None:
        """Start a process for one action of an operator."""
        process = self.workers[NEWEST_OPERATOR] = self.process("operator")
        process.start(self._try_to_operate(process, action, endpoint))

    def _happen(self, fault: Fault) -> None:
        self.say(f"fault: {fault}")
        if fault.kind in MODES:
            now = self.loop.time()
            self.receivers[self.endpoints[fault.of]].spells.append(
                Spell(now, now + fault.seconds, fault.kind)
            )
        elif fault.kind in ACTIONS:
            self.start_operator(fault.kind, self.endpoints[fault.of])
        else:
            getattr(self, f"_{fault.kind.replace(' ', '_')}")(fault)

    def _kill(self, fault: Fault) -> None:
        if (process := self._living(fault)) is not None:
            self.kill(process)
            if fault.of != NEWEST_OPERATOR:
                self.host.call(self._start_worker, fault.of, after=max(0.2, fault.seconds))

    def _stop(self, fault: Fault) -> None:
        if (process := self._living(fault)) is not None:
            self.observer.stopping.add(process)
            for task in process.tasks:
                task.cancel()

    def _freeze(self, fault: Fault) -> None:
        if (process := self._living(fault)) is not None:
            process.is_frozen = True
            self.observer.note_harm(process, fault.seconds)
            self._end_later(process, "is_frozen", False, fault.seconds)

    def _living(self, fault: Fault) -> Process | None:
        process = self.workers.get(fault.of)
        return process if process is not None and process.is_alive else None

    def _set_clock(self, fault: Fault) -> None:
        self.clock_of[self.workers[fault.of]] += fault.amount

    def _set_server_clock(self, fault: Fault) -> None:
        self.server_ahead += fault.amount
        self.observer.note_set_clock(fault.amount)

    def _away(self, fault: Fault) -> None:
        self.server.is_away = True
        self.observer.note_outage(fault.seconds, is_complete=True)
        self._end_later(self.server, "is_away", False, fault.seconds)

    def _lock(self, fault: Fault) -> None:
        self.server.locked_until = max(self.server.locked_until, self.loop.time() + fault.seconds)
        self.observer.note_outage(fault.seconds, is_complete=True)

    def _trouble(self, fault: Fault) -> None:
        if self.server.trouble.fails == 1.0:
            return
        self.server.trouble = _TROUBLES[fault.of]
        self.observer.note_outage(fault.seconds, is_complete=self.server.trouble.fails == 1.0)
        self._end_later(self.server, "trouble", Trouble(), fault.seconds)

    def _end_later(self, holder: object, name: str, calm: object, seconds: float) -> None:
        """End a fault, unless another of its kind lasts longer."""
        key, until = (holder, name), self.loop.time() + seconds
        self._until[key] = max(self._until.get(key, 0.0), until)

        def end() -> None:
            if self.loop.time() >= self._until[key]:
                setattr(holder, name, calm)

        self.host.call(end, after=seconds)

    async def _try_to_operate(self, process: Process, action: str, endpoint: str) -> None:
        try:
            await operate(self, process, action, endpoint)
        except (StoreUnavailable, EndpointError) as error:
            self.observer.note_failure(process)
            self.say(f"{process.name}: {action} failed: {error}")
        except Exception as error:  # noqa: BLE001 - the code under test may raise anything
            self.observer.fail(Broken("error", f"{process.name}: {error!r}", error))
        finally:
            process.kill()

    def kill(self, process: Process) -> None:
        """Kill a process."""
        self.say(f"kill {process.name}")
        process.kill()
        for receiver in self.receivers.values():
            receiver.note_end(process)
        self.observer.failed.add(process)

    # The workers.

    def _start_worker(self, slot: int) -> None:
        process = self.process(f"w{slot}", self.plan.skews[slot])
        self.workers[slot] = process
        self.say(f"start {process.name}")
        process.start(self._work(process)).add_done_callback(partial(self._worker_ended, slot, process))

    def _worker_ended(self, slot: int, process: Process, task: asyncio.Task[None]) -> None:
        if not process.is_alive:
            return
        if task.cancelled():  # it was stopped
            self.say(f"{process.name} has stopped")
            self.observer.note_stop(process)
            process.kill()
            self.host.call(self._start_worker, slot, after=1.0)
        elif (error := task.exception()) is not None:
            self.observer.fail(Broken("error", f"{process.name}: {error!r}", error))

    async def _work(self, process: Process) -> None:
        rng = self.rng(process.name)
        await asyncio.sleep(rng.uniform(0.0, 2.0))
        number = 0
        while True:
            number += 1
            kind = rng.choice(("drain", "drain", "bounded", "once"))
            limits = Limits(
                **(LANES["auto"] if rng.random() < 0.7 else {}),
                **({"concurrency": 32, "endpoint_concurrency": 4} if rng.random() < 0.5 else {}),
                run_for=1e6 if self.are_runs_long else 0.0 if kind == "once" else rng.uniform(30.0, 200.0),
                successors=self.plan.processes + 2 if kind == "drain" else 0,
            )
            await self._drain(process, f"{process.name}-{number}", limits)
            await asyncio.sleep(rng.uniform(0.0, 3.0))

    async def _drain(self, process: Process, owner: str, limits: Limits) -> None:
        self.say(f"{owner} begins, {'chunks' if limits.chunk_size else 'tasks'}, for {limits.run_for:.0f} s")
        is_reopened, began_at = False, self.loop.time()
        while True:
            self.drains[owner] = (process, self.loop.time(), began_at + (limits.run_for or math.inf))
            try:
                async with self.dispatcher(process, owner, limits) as dispatcher:
                    if is_reopened:
                        await dispatcher.store.release_all(owner)
                    await dispatcher.run(partial(emit_one, dispatcher), emit_chunk=dispatcher.attempt_all)
            except StoreUnavailable as error:
                self.say(f"{owner}: {error}")
                self.drains.pop(owner)
                self.observer.note_failure(process)
                if not limits.successors:
                    return
                is_reopened = True
                await asyncio.sleep(1.0)
            else:
                self.say(f"{owner} ends")
                self.drains.pop(owner)
                return

    async def _open_destination(self, name: str) -> Destination:
        receiver = self.receivers[name]
        if receiver.mode(self.loop.time()) == "removed":
            raise UnknownEndpoint(name)

        async def close() -> None:
            return None

        return Destination(
            name=name,
            sink=receiver,
            describe=lambda error: f"{type(error).__name__}: {error}",
            close=close,
            timeout=receiver.timeout,
            rate=receiver.rate,
            concurrency=receiver.concurrency,
            connect=receiver.connect,
        )

    def _receiver(self, name: str) -> Receiver:
        rng, limits = self.rng(f"receiver {name}"), self.rng(f"destination {name}")
        return Receiver(
            name,
            [],
            latency=rng.choice((0.01, 1.0, 5.0, 5.0)),
            timeout=rng.choice((10.0, 25.0)),
            bad_type=TYPES[3] if rng.random() < 0.5 else None,
            rate=limits.choice((None, None, 20.0, 5.0)),
            concurrency=limits.choice((None, None, None, 2)),
            rng=rng,
            world=self.host,
            on_request=self.observer.note_request,
            on_answer=self.observer.note_answer,
            on_retry_after=self.observer.note_retry_after,
        )

    def _bury(self) -> None:
        """Drop everything; what the closed coroutines of killed processes still do has no effect."""
        hook, sys.unraisablehook = sys.unraisablehook, lambda _error: None
        try:
            self.server.is_away = True
            self.server.close()
            self.loop.close()
            self.loop.graveyard.clear()
            gc.collect()
        finally:
            sys.unraisablehook = hook
