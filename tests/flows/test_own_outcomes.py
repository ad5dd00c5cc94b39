"""A flow run reports its own deliveries even if another worker takes them over and sends them."""

import asyncio

import pytest

from flows.dead_letters import replay_dead_letters
from flows.emit import emit_events
from resonant.dead_letters.cancel import cancel
from resonant.delivery.retry import GiveUp
from resonant.input_lines import event_from_fields
from resonant.store.queue.leases import claim, lease_owners, release_all
from resonant.store.views.selection import Selection
from support.desk import send
from support.dispatching import opened
from support.file_endpoint import FileEndpoint

pytestmark = pytest.mark.engine

ENDPOINT = "file-endpoint/log"
EVENTS = [{"id": f"e{n}", "type": "t", "source": "/s", "data": n} for n in range(4)]
DECISIONS = (None, None, None, GiveUp("exhausted"))


class Thief:
    """Another worker, which takes every lease at the first send and ends each delivery itself."""

    def __init__(self, url) -> None:
        self._url = url
        self._stealing = None

    async def deliver(self, _event) -> None:
        if self._stealing is None:
            self._stealing = asyncio.create_task(self.steal())
        await self._stealing

    async def steal(self) -> None:
        async with opened(self._url) as store:
            claimed = await store.claim_leases(take_over, {ENDPOINT: len(DECISIONS)}, owner="thief")
            await send(store, ENDPOINT, *DECISIONS, leases=claimed[ENDPOINT])


def take_over(connection, limits, *, now, **options):
    """Release all leases and claim their deliveries in one transaction: their owner could claim them in between."""
    for owner in lease_owners(connection):
        release_all(connection, owner, now=now)
    return claim(connection, limits, now=now, **options)


@pytest.fixture
def thief(url, monkeypatch):
    """Another process, which takes over the deliveries of a run that begins to send."""
    thief = Thief(url)
    monkeypatch.setattr(FileEndpoint, "deliver", lambda _self, event: thief.deliver(event))


@pytest.fixture(autouse=True)
async def endpoint(url, tmp_path):
    await FileEndpoint(path=tmp_path / "out").asave("log", overwrite=True)


async def store_dead_letters(store):
    await store.enqueue([event_from_fields(each) for each in EVENTS], ENDPOINT)
    await cancel(store, Selection(endpoint=ENDPOINT), who="test")


async def test_a_run_with_events_counts_those_that_another_worker_sent(thief):
    state = await emit_events(events=EVENTS, endpoint=ENDPOINT, return_state=True)

    assert (state.is_completed(), state.name) == (True, "DeadLetters")
    assert state.message.startswith("3 delivered, 0 retried, 0 parked, 1 dead-lettered (1 exhausted); ")
    assert f"`resonant dlq --endpoint {ENDPOINT} --since " in state.message


async def test_a_replay_counts_those_that_another_worker_sent(store, thief):
    await store_dead_letters(store)
    state = await replay_dead_letters(endpoint=ENDPOINT, return_state=True)

    assert state.is_completed()
    assert state.message.startswith(
        "4 sent again: 3 delivered, 0 retried, 0 parked, 1 dead-lettered (1 exhausted)"
    )


async def test_the_policy_of_a_replay_does_not_apply_to_other_due_deliveries(store, monkeypatch):
    monkeypatch.setenv("RESONANT_POLICIES", '{"once": {"max_attempts": 1}}')
    calls = []

    async def deliver(_self, event):
        calls.append(event.id)
        if len(calls) == 1:  # as after this process stood still for longer than its leases last
            for owner in await store.read(lease_owners):
                await store.release_all(owner)
        if event.id == "other":
            raise ConnectionError

    monkeypatch.setattr(FileEndpoint, "deliver", deliver)

    await store_dead_letters(store)
    await store.enqueue([event_from_fields({**EVENTS[0], "id": "other"})], ENDPOINT)
    state = await replay_dead_letters(endpoint=ENDPOINT, policy="once", return_state=True)
    status = await store.status()

    assert state.message.startswith("4 sent again: 4 delivered")
    assert "other" in calls
    assert (status.retrying, status.dead_letter) == (1, 0)
