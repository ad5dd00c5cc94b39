"""A store behind PgBouncer in transaction mode; test_store_conformance.py checks the rest of its contract there."""

import asyncio
import contextlib

import pytest

from resonant.errors import StoreUnavailable
from resonant.events import Event
from resonant.store.engine import wakeup
from support.dispatching import opened
from support.pgbouncer import started_pgbouncer
from support.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.program


def event(number: int) -> Event:
    return Event(type="t", source="/s", id=f"evt_{number}", data=1)


async def test_a_commit_wakes_although_notifications_do_not_arrive_and_an_idle_store_does_not(
    pgbouncer_url, monkeypatch
):
    monkeypatch.setattr(wakeup, "_ECHO_SECONDS", 0.1)
    async with (
        opened(pgbouncer_url) as other,
        opened(pgbouncer_url) as store,
        contextlib.aclosing(store.database.commits()) as commits,
    ):
        assert await asyncio.wait_for(anext(commits), PATIENCE_SECONDS) is None, "for earlier commits"
        for number in range(3):
            waking = asyncio.ensure_future(anext(commits))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(waking), 3 * wakeup._ASK_SECONDS)
            assert not waking.done()
            await other.enqueue(event(number), "orders")
            assert await asyncio.wait_for(waking, PATIENCE_SECONDS) == {"orders"}


async def test_no_session_keeps_listening(postgresql, postgresql_url, monkeypatch, caplog):
    """Other clients get the same session later."""
    monkeypatch.setattr(wakeup, "_ECHO_SECONDS", 0.1)
    caplog.set_level("INFO", "resonant")
    with started_pgbouncer(postgresql.folder, "default_pool_size = 1") as pgbouncer:
        async with opened(pgbouncer.url(postgresql_url)) as store:
            async with contextlib.aclosing(store.database.commits()) as commits:
                await anext(commits)
            found = await store.read(
                lambda connection: connection.exec_driver_sql("SELECT pg_listening_channels()").all()
            )
    assert found == []
    assert "notifications do not arrive (PgBouncer in transaction mode?): asking for new work" in caplog.text


async def test_a_pgbouncer_that_keeps_no_prepared_statements_is_refused_with_the_remedy(
    postgresql, postgresql_url
):
    with started_pgbouncer(postgresql.folder, "max_prepared_statements = 0") as pgbouncer:
        async with opened(pgbouncer.url(postgresql_url)) as store:

            async def use_several_sessions():
                for _ in range(20):
                    await asyncio.gather(*(store.enqueue(event(number), "orders") for number in range(8)))

            with pytest.raises(StoreUnavailable) as failure:
                await use_several_sessions()
    assert str(failure.value).endswith(
        ": let PgBouncer keep prepared statements: set its max_prepared_statements to 200 (version 1.21 or newer)"
    )
