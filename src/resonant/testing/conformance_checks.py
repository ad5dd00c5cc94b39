"""The checks of ``store_conformance``, by their names."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select, text

from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.erase import Erasure, erase
from resonant.dead_letters.purge import Retention, purge
from resonant.dead_letters.replay import ReplayRequest, replay_batch
from resonant.delivery.retry import Decision, GiveUp, Park, Retry
from resonant.errors import ConflictingEvent, StoreTooNew
from resonant.events import Attempt, Event, Lease
from resonant.store import Outcome, WorkerStore, enqueue, schema
from resonant.store.audit import read_audit
from resonant.store.counts.counters import read_ever
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE
from resonant.store.queue.rescue import ExpiryWatch
from resonant.store.shared.gates import GateChange, change_gate, read_gate
from resonant.store.views.selection import Selection
from resonant.testing.clock import FixedClock

OpenStore = Callable[..., Awaitable[WorkerStore]]

LEASE_SECONDS = 60.0
_WAKE_SECONDS = 30.0
# A store's clock may differ this much from that of the machine of the checks.
_NEAR_SECONDS = 30.0
_HOUR = 3_600.0
_START = 1_700_000_000.0


@dataclass
class Processes:
    """Two processes with one store, a clock that only the check moves, and the endpoint of the check."""

    one: WorkerStore
    two: WorkerStore
    clock: FixedClock
    open_again: OpenStore
    endpoint: str

    def event(self, number: int, data: Any = None) -> Event:
        """Return an event with this number; its subject is the endpoint."""
        name = self.endpoint
        return Event(id=f"{name}-{number}", type="t", source="/conformance", data=data, subject=name)

    async def store(self, count: int = 1) -> None:
        """Store so many new events."""
        await self.one.enqueue([self.event(number) for number in range(count)], self.endpoint)
        await self.balance()

    async def claim(self, store: WorkerStore, owner: str, limit: int = 10) -> list[Lease]:
        """Claim deliveries, and record that their sends begin."""
        leases = await store.claim(self.endpoint, owner=owner, limit=limit)
        begun = await store.begin(leases)
        _expect(
            begun == {lease.key for lease in leases}, "a process could not begin a send that it had claimed"
        )
        await self.balance()
        return leases

    async def record(self, store: WorkerStore, lease: Lease, decision: Decision | None = None) -> bool:
        """Record the outcome of a send, a success or a failure with a decision; return whether it counts."""
        attempt = Attempt(
            lease.attempts + 1, lease.round, self.clock(), 0.01, "delivered", 200, owner=lease.owner
        )
        if decision:
            attempt = replace(
                attempt, result="failed", status_code=503, category="transient", code="http_503"
            )
        recorded = await store.record([Outcome(lease, attempt, decision)])
        await self.balance()
        return lease.key in recorded

    async def bury(self, count: int = 1) -> None:
        """Store so many events, and give them up."""
        await self.store(count)
        for lease in await self.claim(self.one, "gives up", count):
            await self.record(self.one, lease, GiveUp("exhausted"))

    async def balance(self, **expected: int) -> None:
        """Check that no delivery is missing in the store, and the numbers of this endpoint's."""
        _expect((await self.two.status()).balanced, "accepted = pending + retrying + ... does not hold")
        found = await self.two.status(endpoint=self.endpoint)
        for name, number in expected.items():
            _equal(getattr(found, name), number, f"the number of {name}")

    async def row(self, number: int = 0) -> dict[str, Any]:
        """Return the row of a delivery."""
        query = (
            select(schema.deliveries)
            .join(schema.events, schema.events.c.key == schema.deliveries.c.event_key)
            .where(schema.events.c.id == self.event(number).id)
        )
        return await self.two.read(lambda connection: dict(connection.execute(query).mappings().one()))


Check = Callable[[Processes], Awaitable[None]]
CHECKS: dict[str, Check] = {}


def _check(check: Check) -> Check:
    CHECKS[check.__name__.strip("_").replace("_", " ")] = check
    return check


async def run(name: str, url: str, open_store: OpenStore) -> str:
    """Run one check; return the reason of its failure on one line, or nothing."""
    clock, opened = FixedClock(_START), list[WorkerStore]()

    async def open_again(**options: Any) -> WorkerStore:
        opened.append(await open_store(url, lease_seconds=LEASE_SECONDS, **options))
        return opened[-1]

    try:
        one, two = [await open_again(clock=clock) for _ in range(2)]
        endpoint = f"check-{[*CHECKS].index(name)}"
        processes = Processes(one, two, clock, open_again, endpoint)
        await CHECKS[name](processes)
        await processes.balance()
    except Exception as error:  # noqa: BLE001 - a database may fail in any way
        return " ".join(str(error).split()) or type(error).__name__
    finally:
        for store in opened:
            await store.close()
    return ""


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _equal(found: object, expected: object, what: str) -> None:
    _expect(found == expected, f"{what} is {found!r} instead of {expected!r}")


@_check
async def _an_event_is_stored_once_even_by_two_producers_at_once(of: Processes) -> None:
    events = [of.event(number) for number in range(20)]
    batches = (of.one.enqueue(events, of.endpoint), of.two.enqueue(events[::-1], of.endpoint))
    results = await asyncio.gather(*batches)
    _equal(sum(each.accepted for each in results), 20, "the number of accepted events")
    _equal(sum(each.known for each in results), 20, "the number of known events")
    await of.balance(accepted=20, pending=20)


@_check
async def _other_content_under_a_known_identity_is_refused(of: Processes) -> None:
    await of.store()
    refused = False
    try:
        await of.two.enqueue([of.event(1), of.event(0, "other")], of.endpoint)
    except ConflictingEvent:
        refused = True
    _expect(refused, "the store accepted it")
    await of.balance(accepted=1)


@_check
async def _a_transaction_is_stored_as_a_whole_or_not_at_all(of: Processes) -> None:
    with suppress(LookupError):
        async with of.one.transaction() as transaction:
            await transaction.run_sync(enqueue, of.event(0), of.endpoint, now=of.clock())
            raise LookupError
    await of.balance(accepted=0)
    async with of.one.transaction() as transaction:
        for number in range(2):
            await transaction.run_sync(enqueue, of.event(number), of.endpoint, now=of.clock())
    await of.balance(accepted=2)


@_check
async def _a_delivery_is_leased_to_one_process_at_a_time(of: Processes) -> None:
    await of.store(20)
    claims = [
        store.claim(of.endpoint, owner=f"owner-{number}", limit=5)
        for number, store in enumerate((of.one, of.two) * 3)
    ]
    leases = [lease for found in await asyncio.gather(*claims) for lease in found]
    while found := await of.one.claim(of.endpoint, owner="last", limit=5):
        leases += found
    _equal(len(leases), 20, "the number of leases")
    _equal(len({lease.delivery_id for lease in leases}), 20, "the number of leased deliveries")
    await of.balance(pending=20, in_flight=20)


@_check
async def _a_process_that_has_lost_its_lease_changes_only_the_history(of: Processes) -> None:
    await of.store()
    [late] = await of.claim(of.one, "owner")
    of.clock.advance(LEASE_SECONDS + 1)
    await of.two.rescue(_watched(), endpoint=of.endpoint)
    [successor] = await of.claim(of.two, "owner")
    _expect(successor.token > late.token, "the second lease has no higher token than the first")
    _equal(await of.one.begin([late]), set(), "what the late process may begin")
    for decision in (None, GiveUp("permanent")):
        before = await of.row()
        _expect(not await of.record(of.one, late, decision), "the store counted a late outcome")
        _equal(await of.row(), before, "the delivery after a late outcome")
    _expect(await of.record(of.two, successor), "the store did not count the outcome of the new owner")
    await of.balance(delivered=1, in_flight=0)


@_check
async def _an_outcome_and_its_decision_are_stored_together_and_count_once(of: Processes) -> None:
    await of.store(4)
    park_until = of.clock() + 100
    decisions = {
        "delivered": None,
        "retry": Retry(5, of.clock() + 5),
        "park": Park(100, park_until),
        "give up": GiveUp("permanent"),
    }
    leases = await of.claim(of.one, "owner")
    for lease, (name, decision) in zip(leases, decisions.items(), strict=True):
        for _ in range(2):  # a process that gets no answer to its commit repeats it
            _expect(await of.record(of.one, lease, decision) or name != "retry", f"{name} did not count")
    await of.balance(delivered=1, retrying=2, dead_letter=1, in_flight=1)
    statuses = {lease.delivery_id: name for lease, name in zip(leases, decisions, strict=True)}
    rows = {statuses[row["id"]]: row for row in [await of.row(number) for number in range(4)]}
    _equal([rows[name]["attempts"] for name in decisions], [1] * 4, "the numbers of attempts")
    _equal(rows["park"]["available_at"], park_until, "the due time of a parked delivery")
    _equal(rows["give up"]["reason"], "permanent", "the reason of a dead letter")
    _equal(await of.two.claim(of.endpoint, owner="early", limit=9), [], "what may be claimed early")
    of.clock.advance(101)
    found = await of.two.claim(of.endpoint, owner="late", limit=9)
    _equal([statuses[lease.delivery_id] for lease in found], ["park"], "what may be claimed when it is due")


@_check
async def _only_a_process_that_has_watched_takes_the_leases_of_others(of: Processes) -> None:
    await of.store(2)
    [lost] = await of.claim(of.one, "lost", 1)
    await of.claim(of.one, "alive", 1)
    of.clock.advance(LEASE_SECONDS + 1)
    watch = ExpiryWatch(LEASE_SECONDS, of.clock)
    _equal(
        await of.two.rescue(watch, endpoint=of.endpoint),
        0,
        "the number of leases taken by a process that has just begun",
    )
    _equal(len(await of.one.renew("alive")), 1, "the number of renewed leases")
    rescued = 0
    for _ in range(4):
        of.clock.advance(LEASE_SECONDS / 6)
        rescued += await of.two.rescue(watch, endpoint=of.endpoint)
        await of.balance()
    _equal(rescued, 1, "the number of leases taken after half a lease")
    [again] = await of.claim(of.two, "heir")
    _equal((again.delivery_id, again.crashes), (lost.delivery_id, 1), "the lost delivery and its crashes")


@_check
async def _the_balance_holds_in_every_snapshot_while_two_processes_work(of: Processes) -> None:
    done = asyncio.Event()

    async def produce() -> None:
        for number in range(10):
            await of.one.enqueue([of.event(number * 5 + each) for each in range(5)], of.endpoint)
        done.set()

    async def send(store: WorkerStore, owner: str) -> None:
        while (leases := await store.claim(of.endpoint, owner=owner, limit=7)) or not done.is_set():
            await store.begin(leases)
            for lease in leases:
                await of.record(store, lease, GiveUp("permanent") if lease.delivery_id % 3 else None)

    async with asyncio.TaskGroup() as group:
        for work in (produce(), send(of.one, "one"), send(of.two, "two")):
            group.create_task(work)
    status = await of.two.status(endpoint=of.endpoint)
    _equal(status.delivered + status.dead_letter, 50, "the number of final deliveries")


@_check
async def _a_dead_letter_is_replayed_once_and_keeps_its_history(of: Processes) -> None:
    await of.bury(6)
    request = ReplayRequest(Selection(endpoint=of.endpoint), everything=True)
    options = {"died_before": of.clock() + 1, "limit": 6}
    replays = [
        store.write_leases(replay_batch, request, owner=f"replay-{number}", **options)
        for number, store in enumerate((of.one, of.two))
    ]
    leases = [lease for replayed in await asyncio.gather(*replays) for lease in replayed.leases]
    _equal(len({lease.delivery_id for lease in leases}), 6, "the number of replayed deliveries")
    _equal([(lease.round, lease.attempts) for lease in leases], [(2, 1)] * 6, "their rounds and attempts")
    await of.balance(dead_letter=0, retrying=6, in_flight=6)


@_check
async def _a_cancellation_spares_what_is_being_sent(of: Processes) -> None:
    await of.store(3)
    [lease] = await of.claim(of.one, "owner", 1)
    _equal(await cancel(of.two, Selection(endpoint=of.endpoint), who="check"), 2, "the number cancelled")
    await of.balance(dead_letter=2, pending=1)
    _expect(await of.record(of.one, lease), "the outcome of the send did not count")


@_check
async def _a_purge_removes_only_final_deliveries_and_is_in_the_audit(of: Processes) -> None:
    await of.bury(3)
    await of.one.enqueue(of.event(9), of.endpoint)
    of.clock.advance(_HOUR)
    keep = Retention(dead_letters=1e6, delivered=None, by_endpoint={of.endpoint: 0})
    report = await purge(of.two, keep, who="check", now=of.clock())
    _equal(report.purged, 3, "the number purged")
    await of.balance(accepted=4, purged=3, pending=1, dead_letter=0)
    [entry] = await of.one.read(lambda connection: read_audit(connection, limit=1))
    _equal((entry.action, entry.count), ("purge", 3), "the last entry of the audit")


@_check
async def _an_erasure_removes_the_content_and_keeps_the_counts(of: Processes) -> None:
    await of.one.enqueue([of.event(number, "secret-4711") for number in range(2)], of.endpoint)
    report = await erase(of.two, Erasure(subject=of.endpoint), who="check", patience=0.0)
    _equal((report.events, report.cancelled), (2, 2), "the numbers of erased events and cancelled deliveries")
    await of.balance(accepted=2, dead_letter=2)
    query = select(schema.events.c.body)
    bodies = await of.one.read(lambda connection: [*connection.execute(query).scalars()])
    _expect(not any(b"secret-4711" in (body or b"") for body in bodies), "the store still has the content")


@_check
async def _one_of_two_changes_of_a_gate_is_written(of: Processes) -> None:
    before = await of.one.read(read_gate, of.endpoint)
    changes = [GateChange(before, replace(before, state=state)) for state in ("probing", "paused")]
    stores = (of.one, of.two)
    written = await asyncio.gather(
        *(store.write(change_gate, change) for store, change in zip(stores, changes, strict=True))
    )
    _equal(sorted(written), [False, True], "whether each change was written")
    gate = await of.two.read(read_gate, of.endpoint)
    _equal(gate.state, changes[written.index(True)].after.state, "the state of the gate")
    _expect(gate.epoch > before.epoch, "the change did not raise the epoch of the gate")


@_check
async def _folding_changes_no_count(of: Processes) -> None:
    await of.bury(5)
    before = await of.one.read(_counts, of.endpoint)
    _expect(bool(before), "nothing was counted")
    await asyncio.gather(of.one.fold(), of.two.fold())
    _equal(await of.one.read(_counts, of.endpoint), before, "the counts after two folds at once")
    rest = await of.one.read(lambda connection: connection.execute(select(schema.tallies)).all())
    _equal(rest, [], "what is not folded")


def _counts(connection: Connection, endpoint: str) -> dict[str, int]:
    found = read_ever(connection).items()
    return {str(labels): each.count for labels, each in found if labels.endpoint == endpoint}


@_check
async def _a_commit_of_another_process_wakes(of: Processes) -> None:
    async with aclosing(of.two.database.commits()) as commits:
        async with asyncio.timeout(_WAKE_SECONDS):
            if (
                await anext(commits, "none") != "none"
            ):  # for commits before it watched; if none, the dispatcher polls
                await of.store()
                await anext(commits)


@_check
async def _all_processes_have_the_clock_of_the_store(of: Processes) -> None:
    right = await of.open_again()
    wrong = await of.open_again(process_clock=lambda: time.time() + _HOUR)
    for store in (right, wrong):
        _expect(abs(store.clock() - time.time()) < _NEAR_SECONDS, "the clock of a store is that of a process")
    await wrong.enqueue(of.event(0), of.endpoint)
    _expect(len(await right.claim(of.endpoint, owner="right", limit=1)) == 1, "a new delivery is not due")


@_check
async def _a_store_of_a_later_version_is_refused(of: Processes) -> None:
    await of.one.write(_set_version, "9999")
    refused = False
    try:
        await of.open_again()
    except StoreTooNew:
        refused = True
    finally:
        await of.one.write(_set_version, SCHEMA_VERSION)
    _expect(refused, "it was opened")


def _set_version(connection: Connection, version: str) -> None:
    connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = :v"), {"v": version})  # noqa: S608 - a constant


def _watched() -> ExpiryWatch:
    """Return the watch of a process that has watched for long enough."""
    return ExpiryWatch(0.0, lambda: 0.0)
