"""Watches a world: every change of a row and every request, and the invariants that they must keep."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from resonant.store import schema
from resonant.store.counts import counters
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.counts.sketches import Labels
from resonant.store.views import reads
from simulation.broken import Broken
from simulation.database import Noted
from simulation.loop import Process
from simulation.plan import TYPES
from simulation.producers import LARGEST_BODY, SECRET, subject_of
from simulation.receivers import Request
from simulation.rows import check_rows, check_status

if TYPE_CHECKING:
    from simulation.world import World

_COLUMNS = (
    "status",
    "lease_owner",
    "lease_token",
    "sending",
    "available_at",
    "round",
    "reason",
    "category",
    "code",
)
_FINAL = ("delivered", "dead_letter")
_GATE = "NEW.endpoint, NEW.state, NEW.not_before, NEW.failing"
_NOTED = [
    Noted(
        "change",
        f"UPDATE OF {', '.join(_COLUMNS)}",
        "resonant_deliveries",
        f"OLD.id, {', '.join(f'OLD.{name}, NEW.{name}' for name in _COLUMNS)}",
    ),
    Noted(
        "insert",
        "INSERT",
        "resonant_deliveries",
        """NEW.id, NEW.endpoint, NEW.lease_owner, NEW.event_type,
        (SELECT id FROM resonant_events WHERE key = NEW.event_key)""",
    ),
    Noted("delete", "DELETE", "resonant_deliveries", "OLD.id, OLD.status, OLD.finished_at"),
    Noted("gate", "INSERT", "resonant_gates", _GATE),
    Noted("gate", "UPDATE", "resonant_gates", _GATE),
    Noted(
        "attempt",
        "INSERT",
        "resonant_attempts",
        "NEW.delivery_id, NEW.number, NEW.result, NEW.late, NEW.owner, NEW.decision, NEW.category, NEW.code, NEW.error, NEW.delay",
    ),
]
# A process learns of a gate this late at most, while it reaches the store.
_GATE_SECONDS = 6.0
# The longest that a healthy endpoint with due work is idle: at a normal gate, and at one that closed earlier.
_IDLE_SECONDS, _PATIENCE = 3.0, {"paced": 30.0, "probing": 30.0}
# A look, a claim and a commit, with waits in between.
_ROUND_TRIPS = 30
# How long a drain runs before it counts, and how long the server's clock must have been steady.
_DRAIN_SECONDS, _CALM_SECONDS = 10.0, 90.0
# An outage looks longer after the clock is set ahead, so that its next probe waits for up to two minutes.
_LATEST_PROBE_SECONDS = 140.0
_GATES = "SELECT endpoint, state, failing, since, not_before FROM resonant_gates"
_EARLIEST = """SELECT available_at, id FROM resonant_deliveries
  WHERE endpoint = :endpoint AND available_at IS NOT NULL AND lease_owner IS NULL AND event_type != :bad_type
  ORDER BY available_at LIMIT 1"""
# Half of the claims are for what is due first, chosen at random.
_MOST_OVERTAKING = 25
_BALANCE_SECONDS = 20.0


class Change(NamedTuple):
    """A change of a delivery's row: each column before and after it."""

    status: tuple[str, str]
    owner: tuple[str | None, str | None]
    token: tuple[int, int]
    sending: tuple[int, int]
    available: tuple[float | None, float | None]
    round: tuple[int, int]
    reason: tuple[str | None, str | None]
    category: tuple[str | None, str | None]
    code: tuple[str | None, str | None]


class Known:
    """What the observer knows of a delivery."""

    def __init__(self, key: int, endpoint: str, event_type: str, event_id: str) -> None:
        self.key, self.endpoint, self.event_type, self.event_id = key, endpoint, event_type, event_id
        self.owner: str | None = None
        self.changed_at = 0.0
        self.leased_at = 0.0
        self.delay = self.failed_at = 0.0
        # When the lease of each process has ended.
        self.left: dict[Process, float] = {}
        # The token of the latest lease.
        self.token = 0
        self.sending = 0
        self.begun: Counter[Process] = Counter()
        self.requests: list[Request] = []
        self.numbers: set[int] = set()
        self.retry_after = (0.0, 0.0)
        self.asked: Process | None = None
        self.has_recorded = False
        self.delivered_at: float | None = None
        self.answered: Counter[Process] = Counter()
        self.recorded: Counter[Process] = Counter()

    def __str__(self) -> str:
        return f"delivery {self.key} ({self.event_id} to {self.endpoint})"


class Observer:
    """Keeps a history of its own, and compares.

    Attributes:
        broken: the first invariant that does not hold.
        stopping: the processes that were asked to stop.
        failed: the processes that may not have recorded all their outcomes.
        erased: the events whose content is erased for good.
        erased_subjects: the subjects of all events that an erasure may have erased.
    """

    def __init__(self, world: "World") -> None:
        self.broken: Broken | None = None
        self._world = world
        self._known: dict[int, Known] = {}
        self._by_name: dict[tuple[str, str], Known] = {}
        # What the ledgers and counters must show.
        self._accepted: Counter[str] = Counter()
        self._removed: Counter[str] = Counter()
        self._counted: Counter[Labels] = Counter()
        # What each operator's process asked for.
        self._replays: dict[Process, tuple[str, bool]] = {}
        self._purges: dict[Process, tuple[str, str, float]] = {}
        self._outages: list[tuple[float, float]] = []
        self._harm: defaultdict[Process, list[tuple[float, float]]] = defaultdict(list)
        self._losses: defaultdict[Process, list[float]] = defaultdict(list)
        self._commits: defaultdict[Process, list[float]] = defaultdict(list)
        self.erased: set[str] = set()
        self.erased_subjects: set[str] = set()
        self._set_clock: list[float] = []
        self._set_forward: list[float] = []
        # The times at which nobody could write; afterwards, a rescue must watch first.
        self._blocks: list[tuple[float, float]] = []
        self.failed: set[Process] = set()
        self.stopping: set[Process] = set()
        # Until when each endpoint's gate holds everything, or a failing type, and since when that is known.
        self._held: defaultdict[tuple[str, str], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        self._gate_changed_at: dict[str, float] = {}
        self._balanced_at = 0.0
        # The claims by endpoint and type, and how many there were when a delivery was first seen as the earliest.
        self._claims: Counter[tuple[str, str]] = Counter()
        self._earliest: dict[str, tuple[int, float, int]] = {}
        self._purged: set[tuple[str, str]] = set()
        world.server.note(_NOTED)
        world.server.on_commit = self._commit
        world.server.on_slow = self.note_harm
        world.server.on_loss = lambda process: self._losses[process].append(world.loop.time())

    @property
    def _now(self) -> float:
        return self._world.loop.time()

    def fail(self, broken: Broken) -> None:
        """End the world with this error, unless there is an earlier one."""
        self.broken = self.broken or broken

    # The harm that explains a duplicate or a crash.

    def note_outage(self, seconds: float, *, is_complete: bool = False) -> None:
        self._outages.append((self._now, self._now + seconds))
        if is_complete:
            self._blocks.append(self._outages[-1])

    def note_harm(self, process: Process, seconds: float) -> None:
        self._harm[process].append((self._now, self._now + seconds))

    def note_failure(self, process: Process) -> None:
        """Note that a run of a process has failed; its leases and outcomes are left."""
        lease = self._world.plan.lease_seconds
        self.failed.add(process)
        self._harm[process].append((self._now - lease, self._now + lease))

    def end_faults(self) -> None:
        """Note that all faults end now."""
        for windows in (self._outages, self._blocks, *self._harm.values()):
            windows[:] = [(begin, min(end, self._now)) for begin, end in windows]

    def note_stop(self, process: Process) -> None:
        """Note that a process has stopped; it may not have reached the store then."""
        if self._is_harmed(process, self._now - self._world.plan.lease_seconds):
            self.failed.add(process)

    def note_set_clock(self, amount: float) -> None:
        self._set_clock.append(self._now)
        self._set_forward += [self._now] * (amount > 0)
        self.note_outage(min(abs(amount), _CALM_SECONDS))

    def note_replay(self, process: Process, endpoint: str, include_permanent: bool) -> None:
        self._replays[process] = endpoint, include_permanent

    def note_purge(self, process: Process, action: str, endpoint: str, before: float) -> None:
        self._purges[process] = action, endpoint, before

    def _is_harmed(
        self, process: Process, since: float, *, least: float = 0.0, is_sure: bool = False
    ) -> bool:
        """Return whether a process was killed or frozen, or may (or surely) not have reached the store, for so long since a time."""
        windows = [*self._harm[process], *(self._blocks if is_sure else self._outages)]
        was_killed = process.killed_at is not None and process.killed_at >= since
        return was_killed or any(
            until >= since and until - begin >= least for begin, until in windows if begin <= self._now
        )

    # Transactions.

    def _commit(self, process: Process) -> bool:
        """Take the facts of a transaction; return whether it has made deliveries available."""
        facts = self._world.server.facts
        self._commits[process].append(self._now)
        try:
            for name, values in facts:
                getattr(self, f"_on_{name}")(process, *values)
        except Broken as broken:
            self.fail(broken)
        return any(name == "insert" or (name == "change" and values[4] is None) for name, values in facts)

    def _on_insert(
        self,
        process: Process,
        key: int,
        endpoint: str,
        owner: str | None,
        kind: str,
        event_id: str,
    ) -> None:
        known = self._known[key] = Known(key, endpoint, kind, event_id)
        self._by_name[event_id, endpoint] = known
        known.owner, known.leased_at, known.token = owner, self._now, int(owner is not None)
        self._accepted[endpoint] += 1

    def _on_delete(self, process: Process, key: int, status: str, ended_at: float) -> None:
        known = self._known.pop(key)
        if status not in _FINAL:
            raise Broken("removal", f"{known} was purged while it was {status}")
        action, endpoint, before = self._purges[process]
        if ended_at > before or (status == "dead_letter") != (action == "purge"):
            raise Broken("removal", f"the {action} of {endpoint} removed {known}, {status} at {ended_at}")
        if action == "purge" and known.endpoint != endpoint:
            raise Broken("removal", f"the {action} of {endpoint} removed {known}")
        self._by_name.pop((known.event_id, known.endpoint))
        self._purged.add((known.event_id, known.endpoint))
        self._removed[known.endpoint] += 1
        self._count("purge", known, status)

    def _count(
        self,
        measure: str,
        known: Known,
        result: str = "",
        category: str | None = None,
        code: str | None = None,
    ) -> None:
        self._counted[Labels(measure, known.endpoint, "", result, category or "", code or "")] += 1

    def _on_change(self, process: Process, key: int, *values: Any) -> None:
        change = Change(*zip(values[::2], values[1::2], strict=True))
        known, now, clock = self._known[key], self._now, self._world.clock()
        before, after = change.owner
        known.changed_at = now
        self._check_owner(process, known, change)
        self._check_times(process, known, change)
        if change.sending == (0, 1):
            known.begun[process] += 1
        if before is not None and before != after:
            known.left[self._process_of(before)] = now
        if after is not None and before != after:
            known.leased_at = now
            known.left.pop(process, None)
            if before is None and change.status[0] in {"pending", "retrying"}:
                self._check_claim(process, known, change.available[0] - clock)
        if change.status[0] != change.status[1] and change.status[1] in _FINAL:
            self._check_end(known, change)
        known.owner, known.sending = after, change.sending[1]
        if change.status[1] == "delivered" and known.delivered_at is None:
            known.delivered_at = now
        if change.round[0] != change.round[1]:
            known.retry_after = (0.0, 0.0)
            self._count("replay", known, "replayed")
            endpoint, include_permanent = self._replays[process]
            if known.endpoint != endpoint or (change.category[0] == "permanent" and not include_permanent):
                raise Broken("selection", f"a replay of {endpoint} took {known}, {change.category[0]}")

    def _check_end(self, known: Known, change: Change) -> None:
        before, after = change.status
        failure = (change.category[1], change.code[1]) if after == "dead_letter" else ()
        self._count("delivery", known, after, *failure)
        is_erased = subject_of(known.event_id) in self.erased_subjects
        is_selected = known.event_type == "order.shipped" or is_erased
        if change.reason[1] == "cancelled" and (known.sending or not is_selected):
            raise Broken("selection", f"{known}, {known.event_type}, was cancelled")
        if before in _FINAL:
            raise Broken("fence", f"{known} was {before} and became {after}")

    def _check_owner(self, process: Process, known: Known, change: Change) -> None:
        """Check that nobody takes a delivery from a living process while its lease is valid and its send has begun."""
        before, after = change.owner
        is_taken = before is not None and self._process_of(before) is not process
        if before != after and (after is not None or is_taken) and change.token[1] <= known.token:
            raise Broken("fence", f"{process.name} changed the lease of {known}, but not its token")
        if before != after and after is not None:
            known.token = change.token[1]
            if before is not None:
                raise Broken("fence", f"{process.name} claimed {known}, which {before} held")
        if before is None or (before == after and change.token[0] == change.token[1]):
            return
        owner = self._process_of(before)
        has_expired = change.available[0] <= self._world.clock() + 0.01
        if owner is not process and owner.is_alive and change.sending[0] and not has_expired:
            raise Broken("fence", f"{process.name} took {known} from {before}, whose lease was valid")
        if before == after and has_expired:
            self._check_rescue(process, known, before)

    def _check_times(self, process: Process, known: Known, change: Change) -> None:
        """Check how long a lease lasts that was taken or renewed, and that only an operator shortens the delay of a retry."""
        (before, after), (old, new) = change.owner, change.available
        is_waiting = before is after is None and change.status == ("retrying", "retrying")
        if is_waiting and new < min(old, self._world.clock() + known.delay - 1.0):
            if process.name[0] == "w":
                raise Broken("retry-after", f"{process.name} made {known} due before its delay")
            if known.failed_at > self._commits[process][1]:  # the first one is that of the audit
                raise Broken("retry-after", f"{process.name} made {known} due after a later failure")
            known.retry_after = (0.0, 0.0)
        if after is None or (before == after and new <= old) or self._was_set(self._now):
            return
        left = new - self._world.clock()
        if abs(left - self._world.plan.lease_seconds) > 1.0:
            raise Broken("lease", f"{process.name} has leased {known} for {left:.1f} s")

    def _on_gate(
        self, process: Process, endpoint: str, state: str, not_before: float | None, failing: str | None
    ) -> None:
        self._world.say(f"{process.name}: the gate of {endpoint} is {state}")
        held = {kind: math.inf for kind in TYPES if f'"{kind}"' in (failing or "")}
        held[""] = math.inf if state == "paused" else not_before or 0.0
        for kind in ("", *TYPES):
            if (until := held.get(kind, 0.0)) != self._held[endpoint, kind][0]:
                self._held[endpoint, kind] = (until, self._now)
        self._gate_changed_at[endpoint] = self._now

    def _on_attempt(
        self, process: Process, key: int, number: int, result: str, late: int, *values: Any
    ) -> None:
        owner, decision, category, code, error, delay = values
        known = self._known[key]
        self._world.say(
            f"{process.name}: attempt {number} of {known}: {result}{' late' * late} {decision or ''} {(error or '')[:80]}"
        )
        if result != "lost":
            known.recorded[process] += 1
        if late:
            return
        self._count("attempt", known, result, *(() if result == "delivered" else (category, code)))
        if result == "failed" and decision != "give_up":
            self._count("delay", known)
        if number in known.numbers:
            raise Broken("fence", f"{known} has two attempts with the number {number}")
        known.numbers.add(number)
        known.delay, known.failed_at = delay or 0.0, self._now
        if result != "lost" and process is known.asked:
            known.has_recorded = True
        if result == "lost" and not known.sending:
            raise Broken("crash-charged", f"{known} was charged to {owner}, which was not sending")
        if result != "lost" and owner != known.owner:
            raise Broken("fence", f"{owner} recorded an attempt of {known}, which {known.owner} holds")

    def _check_rescue(self, process: Process, known: Known, owner: str) -> None:
        """Check that leases expire only of a run that was harmed, and had no time to renew them afterwards."""
        lease, lost = self._world.plan.lease_seconds, self._process_of(owner)
        is_harmed = self._was_set(known.leased_at) or self._is_harmed(
            lost, known.leased_at, least=lease / 3 - 1.0, is_sure=True
        )
        is_early = any(
            end - begin >= lease and 0 < self._now - end < lease / 2 - 1 for begin, end in self._blocks
        )
        if not is_harmed or (lost.is_alive and is_early):
            raise Broken("crash-charged", f"{process.name} took {known} from {owner}, which was alive")

    def _was_set(self, since: float) -> bool:
        """Return whether the server's clock was set since shortly before a time."""
        return any(at >= since - _CALM_SECONDS for at in self._set_clock)

    def _process_of(self, owner: str) -> Process:
        return self._world.dispatchers[owner][0]

    def _check_claim(self, process: Process, known: Known, early: float) -> None:
        self._claims[known.endpoint, known.event_type] += 1
        if early > 0.001 and not self._was_set(self._now):
            raise Broken("gate", f"{process.name} claimed {known} {early:.3f} s early")
        for kind in ("", known.event_type):
            until, since = self._held[known.endpoint, kind]
            is_late = until > self._world.clock() + 0.01 and self._now - since > _GATE_SECONDS
            is_probe = kind and self._gate_changed_at.get(known.endpoint) == self._now
            is_excused = self._was_set(since) or self._is_harmed(process, self._now - _GATE_SECONDS)
            if is_late and not is_probe and not is_excused:
                raise Broken(
                    "gate", f"{process.name} claimed {known}, {kind} held for {self._now - since:.1f} s"
                )

    # Requests.

    def note_request(self, request: Request) -> None:
        """Check a request that has reached its receiver."""
        try:
            self._check_request(request)
        except Broken as broken:
            self.fail(broken)

    def _check_request(self, request: Request) -> None:
        name = f"{request.event_id} to {request.endpoint}"
        known = self._by_name.get((request.event_id, request.endpoint))
        self._world.say(
            f"{request.process.name}: request of {name}, {'' if request.is_processed else 'not '}processed"
        )
        if known is None:
            if (request.event_id, request.endpoint) not in self._purged:
                raise Broken("attempt-before-receipt", f"{name} was received, and is not stored")
            return
        if known.begun[request.process] <= sum(each.process is request.process for each in known.requests):
            raise Broken("attempt-before-receipt", f"{name} was received, and its attempt had not begun")
        # A process looks again after half a lease, so also after a long freeze.
        longest, sent_at = self._world.plan.lease_seconds / 2 + 1.0, request.sent_at
        thaws = (end for begin, end in self._harm[request.process] if begin + longest < end <= sent_at)
        if known.left.get(request.process, math.inf) < max(sent_at - longest, *thaws, 0.0):
            raise Broken("attempt-before-receipt", f"{name} was sent, and its lease had ended")
        earlier = [each for each in known.requests if each.is_processed]
        if request.is_processed and earlier and not self._explain(earlier, request):
            raise Broken(
                "duplicate", f"{name} was received twice, at {earlier[-1].at:.3f} and {request.at:.3f}"
            )
        until, noted_at = known.retry_after
        # A request of a stopped process may still be on its way when another process gets the Retry-After.
        was_known = known.has_recorded and request.sent_at >= noted_at
        is_excused = any(at >= noted_at - _CALM_SECONDS for at in self._set_forward)
        if was_known and request.at < until and not is_excused:
            raise Broken("retry-after", f"{name} was sent {until - request.at:.3f} s too early")
        known.requests.append(request)

    def _explain(self, earlier: list[Request], later: Request) -> bool:
        """Return whether harm explains that an event was processed more than once."""
        lease = self._world.plan.lease_seconds
        begin = earlier[0].at - lease
        known = self._by_name[later.event_id, later.endpoint]
        if known.delivered_at is not None:
            return self._is_harmed(later.process, known.delivered_at - 3 * lease)
        if any(at >= begin for at in self._set_clock) or self._is_harmed(
            later.process, begin, least=lease / 3
        ):
            return True
        return any(
            not each.is_answered
            or each.process in self.stopping
            or self._is_harmed(each.process, begin, least=lease / 3 - 1.0)
            or any(at >= each.at for at in self._losses[each.process])
            for each in earlier
        )

    def note_answer(self, endpoint: str, event_id: str, process: Process) -> None:
        """Note an answer, of any kind, that has arrived."""
        if (known := self._by_name.get((event_id, endpoint))) is not None:
            known.answered[process] += 1

    def note_retry_after(self, endpoint: str, event_id: str, until: float, process: Process) -> None:
        """Note an answer with a Retry-After that has arrived."""
        if (known := self._by_name.get((event_id, endpoint))) is not None:
            known.retry_after, known.asked, known.has_recorded = (until, self._now), process, False

    # Regular looks.

    def look(self) -> None:
        """Check what is too expensive for each step."""
        for owner, (process, dispatcher) in self._world.dispatchers.items():
            counted = dispatcher._flights.counts.bytes
            held = sum(flight._size for flight in dispatcher._flights._by_key.values())
            # A replay claims 100 at once.
            most = math.inf if process.name.startswith("operator") else self._world.most_bytes + LARGEST_BODY
            if process.is_alive and (counted != held or held > most):
                raise Broken("memory", f"{owner} holds {held:,} bytes, and counts {counted:,}")
        self._look_for_idle()
        if self._now >= self._balanced_at + _BALANCE_SECONDS:
            self._balanced_at = self._now
            self._check_balance()

    def _look_for_idle(self) -> None:
        """Find endpoints that answer well, but get nothing although deliveries are due."""
        drains = [
            each
            for each, since, until in self._world.drains.values()
            if since + _DRAIN_SECONDS < self._now < until
        ]
        is_drained = any(
            each.is_alive and not self._is_harmed(each, self._now - _DRAIN_SECONDS) for each in drains
        )
        if not is_drained or self._was_set(self._now) or self._world.has_little_memory:
            return
        calm_since = max((end for _, end in self._outages), default=0.0)
        clock, query = self._world.clock(), self._world.server.query
        gates = {
            name: (state, failing, max(since, until or 0.0))
            for name, state, failing, since, until in query(_GATES)
        }
        for receiver in self._world.receivers.values():
            state, failing, since = gates.get(receiver.name, ("normal", None, 0.0))
            # A new process sends little while it only knows the failures of one type.
            is_failing = failing or self._now - receiver.bad_at < 30.0
            longest = 10.0 if is_failing else _IDLE_SECONDS + _ROUND_TRIPS * self._world.server.longest
            limit = longest if state == "normal" else _PATIENCE.get(state)
            if state == "probing" and self._set_clock:
                limit = _LATEST_PROBE_SECONDS
            if limit is None or receiver.is_busy or not receiver.is_healthy_since(self._now - 2 * limit - 10):
                continue
            of = {"endpoint": receiver.name, "bad_type": receiver.bad_type or ""}
            at, key = next(iter(query(_EARLIEST, **of)), (None, None))
            if key is None:
                continue
            if self._is_overtaken(known := self._known[key]):
                raise Broken("idle", f"{known}, due {clock - at:.0f} s ago, is overtaken by others")
            # A rescue keeps the due time.
            free_since = max(receiver.last_at, known.changed_at, calm_since)
            idle = min(clock - max(at, since), self._now - free_since)
            if idle > limit:
                raise Broken(
                    "idle", f"{receiver.name} has been {state} and idle for {idle:.1f} s, with due deliveries"
                )

    def _is_overtaken(self, known: Known) -> bool:
        """Return whether many of its type were claimed since the earliest due delivery of an endpoint has changed."""
        count = self._claims[known.endpoint, known.event_type]
        key, changed_at, before = self._earliest.get(known.endpoint, (0, 0.0, 0))
        if (key, changed_at) != (known.key, known.changed_at):
            self._earliest[known.endpoint] = (known.key, known.changed_at, count)
            return False
        return count - before > _MOST_OVERTAKING

    def _check_balance(self) -> None:
        server, clock = self._world.server, self._world.clock()

        def read(connection: Any) -> tuple[Any, dict[str, Any], Counter[Labels]]:
            counts = {labels: sketch.count for labels, sketch in counters.read_ever(connection).items()}
            status = reads.status(connection, now=clock)
            check_status(connection, status, clock)
            return status, read_ledgers(connection), Counter(counts)

        status, ledgers, counts = server.run(read, server.own, writes=False)
        if not status.balanced:
            raise Broken("conservation", f"{status}")
        for name, ledger in ledgers.items():
            if ledger != (self._accepted[name], self._removed[name]):
                raise Broken(
                    "conservation",
                    f"{name}: {ledger}, but {self._accepted[name]} were accepted, {self._removed[name]} purged",
                )
        if counts != self._counted:
            wrong = {each: (counts[each], self._counted[each]) for each in counts | self._counted}
            wrong = {each: both for each, both in wrong.items() if both[0] != both[1]}
            raise Broken("counters", f"counted and seen: {wrong}")
        check_rows(server)

    # Operators.

    def purgeable(self, action: str, endpoint: str, before: float) -> set[int]:
        """Return the deliveries that a purge promises to remove. An erasure meanwhile may change the cause of a dead letter."""
        status = {"purge": "dead_letter", "purge delivered": "delivered"}.get(action)
        query = "SELECT id FROM resonant_deliveries WHERE status = :status AND finished_at <= :before AND (:all OR endpoint = :endpoint)"
        values = {"status": status, "before": before, "all": action != "purge", "endpoint": endpoint}
        found = {row[0] for row in self._world.server.query(query, **values)}
        return {key for key in found if subject_of(self._known[key].event_id) not in self.erased_subjects}

    def stored_with(self, subject: str) -> set[str]:
        """Return the ids of the stored events with this subject."""
        query = "SELECT id FROM resonant_events WHERE subject = :subject"
        return {row[0] for row in self._world.server.query(query, subject=subject)}

    def note_erased(self, event_ids: set[str]) -> None:
        """Note that an erasure has removed the content of these events for good."""
        self.erased |= event_ids

    # The end.

    def unfinished(self) -> int:
        """Return the number of deliveries that are not final."""
        query = "SELECT count(*) FROM resonant_deliveries WHERE available_at IS NOT NULL"
        return self._world.server.query(query)[0][0]

    def why_unfinished(self) -> str:
        """Describe some deliveries that are not final."""
        clock = self._world.clock()
        query = "SELECT id, endpoint, event_type, status, round_attempts, available_at, lease_owner, sending FROM resonant_deliveries WHERE available_at IS NOT NULL LIMIT 5"
        rows = [(*row[:5], round(row[5] - clock, 1), *row[6:]) for row in self._world.server.query(query)]
        gates = self._world.server.query(
            "SELECT endpoint, state, pace, failing FROM resonant_gates WHERE state != 'normal' OR failing IS NOT NULL"
        )
        return f"{self.unfinished()} deliveries are not final, such as {rows}; gates {gates}; producers left: {self._world.producers.left}"

    def check_end(self) -> None:
        """Check what must hold when all is settled."""
        self._check_balance()
        stored = {row[0] for row in self._world.server.query("SELECT id FROM resonant_events")}
        purged = {event_id for event_id, _ in self._purged}
        for event_id, endpoint in self._world.producers.accepted:
            if event_id in purged or subject_of(event_id) in self.erased_subjects:
                continue
            name = (event_id, endpoint)
            if event_id not in stored:
                raise Broken("acceptance", f"{event_id} was accepted, and is not stored")
            if endpoint is not None and name not in self._by_name and name not in self._purged:
                raise Broken("acceptance", f"{event_id} was accepted for {endpoint}, and has no delivery")
        for known in self._known.values():
            for process, count in known.answered.items():
                if process not in self.failed and known.recorded[process] < count:
                    raise Broken(
                        "fence", f"{process.name} has sent {known}, and no attempt is in its history"
                    )
        content = b"\n".join(self._contents())
        for event_id in self.erased - purged:  # after a purge, a repeat is a new event
            if f"{SECRET}{event_id[1:]}.".encode() in content:
                raise Broken("removal", f"the content of {event_id} was erased, and is still there")

    def _contents(self) -> Iterator[bytes]:
        for table in schema.metadata.tables:
            for row in self._world.server.query(f"SELECT * FROM {table}"):
                yield from (value if isinstance(value, bytes) else str(value).encode() for value in row)
