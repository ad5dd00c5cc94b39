"""The router: which endpoints get an event, and why the others do not."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from resonant.events import Event, is_own_type
from resonant.routing.attributes import attributes_of
from resonant.routing.filters import Condition, all_of, conditions
from resonant.routing.globs import any_glob
from resonant.routing.subscription import Subscription

Predicate: TypeAlias = Callable[[Mapping[str, str]], bool]

_CACHED_TYPES = 1_024


@dataclass(frozen=True, slots=True)
class _Compiled:
    subscription: Subscription
    wants_type: Callable[[str], bool]
    others: tuple[Condition, ...]

    def why_not(self, event: Event, attributes: Mapping[str, str]) -> str | None:
        if not self.wants_type(event.type):
            globs = _of_own(self.subscription.types) if is_own_type(event.type) else self.subscription.types
            named = " or ".join(map(repr, globs)) or "a glob that begins with 'resonant.'"
            return f"type {event.type!r} does not match {named}"
        return next((each.why_not(attributes) for each in self.others if not each.holds(attributes)), None)


class Router:
    """Subscriptions, compiled once. ``enqueue`` and ``subscription test`` use the same conditions.

    Args:
        subscriptions: valid ones, as ``new_subscription`` returns them.
    """

    def __init__(self, subscriptions: Iterable[Subscription]) -> None:
        self._compiled = [_compiled(each) for each in subscriptions]
        # Producers send few types, and many sources and subjects.
        self._of_type = lru_cache(_CACHED_TYPES)(self._find)

    def __len__(self) -> int:
        return len(self._compiled)

    def may_want(self, event_type: str) -> bool:
        """Return whether a subscription matches this type, whatever its other conditions."""
        return any(self._of_type(event_type))

    def endpoints(self, event: Event) -> tuple[str, ...]:
        """Return the endpoints that want the event, sorted, each once."""
        certain, possible = self._of_type(event.type)
        if not possible:
            return certain
        attributes = attributes_of(event)
        found = {endpoint for endpoint, holds in possible if holds(attributes)}
        return tuple(sorted(found.union(certain)))

    def explain(self, event: Event) -> list[tuple[Subscription, str | None]]:
        """Return for each subscription the first condition that is false, in words; None if it wants the event."""
        attributes = attributes_of(event)
        return [(each.subscription, each.why_not(event, attributes)) for each in self._compiled]

    def _find(self, event_type: str) -> tuple[tuple[str, ...], tuple[tuple[str, Predicate], ...]]:
        """Return the endpoints that want every event of a type, and others with their conditions."""
        found = [each for each in self._compiled if each.wants_type(event_type)]
        certain = {each.subscription.endpoint for each in found if not each.others}
        possible = [
            (each.subscription.endpoint, all_of(each.others))
            for each in found
            if each.subscription.endpoint not in certain
        ]
        return tuple(sorted(certain)), tuple(possible)


def _compiled(subscription: Subscription) -> _Compiled:
    wants, wants_own = any_glob(subscription.types or ["*"]), any_glob(_of_own(subscription.types))

    def wants_type(event_type: str) -> bool:
        return wants_own(event_type) if is_own_type(event_type) else wants(event_type)

    return _Compiled(subscription, wants_type, tuple(_other_conditions(subscription)))


def _of_own(globs: Iterable[str]) -> list[str]:
    """Return the globs of Resonant's own events: a receiver that wants everything must not see other endpoints' failures."""
    return [each for each in globs if is_own_type(each)]


def _other_conditions(subscription: Subscription) -> Iterator[Condition]:
    """Yield the conditions besides that on the type."""
    if (glob := subscription.source) is not None:
        matches = any_glob([glob])
        yield Condition(
            lambda event: matches(event["source"]),
            lambda event: f"source {event['source']!r} does not match {glob!r}",
        )
    for each in subscription.filters:
        yield from conditions(each)
