"""``subscription``: an operator adds, lists, shows and removes subscriptions."""

import json
import re

import pytest

from resonant.store.views.known_names import remember_endpoints

EU = {"not": {"exact": {"subject": "test"}}}


@pytest.fixture
def endpoints(worker):
    """The endpoints shop and crm, which no event was stored for."""
    worker.do(lambda store: store.write(remember_endpoints, ["crm", "shop"]))


@pytest.fixture
def subscribe(resonant, endpoints):
    """``resonant subscription add``; returns the document."""
    return lambda *argv: resonant.json("subscription", "add", *argv)


def test_an_added_subscription_is_listed_and_shown(resonant, subscribe, tmp_path):
    (tmp_path / "filter.json").write_text(json.dumps([EU]))
    added = subscribe("shop", "order.*", "invoice.paid", "--source", "/eu/*", "--filter", "@filter.json")
    assert re.fullmatch(r"sub_[0-9a-f]{20}", added["id"])
    terms = {"types": ["invoice.paid", "order.*"], "source": "/eu/*", "filters": [EU]}
    document = {"id": added["id"], "endpoint": "shop"} | terms
    assert added == document | {"added": True}
    assert resonant.json("subscription", "show", added["id"][:8]) == document
    assert resonant.json("subscription", "list") == [document]
    header, row = resonant("subscription", "list").out.splitlines()
    assert header.split() == ["ID", "ENDPOINT", "TYPES", "SOURCE", "FILTERS"]
    assert row.split(None, 5) == [added["id"], "shop", "invoice.paid", "order.*", "/eu/*", json.dumps(EU)]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("*",), "events of type *"),
        (("order.*", "a"), "events of type a or order.*"),
        (("--source", "/eu"), "events of every type of source /eu"),
        (
            ("a", "--filter", json.dumps(EU), "--filter", '{"exact": {"vip": "true"}}'),
            'events of type a if {"not":{"exact":{"subject":"test"}}} and {"exact":{"vip":"true"}}',
        ),
    ],
)
def test_the_output_says_which_events_the_endpoint_gets(resonant, endpoints, argv, said):
    out = resonant("subscription", "add", "shop", *argv).out
    assert re.sub("sub_[0-9a-f]+", "ID", out) == f"added ID: shop gets {said}\n"


def test_a_repeated_add_changes_nothing(resonant, subscribe):
    first = subscribe("shop", "order.*", "invoice.*")
    again = resonant("subscription", "add", "shop", "invoice.*", "order.*")
    assert again.out == f"{first['id']} exists: shop gets events of type invoice.* or order.*\n"
    assert len(resonant.json("subscription", "list")) == 1
    assert subscribe("shop", "order.*", "invoice.*")["added"] is False
    assert subscribe("crm", "order.*", "invoice.*")["added"] is True


TWICE = '{"exact": {"id": "1"}, "exact": {"id": "2"}}'
RESTRICT = "which events should shop get? Give their types, such as 'order.*', or '*' for every type"
MISTAKES = [
    (("shop",), RESTRICT),
    (
        ("shp", "order.*"),
        "no endpoint is named 'shp': did you mean shop? `resonant endpoint add shp URL` adds it",
    ),
    (
        ("shop", "--filter", "{"),
        "--filter: not JSON: Expecting property name enclosed in double quotes at column 2",
    ),
    (("shop", "--filter", "[]"), "--filter: the array is empty"),
    (("shop", "--filter", TWICE), "--filter: the key 'exact' is repeated"),
    (("shop", "--filter", "@none.json"), "--filter @none.json: No such file or directory"),
    (("shop", "--filter", '{"exakt": {}}'), "filters[0]: no dialect is named 'exakt': did you mean exact?"),
    (("shop", "--filter", "[" * 100_000), "--filter: nested too deeply"),
    (("shop", "--source", ""), "the glob of the source must have 1 to 255 characters, not 0"),
    (("shop", ""), "a glob of types must have 1 to 255 characters, not 0"),
    (("shop", *"abcdefghijk"), "a subscription has at most 10 globs of types, not 11"),
]


@pytest.mark.parametrize(("argv", "said"), MISTAKES)
def test_a_mistake_is_one_line(resonant, endpoints, argv, said):
    assert resonant.refused("subscription", "add", *argv, code=2) == said
    assert resonant.json("subscription", "list") == []


def test_a_list_without_subscriptions_says_how_to_add_one(resonant, subscribe):
    answer = resonant("subscription", "list")
    assert answer.out == ""
    assert answer.err == "no subscriptions: `resonant subscription add ENDPOINT TYPE_GLOB` adds one\n"
    subscribe("shop", "order.*")
    for name, number in (("crm", 0), ("shop", 1)):
        assert len(resonant.json("subscription", "list", "--endpoint", name)) == number
    assert "did you mean shop?" in resonant("subscription", "list", "--endpoint", "shp", code=2).err


def test_ids_may_be_prefixes_that_only_one_subscription_has(resonant, subscribe):
    ids = [subscribe("shop", str(number))["id"] for number in range(2)]
    known = ", ".join(sorted(ids))
    several = resonant.refused("subscription", "remove", "sub_", code=2)
    assert several == f"several subscriptions begin with 'sub_': {known}"
    for given in ("nonsense", ""):
        unknown = resonant.refused("subscription", "show", given, code=2)
        assert unknown == f"no subscription has the id {given!r}; known: {known}"
    assert len(resonant.json("subscription", "list")) == 2


def test_removing_concerns_future_events_and_names_the_command_that_cancels(resonant, subscribe, worker):
    both = subscribe("shop", "order.*", "invoice.*")["id"]
    worker.accept("e1", "e2", endpoint="shop", event_type="order.paid")
    worker.accept("e3", endpoint="shop", event_type="user.made")

    out = resonant("subscription", "remove", both[:12]).out
    assert out == (
        f"removed {both}: shop got events of type invoice.* or order.*\n"
        "2 deliveries are unfinished: `resonant cancel --endpoint shop --type 'order.*'` cancels them, "
        "also those of producers that named the endpoint\n"
    )
    assert resonant.json("status")["pending"] == 3

    of_one_source = subscribe("shop", "order.*", "--source", "/shop")["id"]
    [unfinished] = resonant.json("subscription", "remove", of_one_source)["unfinished"]
    assert unfinished["command"] == "resonant cancel --endpoint shop --type 'order.*' --source /shop"
    every = subscribe("shop", "*")["id"]
    assert resonant.json("subscription", "remove", every) == {
        "removed": [every],
        "unfinished": [{"deliveries": 3, "command": "resonant cancel --endpoint shop --type '*'"}],
        "shared": 0,
    }
    assert resonant.json("subscription", "list") == []
    assert resonant.json("cancel", "--endpoint", "shop", "--dry-run")["would_cancel"] == 3


def test_the_command_does_not_cancel_deliveries_of_the_other_subscriptions(resonant, subscribe, worker):
    of_orders = subscribe("shop", "order.*")["id"]
    subscribe("shop", "order.paid", "--filter", json.dumps(EU))
    subscribe("crm", "order.*")
    worker.accept("e1", "e2", endpoint="shop", event_type="order.paid")
    worker.accept("e3", endpoint="shop", event_type="order.made")

    _, command, shared = resonant("subscription", "remove", of_orders).out.splitlines()
    assert command.startswith(
        "1 delivery is unfinished: `resonant cancel --endpoint shop --type order.made` cancels them, "
    )
    assert shared == (
        "2 deliveries are unfinished and of a type that another subscription of the endpoint matches"
    )
    of_all = subscribe("shop", "*")["id"]
    assert resonant.json("subscription", "remove", of_all) == {
        "removed": [of_all],
        "unfinished": [{"deliveries": 1, "command": "resonant cancel --endpoint shop --type order.made"}],
        "shared": 2,
    }


def test_ten_commands_are_shown_and_a_type_with_a_wildcard_has_no_command(resonant, subscribe, worker):
    of_orders = subscribe("shop", "order.*")["id"]
    subscribe("shop", "order.paid")
    for event_type in ("order.paid", "order.p*", *(f"order.{number:02}" for number in range(13))):
        worker.accept(event_type, endpoint="shop", event_type=event_type)

    _, *commands, more, shared = resonant("subscription", "remove", of_orders).out.splitlines()
    assert [each.partition("--type ")[2][:8] for each in commands] == [f"order.{n:02}" for n in range(10)]
    assert more == "3 more are unfinished, of 3 other types"
    assert shared.startswith("2 deliveries are unfinished and of a type that another ")
