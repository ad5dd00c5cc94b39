"""The subscriptions that a file of endpoints declares, and how they differ from the stored ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resonant.cli import options
from resonant.cli.subscription import given
from resonant.routing import MAX_SUBSCRIPTIONS, Subscription
from resonant.store.shared.subscriptions import add_subscription, remove_subscriptions

if TYPE_CHECKING:
    from sqlalchemy import Connection


KEY = "subscriptions"


@dataclass(frozen=True, slots=True)
class Difference:
    """The subscriptions to add to an endpoint, and those to remove."""

    added: tuple[Subscription, ...]
    removed: tuple[Subscription, ...]

    def __str__(self) -> str:
        numbers = {"added": len(self.added), "removed": len(self.removed)}
        return f"{KEY} {', '.join(f'{number} {word}' for word, number in numbers.items() if number)}"


def parse(rows: Iterable[Mapping[str, Any]], source: str) -> dict[str, list[Subscription]]:
    """Return the declared subscriptions of each endpoint that has the key.

    Args:
        rows: the declared endpoints; ``declared.parse`` accepts them.
        source: the file's name, for messages.

    Raises:
        Misuse: a subscription is invalid.
    """
    by_name = {options.endpoint_name(row["name"]): row.get(KEY) for row in rows}
    return {name: _of(name, found, source) for name, found in by_name.items() if found is not None}


def _of(name: str, declared: Any, source: str) -> list[Subscription]:
    where = f"{source}: endpoint {name!r}"
    if not isinstance(declared, list) or not all(isinstance(terms, dict) for terms in declared):
        raise options.Misuse(f"{where}: its {KEY} must be a list of objects with types, source or filters")
    found: list[Subscription] = []
    for number, terms in enumerate(declared, 1):
        new = given.subscription(name, terms, f"{where}: subscription {number}: ")
        found += [] if any(each.says_the_same(new) for each in found) else [new]
    return found


def compare(
    declared: Mapping[str, Sequence[Subscription]], stored: Sequence[Subscription]
) -> dict[str, Difference]:
    """Return what to change so that each declared endpoint has exactly the declared subscriptions."""
    found = {}
    for name, wanted in declared.items():
        known = [each for each in stored if each.endpoint == name]
        difference = Difference(tuple(_missing(wanted, known)), tuple(_missing(known, wanted)))
        if difference.added or difference.removed:
            found[name] = difference
    return found


def check_number(differences: Iterable[Difference], kept: Sequence[Subscription], source: str) -> None:
    """Refuse more subscriptions than a store may have.

    Args:
        differences: what to change.
        kept: the stored subscriptions, without those of endpoints that are removed.
        source: the file's name, for the message.

    Raises:
        Misuse: there are too many.
    """
    number = len(kept) + sum(len(each.added) - len(each.removed) for each in differences)
    if number > MAX_SUBSCRIPTIONS:
        raise options.Misuse(
            f"{source}: the store would have {number:,} subscriptions, the limit is {MAX_SUBSCRIPTIONS:,}"
        )


def _missing(some: Iterable[Subscription], others: Sequence[Subscription]) -> list[Subscription]:
    return [each for each in some if not any(each.says_the_same(other) for other in others)]


def apply(connection: Connection, differences: Collection[Difference], *, who: str, now: float) -> None:
    """Remove and add subscriptions in the store."""
    removed = [each.id for difference in differences for each in difference.removed]
    remove_subscriptions(connection, removed, who=who, now=now)
    for difference in differences:
        for each in difference.added:
            add_subscription(connection, each, who=who, now=now)


def exported(stored: Iterable[Subscription]) -> dict[str, list[dict[str, Any]]]:
    """Return the terms of subscriptions by endpoint, for a file of endpoints."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in stored:
        terms = {name: value for name, value in each.terms.items() if value}
        found.setdefault(each.endpoint, []).append(terms)
    return found
