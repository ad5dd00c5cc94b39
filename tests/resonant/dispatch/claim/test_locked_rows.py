"""A transaction of somebody else that locks a single delivery in flight, such as an operator's in psql."""

import asyncio

from resonant.dispatch.limits import Limits
from resonant.events import Event, rfc3339
from resonant.sinks.base import CallableSink
from support.dispatching import appending_to, draining, enqueue, opened, sink_target
from support.postgresql import NUMBER_WAITING
from support.waiting import until

LEASE_SECONDS = 6.0
LOCK = "SELECT id FROM resonant_deliveries ORDER BY id LIMIT 1 FOR UPDATE"


def patient(sent, go, *, rated=()):
    """Return the options of a drain with endpoints that answer once ``go`` is set; those in ``rated`` have a rate."""

    async def open_destination(name):
        rate = 100 if name in rated else None
        return sink_target(name, CallableSink(appending_to(sent, go)), timeout=600, rate=rate)

    return {"open_destination": open_destination, "limits": Limits(run_for=600, successors=9)}


def first(connection, column):
    """Read a column of the first delivery."""
    return connection.fetchval(f"SELECT {column} FROM resonant_deliveries ORDER BY id LIMIT 1")


def counted(store, status, number):
    """Return a condition: this number of deliveries have this status."""

    async def is_so():
        return getattr(await store.status(), status) == number

    return is_so


async def test_no_lease_of_its_owner_is_lost_meanwhile_or_afterwards(postgresql, postgresql_url):
    sent, go = [], asyncio.Event()

    async def is_first_renewed():
        return await first(connection, "available_at") > store.clock()

    async with (
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as store,
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as other,
        postgresql.connected("test") as connection,
        draining(store, None, owner="living", **patient(sent, go)),
    ):
        ids = await enqueue(store, 3)
        await until(lambda: len(sent) == 3)
        async with draining(other, None, owner="other", **patient(sent, go)):
            async with connection.transaction():
                await connection.execute(LOCK)
                ends_at = await first(connection, "available_at")
                await until(lambda: store.clock() > ends_at + 1)
                await until(lambda: connection.fetchval(NUMBER_WAITING))
            await until(is_first_renewed)
        assert await first(connection, "lease_owner") == "living"
        go.set()
        await until(counted(store, "delivered", 3))
        details = [await store.detail(each) for each in ids]
    attempts = [each for detail in details for _, history in detail.deliveries for each in history]
    assert [(each.result, each.late) for each in attempts] == [("delivered", False)] * 3


async def test_the_outcomes_of_others_are_recorded_and_new_events_sent(postgresql, postgresql_url):
    sent, go = [], asyncio.Event()
    async with (
        opened(postgresql_url) as store,
        postgresql.connected("test") as connection,
        draining(store, None, **patient(sent, go)),
    ):
        ids = await enqueue(store, 3)
        await until(lambda: len(sent) == 3)
        async with connection.transaction():
            await connection.execute(LOCK)
            go.set()
            await until(counted(store, "delivered", 2))
            await enqueue(store, 3)
            await until(counted(store, "delivered", 5))
        await until(counted(store, "delivered", 6))
        [(_, history)] = (await store.detail(ids[0])).deliveries
    assert len(sent) == 6
    assert [(each.result, each.late) for each in history] == [("delivered", False)]


async def test_an_interrupted_run_releases_its_other_leases(postgresql, postgresql_url):
    sent = []

    async with (
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as store,
        postgresql.connected("test") as connection,
        connection.transaction(),
    ):
        await enqueue(store, 3)
        async with draining(
            store, appending_to(sent, asyncio.Event()), owner="drain", limits=Limits(run_for=600)
        ):
            await until(lambda: len(sent) == 3)
            await connection.execute(LOCK)
        found = await connection.fetch("SELECT lease_owner, sending FROM resonant_deliveries ORDER BY id")
    assert [tuple(each) for each in found] == [("drain", True), (None, False), (None, False)]


async def test_a_lease_is_renewed_until_the_write_that_ends_it(postgresql, postgresql_url):
    async with (
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as store,
        postgresql.connected("test") as connection,
    ):
        claim, expires_at = store.claim_each, store.clock() + 2
        transaction, is_locked = connection.transaction(), asyncio.Event()

        async def claim_and_lock(*args, **options):
            claimed = await claim(*args, **options)
            if claimed["orders"]:
                await transaction.start()
                await connection.execute(LOCK)
                is_locked.set()
                await until(lambda: store.clock() > expires_at)
            return claimed

        store.claim_each = claim_and_lock
        expiring = {"expirytime": rfc3339(expires_at)}
        event = Event(type="order.paid", source="/shop", data=1, extensions=expiring)
        await store.enqueue(event, "orders")
        async with draining(store, appending_to([]), limits=Limits(run_for=600)):
            await is_locked.wait()
            await until(lambda: connection.fetchval(NUMBER_WAITING))
            await transaction.rollback()
            await until(counted(store, "dead_letter", 1))


async def test_leases_are_renewed_while_the_slots_of_many_endpoints_with_rates_are_locked(
    postgresql, postgresql_url
):
    sent, go = [], asyncio.Event()
    rated = [f"rated{number}" for number in range(40)]

    async def is_renewed():
        return await first(connection, "available_at") > ends_at

    async def is_delivered():
        return await first(connection, "status") == "delivered"

    async with (
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as store,
        postgresql.connected("test") as connection,
        draining(store, None, **patient(sent, go, rated=rated)),
    ):
        [first_id] = await enqueue(store)
        await until(lambda: sent)
        async with connection.transaction():
            await connection.execute("LOCK TABLE resonant_send_slots")
            for name in rated:
                await enqueue(store, endpoint=name)
            for _ in range(2):
                ends_at = await first(connection, "available_at")
                await until(is_renewed)
        go.set()
        await until(is_delivered)
        [(_, history)] = (await store.detail(first_id)).deliveries
    assert [(each.result, each.late) for each in history] == [("delivered", False)]
