"""Group commit: writes requested at the same time share a transaction, and each is acknowledged after its commit."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from resonant.dispatch.send.batch_writer import BatchWriter
from resonant.errors import StoreLocked, StoreRefused, StoreUnavailable
from resonant.events import Attempt
from resonant.store import Outcome
from resonant.store.engine.availability import retry_while_unavailable
from resonant.testing import FixedClock
from support.dispatching import enqueue, opened, rows
from support.sqlite import locked, write_transactions
from support.waiting import until

START = 1_800_000_000.0


@asynccontextmanager
async def leased(tmp_path, count, *, patience=0.0):
    """A store with this many leased deliveries, and a group commit to it."""
    async with opened(f"sqlite:///{tmp_path}/r.db", clock=FixedClock(START)) as store:
        await enqueue(store, count)
        leases = await store.claim("orders", owner="me", limit=count)
        yield store, leases, BatchWriter(store, patience=patience)


@pytest.fixture
def transactions():
    """A list that grows with each transaction that may have written."""
    with write_transactions("commit") as counted:
        yield counted


@asynccontextmanager
async def recording_behind_a_lock(tmp_path, tries, **options):
    """An outcome whose write has failed once, since another connection holds the lock of the file.

    Yields the group commit, the outcome's future and the other connection.
    """
    async with leased(tmp_path, 1, **options) as (_, (lease,), commits):
        with locked(tmp_path / "r.db") as other:
            tries.clear()
            recording = commits.record(delivered(lease))
            await until(lambda: len(tries) >= 2)
            assert not recording.done()
            yield commits, recording, other


def sending(tmp_path):
    return {row[0] for row in rows(tmp_path, "SELECT id FROM resonant_deliveries WHERE sending")}


def attempts(tmp_path):
    [(count,)] = rows(tmp_path, "SELECT count(*) FROM resonant_attempts")
    return count


def delivered(lease):
    attempt = Attempt(
        number=lease.attempts + 1, round=lease.round, started_at=START, duration=0.1, result="delivered"
    )
    return Outcome(lease, attempt, None)


class TestTransactions:
    async def test_writes_requested_at_the_same_moment_share_one(self, tmp_path, transactions):
        async with leased(tmp_path, 42) as (store, [recorded, released, *begun], commits):
            transactions.clear()
            *held, kept, _ = await asyncio.gather(
                *(commits.begin([lease]) for lease in begun),
                commits.record(delivered(recorded)),
                commits.release([released]),
            )
            assert [*held, kept] == [{lease.key} for lease in [*begun, recorded]]
            assert len(transactions) == 1
            assert sending(tmp_path) == {lease.delivery_id for lease in begun}
            [again] = await store.claim("orders", owner="another", limit=9)
            assert again.delivery_id == released.delivery_id

    @pytest.mark.parametrize(
        ("at_once", "expected"),
        [
            (20, 2),
            # ten begins; their outcomes and ten more begins; the outcomes of those
            (10, 3),
        ],
    )
    async def test_writes_requested_meanwhile_share_the_next(self, tmp_path, transactions, at_once, expected):
        async with leased(tmp_path, 20) as (_, leases, commits):
            transactions.clear()
            slots = asyncio.Semaphore(at_once)

            async def send(lease):
                async with slots:
                    assert await commits.begin([lease])
                assert await commits.record(delivered(lease))

            await asyncio.gather(*map(send, leases))
            assert len(transactions) == expected


@pytest.mark.parametrize("is_claimed_again", [False, True])
async def test_only_lost_leases_are_refused(tmp_path, is_claimed_again):
    async with leased(tmp_path, 1 if is_claimed_again else 2) as (store, [lost, *rest], commits):
        await store.release([lost])
        [kept] = await store.claim("orders", owner="me", limit=1) if is_claimed_again else rest

        assert await asyncio.gather(commits.begin([lost]), commits.begin([kept])) == [set(), {kept.key}]
        both = (commits.record(delivered(lost)), commits.record(delivered(kept)))
        assert await asyncio.gather(*both) == [set(), {kept.key}]
        assert rows(tmp_path, "SELECT delivery_id, late FROM resonant_attempts ORDER BY late") == [
            (kept.delivery_id, 0),
            (lost.delivery_id, 1),
        ]


class TestOutages:
    async def test_an_unreachable_store_is_an_error_for_every_waiter_and_the_next_write_is_tried(
        self, tmp_path, disk
    ):
        async with leased(tmp_path, 3) as (_, leases, commits):
            disk.is_read_only = True
            errors = await asyncio.gather(
                *(commits.begin([lease]) for lease in leases[:2]),
                commits.record(delivered(leases[2])),
                return_exceptions=True,
            )
            assert [isinstance(error, StoreUnavailable) for error in errors] == [True] * 3
            disk.is_read_only = False
            assert await commits.begin([leases[0]])

    async def test_a_short_outage_is_waited_for(self, tmp_path, disk):
        async with leased(tmp_path, 1, patience=10) as (_, (lease,), commits):
            disk.is_read_only = True
            writing = commits.record(delivered(lease))
            await until(lambda: disk.refused >= 2)
            assert not writing.done()
            disk.is_read_only = False
            assert await writing
            assert attempts(tmp_path) == 1

    async def test_patience_ends(self, tmp_path, disk):
        now = asyncio.get_running_loop().time
        async with leased(tmp_path, 1, patience=20) as (_, (lease,), commits):
            began_at = now()
            disk.is_read_only = True
            with pytest.raises(StoreUnavailable):
                await commits.begin([lease])
            assert 15 <= now() - began_at <= 25

    async def test_a_lock_is_waited_for_longer_than_an_outage(self, tmp_path, impatient_sqlite):
        async with recording_behind_a_lock(tmp_path, impatient_sqlite) as (_, recording, other):
            other.rollback()
            assert await recording

    async def test_only_an_unavailable_store_is_waited_for(self):
        async def operation():
            tried.append(1)
            raise ValueError("wrong")

        tried = []
        with pytest.raises(ValueError, match="wrong"):
            await retry_while_unavailable(operation, 60)
        assert len(tried) == 1

    @pytest.mark.parametrize(
        ("errors", "suspended"),
        [
            ([StoreUnavailable("the server ended the connection")], 0.7),
            ([StoreLocked("session 7 holds a lock")] * 2 + [StoreUnavailable("the server ended")], 0),
        ],
        ids=["a suspension", "a long lock"],
    )
    async def test_an_outage_gets_the_full_patience_after(self, errors, suspended):
        async def operation():
            if left:
                asyncio.get_running_loop().now += suspended  # the whole process stands still
                raise left.pop(0)
            return "done"

        left = list(errors)
        assert await retry_while_unavailable(operation, 0.6) == "done"


class TestLockedDeliveries:
    """On PostgreSQL, a transaction of somebody else may lock a single delivery."""

    @pytest.fixture
    async def leased(self, postgresql, postgresql_url):
        """Two leases, the first of which is locked until ``unlock`` is called; and the store."""
        async with opened(postgresql_url) as store, postgresql.connected("test") as connection:
            await enqueue(store, 2)
            leases = sorted(
                await store.claim("orders", owner="me", limit=2), key=lambda each: each.delivery_id
            )
            transaction = connection.transaction()
            await transaction.start()
            query = "SELECT FROM resonant_deliveries WHERE id = $1 FOR UPDATE"
            await connection.execute(query, leases[0].delivery_id)
            yield store, leases, transaction.rollback

    async def test_only_their_own_writes_wait_for_them(self, leased):
        store, [of_locked, other], unlock = leased
        commits = BatchWriter(store)
        waiting, recorded = commits.record(delivered(of_locked)), commits.record(delivered(other))
        assert await recorded == {other.key}
        assert not waiting.done()
        await unlock()
        assert await waiting == {of_locked.key}

    async def test_closing_waits_for_them_with_the_patience_for_an_outage(self, leased, caplog):
        store, [of_locked, _], unlock = leased
        commits = BatchWriter(store, patience=0.5)
        waiting = commits.record(delivered(of_locked))
        await until(lambda: "recording its outcome waits" in caplog.text)
        assert not waiting.done()
        await commits.close()
        with pytest.raises(StoreLocked, match="another transaction holds a lock on a delivery"):
            await waiting
        await unlock()


class TestCancelledWaiters:
    async def test_a_cancelled_begin_is_not_written_and_disturbs_no_other(self, tmp_path):
        async with leased(tmp_path, 3) as (_, leases, commits):
            begins = [commits.begin([lease]) for lease in leases]
            begins[1].cancel()
            results = await asyncio.gather(*begins, return_exceptions=True)
            assert (results[0], results[2]) == ({leases[0].key}, {leases[2].key})
            assert isinstance(results[1], asyncio.CancelledError)
            assert sending(tmp_path) == {leases[0].delivery_id, leases[2].delivery_id}

    @pytest.mark.parametrize("comes_back", [True, False])
    async def test_cancelling_during_the_write_disturbs_no_other(self, tmp_path, disk, comes_back):
        async with leased(tmp_path, 6, patience=0.7) as (_, leases, commits):
            disk.is_read_only = True
            writes = [commits.begin([lease]) for lease in leases[:3]]
            writes += [commits.record(delivered(lease)) for lease in leases[3:]]
            await until(lambda: disk.refused)
            writes[0].cancel()
            writes[3].cancel()
            disk.is_read_only = not comes_back
            results = await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 60)
            written = set if comes_back else StoreRefused
            assert [type(result) for result in results] == [asyncio.CancelledError, written, written] * 2

    async def test_an_outcome_is_written_even_if_its_waiter_is_cancelled(self, tmp_path):
        async with leased(tmp_path, 2) as (_, leases, commits):
            for lease in leases:
                commits.record(delivered(lease)).cancel()
            await commits.close()
            assert attempts(tmp_path) == 2


class TestClosing:
    async def test_it_waits_for_a_lock_no_longer_than_for_an_outage(self, tmp_path, impatient_sqlite):
        locked_out = recording_behind_a_lock(tmp_path, impatient_sqlite, patience=0.2)
        async with locked_out as (commits, recording, _):
            await asyncio.wait_for(commits.close(), 30)
            with pytest.raises(StoreLocked, match="holds its lock"):
                await recording

    @pytest.mark.parametrize("is_cancelled", [False, True])
    async def test_it_waits_for_writes_and_its_cancellation_does_not_cancel_them(
        self, tmp_path, impatient_sqlite, is_cancelled
    ):
        locked_out = recording_behind_a_lock(tmp_path, impatient_sqlite, patience=10)
        async with locked_out as (commits, recording, other):
            closing = asyncio.create_task(commits.close())
            tries = len(impatient_sqlite)
            await until(lambda: len(impatient_sqlite) > tries)
            assert not closing.done()
            if is_cancelled:
                closing.cancel()
                await asyncio.wait([closing])
            other.rollback()
            if is_cancelled:
                assert await recording
            else:
                await closing
            assert recording.done()
        assert attempts(tmp_path) == 1

    async def test_without_writes_it_returns_at_once(self, tmp_path):
        async with leased(tmp_path, 1) as (store, (lease,), commits):
            await BatchWriter(store).close()
            await commits.begin([lease])
            await commits.close()
            await commits.close()

    async def test_it_writes_outcomes_even_if_the_loop_has_cancelled_every_task(
        self, tmp_path, impatient_sqlite
    ):
        # As asyncio.run does after a KeyboardInterrupt that a task raised: the writer is cancelled, too.
        async def wait_for(write):
            return await write

        before = asyncio.all_tasks()
        async with leased(tmp_path, 3, patience=10) as (_, leases, commits):
            with locked(tmp_path / "r.db"):
                impatient_sqlite.clear()
                begins = [asyncio.create_task(wait_for(commits.begin([lease]))) for lease in leases[:2]]
                await until(lambda: impatient_sqlite)
                recording = asyncio.create_task(wait_for(commits.record(delivered(leases[2]))))
                await asyncio.sleep(0)
                tasks = asyncio.all_tasks() - before
                for task in tasks - {begins[0]}:
                    task.cancel()
                await asyncio.wait(tasks)
            await commits.close()
            assert begins[0].cancelled()
            assert recording.cancelled()
            assert attempts(tmp_path) == 1

    async def test_it_writes_the_outcomes_of_a_write_that_the_loop_has_cancelled(
        self, tmp_path, impatient_sqlite
    ):
        before = asyncio.all_tasks()
        locked_out = recording_behind_a_lock(tmp_path, impatient_sqlite, patience=10)
        async with locked_out as (commits, recording, other):
            tasks = asyncio.all_tasks() - before
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            other.rollback()
            await commits.close()
            with pytest.raises(asyncio.CancelledError):
                await recording
        assert attempts(tmp_path) == 1

    async def test_it_writes_an_outcome_whose_write_was_cancelled_while_it_waited_for_a_lock(
        self, postgresql, postgresql_url
    ):
        async def write_in_an_outage(*args, **options):
            writes.append(1)
            if len(writes) == 2:
                await asyncio.Event().wait()
            return await write(*args, **options)

        before, writes = asyncio.all_tasks(), []
        async with opened(postgresql_url) as store, postgresql.connected("test") as connection:
            await enqueue(store)
            [lease] = await store.claim("orders", owner="me", limit=1)
            commits, write, store.write = BatchWriter(store, patience=10), store.write, write_in_an_outage
            async with connection.transaction():
                await connection.execute("SELECT id FROM resonant_deliveries FOR UPDATE")
                recording = commits.record(delivered(lease))
                await until(lambda: len(writes) == 2)
            for task in asyncio.all_tasks() - before:
                task.cancel()
            await commits.close()
            with pytest.raises(asyncio.CancelledError):
                await recording
            assert (await store.status()).delivered == 1


async def test_outcomes_that_are_not_urgent_share_a_transaction_until_one_is_urgent(tmp_path, transactions):
    async with leased(tmp_path, 4) as (_, leases, commits):
        transactions.clear()
        first = [commits.record(delivered(lease), is_urgent=False) for lease in leases[:2]]
        await asyncio.sleep(0.04)
        assert not transactions
        await asyncio.gather(*first)
        assert len(transactions) == 1
        second = commits.record(delivered(leases[2]), is_urgent=False)
        await asyncio.sleep(0.04)
        began_at = asyncio.get_running_loop().time()
        await asyncio.gather(commits.record(delivered(leases[3])), second)
        assert asyncio.get_running_loop().time() < began_at + 0.01
        assert len(transactions) == 2


async def test_outcomes_are_written_at_once_if_they_are_many_or_hurry_or_the_writer_closes(tmp_path):
    async with leased(tmp_path, 102) as (_, leases, commits):
        began_at = asyncio.get_running_loop().time()
        many = [commits.record(delivered(lease), is_urgent=False) for lease in leases[:100]]
        await asyncio.gather(*many)
        hurried = commits.record(delivered(leases[100]), is_urgent=False)
        commits.hurry()
        await hurried
        commits.record(delivered(leases[101]), is_urgent=False)
        await commits.close()
        assert asyncio.get_running_loop().time() < began_at + 0.01
    assert attempts(tmp_path) == 102
