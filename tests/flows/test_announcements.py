"""Announcements of alerts and gates are sent to Prefect again until its event feed shows them."""

import time
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.filters import EventFilter, EventIDFilter

from flows.emit import emit_events
from resonant.errors import ResonantError, UnexpectedStatus
from resonant.gate.pausing import pause
from resonant.store import WorkerStore
from resonant.store.shared.announcements import add_announcement, prefect_event, read_announcements
from resonant.testing import FixedClock
from support.file_endpoint import FileEndpoint
from support.waiting import until
from tasks.announcements import SENT_AGAIN_SECONDS, announce

pytestmark = pytest.mark.engine

# The store's clock is so far behind that the server's feed has later events at once.
BEHIND = 400.0


@pytest.fixture
def clock():
    return FixedClock(time.time() - BEHIND)


@pytest.fixture
async def store(url, clock):
    store = await WorkerStore.open(url, clock=clock)
    yield store
    await store.close()


@pytest.fixture
def posted(monkeypatch):
    """The events of each request; while ``dropped`` is set, the server accepts them and then loses them."""
    request = PrefectClient.request

    class Posted(list):
        dropped = False

        def of(self, event_id):
            return [each for batch in self for each in batch if each["id"] == event_id]

    posted = Posted()

    async def noting(client, method, path, **options):
        if path == "/events":
            posted.append(options["json"])
            if posted.dropped:
                return None
        return await request(client, method, path, **options)

    monkeypatch.setattr(PrefectClient, "request", noting)
    return posted


def add(store, name="resonant.test.change"):
    event = prefect_event(name, "hooks", {"text": "in words"}, at=time.time())
    return store.write(add_announcement, event, now=store.clock())


async def announced(store):
    return await store.read(read_announcements)


async def gone(_self, _event):
    raise UnexpectedStatus(410)


async def in_feed(*ids):
    async with get_client() as client:
        wanted = EventFilter(id=EventIDFilter(id=[UUID(each) for each in ids]))
        return (await client.read_events(wanted, limit=1)).events


async def all_in_feed_and_forgotten(store):
    await announce(store)
    return not await announced(store)


async def test_an_event_that_prefect_dropped_is_sent_again_with_its_id_until_the_feed_has_it(
    store, clock, posted
):
    await add(store)
    posted.dropped = True
    await announce(store)
    posted.dropped = False
    [lost] = await announced(store)
    await add(store, "resonant.test.later")
    await announce(store)
    later = next(each.id for each in await announced(store) if each.id != lost.id)
    await until(lambda: in_feed(later), every=0.1)

    clock.advance(SENT_AGAIN_SECONDS - 1)
    await announce(store)
    assert posted.of(lost.id) == posted[0], "the server still remembers the id, and would ignore the event"

    clock.advance(2)
    await announce(store)
    assert posted.of(lost.id) == 2 * posted[0]
    assert len(posted.of(later)) == 1

    await until(lambda: in_feed(lost.id), every=0.1)
    [event] = await in_feed(lost.id)
    assert (event.event, event.payload) == ("resonant.test.change", {"text": "in words"})
    clock.advance(BEHIND)
    await until(lambda: all_in_feed_and_forgotten(store), every=0.1)
    assert len(posted.of(lost.id)) == 2


async def test_a_server_that_keeps_no_events_gets_each_once_and_it_is_forgotten_after_a_day(
    store, clock, posted, monkeypatch
):
    async def read_none(_client, _filter=None, limit=None):
        return type("Page", (), {"events": []})

    monkeypatch.setattr(PrefectClient, "read_events", read_none)
    await add(store)
    for _ in range(3):
        await announce(store)
        clock.advance(SENT_AGAIN_SECONDS + 1)
    assert [len(each) for each in posted] == [1]
    assert len(await announced(store)) == 1

    clock.advance(86_400)
    await announce(store)
    assert await announced(store) == []


async def test_an_announcement_of_the_day_before_is_forgotten_although_prefect_refuses_it(
    store, clock, monkeypatch
):
    async def refuse(*_args, **_options):
        raise OSError("refused")

    monkeypatch.setattr(PrefectClient, "request", refuse)
    await add(store)
    clock.advance(86_401)
    await add(store)
    with pytest.raises(ResonantError, match="the next run tries again: refused"):
        await announce(store)
    assert len(await announced(store)) == 1


async def test_many_announcements_are_sent_in_several_requests(store, posted):
    for number in range(51):
        await add(store, f"resonant.test.change-{number}")
    await announce(store)
    assert [len(each) for each in posted] == [50, 1]
    assert all(each.sent_at is not None for each in await announced(store))


async def test_a_run_announces_the_change_of_a_gate_that_it_makes_and_those_of_commands(
    url, posted, tmp_path, monkeypatch
):
    store = await WorkerStore.open(url)
    await pause(store, "other", who="me")
    monkeypatch.setattr(FileEndpoint, "deliver", gone)
    await FileEndpoint(path=tmp_path / "out").asave("log", overwrite=True)

    await emit_events(events=[{"type": "t", "source": "/s", "data": 1}], endpoint="file-endpoint/log")

    sent = [each for batch in posted for each in batch]
    assert {(each["event"], each["payload"]["endpoint"]) for each in sent} == {
        ("resonant.gate.paused", "other"),
        ("resonant.gate.paused", "file-endpoint/log"),
    }
    assert all(each["related"][0]["prefect.resource.role"] == "flow-run" for each in sent)
    await store.close()
