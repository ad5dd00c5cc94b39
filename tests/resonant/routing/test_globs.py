"""Globs mean the same in Python and in SQL."""

import pytest
from sqlalchemy import literal, select

from resonant.routing.globs import any_glob, glob_to_like

# Texts that each glob matches, and texts that it does not match.
GLOBS = {
    "order.*": (["order.paid", "order."], ["order", "orders.paid", "my.order.paid"]),
    "*": (["a\nb"], []),
    "*.paid": (["order.eu.paid"], []),
    "order.?": (["order.a"], ["order.ab", "order."]),
    "a?c": (["a€c"], []),
    "a*b*c": (["axbyc"], ["axcyb"]),
    "Order.*": ([], ["order.paid"]),
    "ÄB": ([], ["äb"]),
    "order.paid": (["order.paid"], ["order_paid"]),
    "order_*": ([], ["orderXpaid"]),
    "100%": (["100%"], ["1000"]),
    "[ab]": (["[ab]"], ["a"]),
    "[!a]*": (["[!a]b"], []),
    "a\\*": (["a\\b"], ["a*"]),
    "(a|b)+": ([], ["a"]),
    "**": (["a"], []),
    "??*": ([], ["a"]),
}
MATCHES = [
    (glob, text, texts is matching)
    for glob, (matching, others) in GLOBS.items()
    for texts in (matching, others)
    for text in texts
]


@pytest.mark.parametrize(("glob", "text", "expected"), MATCHES)
def test_a_glob_matches_the_whole_text(glob, text, expected):
    assert any_glob([glob])(text) is expected


def test_one_of_several_globs_is_enough_and_none_matches_nothing():
    matches = any_glob(["order.*", "*.test", "[a"])
    assert [*filter(matches, ("order.a", "x.test", "[a", "x", "order"))] == ["order.a", "x.test", "[a"]
    assert not any_glob([])("")


def test_databases_match_the_same(desk):
    conditions = [
        literal(text).like(glob_to_like(glob), escape="\\").label(f"match_{index}")
        for index, (glob, text, _) in enumerate(MATCHES)
    ]
    [row] = desk.read(lambda connection: connection.execute(select(*conditions)).all())
    assert [bool(each) for each in row] == [expected for *_, expected in MATCHES]


def test_a_glob_of_many_wildcards_is_fast():
    assert not any_glob(["*a" * 127 + "b"])("a" * 255)
