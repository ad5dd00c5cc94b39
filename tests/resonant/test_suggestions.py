"""Suggestions for a mistyped word."""

import pytest

from resonant.delivery.classification import built_in_codes
from resonant.suggestions import did_you_mean, near

NAMES = {"billing", "billing-eu", "shop", "spool-endpoint/local", "file-endpoint/audit"}


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("bilings", ["billing", "billing-eu"]),
        ("shp", ["shop"]),
        ("local", ["spool-endpoint/local"]),
        ("lokal", ["spool-endpoint/local"]),
        ("file-endpoint/audt", ["file-endpoint/audit", "spool-endpoint/local"]),
        ("bill", ["billing", "billing-eu"]),
        ("xyz", []),
    ],
)
def test_similar_names_are_found(word, found):
    assert near(word, NAMES)[:2] == found


def test_a_code_without_its_end_is_completed():
    assert near("http_40", built_in_codes()) == ["http_400", "http_401", "http_402"]
    assert near("connection_refused", built_in_codes())[0] == "connect_refused"


def test_few_known_words_are_all_named():
    assert did_you_mean("xyz", {"b", "a"}) == "; known: a, b"
    assert did_you_mean("xyz", ()) == ""
