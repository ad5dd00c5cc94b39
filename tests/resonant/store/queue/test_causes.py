"""Causes: each is kept once, and however much errors differ there are never many."""

import asyncio

import pytest

from resonant.delivery.retry import GiveUp
from resonant.store import schema
from resonant.store.queue.causes import (
    MOST_ERRORS,
    MOST_NORMALISED,
    Cause,
    cause_ids,
    find_unused,
    forget_unused_errors,
)
from resonant.store.queue.fingerprint import fingerprint
from resonant.store.queue.outcomes import record
from support.postgresql import number_waiting, on_postgresql
from support.sqlite import listening, on_sqlite
from support.waiting import until

CAUSE = Cause(
    "orders", "order.paid", "exhausted", "transient", "http_503", "UnexpectedStatus", "answered 503"
)


def test_the_same_cause_is_the_same_row(desk):
    other = CAUSE._replace(code="http_500")
    first = desk.write(cause_ids, [CAUSE, other, CAUSE])
    assert len(set(first.values())) == 2
    assert desk.write(cause_ids, [CAUSE]) == {CAUSE: first[CAUSE]}
    rows = desk.rows(schema.causes)
    assert [row["fingerprint"] for row in rows if row["code"] == "http_503"] == [
        fingerprint("orders", "http_503", "answered 503")
    ]


@on_sqlite
def test_causes_that_differ_anywhere_are_two(desk):
    names = [name for name in Cause._fields if name != "varies"]
    causes = [CAUSE, *(CAUSE._replace(**{name: "other"}) for name in names)]
    assert len(set(desk.write(cause_ids, causes).values())) == len(names) + 1


def test_null_and_an_empty_text_are_the_same_cause():
    failure = dict.fromkeys(("category", "code", "error_type", "error"))
    assert Cause.of("e", "t", "cancelled", failure) == Cause("e", "t", "cancelled")


def test_errors_that_differ_in_their_variable_parts_become_one_cause(desk):
    many = [CAUSE._replace(error=f"order {number} is refused") for number in range(MOST_ERRORS + 40)]
    for start in range(0, len(many), 15):
        ids = desk.write(cause_ids, many[start : start + 15])
    rows = desk.rows(schema.causes)
    assert len(rows) == MOST_ERRORS + 1
    [general] = [row for row in rows if row["varies"]]
    assert general["error"] == "order <n> is refused"
    assert set(ids.values()) == {general["id"]}


@on_sqlite
@pytest.mark.parametrize("purges", [False, True])
def test_errors_that_are_all_different_are_bounded_too(desk, purges):
    """Also if their dead letters are purged meanwhile, and the errors with them."""
    words = ("".join(chr(97 + int(digit)) for digit in str(number)) for number in range(150))
    many = [CAUSE._replace(error=word) for word in words]
    for start in range(0, len(many), 25):
        if purges:
            desk.purge()
            assert {row["error"] for row in desk.rows(schema.causes)} <= {""}
        desk.write(cause_ids, many[start : start + 25])
    desk.write(cause_ids, many)
    rows = desk.rows(schema.causes)
    assert len(rows) == MOST_NORMALISED + 1
    assert [row["error"] for row in rows if row["varies"]].count("<any>") == 1


def test_another_kind_of_failure_has_room_of_its_own(desk):
    desk.write(cause_ids, [CAUSE._replace(error=f"order {number}") for number in range(MOST_ERRORS)])
    other = CAUSE._replace(event_type="order.refunded")
    desk.write(cause_ids, [other])
    assert [row["varies"] for row in desk.rows(schema.causes) if row["event_type"] == "order.refunded"] == [
        False
    ]


def test_two_workers_that_meet_a_new_cause_at_once_keep_it_once(open_desk, store_url):
    desk, other = open_desk(store_url), open_desk(store_url)
    causes = [CAUSE._replace(code=f"code_{number}") for number in range(20)]

    async def both():
        return await asyncio.gather(
            desk.store.write(cause_ids, causes), other.store.write(cause_ids, causes[::-1])
        )

    first, second = desk.run(both())
    assert first == second
    assert len(desk.rows(schema.causes)) == 20


def test_a_purge_forgets_errors_in_short_transactions_with_few_statements(desk):
    every = [CAUSE._replace(endpoint=f"endpoint-{number}") for number in range(450)]
    desk.write(cause_ids, every)
    sizes, others = [], []

    def count(_connection, _cursor, statement, parameters, _context, is_many):
        if statement.startswith("UPDATE resonant_causes"):
            sizes.append(len(parameters) if is_many else 1)
        elif "resonant_causes" in statement:
            others.append(statement)

    with listening("before_cursor_execute", count):
        desk.purge()

    assert {row["error"] for row in desk.rows(schema.causes)} == {""}
    assert sizes == [200, 200, 50]
    assert len(others) <= 10


@on_postgresql
def test_a_purge_keeps_the_error_of_a_cause_that_a_worker_is_about_to_reference(desk):
    desk.bury("evt_1", apart=1)
    desk.deliver(*desk.replay().leases)
    [unused] = desk.read(find_unused, after=0, limit=10)
    desk.enqueue("evt_2")
    lease = desk.claim_one()
    desk.begin(lease)

    async def race():
        async with desk.store.transaction() as worker:
            await worker.run_sync(record, [desk.failed(lease, GiveUp("exhausted"))], now=desk.clock())
            purge = asyncio.create_task(desk.store.write(forget_unused_errors, [unused]))
            await until(lambda: purge.done() or desk.store.read(number_waiting))
        await purge

    desk.run(race())
    [row] = desk.rows(schema.causes)
    assert row["error"] == "the endpoint answered 503"
    assert row["id"] == desk.row("evt_2")["cause_id"]
