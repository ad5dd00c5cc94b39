"""Subscriptions and events to match, and a naive interpreter that decides which endpoints want an event."""

from hypothesis import strategies as st

from resonant.events import Event
from resonant.routing import new_subscription

ENDPOINTS = ("audit", "crm", "shop")
# Few letters, so that conditions often hold.
_texts = st.text("ab.", min_size=1, max_size=4)
_globs = st.text("ab.*?", min_size=1, max_size=5)
_NAMES = ("id", "type", "source", "subject", "datacontenttype", "specversion", "tenant", "vip", "priority")
_values = _texts | st.sampled_from(["1.0", "true", "false", "12", "application/json"])
_comparisons = st.builds(
    lambda dialect, texts: {dialect: texts},
    st.sampled_from(["exact", "prefix", "suffix"]),
    st.dictionaries(st.sampled_from(_NAMES), _values, min_size=1, max_size=2),
)
filters = st.recursive(
    _comparisons,
    lambda inner: (
        st.builds(lambda filter_: {"not": filter_}, inner)
        | st.builds(
            lambda dialect, given: {dialect: given},
            st.sampled_from(["all", "any"]),
            st.lists(inner, min_size=1, max_size=3),
        )
    ),
    max_leaves=5,
)
terms = st.fixed_dictionaries(
    {},
    optional={
        "types": st.lists(_globs, max_size=2),
        "source": _globs,
        "filters": st.lists(filters, max_size=2),
    },
)
subscriptions = st.lists(st.builds(new_subscription, st.sampled_from(ENDPOINTS), terms), max_size=6)
events = st.builds(
    Event,
    type=_texts,
    source=_texts,
    data=st.just({"subject": "a"}),
    subject=st.none() | _texts,
    extensions=st.fixed_dictionaries(
        {}, optional={"tenant": _texts | st.just(""), "vip": st.booleans(), "priority": st.just(12)}
    ),
)


def wanted_by(subscriptions, event):
    """Return the endpoints that want the event, sorted, by the words of the specification."""
    attributes = _attributes(event)
    return tuple(sorted({each.endpoint for each in subscriptions if _wants(each, attributes)}))


def _attributes(event):
    found = {"specversion": "1.0", "datacontenttype": "application/json"}
    found |= {
        name: getattr(event, name) for name in ("id", "type", "source") + ("subject",) * bool(event.subject)
    }
    texts = {True: "true", False: "false"}
    return found | {
        name: texts[value] if isinstance(value, bool) else str(value)
        for name, value in event.extensions.items()
    }


def _wants(subscription, attributes):
    types = subscription.types or ("*",)
    source = "*" if subscription.source is None else subscription.source
    return (
        any(_globbed(glob, attributes["type"]) for glob in types)
        and _globbed(source, attributes["source"])
        and all(is_true(each, attributes) for each in subscription.filters)
    )


def _globbed(glob, text):
    if not glob:
        return not text
    if glob[0] == "*":
        return any(_globbed(glob[1:], text[index:]) for index in range(len(text) + 1))
    return bool(text) and glob[0] in ("?", text[0]) and _globbed(glob[1:], text[1:])


def is_true(filter_, attributes):
    """Evaluate a filter."""
    [(dialect, given)] = filter_.items()
    match dialect:
        case "all":
            return all(is_true(each, attributes) for each in given)
        case "any":
            return any(is_true(each, attributes) for each in given)
        case "not":
            return not is_true(given, attributes)
    for name, value in given.items():
        if name not in attributes:
            return False
        actual = attributes[name]
        at_end = len(actual) - len(value)
        part = {"exact": actual, "prefix": actual[: len(value)], "suffix": actual[max(0, at_end) :]}[dialect]
        if part != value:
            return False
    return True
