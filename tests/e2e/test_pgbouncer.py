"""Intake, a drain and metrics behind PgBouncer in transaction mode, which is killed and started again meanwhile."""

import asyncio
import json

import httpx
import pytest

from resonant.dispatch.limits import Limits
from resonant.errors import StoreUnavailable
from resonant.testing import Receiver, always_ok
from support.commands import run_in_process
from support.dispatching import dispatching_to, emit, opened
from support.pgbouncer import started_pgbouncer
from support.processes import clean_environment
from support.serving import add_endpoints, serving
from support.waiting import until

pytestmark = pytest.mark.program

EVENTS, KILLS = 300, 3
# A drain that PgBouncer's end has ended leaves leases, which the next one takes over when they have expired.
LEASE_SECONDS = 4.0


@pytest.fixture
def pgbouncer(postgresql):
    """One of the test's own, since the test kills it."""
    with started_pgbouncer(postgresql.folder) as started:
        yield started


def test_nothing_is_lost_and_everything_goes_on_when_pgbouncer_is_killed(
    pgbouncer, postgresql, postgresql_url, tmp_path
):
    url = pgbouncer.url(postgresql_url)
    with postgresql.without_accepted_risk():  # before PgBouncer opens its first session
        add_endpoints(url, "orders")
    with serving(url, tmp_path, "--no-auth") as server:
        received, balanced = asyncio.run(_story(pgbouncer, url, f"{server.url}/events?endpoint=orders"))
    assert {body["number"] for body in received} == set(range(EVENTS))
    assert balanced
    assert server.log.read_text().count("PostgreSQL runs with fsync=off") == 1
    shown = run_in_process(["prometheus"], clean_environment() | {"RESONANT_DATABASE_URL": url}, tmp_path)
    assert f'resonant_events_accepted_total{{endpoint="orders"}} {EVENTS}' in shown.stdout


async def _story(pgbouncer, url, intake):
    """Post events while a drain sends them, and kill PgBouncer meanwhile; return what arrived, and whether the store is balanced."""
    accepted = []
    async with Receiver(always_ok) as receiver:
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(_drain(url, receiver.url))
            group.create_task(_post(intake, accepted))
            for number in range(KILLS):
                await until(lambda number=number: len(accepted) > (number + 0.5) * EVENTS / KILLS)
                pgbouncer.kill()
                await asyncio.to_thread(pgbouncer.start)
            bodies = await _received(receiver)
            draining.cancel()
        async with opened(url) as store:
            return bodies, (await store.status()).balanced


async def _received(receiver):
    """Wait until each event has arrived, and return the bodies."""
    numbers = lambda: {json.loads(each.body)["number"] for each in receiver.journal}  # noqa: E731 - short
    await until(lambda: len(numbers()) == EVENTS, every=0.1)
    return [json.loads(each.body) for each in receiver.journal]


async def _post(intake, accepted):
    """Post each event until it is accepted."""
    headers = {"Content-Type": "application/cloudevents+json"}
    async with httpx.AsyncClient(timeout=30, headers=headers) as client:
        for number in range(EVENTS):
            event = {"specversion": "1.0", "id": f"e{number}", "type": "t", "source": "/s"}
            while number not in accepted:
                answer = await client.post(intake, json=event | {"data": {"number": number}})
                if answer.status_code == httpx.codes.ACCEPTED:
                    accepted.append(number)
                else:
                    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
                    await asyncio.sleep(0.02)  # as Retry-After asks, but sooner


async def _drain(url, target):
    """Run one drain after the other, as Prefect does."""
    while True:
        try:
            async with (
                opened(url, lease_seconds=LEASE_SECONDS) as store,
                dispatching_to(target, store, timeout=5.0, limits=Limits(run_for=600)) as dispatcher,
            ):
                await emit(dispatcher)
        except StoreUnavailable:
            await asyncio.sleep(0.02)
