"""Subscriptions declared in a file of endpoints."""

import pytest

from resonant.cli.endpoint import declared_subscriptions
from resonant.cli.endpoint.declared_subscriptions import apply, check_number, compare, exported, parse
from resonant.cli.options import Misuse
from resonant.routing import new_subscription
from resonant.store.shared import subscriptions
from resonant.store.shared.subscriptions import read_subscriptions
from support.subscriptions import subscribe

ORDERS, INVOICES = {"types": ["order.*"]}, {"types": ["invoice.*"], "source": "/eu"}


def declared(*terms, name="shop"):
    return {"name": name, "url": "https://a.example", "subscriptions": [*terms]}


def terms_of(subscriptions):
    return [{key: value for key, value in each.terms.items() if value} for each in subscriptions]


def test_a_missing_key_declares_nothing_and_an_empty_list_declares_no_subscriptions():
    rows = [{"name": "crm"}, {"name": "log", "subscriptions": None}, declared()]
    assert parse(rows, "f.yaml") == {"shop": []}


def test_the_name_is_that_of_the_store_and_a_repeat_counts_once():
    [(name, found)] = parse([declared(ORDERS, INVOICES, ORDERS, name="webhook-endpoint/shop")], "f").items()
    assert (name, terms_of(found)) == ("shop", [ORDERS, INVOICES])
    assert {each.endpoint for each in found} == {"shop"}


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("order.*", "its subscriptions must be a list of objects with types, source or filters"),
        (["order.*"], "its subscriptions must be a list of objects with types, source or filters"),
        (
            [ORDERS, {"filter": []}],
            "subscription 2: a subscription has no member 'filter': did you mean filters?",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_place(given, problem):
    with pytest.raises(Misuse) as refused:
        parse([declared() | {"subscriptions": given}], "f.yaml")
    assert str(refused.value) == f"f.yaml: endpoint 'shop': {problem}"


def test_only_what_differs_is_added_and_removed():
    stored = [new_subscription(name, ORDERS) for name in ("shop", "crm", "log")]
    found = compare(parse([declared(INVOICES), declared(ORDERS, name="crm")], "f"), stored)
    assert set(found) == {"shop"}
    assert terms_of(found["shop"].added) == [INVOICES]
    assert found["shop"].removed == (stored[0],)
    assert str(found["shop"]) == "subscriptions 1 added, 1 removed"


@pytest.fixture
def three(monkeypatch):
    """A store may have three subscriptions."""
    for module in (declared_subscriptions, subscriptions):
        monkeypatch.setattr(module, "MAX_SUBSCRIPTIONS", 3)


def test_more_subscriptions_than_the_limit_are_refused_before_anything_is_saved(three):
    kept = [new_subscription("shop", {"types": [str(number)]}) for number in range(3)]
    same_number = compare(parse([declared(*({"types": [f"new {n}"]} for n in range(3)))], "f"), kept)
    check_number(same_number.values(), kept, "f")
    one_more = compare(parse([declared(ORDERS, name="crm")], "f"), kept)
    with pytest.raises(Misuse, match="f: the store would have 4 subscriptions, the limit is 3"):
        check_number(one_more.values(), kept, "f")


def test_a_full_store_can_exchange_subscriptions_between_endpoints(open_desk, sqlite_url, three):
    desk = open_desk(sqlite_url)
    for number in range(3):
        subscribe(desk, "shop", str(number))
    wanted = parse([declared({"types": ["3"]}, name="crm"), declared()], "f")
    desk.write(apply, compare(wanted, desk.read(read_subscriptions)).values(), who="ann", now=0.0)
    assert [each.endpoint for each in desk.read(read_subscriptions)] == ["crm"]


def test_an_export_declares_the_same():
    stored = [new_subscription("shop", terms) for terms in (ORDERS, INVOICES, {})]
    rows = [declared(*terms, name=name) for name, terms in exported(stored).items()]
    assert compare(parse(rows, "f"), stored) == {}
