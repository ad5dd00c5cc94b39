"""The public cases of CloudEvents Subscriptions, in the six dialects.

- ``cesql/cesql_tck/subscriptions_api_recreations.yaml`` of the repository cloudevents/spec. Its expressions recreate the
  dialects in CloudEvents SQL, and are translated back: AND is ``all``, OR is ``any``. A missing attribute is an error
  there, with the result false.
- The examples in ``subscriptions/spec.md`` of cloudevents/spec, section 3.2.4.1.
- ``pkg/eventfilter/subscriptionsapi/{exact,prefix,suffix,all,any,not}_filter_test.go`` of knative/eventing. Its filters that
  always pass or fail are an ``exact`` on the type here, and its attribute ``some-other-attribute`` has a valid name. Its
  cases "Empty" are refusals in ``test_filters.py``.
"""

import pytest

from resonant.events import Event
from resonant.routing import Router, new_subscription


def exact(**texts):
    return {"exact": texts}


def prefix(**texts):
    return {"prefix": texts}


def suffix(**texts):
    return {"suffix": texts}


def all_(*filters):
    return {"all": [*filters]}


def any_(*filters):
    return {"any": [*filters]}


def not_(filter_):
    return {"not": filter_}


BOTH = all_(prefix(id="my"), suffix(source=".ca"))
EITHER = any_(prefix(id="my"), suffix(source=".ca"))
DISJUNCTIVE = any_(
    all_(exact(id="myId"), suffix(type=".success")),
    all_(exact(id="notmyId"), prefix(source="http://"), suffix(type=".warning")),
)
CONJUNCTIVE = all_(
    any_(exact(id="myId"), suffix(type=".success")),
    any_(exact(id="notmyId"), prefix(source="https://"), suffix(type=".warning")),
)
CA, COM = "http://www.some-website.ca", "http://www.some-website.com"
LOCAL = "http://localhost.localdomain"

TCK = [
    ("Prefix filter (1)", prefix(source="https://"), {"source": "https://example.com"}, True),
    ("Prefix filter (2)", prefix(source="https://"), {"source": "http://example.com"}, False),
    ("Prefix filter on string extension", prefix(myext="custom"), {"myext": "customext"}, True),
    ("Prefix filter on missing string extension", prefix(myext="custom"), {}, False),
    ("Suffix filter (1)", suffix(type=".error"), {"type": "com.github.error"}, True),
    ("Suffix filter (2)", suffix(type=".error"), {"type": "com.github.success"}, False),
    ("Suffix filter on string extension", suffix(myext="ext"), {"myext": "customext"}, True),
    ("Suffix filter on missing string extension", suffix(myext="ext"), {}, False),
    ("Exact filter (1)", exact(id="myId"), {"id": "myId"}, True),
    ("Exact filter (2)", exact(id="myId"), {"id": "notmyId"}, False),
    ("Exact filter on string extension", exact(myext="customext"), {"myext": "customext"}, True),
    ("Exact filter on missing string extension", exact(myext="customext"), {}, False),
    ("Prefix filter AND Suffix filter (1)", BOTH, {"id": "myId", "source": CA}, True),
    ("Prefix filter AND Suffix filter (2)", BOTH, {"id": "myId", "source": COM}, False),
    (
        "Prefix filter AND Suffix filter (3)",
        all_(prefix(myext="custom"), suffix(type=".error")),
        {"myext": "customext", "type": "com.github.error"},
        True,
    ),
    (
        "Prefix AND Suffix filter (4)",
        all_(prefix(type="example."), prefix(myext="custom")),
        {"type": "example.event.type"},
        False,
    ),
    ("Prefix OR Suffix filter (1)", EITHER, {"id": "myId", "source": CA}, True),
    ("Prefix OR Suffix filter (2)", EITHER, {"id": "myId", "source": COM}, True),
    ("Prefix OR Suffix filter (3)", EITHER, {"id": "notmyId", "source": CA}, True),
    ("Prefix OR Suffix filter (4)", EITHER, {"id": "notmyId", "source": COM}, False),
    ("Disjunctive Normal Form (1)", DISJUNCTIVE, {"id": "myId", "type": "example.event.success"}, True),
    (
        "Disjunctive Normal Form (2)",
        DISJUNCTIVE,
        {"id": "notmyId", "type": "example.event.warning", "source": LOCAL},
        True,
    ),
    (
        "Disjunctive Normal Form (3)",
        DISJUNCTIVE,
        {"id": "notmyId", "type": "example.event.warning", "source": "https://localhost.localdomain"},
        False,
    ),
    (
        "Conjunctive Normal Form (1)",
        CONJUNCTIVE,
        {"id": "myId", "type": "example.event.warning", "source": LOCAL},
        True,
    ),
    (
        "Conjunctive Normal Form (2)",
        CONJUNCTIVE,
        {"id": "notmyId", "type": "example.event.success", "source": LOCAL},
        True,
    ),
    (
        "Conjunctive Normal Form (3)",
        CONJUNCTIVE,
        {"id": "notmyId", "type": "example.event.warning", "source": LOCAL},
        False,
    ),
    (
        "Conjunctive Normal Form (4)",
        CONJUNCTIVE,
        {"id": "myId", "type": "example.event.success", "source": LOCAL},
        False,
    ),
    (
        "Conjunctive Normal Form (5)",
        all_(CONJUNCTIVE, exact(myext="customext")),
        {"id": "myId", "type": "example.event.warning", "source": LOCAL},
        False,
    ),
]

PUSH = {"type": "com.github.push", "subject": "https://github.com/cloudevents/spec"}
PULL = PUSH | {"type": "com.github.pull.created"}
SPEC = [
    ("exact", exact(**PUSH), PUSH, True),
    ("exact, another type", exact(**PUSH), PULL, False),
    ("prefix", prefix(type="com.github.", subject="https://github.com/cloudevents"), PUSH, True),
    (
        "prefix, no subject",
        prefix(type="com.github.", subject="https://"),
        {"type": "com.github.push"},
        False,
    ),
    ("suffix", suffix(type=".created", subject="/cloudevents/spec"), PULL, True),
    ("suffix, another type", suffix(type=".created", subject="/cloudevents/spec"), PUSH, False),
    ("all", all_(exact(type="com.github.push"), exact(subject=PUSH["subject"])), PUSH, True),
    ("all, another type", all_(exact(type="com.github.push"), exact(subject=PUSH["subject"])), PULL, False),
    ("any", any_(exact(type="com.github.push"), exact(subject=PUSH["subject"])), PULL, True),
    ("any, none", any_(exact(type="com.github.push"), exact(subject="s")), PULL, False),
    ("not", not_(exact(type="com.github.push")), PULL, True),
    ("not, the type", not_(exact(type="com.github.push")), PUSH, False),
]

EVENT = {"type": "dev.knative.example", "source": "knativesource", "id": "1234"}
EXTENDED = EVENT | {"myextension": "my-extension-value"}
PASS, FAIL = exact(type=EVENT["type"]), exact(type="another")


def comparisons(compare, part_of_type, part_of_source, part_of_extension):
    """The cases that knative repeats for each of the three dialects."""
    wrong = "wrong.part"
    return [
        ("Missing attribute", compare(otherattribute=wrong), EVENT, False),
        ("Wrong type", compare(type=wrong), EVENT, False),
        ("Wrong source", compare(source=wrong), EVENT, False),
        ("Wrong extension", compare(myextension=wrong), EVENT, False),
        ("Match type", compare(type=part_of_type), EVENT, True),
        ("Match extension", compare(myextension=part_of_extension), EXTENDED, True),
        ("Wrong type and source", compare(type=wrong, source=wrong), EVENT, False),
        ("Match type and wrong source", compare(type=part_of_type, source=wrong), EVENT, False),
        ("Match type and match source", compare(type=part_of_type, source=part_of_source), EVENT, True),
        (
            "Match type and miss extension",
            compare(type=part_of_type, myextension=part_of_extension),
            EVENT,
            False,
        ),
        (
            "Match type and match extension",
            compare(type=part_of_type, myextension=part_of_extension),
            EXTENDED,
            True,
        ),
    ]


def nestings(join, expected):
    """The cases that knative repeats for All and Any: flat and nested, passing and failing."""
    flat = [(PASS,), (FAIL,), (PASS, FAIL), (PASS, PASS), (FAIL, FAIL)]
    nested = [(join(*inner),) for inner in ((PASS,), (FAIL,))]
    inner = [(FAIL,), (PASS,), (PASS, FAIL), (PASS, PASS), (FAIL, FAIL)]
    nested += [(first, join(*each)) for first in (PASS, FAIL) for each in inner]
    names = {"all": "All", "any": "Any"}
    [dialect] = join(PASS)
    cases = [join(*filters) for filters in flat + nested]
    return [
        (f"{names[dialect]} {index}", filter_, EVENT, result)
        for index, (filter_, result) in enumerate(zip(cases, expected, strict=True), 1)
    ]


KNATIVE = [
    *comparisons(exact, EVENT["type"], EVENT["source"], "my-extension-value"),
    *comparisons(prefix, "dev.knative", "knative", "my-extension"),
    *comparisons(suffix, ".knative.example", "source", "extension-value"),
    *nestings(
        all_, [True, False, False, True, False, True, False, *[False, True, False, True, False], *[False] * 5]
    ),
    *nestings(
        any_, [True, False, True, True, False, True, False, *[True] * 5, *[False, True, True, True, False]]
    ),
    ("Not Pass", not_(PASS), EVENT, False),
    ("Not Fail", not_(FAIL), EVENT, True),
]

_ATTRIBUTES = ("id", "type", "source", "subject")


@pytest.mark.parametrize(("name", "filter_", "attributes", "expected"), [*TCK, *SPEC, *KNATIVE])
def test_a_public_case(name, filter_, attributes, expected):
    given = {"type": "com.example.some", "source": "/some"} | attributes
    extensions = {each: value for each, value in given.items() if each not in _ATTRIBUTES}
    event = Event(
        **{each: value for each, value in given.items() if each in _ATTRIBUTES}, extensions=extensions
    )
    router = Router([new_subscription("shop", {"filters": [filter_]})])
    assert (router.endpoints(event) == ("shop",)) is expected, name
