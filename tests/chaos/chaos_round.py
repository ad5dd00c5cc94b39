"""A round: a store with some history, processes that work on it, signals, and then the accounts."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chaos_worker
import psutil
from chaos_accounts import Accounts
from chaos_commands import Commands
from chaos_facts import Database
from chaos_plan import GHOST, PURGING, SENDING, Plan, Victim
from chaos_receiver import RARE_TYPES, TYPES
from chaos_struck import Struck, Unexpected
from chaos_watching import FileWatch, StoreWatch
from chaos_worker import ENDPOINT, WIDTH, Orders

from resonant.dead_letters.cancel import cancel
from resonant.errors import ResonantError
from resonant.input_lines import parse_event
from resonant.store.views.selection import Selection
from support.failures import show_on_failure
from support.receivers import ReceiverProcess
from support.store_rows import DELIVERIES
from support.waiting import wait_until

_LEASE_SECONDS = 3.0
# Of the work before and after the hits: its leases must not expire on a busy machine.
_CALM_LEASE_SECONDS = 60.0
_PATIENCE_SECONDS = 120.0  # the gate slows down an endpoint that fails often
# Only the first events of each kind may exhaust their attempts: if only such events are left, the gate slows down the endpoint.
_EXHAUSTED_BELOW = 150
_TYPES = 60
_PROJECT = Path(__file__).parents[2]
# The most sends while an emission shuts down, whose deliveries are handed back: in the lane auto one chunk is interrupted
# before the other, which meanwhile uses its slots.
_MOST_INTERRUPTED = {"emit": WIDTH, "replay": WIDTH, "auto": 3 * WIDTH}
# The server's sessions of a process, by the name that the store gives them.
_SESSIONS = "SELECT 1 AS one FROM pg_stat_activity WHERE application_name LIKE '%%process %d on %%'"
_LOST = f"""
    SELECT event_id FROM resonant_attempts JOIN {DELIVERIES} ON deliveries.id = delivery_id WHERE result = 'lost'"""
# The history before the round is dated back by this, so that a compaction has counts to move.
_AGO_SECONDS = 1800.0


class Round:
    """Runs a plan in a folder, and collects the problems."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        database: Database,
        journal: ReceiverProcess,
        commands: Commands | None = None,
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.database = database
        self.journal = journal
        self.commands = commands
        self.events: dict[str, bytes] = {}
        self.struck: list[Struck] = []
        self.helpers: list[str] = []
        self.problems: list[str] = []
        self.archive: Path | None = None
        if "archive" in plan.kinds:
            self.archive = folder / ("purged.jsonl.gz" if plan.compressed else "purged.jsonl")
        self.textfile = folder / "metrics" / "resonant.prom"
        self.textfile.parent.mkdir()
        self.lease_seconds = _LEASE_SECONDS
        self.looks = 0
        self.given_later: Path | None = None
        self.begun_by_ghost: set[str] = set()
        self._processes: list[subprocess.Popen[bytes]] = []

    def run(self) -> Accounts:
        """Run the plan, and return the accounts."""
        self._prepare()
        store_watch, file_watch = StoreWatch(self.database), FileWatch(self.textfile)
        with store_watch, file_watch:
            self.struck = [
                self._start_victim(number, victim) for number, victim in enumerate(self.plan.victims)
            ]
            try:
                with ThreadPoolExecutor(len(self.struck)) as threads:
                    list(threads.map(self._strike, self.struck))
            except Unexpected as error:
                self.problems.append(str(error))
            finally:
                for process in self._processes:
                    process.kill()
                    process.wait()
            self._finish()
        accounts = Accounts.of(self, stalled=store_watch.longest_gap)
        self.looks = store_watch.looks
        self.problems += [*store_watch.problems, *file_watch.problems]
        self.problems += accounts.problems()
        if self.archive is not None:
            self._purge_the_rest()
            self.problems += accounts.problems_of_archive(self.archive)
        self.problems += self._problems_of_leftovers()
        return accounts

    def _prepare(self) -> None:
        """Make the store with the dead letters, delivered events, leases of a crashed worker and pending events of the plan."""
        kinds = self.plan.kinds
        ago = self._orders("before")

        def then() -> float:
            return time.time() - _AGO_SECONDS

        async def make() -> None:
            async with chaos_worker.opened_store(ago, then):
                pass

        async def prepare() -> None:
            async with chaos_worker.opened_store(ago, then) as store:
                never_tried = 2000 if kinds & PURGING else 200 if "replay" in kinds else 20
                await store.enqueue(self._make("letter", never_tried), ENDPOINT)
                await cancel(store, Selection(), who="before")
                tried = 150 if self.plan.delivered_too and kinds & PURGING else 44
                await store.enqueue(self._make("tried", tried), ENDPOINT)
            await self._emit_all(ago, then)
            async with chaos_worker.opened_store(ago, then) as store:
                if "collect" in kinds:
                    await store.enqueue(self._make("ghost", 250), ENDPOINT)
                    leases = await store.claim(ENDPOINT, owner=GHOST, limit=220)
                    await store.begin(leases[::2])
                pending = 400 if kinds & SENDING else 40
                await store.enqueue(self._make("pending", pending), ENDPOINT)
            # At that time too: an export now would compact counts, which is left to the round.
            await chaos_worker.work(self._orders("before", kind="export", times=1), then)

        asyncio.run(make())
        self.database.note_removals()
        asyncio.run(prepare())
        self.begun_by_ghost = self.database.event_ids(
            f"SELECT event_id FROM {DELIVERIES} WHERE sending AND lease_owner = '{GHOST}'"
        )
        if "enqueue" in kinds:
            self.given_later = self.folder / "later.jsonl"
            self.given_later.write_bytes(b"".join(self._lines("later", 600)))

    def _lines(self, kind: str, count: int) -> list[bytes]:
        lines = []
        for number in range(count):
            name = f"{self.folder.name}-{kind}-{number:04d}"
            rare = RARE_TYPES.get(number) if kind == "pending" else None
            type_ = rare or TYPES[number % len(TYPES)]
            if type_ == "chaos.exhausting" and number >= _EXHAUSTED_BELOW:
                type_ = "chaos.good"
            fields = {
                "id": name,
                # Each fails for itself: the gate would hold a type that always fails.
                "type": f"chaos.{kind}.{number % _TYPES}.{type_.rpartition('.')[2]}",
                "source": "/chaos",
                "data": {"n": number, "ü": "x" * (number % 50)},
            }
            lines.append(json.dumps(fields).encode() + b"\n")
            self.events[name] = parse_event(lines[-1]).body
        return lines

    def _make(self, kind: str, count: int) -> list:
        return [parse_event(line) for line in self._lines(kind, count)]

    def _orders(self, name: str, *, kind: str = "emit", **more) -> Orders:
        fixed = {
            "progress": str(self.folder / f"{name}.progress"),
            "lease_seconds": _CALM_LEASE_SECONDS,
            "archive": None if self.archive is None else str(self.archive),
            "textfile": str(self.textfile),
        }
        return Orders(kind, name, self.database.url, self.journal.url, **fixed | more)

    async def _emit_all(self, orders: Orders, clock=None) -> None:
        """Emit until no delivery is unfinished, not even a parked one."""
        progress = chaos_worker.Progress(orders.progress)
        async with asyncio.timeout(_PATIENCE_SECONDS), chaos_worker.opened_store(orders, clock) as store:
            while await store.unfinished():
                await chaos_worker.emit(store, orders, progress)
                await asyncio.sleep(0.05)

    def _start_victim(self, number: int, victim: Victim) -> Struck:
        name = f"{victim.kind}-{number}"
        if self.commands is not None:
            process = self.commands.start_victim(victim, self, name)
        else:
            process = self._start_worker(name, victim)
        return Struck(victim, name, process, self.folder / f"{name}.progress", self.folder / f"{name}.errors")

    def _start_worker(self, name: str, victim: Victim) -> subprocess.Popen[bytes]:
        kind = {"auto": "emit", "archive": "purge"}.get(victim.kind, victim.kind)
        orders = self._orders(
            name,
            kind=kind,
            lease_seconds=self.lease_seconds,
            is_auto=victim.kind == "auto",
            delivered_too=self.plan.delivered_too,
            events=None if self.given_later is None else str(self.given_later),
            pauses=victim.pauses,
        )
        return self.start_process(name, [sys.executable, chaos_worker.__file__, orders.to_json()])

    def start_process(
        self, name: str, command: list[str], environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        path = self.folder / f"{name}.errors"
        show_on_failure(name, path)
        with path.open("wb") as errors:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=_PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self._processes.append(process)
        return process

    def _strike(self, struck: Struck) -> None:
        """Wait until it works, and for the delay; hit it; note the sends in flight; wait for its end."""
        self._wait_until(lambda: self._has_begun(struck) or struck.process.poll() is not None)
        time.sleep(struck.victim.delay)
        if struck.process.poll() is not None:
            struck.came_too_late = True
        else:
            {"SIGSTOP": self._stop_for_a_while}.get(struck.victim.signal, self._end)(struck)
        code = self._wait_for_end(struck.process, struck.owner)
        struck.ended_at = time.time()
        struck.is_cut_off = self._was_cut_off(struck, code)
        ends_well = struck.came_too_late or struck.victim.signal == "SIGSTOP"
        if ends_well and code != 0 and not struck.is_cut_off:
            raise Unexpected(f"{struck.owner} ended with {code}: {struck.errors.read_text()[-2000:]}")

    def _was_cut_off(self, struck: Struck, code: int) -> bool:
        """Return whether PostgreSQL rolled back the transaction in which it was stopped; emissions try again."""
        may_be = struck.victim.signal == "SIGSTOP" and struck.victim.kind not in ("emit", "auto")
        said = struck.errors.read_text().rstrip()
        return (
            may_be
            and code == 1
            and said.endswith("the server ended the connection: run the same command again")
        )

    def _end(self, struck: Struck) -> None:
        number = getattr(signal, struck.victim.signal)
        # A worker without Prefect handles no SIGTERM.
        at_once = number == signal.SIGKILL or (number == signal.SIGTERM and self.commands is None)
        if not at_once:
            self._see_in_flight(struck)
        struck.process.send_signal(number)
        struck.came_too_late = self._wait_for_end(struck.process, struck.owner) == 0
        if not at_once:
            struck.tolerated = _MOST_INTERRUPTED.get(struck.victim.kind, 0)
            return
        struck.is_exact = True
        if self.database.kind == "postgresql":
            # The server may still commit statements that it had received.
            self._wait_until(lambda: not self.database.query(_SESSIONS % struck.process.pid))
        self._see_in_flight(struck)
        # On a slow machine, another process may already have taken these over.
        struck.in_flight |= self._charged(struck)

    @staticmethod
    def _wait_for_end(process: subprocess.Popen[bytes], name: str) -> int:
        try:
            return process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Unexpected(f"{name} does not end") from None

    def _stop_for_a_while(self, struck: Struck) -> None:
        """Stop it for longer than a lease; if it sends, until another process has taken over its leases, if that is possible."""
        taker = None
        struck.process.send_signal(signal.SIGSTOP)
        try:
            still = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
            self._wait_until(lambda: psutil.Process(struck.process.pid).status() in still)
            if struck.process.poll() is not None:
                struck.came_too_late = True
                return
            if self.database.kind == "postgresql":
                # The server still executes the statement that it has received, until it waits for the stopped process.
                waits = "wait_event_type IS NOT DISTINCT FROM 'Client'"
                busy = f"{_SESSIONS % struck.process.pid} AND state = 'active' AND NOT ({waits})"
                self._wait_until(lambda: not self.database.query(busy))
            if struck.victim.kind in SENDING:
                self._see_in_flight(struck)
                taker = self._start_taker(f"taker-{struck.owner}")
            time.sleep(self.lease_seconds + 0.2)
            if taker is not None:
                with contextlib.suppress(Unexpected):
                    self._wait_until(lambda: not self._held(struck, "lease_owner IS NOT NULL"), seconds=2.0)
                struck.in_flight |= self._held(struck, "lease_owner IS NOT NULL")
            # Processes that had to wait for it could not renew their leases either.
            struck.in_flight |= self._overdue()
        finally:
            struck.process.send_signal(signal.SIGCONT)
        if taker is not None and self._wait_for_end(taker, f"taker-{struck.owner}"):
            raise Unexpected(f"taker-{struck.owner} ended with {taker.returncode}")

    def _start_taker(self, name: str) -> subprocess.Popen[bytes]:
        self.helpers.append(name)
        return self._start_worker(name, Victim("emit", "SIGSTOP", 0.0))

    def _has_begun(self, struck: Struck) -> bool:
        if self.commands is not None:
            return self.commands.has_begun(struck, self)
        kind, name = struck.victim.kind, struck.owner
        if kind in SENDING:
            found = f"SELECT 1 AS one FROM resonant_deliveries WHERE lease_owner = '{name}' LIMIT 1"
        elif kind in PURGING:
            found = f"SELECT 1 AS one FROM resonant_audit WHERE who = '{name}' AND count >= {struck.victim.progress}"
        else:
            return bool(struck.said)
        return bool(self.database.query(found))

    def _see_in_flight(self, struck: Struck) -> None:
        sending = self._held(struck, "sending") if struck.victim.kind in SENDING else set()
        struck.begun = len(sending)
        struck.in_flight |= sending

    def _held(self, struck: Struck, condition: str) -> set[str]:
        owned = self._is_theirs("lease_owner", struck)
        return self.database.event_ids(f"SELECT event_id FROM {DELIVERIES} WHERE {condition} AND {owned}")

    def _is_theirs(self, column: str, struck: Struck) -> str:
        """Return the SQL condition that a column names this victim; the owner names of commands are unknown."""
        if self.commands is None:
            return f"{column} = '{struck.owner}'"
        others = ", ".join(f"'{name}'" for name in [GHOST, *self.helpers])
        return f"{column} NOT IN ({others})"

    def _charged(self, struck: Struck) -> set[str]:
        if struck.victim.kind not in SENDING:
            return set()
        return self.database.event_ids(f"{_LOST} AND {self._is_theirs('owner', struck)}")

    def _overdue(self) -> set[str]:
        """Return the deliveries of living workers whose leases should have been renewed."""
        living = [*self.helpers, *(each.owner for each in self.struck if each.process.poll() is None)]
        owned = f"lease_owner IN ({', '.join(repr(name) for name in living)})"
        overdue = time.time() + self.lease_seconds / 2
        return self.database.event_ids(
            f"SELECT event_id FROM {DELIVERIES} WHERE {owned} AND available_at < {overdue!r}"
        )

    @staticmethod
    def _wait_until(condition, seconds: float = _PATIENCE_SECONDS) -> None:
        try:
            wait_until(condition, seconds, every=0.01)
        except AssertionError as error:
            raise Unexpected(f"this did not happen: {error}") from None

    def _finish(self) -> None:
        """Rescue the leases of dead processes, and finish all work with a clean run of everything."""
        dead = [each.owner for each in self.struck if each.is_exact]
        clean = self._orders("after")

        async def finish() -> None:
            async with chaos_worker.opened_store(clean) as store:
                if self.plan.by_owner and dead:
                    await store.rescue_from(dead)
            if self.given_later is not None and not self.plan.kinds & PURGING:
                # After a purge, the same id would be accepted again.
                await chaos_worker.work(self._orders("after", kind="enqueue", events=str(self.given_later)))
            await self._emit_all(clean)
            async with chaos_worker.opened_store(clean) as store:
                status = await store.status()
            if not status.balanced:
                self.problems.append(f"status is not balanced: {status}")
            await chaos_worker.work(self._orders("after", kind="export", times=1))

        try:
            asyncio.run(finish())
        except (ResonantError, TimeoutError) as error:
            self.problems.append(f"the clean run at the end failed: {error!r}")

    def _purge_the_rest(self) -> None:
        asyncio.run(chaos_worker.work(self._orders("last", kind="purge", delivered_too=True)))

    def _problems_of_leftovers(self) -> list[str]:
        """Return the temporary files of killed exports that later exports do not remove."""
        folder = self.textfile.parent
        hidden = [path for path in folder.glob(".*") if path.is_file()]
        killed = sum(each.victim.kind == "export" and not each.came_too_late for each in self.struck)
        problems = []
        if len(hidden) > killed:
            problems.append(f"{len(hidden)} temporary files of {killed} killed exports: {hidden}")
        for path in hidden:
            os.utime(path, times=(time.time() - 7200,) * 2)
        asyncio.run(chaos_worker.work(self._orders("last", kind="export", times=1)))
        left = {path.name for path in folder.iterdir()}
        if left != {self.textfile.name}:
            problems.append(f"not swept: {sorted(left - {self.textfile.name})}")
        return problems
