import asyncio
import contextlib
import sqlite3
import time
from contextlib import asynccontextmanager

import pytest

from resonant.delivery.retry import Park
from resonant.dispatch.batch_writer import BatchWriter
from resonant.errors import StoreLocked, StoreRefused, StoreUnavailable
from resonant.events import Attempt, Event
from resonant.store import Outcome, WorkerStore
from resonant.store.engine.availability import retry_while_unavailable
from resonant.testing import FixedClock
from support.sqlite import listening, locked
from support.waiting import until

START = 1_800_000_000.0


@asynccontextmanager
async def leased(tmp_path, count, *, patience=0.0):
    """A store with so many leased deliveries, and a group commit to it."""
    store = await WorkerStore.open(f"sqlite:///{tmp_path}/r.db", clock=FixedClock(START))
    try:
        events = [Event(type="t", source="/s", data=n, id=f"evt_{n}") for n in range(count)]
        await store.enqueue(events, "orders")
        leases = await store.claim("orders", owner="me", limit=count)
        yield store, leases, BatchWriter(store, patience=patience)
    finally:
        await store.close()


async def recorded(commits, outcome):
    return await commits.record(outcome)


@pytest.fixture
def transactions():
    """A list that grows with each transaction that may have written."""
    counted = []

    def count(connection):
        if connection.get_execution_options().get("write"):
            counted.append(connection)

    with listening("commit", count):
        yield counted


def rows(tmp_path, query):
    with contextlib.closing(sqlite3.connect(tmp_path / "r.db")) as connection:
        return connection.execute(query).fetchall()


def sending(tmp_path):
    return {row[0] for row in rows(tmp_path, "SELECT id FROM resonant_deliveries WHERE sending")}


def delivered(lease):
    attempt = Attempt(
        number=lease.attempts + 1, round=lease.round, started_at=START, duration=0.1, result="delivered"
    )
    return Outcome(lease, attempt, None)


async def test_what_many_want_written_at_the_same_moment_goes_into_one_transaction(tmp_path, transactions):
    async with leased(tmp_path, 40) as (_, leases, commits):
        transactions.clear()

        begun = await asyncio.gather(*(commits.begin(lease) for lease in leases))

        assert begun == [True] * 40
        assert len(transactions) == 1


async def test_begins_and_outcomes_share_a_transaction(tmp_path, transactions):
    async with leased(tmp_path, 2) as (_, leases, commits):
        transactions.clear()

        kept = await asyncio.gather(commits.begin(leases[0]), commits.record(delivered(leases[1])))

        assert kept == [True, True]
        assert len(transactions) == 1


async def test_leases_handed_back_together_share_a_transaction_and_are_due_again(tmp_path, transactions):
    async with leased(tmp_path, 3) as (store, leases, commits):
        transactions.clear()
        await asyncio.gather(commits.begin(leases[0]), *(commits.release(lease) for lease in leases[1:]))
        assert len(transactions) == 1
        assert len(await store.claim("orders", owner="another", limit=9)) == 2


async def test_what_comes_while_a_transaction_is_written_goes_into_the_next(tmp_path, transactions):
    async with leased(tmp_path, 30) as (_, leases, commits):
        transactions.clear()

        async def send(lease):
            assert await commits.begin(lease)
            assert await commits.record(delivered(lease))

        await asyncio.gather(*(send(lease) for lease in leases))

        assert len(transactions) == 2


async def test_what_follows_at_once_from_a_transaction_goes_into_the_next_together(tmp_path, transactions):
    async with leased(tmp_path, 20) as (_, leases, commits):
        transactions.clear()
        slots = asyncio.Semaphore(10)

        async def send(lease):
            async with slots:
                await commits.begin(lease)
            await commits.record(delivered(lease))

        await asyncio.gather(*(send(lease) for lease in leases))

        # ten begins; their outcomes and ten more begins; the outcomes of those
        assert len(transactions) == 3


async def test_others_see_what_was_written_as_soon_as_it_is_acknowledged(tmp_path):
    async with leased(tmp_path, 1) as (_, (lease,), commits):
        await commits.begin(lease)
        assert sending(tmp_path) == {lease.delivery_id}

        await commits.record(delivered(lease))
        assert rows(tmp_path, "SELECT status FROM resonant_deliveries") == [("delivered",)]
        assert rows(tmp_path, "SELECT number, result FROM resonant_attempts") == [(1, "delivered")]


async def test_only_those_whose_lease_is_lost_are_refused(tmp_path):
    async with leased(tmp_path, 2) as (store, (lost, kept), commits):
        await store.release([lost])

        assert await asyncio.gather(commits.begin(lost), commits.begin(kept)) == [False, True]
        assert await asyncio.gather(commits.record(delivered(lost)), commits.record(delivered(kept))) == [
            False,
            True,
        ]
        assert rows(tmp_path, "SELECT delivery_id, late FROM resonant_attempts ORDER BY late") == [
            (kept.delivery_id, 0),
            (lost.delivery_id, 1),
        ]


async def test_of_two_leases_of_one_delivery_only_the_later_is_held_also_in_one_transaction(tmp_path):
    async with leased(tmp_path, 1) as (store, [lost], commits):
        await store.release([lost])
        [successor] = await store.claim("orders", owner="me", limit=1)

        assert await asyncio.gather(commits.begin(lost), commits.begin(successor)) == [False, True]
        both = (commits.record(delivered(lost)), commits.record(delivered(successor)))
        assert await asyncio.gather(*both) == [False, True]
        assert rows(tmp_path, "SELECT late FROM resonant_attempts ORDER BY late") == [(0,), (1,)]


async def test_an_unreachable_store_is_an_error_for_every_waiter(tmp_path, disk):
    async with leased(tmp_path, 3) as (_, leases, commits):
        disk.is_read_only = True
        errors = await asyncio.gather(
            *(commits.begin(lease) for lease in leases[:2]),
            commits.record(delivered(leases[2])),
            return_exceptions=True,
        )

        assert [isinstance(error, StoreUnavailable) for error in errors] == [True] * 3


async def test_the_next_write_after_an_error_is_attempted(tmp_path, disk):
    async with leased(tmp_path, 1) as (_, (lease,), commits):
        disk.is_read_only = True
        with pytest.raises(StoreUnavailable):
            await commits.begin(lease)

        disk.is_read_only = False
        assert await commits.begin(lease)


async def test_a_store_that_comes_back_in_time_is_waited_for(tmp_path, disk):
    async with leased(tmp_path, 1, patience=10) as (_, (lease,), commits):
        disk.is_read_only = True
        writing = asyncio.create_task(recorded(commits, delivered(lease)))
        await until(lambda: disk.refused >= 2)
        assert not writing.done()
        disk.is_read_only = False

        assert await writing
        assert rows(tmp_path, "SELECT number FROM resonant_attempts") == [(1,)]


async def test_patience_ends(tmp_path, disk):
    async with leased(tmp_path, 1, patience=0.7) as (_, (lease,), commits):
        loop = asyncio.get_running_loop()
        start = loop.time()
        disk.is_read_only = True
        with pytest.raises(StoreUnavailable):
            await commits.begin(lease)

        assert 0.5 <= loop.time() - start < 30


async def test_a_lock_is_waited_for_longer_than_an_outage(tmp_path, impatient_sqlite):
    async with leased(tmp_path, 1) as (_, (lease,), commits):
        with locked(tmp_path / "r.db") as other:
            impatient_sqlite.clear()
            writing = asyncio.create_task(recorded(commits, delivered(lease)))
            await until(lambda: len(impatient_sqlite) >= 2)
            assert not writing.done()
            other.rollback()

            assert await writing


async def test_closing_waits_for_a_lock_no_longer_than_for_an_outage(tmp_path, impatient_sqlite):
    async with leased(tmp_path, 1, patience=0.2) as (_, (lease,), commits):
        with locked(tmp_path / "r.db"):
            impatient_sqlite.clear()
            writing = commits.record(delivered(lease))
            await until(lambda: len(impatient_sqlite) >= 2)
            await asyncio.wait_for(commits.close(), 30)
            with pytest.raises(StoreLocked, match="holds its lock"):
                await writing


async def test_only_a_store_that_is_away_is_waited_for():
    async def operation():
        tried.append(1)
        raise ValueError("wrong")

    tried = []
    with pytest.raises(ValueError, match="wrong"):
        await retry_while_unavailable(operation, 60)
    assert len(tried) == 1


async def test_an_operation_is_retried_after_a_suspension_longer_than_the_patience():
    async def operation():
        tried.append(True)
        if len(tried) == 1:
            time.sleep(0.7)  # blocks the whole process, as SIGSTOP does
            raise StoreUnavailable("the server ended the connection")
        return "done"

    tried = []
    assert await retry_while_unavailable(operation, 0.6) == "done"


async def test_an_outage_after_a_long_lock_gets_the_full_patience():
    async def operation():
        tried.append(True)
        if len(tried) <= 2:
            raise StoreLocked("session 7 holds a lock")
        if len(tried) == 3:
            raise StoreUnavailable("the server ended the connection")
        return "done"

    tried = []
    assert await retry_while_unavailable(operation, 0.6) == "done"


async def test_one_who_stops_waiting_does_not_disturb_the_others(tmp_path):
    async with leased(tmp_path, 3) as (_, leases, commits):
        tasks = [asyncio.create_task(commits.begin(lease)) for lease in leases]
        await asyncio.sleep(0)
        tasks[1].cancel()

        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert (results[0], results[2]) == (True, True)
        assert isinstance(results[1], asyncio.CancelledError)


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_waiter_cancelled_during_the_write_does_not_disturb_the_others(tmp_path, disk, comes_back):
    async with leased(tmp_path, 6, patience=0.7) as (_, leases, commits):
        disk.is_read_only = True
        tasks = [asyncio.create_task(commits.begin(lease)) for lease in leases[:3]]
        tasks += [asyncio.create_task(recorded(commits, delivered(lease))) for lease in leases[3:]]
        await until(lambda: disk.refused)
        tasks[0].cancel()
        tasks[3].cancel()
        disk.is_read_only = not comes_back
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

        kinds = [type(result) for result in results]
        written = bool if comes_back else StoreRefused
        assert kinds == [asyncio.CancelledError, written, written] * 2


async def test_a_begin_that_nobody_waits_for_any_more_is_not_written(tmp_path):
    async with leased(tmp_path, 3) as (_, leases, commits):
        first = asyncio.create_task(commits.begin(leases[0]))
        await asyncio.sleep(0.0)
        cancelled = asyncio.create_task(commits.begin(leases[1]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await first
        await commits.close()

        assert sending(tmp_path) == {leases[0].delivery_id}


async def test_an_outcome_is_written_even_if_nobody_waits_for_it_any_more(tmp_path):
    async with leased(tmp_path, 2) as (_, leases, commits):
        tasks = [asyncio.create_task(recorded(commits, delivered(lease))) for lease in leases]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await commits.close()

        assert rows(tmp_path, "SELECT count(*) FROM resonant_attempts") == [(2,)]


async def test_closing_waits_for_what_is_being_written(tmp_path, impatient_sqlite):
    async with leased(tmp_path, 1, patience=10) as (_, (lease,), commits):
        with locked(tmp_path / "r.db") as other:
            impatient_sqlite.clear()
            recording = asyncio.create_task(recorded(commits, delivered(lease)))
            await until(lambda: impatient_sqlite)
            closing = asyncio.create_task(commits.close())
            await until(lambda: len(impatient_sqlite) >= 2)
            assert not closing.done()
            other.rollback()
            await closing

        assert recording.done()
        assert rows(tmp_path, "SELECT count(*) FROM resonant_attempts") == [(1,)]


async def test_closing_what_has_nothing_to_write_returns_at_once(tmp_path):
    async with leased(tmp_path, 1) as (store, (lease,), commits):
        await BatchWriter(store).close()
        await commits.begin(lease)
        await commits.close()
        await commits.close()


async def test_cancelling_who_closes_does_not_cancel_the_writing(tmp_path, impatient_sqlite):
    async with leased(tmp_path, 1, patience=10) as (_, (lease,), commits):
        with locked(tmp_path / "r.db") as other:
            impatient_sqlite.clear()
            recording = asyncio.create_task(recorded(commits, delivered(lease)))
            closing = asyncio.create_task(commits.close())
            await until(lambda: impatient_sqlite)
            closing.cancel()
            await asyncio.wait([closing])
            other.rollback()

            assert await recording


async def test_when_the_loop_cancels_every_task_closing_still_writes_what_was_handed_in(
    tmp_path, impatient_sqlite
):
    # As asyncio.run does it after a KeyboardInterrupt that a task raised: the writer too is cancelled.
    before = asyncio.all_tasks()
    async with leased(tmp_path, 3, patience=10) as (_, leases, commits):
        with locked(tmp_path / "r.db"):
            impatient_sqlite.clear()
            begins = [asyncio.create_task(commits.begin(lease)) for lease in leases[:2]]
            await until(lambda: impatient_sqlite)
            recording = asyncio.create_task(recorded(commits, delivered(leases[2])))
            await asyncio.sleep(0)
            tasks = asyncio.all_tasks() - before
            for task in tasks - {begins[0]}:
                task.cancel()
            await asyncio.wait(tasks)
        await commits.close()

        assert begins[0].cancelled()
        assert recording.cancelled()
        assert rows(tmp_path, "SELECT count(*) FROM resonant_attempts") == [(1,)]


async def test_a_parked_delivery_is_due_again_when_it_was_decided(tmp_path):
    async with leased(tmp_path, 1) as (_, (lease,), commits):
        attempt = Attempt(number=1, round=1, started_at=START, duration=0.1, result="failed")

        assert await commits.record(Outcome(lease, attempt, Park(60.0, START + 60)))

        query = "SELECT status, available_at, lease_owner FROM resonant_deliveries"
        assert rows(tmp_path, query) == [("retrying", START + 60, None)]
