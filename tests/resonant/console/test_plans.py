"""A plan holds for ten minutes, for one action, and for what its operator has seen."""

import base64

import pytest

from resonant.console.plans import Plans
from resonant.intake.problems import Problem

NOW = 1_700_000_000.0


class Hand:
    """The hand of a steady clock."""

    at = 0.0

    def __call__(self):
        return self.at


@pytest.fixture
def hand():
    return Hand()


@pytest.fixture
def plans(hand):
    return Plans(hand)


def refusal(plans, value, *, action="purge", now=NOW):
    with pytest.raises(Problem) as refused:
        plans.read(action, value, now=now)
    return refused.value.status, refused.value.detail


def test_a_plan_contains_the_parameters_and_counts_that_were_seen(plans):
    plan = plans.read("purge", plans.make("purge", {"a": [1]}, {"purged": 2}, now=NOW), now=NOW)
    assert plan == ({"a": [1]}, {"purged": 2})


def test_a_plan_ends_after_ten_minutes(plans, hand):
    value = plans.make("purge", {}, {}, now=NOW)
    hand.at = 599.0
    assert plans.read("purge", value, now=NOW + 599)
    hand.at = 601.0
    assert refusal(plans, value, now=NOW + 601) == (
        409,
        "the plan is older than ten minutes, nothing was done: ask for a new one",
    )


@pytest.mark.parametrize(("elapsed", "now"), [(30.0, NOW - 10), (30.0, NOW + 5), (700.0, NOW + 5)])
def test_a_plan_ends_if_the_clock_of_the_store_is_set_back(plans, hand, elapsed, now):
    value = plans.make("purge", {}, {}, now=NOW)
    hand.at = elapsed
    status, detail = refusal(plans, value, now=now)
    assert (status, "another clock" in detail) == (409, True)


def test_a_plan_is_for_its_action_only(plans):
    value = plans.make("replay", {}, {}, now=NOW)
    assert refusal(plans, value) == (422, "plan: it is for replay, not for purge")


@pytest.mark.parametrize("value", [None, "", "x", "ä", 7, {"a": 1}])
def test_an_invalid_plan_is_refused(plans, value):
    assert refusal(plans, value)[0] == 422


def test_a_plan_cannot_be_changed_nor_made_elsewhere(plans):
    value = plans.make("purge", {"endpoint": "orders"}, {}, now=NOW)
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(value).replace(b"orders", b"crm___")).decode()
    assert refusal(plans, forged)[0] == 422
    assert refusal(Plans(), value)[0] == 422
