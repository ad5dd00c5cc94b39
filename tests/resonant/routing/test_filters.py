"""The filters of subscriptions: what is refused, and in which words."""

import pytest

from resonant.errors import InvalidSubscription
from resonant.routing.filters import MAX_FILTER_BYTES, MAX_FILTER_DEPTH, parse_filters

EXACT = {"exact": {"subject": "test"}}


def nested(levels):
    filter_ = EXACT
    for _ in range(levels - 1):
        filter_ = {"not": filter_}
    return filter_


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        (None, ()),
        ([], ()),
        (EXACT, (EXACT,)),
        ([EXACT, {"not": EXACT}], (EXACT, {"not": EXACT})),
        ([{"any": [EXACT, {"all": [EXACT]}]}], ({"any": [EXACT, {"all": [EXACT]}]},)),
        (nested(MAX_FILTER_DEPTH), (nested(MAX_FILTER_DEPTH),)),
    ],
)
def test_filters_are_one_or_a_list(given, parsed):
    assert parse_filters(given) == parsed


REFUSALS = [
    ("exact", "filters must be a JSON object or array, not a string"),
    (["exact"], 'filters[0] must be a filter, such as {"exact": {"subject": "a"}}, not a string'),
    ([EXACT, {}], 'filters[1] must be a filter, such as {"exact": {"subject": "a"}}, not an empty object'),
    ({"exakt": {}}, "filters[0]: no dialect is named 'exakt': did you mean exact?"),
    (
        {"sql": "source LIKE '%'"},
        "filters[0]: no dialect is named 'sql'; known: all, any, exact, not, prefix, suffix",
    ),
    (
        EXACT | {"prefix": {"type": "a"}},
        "filters[0] has 2 dialects (exact, prefix): put each into its own filter",
    ),
    ({"exact": {}}, "filters[0].exact must be an object that maps attributes to texts"),
    ({"exact": "a"}, "filters[0].exact must be an object that maps attributes to texts"),
    ({"exact": {"subject": ""}}, "filters[0].exact: subject must have 1 to 1,024 characters, not 0"),
    ({"exact": {"n": 3}}, 'filters[0].exact: n must be a string, such as "3", not a number'),
    ({"exact": {"vip": True}}, 'filters[0].exact: vip must be a string, such as "true", not a boolean'),
    ({"exact": {"subject": None}}, "filters[0].exact: subject must be a string, not null"),
    (
        {"prefix": {"": "a"}},
        "filters[0].prefix: '' is not the name of an attribute, which has 1 to 20 of a-z and 0-9",
    ),
    (
        {"suffix": {"Tenant-Id": "a"}},
        (
            "filters[0].suffix: 'Tenant-Id' is not the name of an attribute, which has 1 to 20 of a-z and 0-9; "
            "did you mean 'tenantid'?"
        ),
    ),
    ({"exact": {"data": "a"}}, "filters[0].exact: filters see the attributes of an event, never its data"),
    (
        {"exact": {"data_base64": "a"}},
        "filters[0].exact: filters see the attributes of an event, never its data_base64",
    ),
    (
        {"exact": {"subject": "\ud800"}},
        "filters[0].exact: subject contains a control character, a lone surrogate or a noncharacter",
    ),
    ({"all": []}, "filters[0].all must be an array with at least one filter"),
    ({"any": EXACT}, "filters[0].any must be an array with at least one filter"),
    (
        {"any": [EXACT, {"not": {"exact": {}}}]},
        "filters[0].any[1].not.exact must be an object that maps attributes to texts",
    ),
    ({"not": [EXACT]}, 'filters[0].not must be a filter, such as {"exact": {"subject": "a"}}, not an array'),
    (nested(MAX_FILTER_DEPTH + 1), "the filters are nested more than 16 deep"),
    (
        [{"exact": {"subject": f"{index:>0900}"}} for index in range(5)],
        "the filters have 4,626 bytes, the limit is 4,096",
    ),
]


@pytest.mark.parametrize(("given", "message"), REFUSALS)
def test_an_invalid_filter_is_refused_with_its_place(given, message):
    with pytest.raises(InvalidSubscription) as refused:
        parse_filters(given)
    assert str(refused.value) == message


def test_the_limit_counts_bytes_of_compact_json():
    filter_ = {"exact": {"subject": "ü" * 1000}}
    assert parse_filters([filter_] * 2)
    with pytest.raises(InvalidSubscription, match=f"the limit is {MAX_FILTER_BYTES:,}"):
        parse_filters([filter_] * 3)
