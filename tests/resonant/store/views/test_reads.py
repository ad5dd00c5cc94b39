"""The queries for operators; the simulation compares the balance with the rows."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest

from resonant.delivery.retry import GiveUp
from resonant.errors import StoreUnavailable, UnknownName
from resonant.events import DeadLetter, Event
from resonant.store import enqueue, open_store, schema
from resonant.store.views import reads
from resonant.store.views.selection import Selection


def test_counts_are_plain_numbers_on_every_database(desk):
    desk.enqueue("evt_1")
    status = asdict(desk.status())
    assert {type(value) for name, value in status.items() if isinstance(value, int)} == {int}
    json.dumps(status)


def test_one_endpoint_can_be_selected(desk):
    desk.enqueue("evt_1", "evt_2", endpoint="orders")
    desk.enqueue("evt_1", endpoint="audit")
    desk.fail(desk.claim_one(endpoint="audit"), GiveUp("permanent"))
    orders, audit = desk.status(endpoint="orders"), desk.status(endpoint="audit")
    assert (orders.accepted, orders.pending, orders.dead_letter) == (2, 2, 0)
    assert (audit.accepted, audit.pending, audit.dead_letter) == (1, 0, 1)
    assert orders.balanced
    assert audit.balanced
    assert [each.name for each in audit.endpoints] == ["audit"]
    assert [each.name for each in desk.status().endpoints] == ["audit", "orders"]
    assert desk.status(endpoint="nobody") == reads.StoreStatus(0, 0, 0, 0, 0, 0, 0, {}, None, None)


@pytest.mark.parametrize("column", ["accepted", "purged"])
def test_a_ledger_that_does_not_fit_the_rows_is_not_balanced(desk, column):
    desk.enqueue("evt_1")
    desk.fold()
    desk.execute(schema.ledgers.update().values({column: 5}))
    assert not desk.status().balanced


def test_an_operation_that_reads_twice_sees_the_same(open_desk, store_url):
    reader, writer = open_desk(store_url), open_desk(store_url)
    writer.enqueue("evt_1")
    event = Event(id="evt_other", type="t", source="/s", data=1)

    async def write():
        async with open_store(store_url) as store:
            await store.enqueue([event], "orders")

    def read_around_a_write(connection):
        before = reads.status(connection, now=0.0)
        with ThreadPoolExecutor() as another_loop:
            another_loop.submit(asyncio.run, write()).result()
        return before, reads.status(connection, now=0.0)

    before, after = reader.read(read_around_a_write)
    assert before == after
    assert reader.status().accepted == 2


def test_a_reading_operation_cannot_write_to_postgresql(open_desk, postgresql_url):
    desk = open_desk(postgresql_url)
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        desk.read(enqueue, [desk.make("evt_1")], "orders", now=0.0)


def test_a_dead_letter_has_its_reason_its_error_and_its_attempts(desk):
    desk.enqueue("evt_1")
    first_at = desk.clock()
    lease, decision = desk.claim_one(), desk.retry_in(1)
    desk.fail(lease, decision)
    desk.clock.advance(1)
    desk.fail(desk.counted_on(lease, decision), GiveUp("exhausted"))
    assert desk.run(desk.store.dead_letters()) == [
        DeadLetter(
            event_id="evt_1",
            source="/shop",
            event_type="order.paid",
            endpoint="orders",
            reason="exhausted",
            category="transient",
            code="http_503",
            error_type="UnexpectedStatus",
            error="the endpoint answered 503",
            status_code=503,
            attempts=2,
            first_attempt_at=first_at,
            dead_at=first_at + 1,
            replays=0,
            maybe_processed=True,
        )
    ]


def test_a_dead_letter_has_the_last_answer_and_whether_any_attempt_may_have_been_processed(desk):
    desk.enqueue("evt_1", "evt_2")
    for lease in desk.claim(2):
        desk.fail(lease, desk.park_for(0), excerpt="first", maybe_processed=lease.event.id == "evt_1")
    lost = desk.claim(2)
    desk.rescue_from("worker")
    for lease in desk.claim(2, owner="other"):
        excerpt = "last" if lease.event.id == "evt_1" else None
        desk.fail(lease, GiveUp("exhausted"), excerpt=excerpt, maybe_processed=False)
    for lease in lost:
        desk.fail(lease, GiveUp("exhausted"), excerpt="too late", maybe_processed=False)
    desk.enqueue("evt_untried")
    desk.cancel(ids=("evt_untried",))
    dead_letters = desk.run(desk.store.dead_letters())
    assert {each.event_id: (each.answer, each.maybe_processed) for each in dead_letters} == {
        "evt_1": ("last", True),
        "evt_2": (None, False),
        "evt_untried": (None, False),
    }


def test_histories_are_those_of_the_selected_dead_letters(desk):
    desk.enqueue("evt_1", "evt_2")
    first, second = desk.claim()
    desk.fail(first, GiveUp("permanent"), code="http_400")
    desk.fail(second, GiveUp("permanent"), code="http_404")

    def histories(connection, **options):
        return list(reads.each_history(connection, Selection(code="http_404"), **options))

    [history] = desk.read(histories)
    assert (history.dead_letter.event_id, len(history.attempts)) == (second.event.id, 1)
    assert history.event is None
    assert desk.read(histories, with_events=True)[0].event == desk.detail(second.event.id).event


def test_the_first_event_ids_with_a_prefix_are_found(desk):
    desk.enqueue("evt_2", "evt_12", "evt_1", "other")
    desk.enqueue(Event(id="evt_1", type="t", source="/crm", data=1))
    assert desk.read(reads.find_event_ids, "evt_", limit=2) == ["evt_1", "evt_12"]
    assert desk.read(reads.find_event_ids, "EVT_", limit=2) == []


SIMILAR = {
    "evt_0198c0de-7a31-75b2-81ea-9411dd9baa2": "evt_0198c0de-7a31-75b2-81ea-9411dd9baa22",
    "evt_0198c0de-7a31-75b2-81ae-9411dd9baa22,": "evt_0198c0de-7a31-75b2-81ea-9411dd9baa22",
    "evt_0198c0de-7a31-7e0c-6d62-3d782f4559ba": None,  # ids of the same moment begin alike
    "order-1O": "order-10",
    "nothing": None,
    "": None,
}


def test_an_unknown_id_is_similar_to_a_stored_neighbour(desk):
    first = Event(id="order-10", type="t", source="/crm", data=1)
    desk.enqueue("evt_0198c0de-7a31-75b2-81ea-9411dd9baa22", *(f"f{each}" for each in range(30)))
    desk.enqueue("order-10", first, "zzz")
    assert {given: desk.read(reads.find_similar_id, given) for given in SIMILAR} == SIMILAR
    assert {desk.read(reads.find_similar_id, given, "/other") for given in SIMILAR} == {None}


def test_the_detail_of_an_id_of_two_sources_needs_the_source(desk):
    shop, crm = (Event(id="1", type="t", source=source, data=source) for source in ("/shop", "/crm"))
    desk.enqueue(shop, crm)
    desk.enqueue(shop, endpoint="audit")
    with pytest.raises(UnknownName, match="the id 1 has 2 sources, so give one: /crm, /shop"):
        desk.detail("1")
    found = desk.run(desk.store.detail("1", "/shop"))
    assert found.event.source == "/shop"
    assert [(each.source, each.endpoint) for each, _ in found.deliveries] == [
        ("/shop", "audit"),
        ("/shop", "orders"),
    ]
    assert desk.run(desk.store.detail("1", "/other")) is None
