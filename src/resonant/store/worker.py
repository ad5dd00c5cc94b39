"""``WorkerStore``: a store with the operations of workers, for drains, replays and exports."""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from resonant.delivery.outcome import Outcome
from resonant.errors import StoreError
from resonant.events import Lease, LeaseKey
from resonant.store.counts import acceptances, counters, sketches
from resonant.store.queue import leases as lease_queries
from resonant.store.queue import rescue
from resonant.store.queue.outcomes import record
from resonant.store.shared import drains
from resonant.store.shared.gates import Gates, any_unused, read_gates, remove_unused
from resonant.store.store import Store

P = ParamSpec("P")
T = TypeVar("T")

_RESCUE_BATCH = 500
_FOLD_BATCH = 5_000
_FOLD_TALLIES = 500
# The pause between two transactions lets waiting writers get the lock: see dead_letters/walking.py.
_PAUSE_SECONDS = 0.004


class WorkerStore(Store):
    """A store for a process that sends: it claims deliveries, records outcomes, rescues lost leases, and folds counts."""

    # The endpoints with claims, those of the claims that are not noted, and the latest time of these claims.
    _known: frozenset[str] = frozenset()
    _claimed: frozenset[str] = frozenset()
    _claimed_at = 0.0

    async def reclaim_space(self) -> None:
        """Return the space of purged rows to the file system."""
        await self.database.reclaim_space()

    async def write_unsynced(
        self, operation: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run an operation that begins sends or releases leases, like ``write`` but faster.

        A crash of the machine, or of the database's server, may undo it.
        """
        return await self.database.write(self._run(operation, *args, **kwargs), sync="never")

    async def write_leases(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an operation that makes leases and other changes, passing it ``now`` and ``lease_seconds``.

        The clock is read inside the transaction, so that a wait for the write lock does not shorten a lease.
        """
        return await self.write(self._timed(operation), *args, **kwargs)

    async def claim_leases(self, operation: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run an operation that makes or renews leases and records facts about claims, like ``write_leases`` but faster.

        On SQLite, a crash of the machine may undo it. On PostgreSQL, workers may outlive the server, so it is synced: if a claim
        were lost, another worker could get the same fencing token.
        """
        return await self.database.write(self._run(self._timed(operation), *args, **kwargs), sync="on_server")

    def _timed(self, operation: Callable[..., T]) -> Callable[..., T]:
        def run(connection: Connection, *args: Any, **kwargs: Any) -> T:
            return operation(connection, *args, now=self.clock(), lease_seconds=self.lease_seconds, **kwargs)

        return run

    async def fold(self) -> None:
        """Fold acceptances into the ledgers and tallies into the sketches; no sum changes. Remove unused gates."""
        has_acceptances, has_tallies, spans, has_gates = await self.read(_what_to_fold, now=self.clock())
        for is_any, fold, batch in (
            (has_acceptances, acceptances.fold, _FOLD_BATCH),
            (has_tallies, counters.fold, _FOLD_TALLIES),
        ):
            folded = batch if is_any else 0
            while folded == batch:
                folded = await self.write(fold, limit=batch)
        for span in spans:
            await self.write(sketches.gather, span)
        if has_gates:
            await self.write(remove_unused)

    async def compact(self) -> int:
        """Fold, then merge old sketches, so that reads stay fast; return the number of merged rows. No sum changes.

        This is safe alongside writers and other compactions, and may be killed at any moment.
        """
        await self.fold()
        merged = 0
        for span in await self.read(sketches.find_spans, now=self.clock()):
            taken = sketches.ROWS_AT_ONCE
            while taken == sketches.ROWS_AT_ONCE:
                taken = await self.write(sketches.gather, span, limit=sketches.ROWS_AT_ONCE)
                merged += taken
                await asyncio.sleep(_PAUSE_SECONDS)
        return merged

    async def look(self, endpoint: str | None = None, **bounds: Any) -> tuple[list[lease_queries.Due], Gates]:
        """Return when each endpoint's earliest unfinished delivery may be claimed, and the gates, in one snapshot.

        Args:
            endpoint: only this endpoint.
            bounds: see ``leases.look``.
        """
        began_at = self.steady()
        due, gates = await self.read(lease_queries.look, endpoint, now=self.clock(), **bounds)
        self._compared.compare(gates.at, began_at)
        return due, gates

    async def gates(self) -> Gates:
        """Return the gates by endpoint."""
        began_at = self.steady()
        gates = await self.read(read_gates)
        self._compared.compare(gates.at, began_at)
        return gates

    async def claim(
        self, endpoint: str, *, owner: str, limit: int, most_bytes: int | None = None
    ) -> list[Lease]:
        """Lease up to ``limit`` due deliveries of one endpoint."""
        return (await self.claim_each({endpoint: limit}, owner=owner, most_bytes=most_bytes))[endpoint]

    async def claim_each(
        self, limits: Mapping[str, int], *, owner: str, **options: Any
    ) -> dict[str, list[Lease]]:
        """Lease due deliveries of several endpoints in one transaction; see ``leases.claim``.

        Only the first claim from an endpoint is noted at once, so that `status` shows a run that has just begun. Call
        ``note_claims`` at times.
        """
        new = limits.keys() - self._known
        claimed = await self.claim_leases(lease_queries.claim, limits, owner=owner, note=new, **options)
        if names := frozenset(endpoint for endpoint, leases in claimed.items() if leases):
            # The latest time: if the clock was set back, it shows that.
            self._claimed_at = max(self._claimed_at, self.clock())
            self._known |= names
            self._claimed |= names - new
        return claimed

    async def note_claims(self) -> None:
        """Record when the last claim was made from each endpoint, if there were claims since the last call."""
        if noted := self._claimed:
            await self.write(lease_queries.note_claims, noted, self._claimed_at)
            self._claimed -= noted
            self._claimed_at = self.clock()

    async def begin(self, leases: Sequence[Lease]) -> set[LeaseKey]:
        """Record that sends are about to start; return the leases that are still held."""
        return await self.write_unsynced(lease_queries.begin, leases, now=self.clock())

    async def record(self, outcomes: Sequence[Outcome]) -> set[LeaseKey]:
        """Write attempts and decisions; return the leases whose outcome was recorded."""
        return await self.write(record, outcomes, now=self.clock())

    async def release(self, leases: Sequence[Lease]) -> None:
        """Release leases, without charging an attempt."""
        await self.write_unsynced(lease_queries.release, leases, now=self.clock())

    async def renew(
        self, owner: str, delivery_ids: Collection[int] | None = None, *, skip_locked: bool = False
    ) -> list[int]:
        """Renew an owner's leases on these deliveries, or all of its leases; return the ids of their deliveries.

        With ``skip_locked``, leave out deliveries that another transaction has locked, so that the others need not wait for it.
        Otherwise, wait for it for a third of a lease.

        Raises:
            StillLocked: another transaction holds the lock. It is a ``StoreUnavailable``.
        """

        def run(connection: Connection) -> list[int]:
            # After a suspension of this process, its time is behind, and the renewed leases would end too early.
            self._compared.compare_now(connection)
            renew = self._timed(lease_queries.renew)
            return renew(connection, owner, delivery_ids=delivery_ids, skip_locked=skip_locked)

        lock_seconds = None if skip_locked else self.lease_seconds / 3
        return await self.database.write(run, sync="on_server", lock_seconds=lock_seconds)

    async def release_all(self, owner: str, *, besides: Collection[LeaseKey] = ()) -> int:
        """Release the leases of an owner, except these, without charging an attempt; return their number."""
        released = 0
        # First without those that another transaction has locked, since the wait for them may fail.
        for skip_locked in (True, False):
            released += await self.write(
                lease_queries.release_all, owner, besides=besides, skip_locked=skip_locked, now=self.clock()
            )
        return released

    async def unfinished(self, endpoint: str | None = None) -> int:
        """Return the number of deliveries that are neither delivered nor given up."""
        return await self.read(lease_queries.unfinished, endpoint)

    async def latest_lease_end(self, endpoint: str | None = None) -> float | None:
        """Return when the last lease ends, in seconds since the epoch; None if nothing is leased."""
        return await self.read(lease_queries.latest_lease_end, endpoint)

    async def rescue(self, watch: rescue.ExpiryWatch, *, endpoint: str | None = None) -> int:
        """End every expired lease; return their number.

        Also correct due times if the store's clock was set back, unless a recent search was slow.

        Args:
            watch: decides whether this process may rescue: not before it has watched for half a lease.
            endpoint: only the leases on deliveries to this endpoint.
        """
        rescued = 0
        searched: tuple[float, float, float] | None = None

        def run(connection: Connection) -> int:
            nonlocal searched
            rescue.wait_for_lock(connection)
            # After a suspension of this process, its time is behind, and it would misjudge the waits and leases of others.
            self._compared.compare_now(connection)
            now, began_at = self.clock(), self.steady()
            since = watch.since(now)
            if since == -math.inf:
                rescue.shorten_waits(connection, now=now, lease_seconds=self.lease_seconds)
                rescue.make_new_due(connection, now=now, endpoint=endpoint)
            if not watch.may_rescue(now):
                rescue.try_to_write(connection, now=now)
                return 0
            found = rescue.rescue(connection, now=now, endpoint=endpoint, since=since, limit=_RESCUE_BATCH)
            searched = (now, since, self.steady() - began_at)
            return found

        while True:
            try:
                batch = await self.write(run)
            except StoreError:
                watch.restart()
                raise
            rescued += batch
            if batch < _RESCUE_BATCH:
                if searched is not None:
                    watch.note_search(*searched)
                return rescued

    async def rescue_from(self, owners: Iterable[str]) -> int:
        """End every lease of owners that are known to have ended; return their number."""
        rescued, given, batch = 0, list(owners), _RESCUE_BATCH
        while batch == _RESCUE_BATCH and given:
            batch = await self.write(rescue.rescue, now=self.clock(), owners=given, limit=_RESCUE_BATCH)
            rescued += batch
        return rescued

    async def rescue_ended(self, has_ended: Callable[[str], bool]) -> int:
        """End the leases of drains whose processes have ended; return their number.

        Args:
            has_ended: returns whether the process with this name has ended for sure.
        """
        rescued = 0
        owners = await self.read(drains.ended_owners, has_ended)
        batch = _RESCUE_BATCH if owners else 0
        while batch == _RESCUE_BATCH:
            batch = await self.write(_rescue_ended, owners, has_ended, now=self.clock())
            rescued += batch
        return rescued


def _rescue_ended(
    connection: Connection, owners: list[str], has_ended: Callable[[str], bool], *, now: float
) -> int:
    ended = drains.ended_owners(connection, has_ended, among=owners)
    rescued = rescue.rescue(connection, now=now, owners=ended, limit=_RESCUE_BATCH)
    if rescued < _RESCUE_BATCH:
        drains.forget(connection, ended, now=now)
    return rescued


def _what_to_fold(connection: Connection, *, now: float) -> tuple[bool, bool, list[sketches.Span], bool]:
    """Return whether there are acceptances and tallies, which sketches to merge, and whether there are unused gates."""
    spans = sketches.find_spans(connection, now=now, is_cheap=True)
    return acceptances.is_any(connection), counters.is_any(connection), spans, any_unused(connection)
