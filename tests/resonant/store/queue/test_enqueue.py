"""Accepting events: each once, from any producer, however often it is sent."""

import asyncio
import contextlib
import threading
from functools import partial

import pytest
from sqlalchemy import delete, select

from resonant.errors import ConflictingEvent, EndpointError
from resonant.events import Event, rfc3339
from resonant.store import EnqueueResult, enqueue, schema
from support.postgresql import number_waiting, on_postgresql
from support.sqlite import listening, on_sqlite
from support.waiting import until


def test_every_part_of_an_event_is_stored(desk):
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "k=v"}
    parts = [
        {
            "data": b"\xff\x00",
            "datacontenttype": "image/png",
            "dataschema": "https://example.com/schema",
            "extensions": {"b": True, "a": "Zoë", "n": -1} | trace,
        },
        {},
        {"data": "é", "datacontenttype": "text/plain"},
    ]
    given = [
        Event(id=f"evt_{number}", type="t", source="/s", time="2026-01-31T12:00:00Z", **each)
        for number, each in enumerate(parts)
    ]
    given.append(Event.from_stored("evt_3", "t", "/s", b'{"b":1,"a":2}', "2026-01-31T12:00:00Z", "order 7"))
    assert desk.enqueue(*given) == EnqueueResult(accepted=4)
    assert sorted((lease.event for lease in desk.claim()), key=lambda event: event.id) == given
    assert desk.detail("evt_3").event == given[3]
    assert desk.detail("evt_3").accepted_at == desk.clock()


def in_trace(digit, **extensions):
    traceparent = f"00-{digit * 32}-{digit * 16}-01"
    return Event(
        id="evt_1", type="t", source="/s", data=1, extensions={"traceparent": traceparent} | extensions
    )


def test_an_event_keeps_its_first_trace_and_invalid_ones_are_dropped_and_counted(desk):
    first = in_trace("a", tracestate="k=v")
    assert desk.enqueue(first) == EnqueueResult(accepted=1)
    given = [in_trace("b"), in_trace("x"), in_trace("a", tracestate="")]
    assert desk.enqueue(*given) == EnqueueResult(known=3, dropped_traces=2)
    stored = desk.detail("evt_1").event
    assert (stored.traceparent, stored.tracestate) == (first.traceparent, "k=v")
    assert desk.enqueue(in_trace("x"), endpoint="audit") == EnqueueResult(accepted=1, dropped_traces=1)


def test_an_event_without_a_time_gets_that_of_its_acceptance_and_is_a_repeat_with_it(desk):
    event = Event(id="evt_2", type="t", source="/s", subject="7", datacontenttype="a/b", extensions={"n": 1})
    desk.enqueue("evt_1", event)
    kept = [desk.detail(event_id).event for event_id in ("evt_1", "evt_2")]
    assert [each.time for each in kept] == [rfc3339(desk.clock())] * 2
    assert desk.enqueue(*kept) == EnqueueResult(known=2)
    assert desk.enqueue(*kept, endpoint="audit") == EnqueueResult(accepted=2)
    other = Event(id="evt_1", type="order.paid", source="/shop", data="other", time=kept[0].time)
    assert len(desk.enqueue(other, report_conflicts=True).conflicts) == 1


def test_an_empty_batch_stores_nothing(desk):
    assert desk.enqueue() == EnqueueResult()
    assert desk.rows(schema.acceptances) == []
    assert desk.rows(schema.ledgers) == []


def test_an_event_given_twice_in_one_batch_is_one_delivery(desk):
    assert desk.enqueue("evt_1", "evt_2", "evt_1") == EnqueueResult(accepted=2, known=1)
    assert desk.status().accepted == desk.status().pending == 2


def test_policy_and_limit_are_kept_with_the_delivery(desk):
    desk.enqueue("evt_1", policy="patient", max_attempts=7)
    lease = desk.claim_one()
    assert (lease.policy, lease.max_attempts) == ("patient", 7)


def test_a_known_id_with_other_content_is_refused_and_both_are_shown(desk):
    desk.enqueue(desk.make("evt_1", {"total": 10}))
    with pytest.raises(ConflictingEvent) as refusal:
        desk.enqueue("evt_0", desk.make("evt_1", {"total": 11}), "evt_2")
    assert "evt_1" in str(refusal.value)
    assert '{"total":10}' in str(refusal.value)
    assert '{"total":11}' in str(refusal.value)
    assert desk.detail("evt_0") is desk.detail("evt_2") is None, "a batch is stored as a whole or not at all"
    assert desk.status().accepted == 1


@on_sqlite
def test_content_is_everything_but_the_identity(desk):
    content = {"type": "order.paid", "body": b"null"}
    desk.enqueue(Event.from_stored("evt_1", source="/shop", **content))
    for other in (
        {"type": "order.refunded"},
        {"body": b"0"},
        {"body": b" null"},
        {"time": "2026-01-31T12:00:00Z"},
        {"subject": "order 7"},
        {"form": "text"},
        {"datacontenttype": "a/json"},
        {"dataschema": "https://example.com"},
        {"extensions_json": '{"a":1}'},
    ):
        given = Event.from_stored("evt_1", source="/shop", **content | other)
        assert len(desk.enqueue(given, endpoint="elsewhere", report_conflicts=True).conflicts) == 1, other


@on_sqlite
def test_large_contents_that_differ_at_their_end_are_shown_to_differ(desk):
    desk.enqueue(desk.make("evt_1", "x" * 5_000 + "a"))
    with pytest.raises(ConflictingEvent) as refusal:
        desk.enqueue(desk.make("evt_1", "x" * 5_000 + "b"))
    given, stored = str(refusal.value).partition("given ")[2].split("; stored ")
    assert given != stored
    assert len(str(refusal.value)) < 1_000


def test_conflicts_can_be_reported_while_the_others_are_stored(desk):
    desk.enqueue("evt_1")
    other, first, second = desk.make("evt_1", "other"), desk.make("evt_2", 1), desk.make("evt_2", 2)
    given = ["evt_0", other, "evt_1", first, second, first]
    found = desk.enqueue(*given, endpoint="audit", report_conflicts=True)
    assert (found.accepted, found.known) == (3, 1)
    assert [conflict.given for conflict in found.conflicts] == [other, second]
    assert [conflict.stored for conflict in found.conflicts] == [
        desk.detail("evt_1").event,
        desk.detail("evt_2").event,
    ]
    assert desk.detail("evt_2").event.body == b"1"
    assert desk.status().accepted == 4
    assert desk.status().balanced


@pytest.mark.parametrize("sources", [["/shop"], ["/shop", "/crm"]], ids=["one source", "two sources"])
def test_producers_of_the_same_ids_at_once_store_each_event_once_and_never_deadlock(
    open_desk, store_url, sources
):
    desks = [open_desk(store_url) for _ in range(3)]
    ids = [f"evt_{number}{'.' * (number % 10 == 0)}" for number in range(80)]
    events = [Event(id=id_, type="t", source=source, data=1) for id_ in ids for source in sources]
    runs = []

    async def produce(store, given):
        def run(connection, batch):
            runs.append("run")  # a second time if the server breaks a deadlock
            return enqueue(connection, batch, "orders", now=0.0).accepted

        batches = [given[start : start + 40] for start in range(0, len(given), 40)]
        return sum([await store.write(run, batch) for batch in (*batches, given)])

    async def produce_at_once():
        # Each producer stores one of the sources first.
        orders = (events, events[::-1], sorted(events, key=lambda event: event.source))
        return await asyncio.gather(
            *(produce(desk.store, order) for desk, order in zip(desks, orders, strict=True))
        )

    assert sum(desks[0].run(produce_at_once())) == len(events)
    assert len(runs) == 3 * (len(events) // 40 + 1)
    assert desks[0].status().accepted == desks[0].status().pending == len(events)
    assert len({row["webhook_id"] for row in desks[0].rows(schema.events)}) == len(events)
    desks[0].fold()
    [ledger] = desks[0].rows(schema.ledgers)
    assert ledger["accepted"] == len(events)


@on_postgresql
@pytest.mark.parametrize("is_known", [False, True])
def test_two_producers_that_wait_for_a_third_do_not_deadlock(open_desk, store_url, is_known):
    """Neither the order of the events nor that of their sources decides the order of the locks."""
    desks = [open_desk(store_url) for _ in range(3)]
    held, a1, z3, z1, a3 = (
        Event(id=id_, type="t", source=source, data=1)
        for id_, source in (("m", "/2"), ("a", "/1"), ("z", "/3"), ("z", "/1"), ("a", "/3"))
    )
    first, second = [a1, held, z3], [z1, held, a3]
    if is_known:
        second = first[::-1]
        desks[0].enqueue(*first, endpoint="elsewhere")
    runs = []

    def run(connection, events):
        runs.append("run")  # again if the server breaks a deadlock
        return enqueue(connection, events, "orders", now=0.0).accepted

    async def are_waiting(number):
        return await desks[0].store.read(number_waiting) == number

    async def produce():
        producers = []
        with contextlib.suppress(KeyError):
            async with desks[0].store.transaction() as transaction:
                await transaction.run_sync(enqueue, held, "orders", now=0.0)
                for number, (desk, events) in enumerate(zip(desks[1:], (first, second), strict=True), 1):
                    producers.append(asyncio.create_task(desk.store.write(run, events)))
                    await until(partial(are_waiting, number))
                raise KeyError("the third producer's own")
        return await asyncio.gather(*producers)

    assert sum(desks[0].run(produce())) == (3 if is_known else 5)
    assert runs == ["run", "run"]


@on_sqlite
def test_storing_known_events_again_asks_the_database_a_fixed_number_of_times(desk):
    events = [f"evt_{number}" for number in range(500)]
    desk.enqueue(*events)
    statements = []
    with listening("before_cursor_execute", lambda *arguments: statements.append(arguments[2])):
        assert desk.enqueue(*events).known == 500
    assert len(statements) < 15


@on_postgresql
def test_an_event_that_is_purged_just_when_it_is_given_again_is_accepted_anew(desk, postgresql):
    desk.enqueue("evt_1")
    desk.execute(delete(schema.deliveries))
    purge = threading.Thread(target=postgresql.execute, args=("DELETE FROM resonant_events", "store"))

    def purge_before_it_is_held(_connection, _cursor, statement, *_rest):
        if "resonant_events" in statement and statement.startswith("SELECT") and purge.ident is None:
            purge.start()
            purge.join()

    with listening("before_cursor_execute", purge_before_it_is_held):
        assert desk.enqueue("evt_1").accepted == 1
    assert purge.ident is not None
    assert desk.detail("evt_1").event.id == "evt_1"


@on_postgresql
def test_an_event_that_was_found_known_cannot_be_purged_before_the_commit(desk):
    desk.enqueue("evt_1")
    desk.execute(delete(schema.deliveries))
    purges = []

    def purge_if_nothing_needs_it(connection):
        purges.append("tried")
        unneeded = ~select(schema.deliveries.c.id).exists()
        connection.execute(delete(schema.events).where(unneeded))

    async def enqueue_and_purge_meanwhile():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(enqueue, [desk.make("evt_1")], "orders", now=desk.clock())
            purging = asyncio.create_task(desk.store.write(purge_if_nothing_needs_it))
            await until(lambda: desk.store.read(number_waiting))
        await purging

    desk.run(enqueue_and_purge_meanwhile())
    assert len(purges) == 2, "it looked again, since the unneeded rows were needed by then"
    assert desk.delivery("evt_1").status == "pending"


@on_sqlite
@pytest.mark.parametrize(
    "name", ["https://user:pw@h/x?token=s3cret", "", "a\nb", "Billing", "<img src=x>", "$(id)", "a--b"]
)
def test_an_invalid_endpoint_name_is_refused_and_not_repeated(desk, name):
    with pytest.raises(EndpointError, match="lower case letters, digits and single dashes") as refused:
        desk.enqueue("evt_1", endpoint=name)
    assert "s3cret" not in str(refused.value)
    assert desk.status().accepted == 0


def test_an_endpoint_of_another_block_type_has_that_before_its_name(desk):
    desk.enqueue("evt_1", endpoint="file-endpoint/audit")
    assert desk.status(endpoint="file-endpoint/audit").accepted == 1
