"""Parse the arguments and options of the commands for subscriptions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resonant.cli import options
from resonant.display import some
from resonant.errors import InvalidSubscription
from resonant.routing import Subscription, new_subscription
from resonant.suggestions import did_you_mean


def subscription(endpoint: str, terms: Mapping[str, Any], where: str = "") -> Subscription:
    """Return a new subscription; ``where`` begins the message of an error.

    Raises:
        Misuse: a glob or a filter is invalid.
    """
    try:
        return new_subscription(endpoint, terms)
    except InvalidSubscription as error:
        raise options.Misuse(f"{where}{error}") from None


def filters(values: Iterable[str]) -> list[Any]:
    """Parse the values of ``--filter``: each is a filter or an array of filters, or the ``@FILE`` that contains it.

    Raises:
        Misuse: a value is not JSON or has no filter, or a file cannot be read.
    """
    found: list[Any] = []
    for value in values:
        text = options.text_of_file(value[1:], f"--filter {value}") if value.startswith("@") else value
        parsed = _parsed(text)
        found += parsed if isinstance(parsed, list) else [parsed]
    return found


def _parsed(text: str) -> Any:
    try:
        parsed = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise options.Misuse(f"--filter: not JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise options.Misuse(f"--filter: {error}") from None
    except RecursionError:
        raise options.Misuse("--filter: nested too deeply") from None
    if parsed == []:
        raise options.Misuse("--filter: the array is empty")
    return parsed


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Otherwise the last member would count, and the filter would let more events through.
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is repeated")
    return found


def find(known: Sequence[Subscription], given: str) -> Subscription:
    """Return the subscription with this id, or whose id alone begins so.

    Raises:
        Misuse: none or several do.
    """
    matches = {each.id: each for each in known if given and each.id.startswith(given)}
    if len(matches) > 1 and given not in matches:
        raise options.Misuse(f"several subscriptions begin with {given!r}: {some(sorted(matches))}")
    if not matches:
        hint = did_you_mean(given, [each.id for each in known]) or "; `resonant subscription list` lists them"
        raise options.Misuse(f"no subscription has the id {given!r}{hint}")
    return matches.get(given) or next(iter(matches.values()))
