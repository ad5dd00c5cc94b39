"""Searches on PostgreSQL while an old transaction keeps the index entries of finished deliveries."""

import contextlib

from resonant.store import schema
from resonant.store.queue.leases import claim, look
from support.buffers import buffers_of
from support.postgresql import on_postgresql

_BATCHES, _BATCH = 10, 100


def deliver(desk):
    """Store and deliver events, for so long that their leases would have ended."""
    for _ in range(_BATCHES):
        desk.enqueue(*(f"{desk.clock()}_{number}" for number in range(_BATCH)))
        desk.clock.advance(10)
        desk.deliver(*desk.claim(_BATCH))
        desk.clock.advance(10)


@on_postgresql
def test_a_search_with_a_bound_reads_no_more_pages_after_more_deliveries(desk, postgresql):
    def pages(*, is_bounded):
        # Otherwise, the planner may still use the statistics of an earlier test's rows.
        postgresql.execute(f"ANALYZE {schema.deliveries.name}", "store")
        now = desk.clock()
        bounds = {"orders": now - 1.0}
        options = {"bounds": bounds if is_bounded else None}
        claiming = options | {"owner": "other", "now": now, "lease_seconds": 60.0}
        return (
            buffers_of(desk, look, until=now + 1.0, now=now, **options),
            buffers_of(desk, claim, {"orders": 10}, **claiming),
        )

    async def pin(stack):
        connection = await stack.enter_async_context(postgresql.connected("store"))
        await stack.enter_async_context(connection.transaction(isolation="repeatable_read"))
        await connection.execute("SELECT txid_current()")

    with contextlib.ExitStack() as cleanup:
        stack = contextlib.AsyncExitStack()
        cleanup.callback(lambda: desk.run(stack.aclose()))
        desk.run(pin(stack))
        deliver(desk)
        first = pages(is_bounded=True)
        first_of_all = pages(is_bounded=False)
        deliver(desk)
        deliver(desk)
        later, later_of_all = pages(is_bounded=True), pages(is_bounded=False)
    for before, after in zip(first_of_all, later_of_all, strict=True):
        assert after > 2 * before
    for before, after in zip(first, later, strict=True):
        assert after <= before + 10
