"""The queries for operators."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import asdict

import pytest

from resonant.delivery.retry import GiveUp, Park
from resonant.errors import StoreUnavailable
from resonant.events import Event
from resonant.store import WorkerStore, enqueue, schema
from resonant.store.views import reads
from resonant.store.views.selection import Selection


def test_an_empty_store_is_balanced(desk):
    status = desk.status()
    assert status == reads.StoreStatus(0, 0, 0, 0, 0, 0, 0, {}, None, None)
    assert status.balanced


def test_status_counts_every_state_of_a_delivery(desk):
    start = desk.clock()
    desk.enqueue(*(f"evt_{number}" for number in range(8)))
    leases = desk.claim(6)
    desk.deliver(leases[0])
    desk.fail(leases[1], GiveUp("permanent"), category="permanent")
    desk.clock.advance(5)
    desk.fail(leases[2], GiveUp("exhausted"), category="transient")
    desk.fail(leases[3], desk.retry_in(2))
    desk.fail(leases[4], desk.park_for(90))
    status = desk.status()
    assert (status.accepted, status.pending, status.retrying) == (8, 3, 2)
    assert (status.delivered, status.dead_letter, status.purged) == (1, 2, 0)
    assert status.in_flight == 2, "one that is about to be sent, and one that waits in a process"
    assert status.by_category == {"permanent": 1, "transient": 1}
    assert (status.oldest_due_at, status.oldest_dead_at) == (start, start)
    assert status.balanced


def test_counts_are_plain_numbers_on_every_database(desk):
    desk.enqueue("evt_1")
    status = asdict(desk.status())
    assert {type(value) for name, value in status.items() if isinstance(value, int)} == {int}
    json.dumps(status)


def test_status_can_be_kept_to_one_endpoint(desk):
    desk.enqueue("evt_1", "evt_2", endpoint="orders")
    desk.enqueue("evt_1", endpoint="audit")
    desk.fail(desk.claim_one(endpoint="audit"), GiveUp("permanent"))
    orders, audit = desk.status(endpoint="orders"), desk.status(endpoint="audit")
    assert (orders.accepted, orders.pending, orders.dead_letter) == (2, 2, 0)
    assert (audit.accepted, audit.pending, audit.dead_letter) == (1, 0, 1)
    assert orders.balanced
    assert audit.balanced
    assert desk.status(endpoint="nobody").accepted == 0


@pytest.mark.parametrize("column", ["accepted", "purged"])
def test_a_ledger_that_does_not_fit_the_rows_is_not_balanced(desk, column):
    desk.enqueue("evt_1")
    desk.fold()
    table = schema.ledgers
    desk.write(lambda connection: connection.execute(table.update().values({column: 5})) and None)
    assert not desk.status().balanced


def test_an_operation_that_reads_twice_sees_the_same(open_desk, store_url):
    reader, writer = open_desk(store_url), open_desk(store_url)
    writer.enqueue("evt_1")

    def read_around_a_write(connection):
        before = reads.status(connection, now=0.0)
        _write_from_another_thread(store_url)
        return before, reads.status(connection, now=0.0)

    before, after = reader.read(read_around_a_write)
    assert before == after
    assert reader.status().accepted == 2


def _write_from_another_thread(url) -> None:
    """Store an event from outside of the loop in which this is called."""

    async def write() -> None:
        store = await WorkerStore.open(url)
        await store.enqueue([Event(id="evt_other", type="t", source="/s", data=1)], "orders")
        await store.close()

    thread = threading.Thread(target=asyncio.run, args=(write(),))
    thread.start()
    thread.join()


def test_a_reading_operation_cannot_write_to_postgresql(open_desk, postgresql_url):
    desk = open_desk(postgresql_url)
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        desk.read(enqueue, [desk.make("evt_1")], "orders", now=0.0)


def test_dead_letters_are_the_newest_first(desk):
    for event_id in ("evt_1", "evt_2", "evt_3"):
        desk.enqueue(event_id)
        desk.fail(desk.claim_one(), GiveUp("exhausted"))
        desk.clock.advance(1)
    found = desk.run(desk.store.dead_letters())
    assert [dead_letter.event_id for dead_letter in found] == ["evt_3", "evt_2", "evt_1"]
    assert found == sorted(found, key=lambda dead_letter: -dead_letter.dead_at)
    assert [dead_letter.event_id for dead_letter in desk.run(desk.store.dead_letters(limit=2))] == [
        "evt_3",
        "evt_2",
    ]


def test_a_dead_letter_has_its_reason_its_error_and_its_attempts(desk):
    desk.enqueue("evt_1")
    first_at = desk.clock()
    lease, decision = desk.claim_one(), desk.retry_in(1)
    desk.fail(lease, decision)
    desk.clock.advance(1)
    desk.fail(desk.counted_on(lease, decision), GiveUp("exhausted"))
    [dead_letter] = desk.run(desk.store.dead_letters())
    assert (dead_letter.event_id, dead_letter.event_type, dead_letter.endpoint) == (
        "evt_1",
        "order.paid",
        "orders",
    )
    assert (dead_letter.reason, dead_letter.category, dead_letter.code) == (
        "exhausted",
        "transient",
        "http_503",
    )
    assert (dead_letter.error_type, dead_letter.error) == ("UnexpectedStatus", "the endpoint answered 503")
    assert (dead_letter.status_code, dead_letter.attempts, dead_letter.replays) == (503, 2, 0)
    assert (dead_letter.first_attempt_at, dead_letter.dead_at) == (first_at, first_at + 1)


def test_dead_letters_of_one_moment_come_page_by_page_and_each_once(desk):
    events = [f"evt_{number:04}" for number in range(1_100)]
    desk.enqueue(*events)
    leases = desk.claim(2_000)
    desk.record(*(desk.failed(lease, GiveUp("permanent")) for lease in leases))
    found = [dead_letter.event_id for dead_letter in desk.run(desk.store.dead_letters())]
    assert len(found) == 1_100
    assert set(found) == set(events)
    assert len(desk.run(desk.store.dead_letters(limit=1_050))) == 1_050


def test_detail_shows_each_delivery_with_its_whole_history(desk):
    desk.enqueue("evt_1", endpoint="orders")
    desk.enqueue("evt_1", endpoint="audit")
    desk.deliver(desk.claim_one(endpoint="audit"))
    lease, decision = desk.claim_one(endpoint="orders"), desk.retry_in(1)
    desk.fail(lease, decision)
    desk.fail(desk.counted_on(lease, decision), GiveUp("exhausted"))
    (audit, audits), (orders, attempts) = desk.detail("evt_1").deliveries
    assert (audit.endpoint, audit.status, len(audits)) == ("audit", "delivered", 1)
    assert (orders.endpoint, orders.status, orders.reason) == ("orders", "dead_letter", "exhausted")
    assert [(each.number, each.decision) for each in attempts] == [(1, "retry"), (2, "give_up")]


def test_detail_says_when_a_deliverys_own_backoff_ends(desk):
    desk.enqueue("evt_1")
    now = desk.clock()
    desk.fail(desk.claim_one(), Park(1.0, now + 1, backoff_until=now + 300))
    assert desk.delivery("evt_1").backoff_until == now + 300


def test_detail_of_an_unknown_event_is_none(desk):
    assert desk.detail("evt_1") is None


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


@pytest.mark.parametrize("prefix", ["evt_%", "evt__", "EVT_1"])
def test_ids_are_found_by_how_they_begin_and_not_by_a_pattern(desk, prefix):
    desk.enqueue("evt_1", "evt_12", "evt_2")
    assert desk.read(reads.find_event_ids, "evt_1", limit=10) == ["evt_1", "evt_12"]
    assert desk.read(reads.find_event_ids, "evt_", limit=2) == ["evt_1", "evt_12"]
    assert desk.read(reads.find_event_ids, prefix, limit=10) == []
