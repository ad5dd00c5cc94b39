"""A subscription: an endpoint wants the events that meet its conditions."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from resonant.errors import InvalidEvent, InvalidSubscription
from resonant.events import attributes, json_kind
from resonant.routing.filters import as_json, parse_filters
from resonant.suggestions import did_you_mean

MAX_SUBSCRIPTIONS = 1_000
MAX_GLOBS = 10

_MEMBERS = ("types", "source", "filters")
_ID_BYTES = 10


@dataclass(frozen=True, slots=True)
class Subscription:
    """An endpoint wants events: of at least one of the types, of the source, for which all filters are true.

    Attributes:
        id: ``sub_`` and 20 hex digits.
        endpoint: the endpoint's name.
        types: globs, sorted; without any, every type matches. Types of own events need a glob that begins with ``resonant.``.
        source: a glob; None matches every source.
        filters: in the dialects of CloudEvents Subscriptions.
    """

    id: str
    endpoint: str
    types: tuple[str, ...] = ()
    source: str | None = None
    filters: tuple[dict[str, Any], ...] = ()

    @property
    def terms(self) -> dict[str, Any]:
        """The conditions in JSON types, as ``new_subscription`` takes them."""
        return {"types": list(self.types), "source": self.source, "filters": list(self.filters)}

    def __str__(self) -> str:
        if not any(self.terms.values()):
            return "every event"
        of_type = f"events of type {' or '.join(self.types)}" if self.types else "events of every type"
        source = f" of source {self.source}" if self.source is not None else ""
        filters = " and ".join(map(as_json, self.filters))
        return f"{of_type}{source}{filters and f' if {filters}'}"

    def says_the_same(self, other: "Subscription") -> bool:
        """Whether the other subscription has the same endpoint and the same conditions."""
        return (self.endpoint, self.terms) == (other.endpoint, other.terms)


def new_subscription(endpoint: str, terms: Mapping[str, Any]) -> Subscription:
    """Return a new subscription with a random id.

    Args:
        endpoint: the endpoint's name, which is not checked.
        terms: the optional members ``types``, ``source`` and ``filters``, in JSON types.

    Raises:
        InvalidSubscription: a member is unknown or invalid.
    """
    for name in terms:
        if name not in _MEMBERS:
            raise InvalidSubscription(
                f"a subscription has no member {name!r:.80}{did_you_mean(str(name), _MEMBERS)}"
            )
    source = terms.get("source")
    return Subscription(
        f"sub_{secrets.token_hex(_ID_BYTES)}",
        endpoint,
        _types(terms.get("types")),
        None if source is None else _glob("the glob of the source", source),
        parse_filters(terms.get("filters")),
    )


def _types(given: Any) -> tuple[str, ...]:
    globs = [given] if isinstance(given, str) else given or []
    if not isinstance(globs, list | tuple):
        raise InvalidSubscription(f"types must be an array of globs, not {json_kind(given)}")
    found = sorted({_glob("a glob of types", each) for each in globs})
    if len(found) > MAX_GLOBS:
        raise InvalidSubscription(f"a subscription has at most {MAX_GLOBS} globs of types, not {len(found)}")
    return tuple(found)


def _glob(what: str, value: Any) -> str:
    try:
        return attributes.text(what, value)
    except InvalidEvent as error:
        raise InvalidSubscription(str(error)) from None
