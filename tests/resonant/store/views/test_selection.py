"""Selections of deliveries; the fuzz tests compare any selection with a check of each delivery."""

import json
import math
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from resonant.errors import StoreError
from resonant.events import Event
from resonant.store import schema
from resonant.store.queue.fingerprint import fingerprint
from resonant.store.views.reads import count_dead_letters
from resonant.store.views.selection import Selection


def select_ids(desk, **words) -> set[str]:
    selection = Selection(**words)
    found = {dead_letter.event_id for dead_letter in desk.run(desk.store.dead_letters(selection))}
    assert desk.read(count_dead_letters, selection) == len(found)
    return found


@pytest.fixture
def dead_letters(desk):
    """Three dead letters, a hundred seconds apart, and three other deliveries, which no selection may find."""
    refused = {"reason": "permanent", "category": "permanent", "code": "http_400"}
    desk.bury("evt_1", error="Bad Request: total", **refused, apart=100)
    refunded = Event(id="evt_2", type="order.refunded", source="/crm", data=None)
    desk.bury(refunded, endpoint="audit", apart=100)
    throttled = {"reason": "expired", "code": "throttled", "error_type": "ReadTimeout"}
    desk.bury(desk.make("evt_3", event_type="user.created"), **throttled)
    desk.enqueue("evt_pending", "evt_parked", "evt_delivered")
    parked, delivered = desk.claim(2)
    desk.fail(parked, desk.park_for(10))
    desk.deliver(delivered)
    return desk


SELECTIONS = [
    ({}, {1, 2, 3}),
    ({"ids": ("evt_1", "evt_3", "evt_9")}, {1, 3}),
    ({"source": "/crm"}, {2}),
    ({"source": "/crm", "ids": ("evt_1", "evt_2")}, {2}),
    ({"source": "/crm", "endpoint": "orders"}, set()),
    ({"source": "/"}, set()),
    ({"event_type": "order.paid"}, {1}),
    ({"event_type": "order.*"}, {1, 2}),
    ({"event_type": "*.?re*"}, {3}),
    ({"event_type": "Order.*"}, set()),
    ({"event_type": "order"}, set()),
    ({"endpoint": "audit"}, {2}),
    ({"category": "permanent"}, {1}),
    ({"category": "transient"}, {2, 3}),
    ({"code": "throttled"}, {3}),
    ({"reason": "exhausted"}, {2}),
    ({"cause": fingerprint("audit", "http_503", "the endpoint answered 503")}, {2}),
    ({"cause": "000000000000"}, set()),
    ({"text": "bad request"}, {1}),
    ({"text": "readtime"}, {3}),
    ({"text": "ANSWERED 503"}, {2, 3}),
    ({"text": "nowhere"}, set()),
    ({"since": 100.0}, {2, 3}),
    ({"until": 100.0}, {1}),
    ({"since": 100.0, "until": 200.0}, {2}),
    ({"event_type": "order.*", "endpoint": "orders", "category": "permanent"}, {1}),
    ({"event_type": "order.*", "reason": "expired"}, set()),
    *(({name: text}, set()) for name in ("endpoint", "code") for text in ("' OR '1'='1", "%", "*", "")),
]


def test_every_condition_selects_and_all_of_them_must_hold(dead_letters):
    start = dead_letters.clock() - 200
    for words, found in SELECTIONS:
        moments = {name: start + words[name] for name in ("since", "until") if name in words}
        assert select_ids(dead_letters, **words | moments) == {f"evt_{number}" for number in found}, words
    assert {name for words, _ in SELECTIONS for name in words} == set(Selection.model_fields)


def test_wildcards_of_sql_are_ordinary_characters(desk):
    for number, sign in enumerate("_%\\x"):
        desk.bury(desk.make(f"evt_{number}", event_type=f"a{sign}b"), error=f"a{sign}b")
    for number, sign in enumerate("_%\\"):
        assert select_ids(desk, event_type=f"a{sign}*") == {f"evt_{number}"}
        assert select_ids(desk, text=f"a{sign}b") == {f"evt_{number}"}


def test_an_unfinished_delivery_is_selected_by_another_moment(dead_letters):
    now = dead_letters.clock()

    def pending(connection, **words):
        table = schema.deliveries
        conditions = Selection(**words).of_unfinished()
        query = select(table.c.id).where(table.c.status == "pending", *conditions)
        return list(connection.execute(query).scalars())

    assert dead_letters.read(pending, since=now, until=now + 1) == [dead_letters.row("evt_pending")["id"]]
    assert dead_letters.read(pending, cause="000000000000") == []
    assert dead_letters.read(pending, since=now + 1) == dead_letters.read(pending, until=now) == []


@pytest.mark.parametrize("words", [{"category": "permanet"}, {"category": ""}, {"reason": "%"}], ids=str)
def test_an_unknown_category_or_reason_is_refused(words):
    with pytest.raises(ValidationError, match="'permanent'"):
        Selection(**words)


@pytest.mark.parametrize("value", ["orders", "", None])
@pytest.mark.parametrize("make", [Selection, Selection.from_form])
def test_a_renamed_field_is_an_error_and_never_a_lost_condition(make, value):
    with pytest.raises(ValidationError, match="endpoint_name"):
        make(ids=["evt_1"], endpoint_name=value)


def test_a_selection_comes_back_from_the_parameters_of_a_flow_run():
    selection = Selection(ids=("evt_1",), category="permanent", text="a", since=0.25, until=4e10)
    given = {"ids": ("evt_1",), "category": "permanent", "text": "a", "since": 0.25, "until": 4e10}
    assert selection.as_dict() == given

    parameters = selection.as_parameters()
    received = {**parameters, "until": datetime.fromisoformat(parameters["until"])}

    assert json.loads(json.dumps(parameters)) == parameters
    assert parameters["since"] == "1970-01-01T00:00:00.250000+00:00"
    assert Selection.from_form(**received | {"since": datetime.fromtimestamp(0.25, UTC)}) == selection


@pytest.mark.parametrize(
    ("moment", "year"), [(-math.inf, "0001"), (-7e10, "0001"), (1e300, "9999"), (math.inf, "9999")]
)
def test_a_moment_beyond_every_calendar_becomes_the_first_or_last_one(moment, year):
    assert Selection(since=moment).as_parameters()["since"].startswith(year)


@pytest.mark.parametrize("name", ["since", "until"])
def test_a_time_without_a_zone_is_refused(name):
    """It would mean the local time of the worker, which the operator may not know."""
    with pytest.raises(StoreError) as refused:
        Selection.from_form(**{name: datetime.fromisoformat("2026-01-31T12:00:00")})
    assert str(refused.value) == (
        "the time 2026-01-31T12:00:00 has no time zone: give one, as in 2026-01-31T12:00:00Z"
    )


@pytest.mark.parametrize("empty", [None, "", []])
def test_empty_fields_of_a_form_restrict_nothing(empty):
    assert Selection.from_form(**dict.fromkeys(Selection.model_fields, empty)).is_empty
    assert Selection().is_empty
    assert Selection(text="").is_empty, "every error contains it"
    assert not Selection(since=0.0).is_empty
    assert not Selection(ids=("evt_1",)).is_empty


def test_a_cancelled_dead_letter_is_counted_as_cancelled_and_found_as_unknown(desk):
    desk.enqueue("evt_1")
    desk.cancel()
    assert desk.status().by_category == {"cancelled": 1}
    assert select_ids(desk, category="unknown") == {"evt_1"}


def test_more_ids_can_be_named_than_a_statement_can_bind(dead_letters):
    ids = ("evt_1", *(f"other_{number}" for number in range(40_000)))
    assert select_ids(dead_letters, ids=ids) == {"evt_1"}
