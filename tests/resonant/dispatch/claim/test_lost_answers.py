"""A claim whose commit the server has made, while the answer is lost with the connection."""

import asyncio

from resonant.dispatch.limits import Limits
from resonant.errors import StoreUnavailable
from support.dispatching import appending_to, draining, enqueue, opened
from support.postgresql import relayed
from support.waiting import until


def lose_an_answer(store, relay, *, may_lose=lambda: True):
    """Let the connection break after the commit of a claim, once, before the server's answer arrives."""

    async def claim_and_lose_the_answer(*args, **options):
        relay.lose = int(may_lose() and not relay.lost)
        return await claim(*args, **options)

    claim, store.claim_each = store.claim_each, claim_and_lose_the_answer


async def test_its_deliveries_are_sent_before_the_end_of_the_lease_and_no_crash_is_charged(postgresql_url):
    sent = []

    async def is_done():
        return (await store.status()).delivered == 1

    async with relayed(postgresql_url) as relay, opened(relay.url) as store:
        lose_an_answer(store, relay)
        [id_] = await enqueue(store)
        async with draining(store, appending_to(sent), owner="drain", limits=Limits(run_for=600)):
            await until(is_done, seconds=store.lease_seconds / 2)
        [(_, history)] = (await store.detail(id_)).deliveries
    assert (relay.lost, sent) == (1, [id_])
    assert [each.result for each in history] == ["delivered"]


async def test_the_server_may_end_the_commit_long_after_the_run_has_looked_for_its_leases(
    postgresql, postgresql_url
):
    """As while a disk stalls, or a standby does not confirm: another session stands for the one whose commit is slow."""
    sent, releases = [], []

    async def claim_slowly(*args, **options):
        if not begun:
            begun.append(transaction := connection.transaction())
            await transaction.start()
            await connection.execute(
                "UPDATE resonant_deliveries SET lease_owner = 'drain', lease_token = lease_token + 1, sending = true, "
                "available_at = extract(epoch FROM clock_timestamp()) + $1",
                store.lease_seconds,
            )
            raise StoreUnavailable("the connection was lost")
        return await claim(*args, **options)

    async def count_releases(*args, **options):
        releases.append(await release_all(*args, **options))

    async def is_done():
        return (await store.status()).delivered == 1

    begun = []
    async with opened(postgresql_url, lease_seconds=8.0) as store, postgresql.connected("test") as connection:
        claim, store.claim_each = store.claim_each, claim_slowly
        release_all, store.release_all = store.release_all, count_releases
        [id_] = await enqueue(store)
        async with draining(store, appending_to(sent), owner="drain", limits=Limits(run_for=600)):
            await until(lambda: releases)
            await begun[0].commit()
            await until(is_done)
        [(_, history)] = (await store.detail(id_)).deliveries
    assert releases[0] == 0
    assert sent == [id_]
    assert [each.result for each in history] == ["delivered"]


async def test_their_release_does_not_wait_for_a_delivery_in_flight_that_is_locked(
    postgresql, postgresql_url
):
    sent, answers = [], asyncio.Event()

    async def send(event):
        sent.append(event.id)
        if event.id == first:
            await answers.wait()

    async with (
        relayed(postgresql_url) as relay,
        opened(relay.url) as store,
        postgresql.connected("test") as connection,
    ):
        lose_an_answer(store, relay, may_lose=lambda: bool(sent))
        [first] = await enqueue(store)
        async with draining(store, send, owner="drain", limits=Limits(run_for=600)):
            await until(lambda: sent == [first])
            async with connection.transaction():
                await connection.execute("SELECT FROM resonant_deliveries FOR UPDATE")
                [second] = await enqueue(store)
                await until(lambda: sent == [first, second], seconds=store.lease_seconds / 2)
            answers.set()
    assert relay.lost == 1
