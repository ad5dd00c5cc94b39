"""Selections of deliveries; ``fuzz/test_selections.py`` compares any selection with a look at each delivery."""

import json
import math
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from resonant.errors import StoreError
from resonant.store import schema
from resonant.store.queue.fingerprint import fingerprint
from resonant.store.views.reads import count_dead_letters
from resonant.store.views.selection import Selection


def test_a_cause_selects_its_dead_letters_and_nothing_unfinished(desk):
    desk.bury("evt_1", error="Bad Request: total")
    desk.bury("evt_2")
    desk.enqueue("evt_3")

    def unfinished(connection, selection):
        conditions = selection.of_unfinished()
        return connection.execute(select(schema.deliveries.c.id).where(*conditions)).all()

    for cause, expected in (
        (fingerprint("orders", "http_503", "the endpoint answered 503"), ["evt_2"]),
        ("000000000000", []),
    ):
        selection = Selection(cause=cause)
        assert [each.event_id for each in desk.run(desk.store.dead_letters(selection))] == expected
        assert desk.read(count_dead_letters, selection) == len(expected)
        assert desk.read(unfinished, selection) == []


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


def test_more_ids_can_be_named_than_a_statement_can_bind(desk):
    desk.bury("evt_1", "evt_2")
    selection = Selection(ids=("evt_1", *(f"other_{number}" for number in range(40_000))))
    assert [each.event_id for each in desk.run(desk.store.dead_letters(selection))] == ["evt_1"]
