"""Subscriptions in the store: each change is audited, and processes compile them once per version."""

import asyncio

import pytest
from sqlalchemy import event
from sqlalchemy.util import await_only

from resonant.errors import InvalidSubscription, StoreError
from resonant.events import Event
from resonant.routing import MAX_SUBSCRIPTIONS, new_subscription
from resonant.store import schema
from resonant.store.audit import read_audit
from resonant.store.shared import subscriptions
from resonant.store.shared.subscriptions import (
    add_subscription,
    current_router,
    read_subscriptions,
    remove_subscriptions,
    remove_subscriptions_of,
)
from support.sqlite import on_sqlite
from support.subscriptions import subscribe

BY = {"who": "ann", "now": 7.0}
EVENT = Event(type="t", source="/s", data=1)


def endpoints(desk):
    return desk.read(current_router).endpoints(EVENT)


def test_a_subscription_is_stored_once_with_its_conditions(desk):
    terms = {"types": ["order.*", "t"], "source": "/s*", "filters": [{"not": {"exact": {"subject": "ü"}}}]}
    given = new_subscription("crm", terms)
    assert desk.write(add_subscription, given, **BY) == (given, True)
    again = new_subscription("crm", terms | {"types": ["t", "order.*"]})
    assert desk.write(add_subscription, again, **BY) == (given, False)
    assert desk.read(read_subscriptions) == [given]
    assert desk.read(read_subscriptions, "audit") == []
    assert endpoints(desk) == ("crm",)


@on_sqlite
def test_there_may_be_a_thousand(desk):
    def fill(connection):
        rows = [
            {"id": f"sub_{n}", "endpoint": "crm", "types": f'["{n}"]', "filters": "[]", "created_at": 0.0}
            for n in range(MAX_SUBSCRIPTIONS)
        ]
        connection.execute(schema.subscriptions.insert(), rows)

    desk.write(fill)
    with pytest.raises(InvalidSubscription, match="the store has 1,000 subscriptions, the limit is 1,000"):
        subscribe(desk, "crm", "t")


def test_removed_subscriptions_route_no_more(desk):
    crm, audit = subscribe(desk, "crm"), subscribe(desk, "audit")
    assert desk.write(remove_subscriptions, [crm.id, "sub_unknown"], **BY) == [crm]
    assert endpoints(desk) == ("audit",)
    assert desk.write(remove_subscriptions_of, "audit", **BY) == [audit]
    assert desk.write(remove_subscriptions_of, "audit", **BY) == []
    assert endpoints(desk) == ()


def test_each_change_is_audited(desk):
    crm = subscribe(desk, "crm", "a")
    desk.write(remove_subscriptions, [crm.id], **BY)
    removed, added = desk.read(read_audit)
    assert (added.action, added.who, added.ended_at) == ("subscription add", "a test", 0.0)
    assert (removed.action, removed.who, removed.at) == ("subscription remove", "ann", 7.0)
    about = {"endpoint": "crm", "id": crm.id, "types": ["a"], "source": None, "filters": []}
    assert added.selection == removed.selection == about


def test_a_process_compiles_its_router_once_per_version_and_keeps_few(desk):
    subscribe(desk, "crm")
    router = desk.read(current_router)
    assert desk.read(current_router) is router
    subscribe(desk, "audit")
    assert desk.read(current_router) is not router
    for number in range(10):
        subscribe(desk, "crm", str(number))
        assert endpoints(desk) == ("audit", "crm")
    assert len(subscriptions._routers) <= 8


def test_a_version_never_names_the_subscriptions_of_a_later_one(postgresql_url, open_desk):
    """Also if they change while a process reads them, at the isolation level of most producers."""
    desk, other = open_desk(postgresql_url), open_desk(postgresql_url)
    subscribe(desk, "crm")
    [[_, version]] = desk.read(lambda connection: connection.execute(schema.routing.select()).all())
    change = other.store.write(add_subscription, new_subscription("audit", {}), **BY)

    def read_around_a_change(connection):
        event.listen(connection, "after_cursor_execute", lambda *_: await_only(change), once=True)
        current_router(connection)

    desk.write(read_around_a_change)
    assert endpoints(desk) == ("audit", "crm")

    def restore_a_backup(connection):
        connection.execute(schema.subscriptions.delete().where(schema.subscriptions.c.endpoint == "audit"))
        connection.execute(schema.routing.update().values(version=version))

    desk.write(restore_a_backup)
    assert endpoints(desk) == ("crm",)


@on_sqlite
@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"types": "order.*"}, "Expecting value"),
        ({"types": "[1]"}, "must be"),
        ({"filters": '[{"sql": "a = 1"}]'}, "no dialect is named 'sql'"),
        ({"endpoint": "Chat"}, "its endpoint has no valid name"),
    ],
)
def test_a_damaged_row_is_named_and_no_event_is_routed_as_if_it_were_missing(desk, values, why):
    damaged = subscribe(desk, "chat")
    subscribe(desk, "crm")
    is_damaged = schema.subscriptions.c.id == damaged.id
    desk.execute(schema.subscriptions.update().where(is_damaged).values(**values))
    with pytest.raises(StoreError, match=f"the stored subscription {damaged.id} is damaged .*{why}"):
        desk.enqueue(EVENT, endpoint=None)
    assert desk.rows(schema.events) == []


def test_changes_at_once_are_all_stored(open_desk, store_url):
    desks = [open_desk(store_url) for _ in range(3)]

    async def change(desk, name):
        await desk.store.write(add_subscription, new_subscription(name, {}), **BY)

    async def change_at_once():
        await asyncio.gather(*(change(desk, name) for desk, name in zip(desks, "abc", strict=True)))

    desks[0].run(change_at_once())
    assert endpoints(desks[0]) == ("a", "b", "c")
    assert len(desks[0].rows(schema.routing)) == 1
