"""Globs mean the same in Python and in SQL."""

import pytest
from sqlalchemy import literal, select

from resonant.routing.globs import any_glob, glob_to_like

MATCHES = [
    ("order.*", "order.paid", True),
    ("order.*", "order.", True),
    ("order.*", "order", False),
    ("order.*", "orders.paid", False),
    ("order.*", "my.order.paid", False),
    ("*", "a\nb", True),
    ("*.paid", "order.eu.paid", True),
    ("order.?", "order.a", True),
    ("order.?", "order.ab", False),
    ("order.?", "order.", False),
    ("a?c", "a€c", True),
    ("a*b*c", "axbyc", True),
    ("a*b*c", "axcyb", False),
    ("Order.*", "order.paid", False),
    ("ÄB", "äb", False),
    ("order.paid", "order.paid", True),
    ("order.paid", "order_paid", False),
    ("order_*", "orderXpaid", False),
    ("100%", "1000", False),
    ("100%", "100%", True),
    ("[ab]", "a", False),
    ("[ab]", "[ab]", True),
    ("[!a]*", "[!a]b", True),
    ("a\\*", "a\\b", True),
    ("a\\*", "a*", False),
    ("(a|b)+", "a", False),
    ("**", "a", True),
    ("??*", "a", False),
]


@pytest.mark.parametrize(("glob", "text", "expected"), MATCHES)
def test_a_glob_matches_the_whole_text(glob, text, expected):
    assert any_glob([glob])(text) is expected


def test_one_of_several_globs_is_enough():
    matches = any_glob(["order.*", "*.test", "[a"])
    assert [text for text in ("order.a", "x.test", "[a", "x", "order") if matches(text)] == [
        "order.a",
        "x.test",
        "[a",
    ]


def test_an_empty_list_of_globs_matches_no_text():
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
