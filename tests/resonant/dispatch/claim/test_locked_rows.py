"""A transaction of somebody else that locks a single delivery in flight, such as an operator's in psql."""

import asyncio

from resonant.dispatch.limits import Limits
from resonant.events import Event, rfc3339
from resonant.sinks.base import CallableSink
from support.dispatching import appending_to, draining, enqueue, opened, sink_target
from support.waiting import until

LEASE_SECONDS = 6.0
_FIRST = "SELECT {} FROM resonant_deliveries ORDER BY id LIMIT 1"
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def test_no_lease_of_its_owner_is_lost_meanwhile_or_afterwards(postgresql, postgresql_url):
    sent, go = [], asyncio.Event()

    async def is_done():
        return (await store.status()).delivered == 3

    async def is_first_renewed():
        return await connection.fetchval(_FIRST.format("available_at")) > store.clock()

    async def open_destination(name):
        return sink_target(name, CallableSink(appending_to(sent, go)), timeout=600)

    drain = {"limits": Limits(run_for=600, successors=9), "open_destination": open_destination}
    async with (
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as store,
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as other,
        postgresql.connected("test") as connection,
        draining(store, None, owner="living", **drain),
    ):
        ids = await enqueue(store, 3)
        await until(lambda: len(sent) == 3)
        async with draining(other, None, owner="other", **drain):
            async with connection.transaction():
                await connection.execute(_FIRST.format("id") + " FOR UPDATE")
                ends_at = store.clock() + 2 * LEASE_SECONDS
                await until(lambda: store.clock() > ends_at, seconds=60)
                await until(lambda: connection.fetchval(_WAITING))
            await until(is_first_renewed)
        assert await connection.fetchval(_FIRST.format("lease_owner")) == "living"
        go.set()
        await until(is_done, seconds=60)
        details = [await store.detail(each) for each in ids]
    attempts = [each for detail in details for _, history in detail.deliveries for each in history]
    assert [(each.result, each.late) for each in attempts] == [("delivered", False)] * 3


async def test_the_outcomes_of_others_are_recorded_and_new_events_sent(postgresql, postgresql_url):
    sent, go = [], asyncio.Event()

    async def open_destination(name):
        return sink_target(name, CallableSink(appending_to(sent, go)), timeout=600)

    def delivered(number):
        async def is_so():
            return (await store.status()).delivered == number

        return is_so

    async with (
        opened(postgresql_url) as store,
        postgresql.connected("test") as connection,
        draining(store, None, limits=Limits(run_for=600), open_destination=open_destination),
    ):
        ids = await enqueue(store, 3)
        await until(lambda: len(sent) == 3)
        async with connection.transaction():
            await connection.execute("SELECT id FROM resonant_deliveries ORDER BY id LIMIT 1 FOR UPDATE")
            go.set()
            await until(delivered(2), seconds=60)
            await enqueue(store, 3)
            await until(delivered(5), seconds=60)
        await until(delivered(6), seconds=60)
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
            await connection.execute(_FIRST.format("id") + " FOR UPDATE")
        found = await connection.fetch("SELECT lease_owner, sending FROM resonant_deliveries ORDER BY id")
    assert [tuple(each) for each in found] == [("drain", True), (None, False), (None, False)]


async def test_a_lease_is_renewed_until_the_write_that_ends_it(postgresql, postgresql_url):
    async def is_done():
        return (await store.status()).dead_letter == 1

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
                await connection.execute(_FIRST.format("id") + " FOR UPDATE")
                is_locked.set()
                await until(lambda: store.clock() > expires_at)
            return claimed

        store.claim_each = claim_and_lock
        event = Event(
            type="order.paid", source="/shop", data=1, extensions={"expirytime": rfc3339(expires_at)}
        )
        await store.enqueue(event, "orders")
        async with draining(store, appending_to([]), limits=Limits(run_for=600)):
            await is_locked.wait()
            await until(lambda: connection.fetchval(_WAITING), seconds=4 * LEASE_SECONDS)
            await transaction.rollback()
            await until(is_done, seconds=60)


async def test_leases_are_renewed_while_the_slots_of_many_endpoints_with_rates_are_locked(
    postgresql, postgresql_url
):
    sent, go = [], asyncio.Event()

    async def open_destination(name):
        return sink_target(
            name, CallableSink(appending_to(sent, go)), timeout=600, rate=None if name == "orders" else 100
        )

    async with (
        opened(postgresql_url, lease_seconds=LEASE_SECONDS) as store,
        postgresql.connected("test") as connection,
        draining(store, None, limits=Limits(run_for=600), open_destination=open_destination),
    ):
        await enqueue(store)
        await until(lambda: sent)
        async with connection.transaction():
            await connection.execute("LOCK TABLE resonant_send_slots")
            for number in range(40):
                await enqueue(store, endpoint=f"rated{number}")
            ends_at = store.clock() + 2 * LEASE_SECONDS
            while store.clock() < ends_at:
                assert await connection.fetchval(_FIRST.format("available_at")) > store.clock()
                await asyncio.sleep(0.1)
        go.set()
