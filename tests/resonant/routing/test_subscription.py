"""Subscriptions: their members and limits, and when two say the same."""

import re

import pytest

from resonant.errors import InvalidSubscription
from resonant.routing import new_subscription


def test_a_subscription_without_terms_matches_every_event():
    found = new_subscription("shop", {})
    assert re.fullmatch(r"sub_[0-9a-f]{20}", found.id)
    assert (found.endpoint, found.types, found.source, found.filters) == ("shop", (), None, ())


def test_terms_make_the_same_subscription_again():
    terms = {"types": ["a.*", "b"], "source": "/s*", "filters": [{"exact": {"subject": "x"}}]}
    found = new_subscription("shop", terms)
    assert found.terms == terms
    assert new_subscription("shop", found.terms).says_the_same(found)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {"types": [], "source": None, "filters": []}, True),
        ({"types": ["b", "a"]}, {"types": ["a", "b", "a"]}, True),
        ({"types": "a"}, {"types": ["a"]}, True),
        ({"types": ["a"]}, {"types": ["b"]}, False),
        ({"source": "a"}, {}, False),
        ({"filters": {"exact": {"id": "1"}}}, {"filters": [{"exact": {"id": "1"}}]}, True),
        ({"filters": {"exact": {"id": "1"}}}, {"filters": {"exact": {"id": "2"}}}, False),
        (
            {"filters": {"exact": {"id": "1", "type": "t"}}},
            {"filters": {"exact": {"type": "t", "id": "1"}}},
            True,
        ),
    ],
)
def test_the_order_of_types_and_attributes_does_not_matter(one, other, same):
    assert new_subscription("shop", one).says_the_same(new_subscription("shop", other)) is same
    assert not new_subscription("shop", one).says_the_same(new_subscription("crm", other))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"type": ["a"]}, "a subscription has no member 'type': did you mean types?"),
        ({"types": {"a": 1}}, "types must be an array of globs, not an object"),
        ({"types": [""]}, "a glob of types must have 1 to 255 characters, not 0"),
        ({"types": [7]}, "a glob of types must be a string, not a number"),
        ({"types": [str(n) for n in range(11)]}, "a subscription has at most 10 globs of types, not 11"),
        ({"source": ""}, "the glob of the source must have 1 to 255 characters, not 0"),
        ({"source": ["a"]}, "the glob of the source must be a string, not an array"),
        ({"filters": {"al": []}}, "filters[0]: no dialect is named 'al': did you mean all?"),
    ],
)
def test_an_invalid_member_is_refused(terms, message):
    with pytest.raises(InvalidSubscription) as refused:
        new_subscription("shop", terms)
    assert str(refused.value) == message
