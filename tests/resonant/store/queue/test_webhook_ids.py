"""The webhook-id of an event is its id if that is safe, otherwise a hash; it is unique in the store, and never changes."""

import asyncio
import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select

from resonant.errors import ConflictingEvent
from resonant.events import Event, EventKey
from resonant.events.webhook_ids import webhook_id
from resonant.store import WorkerStore, enqueue, schema
from resonant.store.views.reads import find_event_ids
from support.examples import examples

# base32(sha256("/shop", NUL, "1.5")), as `printf '/shop\0001.5' | sha256sum | xxd -r -p | base32` prints it.
HASHED = "evt_awiuqp6fujtw737jiey3x2dboq"
A_HASH = f"evt_{'a2' * 13}"


def make(event_id, source="/shop", data=None):
    return Event(id=event_id, type="t", source=source, data=data)


def webhook_ids(desk):
    return {(row["source"], row["id"]): row["webhook_id"] for row in desk.rows(schema.events)}


@pytest.mark.parametrize(
    "event_id", ["1", "evt_1", A_HASH + "a", A_HASH[:-1], A_HASH.upper(), "evt_" + "1" * 26]
)
def test_a_safe_id_is_the_webhook_id(event_id):
    assert webhook_id(EventKey("/shop", event_id), is_taken=False) == event_id


@pytest.mark.parametrize("event_id", ["1.5", ".", A_HASH, "a b", " ", "größe", "注文"])
def test_an_id_with_a_dot_or_that_looks_like_a_hash_or_fits_no_header_is_replaced_by_a_hash(event_id):
    found = webhook_id(EventKey("/shop", event_id), is_taken=False)
    assert re.fullmatch("evt_[a-z2-7]{26}", found)
    assert found not in (event_id, webhook_id(EventKey("/crm", event_id), is_taken=False))


def test_the_hash_is_base32_of_sha_256():
    assert webhook_id(EventKey("/shop", "1.5"), is_taken=False) == HASHED
    assert webhook_id(EventKey("/shop", "1"), is_taken=True) != webhook_id(
        EventKey("/sho", "p1"), is_taken=True
    )


def test_ids_with_spaces_and_other_letters_are_stored_once_and_sent_under_a_hash(desk):
    events = [make(each) for each in ("order 42", "größe", "注文 7")]
    assert desk.enqueue(*events).accepted == 3
    assert desk.enqueue(*events).known == 3
    leases = desk.claim()
    assert {lease.event.id for lease in leases} == {event.id for event in events}
    for event in events:
        assert webhook_ids(desk)[event.identity] == webhook_id(event.identity, is_taken=False)
        assert desk.read(find_event_ids, event.id[:2], limit=5) == [event.id]


def test_a_replay_a_repeat_and_another_endpoint_have_the_same_webhook_id(desk):
    desk.bury(make("1", "/crm"), make("1"))
    before = webhook_ids(desk)
    desk.clock.advance(1)
    assert {lease.event.identity: lease.event.webhook_id for lease in desk.replay().leases} == before
    assert desk.enqueue(make("1", "/crm"), make("1")).known == 2
    assert desk.enqueue(make("1"), endpoint="audit").accepted == 1
    assert desk.claim_one(endpoint="audit").event.webhook_id == before["/shop", "1"] != "1"


def test_an_event_whose_hash_is_the_id_of_an_old_event_is_refused(desk):
    """Before version 0012, an id could look like a hash."""
    old = {"id": HASHED, "webhook_id": HASHED, "source": "/crm", "type": "t", "time": "", "digest": ""}
    desk.execute(insert(schema.events).values(old | {"body": b"", "accepted_at": 0.0}))
    with pytest.raises(ConflictingEvent, match=r"the webhook-id of the event '1\.5' belongs to another"):
        desk.enqueue(make("1.5"))
    assert desk.status().accepted == 0


ids = st.text("1.aé ", min_size=1, max_size=2) | st.sampled_from([A_HASH, HASHED])
batches = st.lists(st.tuples(st.sampled_from(["/shop", "/crm", "/sho"]), ids), min_size=1, max_size=8)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(request, tmp_path_factory):
    """A store for all examples, each of which uses ids of its own."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('shared')}/resonant.db"
    else:
        url = request.getfixturevalue("postgresql").empty_database()
    with asyncio.Runner() as runner:
        store = runner.run(WorkerStore.open(url))
        yield lambda operation: runner.run(store.write(operation))
        runner.run(store.close())


_examples = count()


@settings(max_examples=examples(60), deadline=None)
@given(given_batches=st.lists(batches, min_size=1, max_size=4))
def test_no_two_events_have_the_same_webhook_id(shared, given_batches):
    number = next(_examples)
    seen: dict[EventKey, str] = {}

    def store(connection):
        table = schema.events.c
        for batch in given_batches:
            events = [make(id_, f"{source}/{number}", source) for source, id_ in batch]
            enqueue(connection, events, "orders", now=0.0)
            query = select(table.source, table.id, table.webhook_id).where(
                table.source.endswith(f"/{number}")
            )
            found = {EventKey(row.source, row.id): row.webhook_id for row in connection.execute(query)}
            assert found.keys() == seen.keys() | {event.identity for event in events}
            assert seen.items() <= found.items(), "a webhook-id never changes"
            seen.update(found)
        return connection.execute(select(table.webhook_id)).scalars().all()

    everywhere = shared(store)
    assert len(everywhere) == len(set(everywhere))
    assert not any("." in each for each in everywhere)
