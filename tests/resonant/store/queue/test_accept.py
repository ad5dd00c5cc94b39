"""Events without an endpoint: the subscriptions decide once, in the transaction that stores the event."""

import asyncio
import contextlib

import pytest

from resonant.errors import UnroutedEvent
from resonant.events import Event
from resonant.store import EnqueueResult, Unrouted, enqueue, schema
from resonant.store.queue.accept import accept
from resonant.store.shared.subscriptions import remove_subscriptions_of
from support.sqlite import listening, on_sqlite
from support.subscriptions import subscribe, subscribe_in


def paid(id_="1", **parts):
    return Event(id=id_, type="order.paid", source="/shop", data=1, **parts)


def ids_of(result):
    return set(result.delivery_ids)


def test_an_event_gets_a_delivery_for_each_endpoint_with_a_matching_subscription(desk):
    subscribe(desk, "crm", "order.*")
    subscribe(desk, "audit", "order.paid", "*.paid")
    subscribe(desk, "audit", "order.*")
    subscribe(desk, "billing", "invoice.*")
    result = desk.enqueue(paid("1"), paid("2"), endpoint=None)
    assert result == EnqueueResult(accepted=4)
    assert [each.endpoints for each in result.outcomes] == [("audit", "crm"), ("audit", "crm")]
    assert ids_of(result) == {row["id"] for row in desk.rows(schema.deliveries)}
    assert len(desk.rows(schema.events)) == 2
    assert {each.name: each.pending for each in desk.status().endpoints} == {"audit": 2, "crm": 2}
    assert desk.status().balanced


def test_events_of_two_sources_with_the_same_id_in_one_call_are_both_routed(desk):
    subscribe(desk, "crm")
    events = [Event(id="1", type="order.paid", source=source, data=1) for source in ("/b", "/a", "/c")]
    result = desk.enqueue(*events, endpoint=None)
    assert result == EnqueueResult(accepted=3)
    assert [(each.duplicate, each.endpoints) for each in result.outcomes] == [(False, ("crm",))] * 3
    assert len(desk.rows(schema.deliveries)) == 3


def test_an_event_that_was_stored_for_a_named_endpoint_is_not_routed_later(desk):
    subscribe(desk, "crm")
    outcomes = desk.write(accept, [(paid(), "audit"), (paid(), None)], now=desk.clock())
    assert [(each.duplicate, each.endpoints) for each in outcomes] == [
        (False, ("audit",)),
        (True, ("audit",)),
    ]
    assert desk.enqueue(paid(), endpoint=None).outcomes[0].endpoints == ("audit",)
    added = desk.enqueue(paid(), endpoint="billing")
    assert (added.accepted, added.known) == (1, 0)
    assert desk.enqueue(paid(), endpoint=None).outcomes[0].endpoints == ("audit", "billing")


def test_an_event_that_no_subscription_matches_is_refused_and_nothing_is_stored(desk):
    subscribe(desk, "crm", "invoice.*")
    with pytest.raises(UnroutedEvent) as refusal:
        desk.enqueue(Event(type="invoice.sent", source="/shop", data=1), paid(), endpoint=None)
    assert str(refusal.value) == (
        "no subscription wants type 'order.paid' of source '/shop' (id '1'): "
        "`resonant subscription add ENDPOINT order.paid` adds one"
    )
    assert desk.rows(schema.events) == desk.rows(schema.deliveries) == []


@pytest.mark.parametrize("option", ["allow_unrouted", "report_conflicts"])
def test_the_others_are_stored_if_unrouted_events_are_allowed_or_reported(desk, option):
    subscribe(desk, "crm", "invoice.*")
    sent = Event(id="2", type="invoice.sent", source="/shop", data=1)
    result = desk.enqueue(paid(), sent, endpoint=None, **{option: True})
    assert result == EnqueueResult(accepted=1, unrouted=(Unrouted(paid()),))
    assert [row["id"] for row in desk.rows(schema.events)] == ["2"]
    [outcome] = desk.write(accept, [(paid(), None)], allow_unrouted=True)
    assert outcome == (paid(), False, (), None, (), False)


def test_an_unrouted_event_that_is_stored_is_a_repeat_or_a_conflict(desk):
    desk.enqueue(paid(), endpoint="audit")
    assert desk.enqueue(paid(), endpoint=None) == EnqueueResult(known=1)
    other = Event(id="1", type="order.paid", source="/shop", data="other")
    [conflict] = desk.enqueue(other, endpoint=None, report_conflicts=True).conflicts
    assert conflict.given is other


def test_outcomes_are_in_the_given_order(desk):
    subscribe(desk, "crm", "order.*")
    desk.enqueue(paid("known"), endpoint="audit")
    other = Event(id="known", type="order.paid", source="/shop", data="other")
    unrouted = Event(type="t", source="/shop", data=1)
    wanted = {
        "routed": (paid("z"), None, (False, ("crm",), "NoneType")),
        "named": (paid("a"), "audit", (False, ("audit",), "NoneType")),
        "routed again": (paid("z"), None, (True, ("crm",), "NoneType")),
        "named as routed": (paid("z"), "crm", (True, ("crm",), "NoneType")),
        "named besides": (paid("z"), "audit", (False, ("audit",), "NoneType")),
        "other content": (other, None, (False, (), "Conflict")),
        "unrouted": (unrouted, None, (False, (), "Unrouted")),
        "known": (paid("known"), None, (True, ("audit",), "NoneType")),
    }
    outcomes = desk.write(accept, [each[:2] for each in wanted.values()], now=desk.clock())
    assert [each.event for each in outcomes] == [event for event, *_ in wanted.values()]
    found = [(each.duplicate, each.endpoints, type(each.problem).__name__) for each in outcomes]
    assert dict(zip(wanted, found, strict=True)) == {name: each[2] for name, each in wanted.items()}
    assert desk.status().balanced


def test_an_event_whose_deliveries_somebody_removed_is_a_repeat_without_endpoints(desk):
    desk.enqueue(paid(), endpoint="audit")
    desk.execute(schema.deliveries.delete())
    assert desk.enqueue(paid(), endpoint=None).outcomes[0][1:3] == (True, ())


@on_sqlite
def test_a_producer_that_names_its_endpoint_does_not_read_the_subscriptions(desk):
    statements = []
    with listening("before_cursor_execute", lambda *given: statements.append(given[2])):
        desk.enqueue(paid(), endpoint="audit")
    assert statements
    assert not [each for each in statements if "resonant_routing" in each or "subscriptions" in each]


def test_two_routing_producers_and_a_change_between_them_never_deadlock(open_desk, store_url):
    """The event has the endpoints of the transaction that stored it, for both producers."""
    desks = [open_desk(store_url) for _ in range(3)]
    for name in ("a", "b", "c"):
        subscribe(desks[0], name)
    events = [paid(str(number)) for number in range(200)]
    runs = []

    def run(connection, given):
        runs.append("run")  # again if the server breaks a deadlock
        return enqueue(connection, given, now=0.0)

    async def change():
        await desks[2].store.write(remove_subscriptions_of, "b", who="a test", now=0.0)

    async def produce_at_once():
        first, second, _ = await asyncio.gather(
            desks[0].store.write(run, events), desks[1].store.write(run, events[::-1]), change()
        )
        return first, second

    first, second = desks[0].run(produce_at_once())
    assert runs == ["run", "run"]
    assert {first.accepted == 0, second.accepted == 0} == {True, False}, (
        "one stored them, the other knew them"
    )
    endpoints = {each.event.id: each.endpoints for each in first.outcomes}
    assert {each.event.id: each.endpoints for each in second.outcomes} == endpoints
    assert set(endpoints.values()) <= {("a", "b", "c"), ("a", "c")}
    assert desks[0].status().accepted == sum(map(len, endpoints.values()))
    assert desks[0].status().balanced


def test_routing_that_is_rolled_back_stores_nothing_and_uses_no_rolled_back_subscription(desk):
    async def subscribe_enqueue_and_fail():
        async with desk.store.transaction() as transaction:
            await transaction.run_sync(subscribe_in, "crm")
            result = await transaction.run_sync(enqueue, paid())
            assert result.outcomes[0].endpoints == ("crm",)
            raise KeyError("the producer's own")

    with contextlib.suppress(KeyError):
        desk.run(subscribe_enqueue_and_fail())
    subscribe(desk, "audit")
    assert desk.enqueue(paid(), endpoint=None).outcomes[0].endpoints == ("audit",)


def test_on_postgresql_a_routing_producer_needs_to_read_two_tables_only(
    postgresql, postgresql_url, open_desk
):
    desk = open_desk(postgresql_url)
    subscribe(desk, "crm")
    if not postgresql.execute("SELECT FROM pg_roles WHERE rolname = 'router'"):
        postgresql.execute("CREATE ROLE router LOGIN")
    for grant in (
        "SELECT, INSERT, UPDATE ON resonant_events",
        "SELECT, INSERT ON resonant_deliveries, resonant_acceptances",
        "SELECT ON resonant_schema, resonant_subscriptions, resonant_routing",
        "USAGE ON SCHEMA public",
        "USAGE ON ALL SEQUENCES IN SCHEMA public",
    ):
        desk.execute(f"GRANT {grant} TO router")
    producer = open_desk(postgresql.url("test", user="router"))
    for _ in range(2):
        assert producer.enqueue(paid(), endpoint=None).outcomes[0].endpoints == ("crm",)
