"""The options that select deliveries, shared by all commands."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from resonant.cli import completion, name_checks, options
from resonant.errors import StoreError
from resonant.events import Category, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resonant.cli.command_store import CommandStore
    from resonant.store.views.selection import Selection

EndpointFilter = Annotated[
    str | None,
    typer.Option(
        "--endpoint", metavar="NAME", help="Only this endpoint.", autocompletion=completion.endpoints
    ),
]
TypeFilter = Annotated[
    str | None, typer.Option("--type", metavar="GLOB", help="Only these event types, such as 'order.*'.")
]
CategoryFilter = Annotated[
    Category | None,
    typer.Option(
        "--category", metavar="CATEGORY", help="Only this category: transient, permanent or unknown."
    ),
]
CodeFilter = Annotated[
    str | None,
    typer.Option(
        "--code", metavar="CODE", help="Only this code, such as http_503.", autocompletion=completion.codes
    ),
]
ReasonFilter = Annotated[
    Reason | None,
    typer.Option(
        "--reason",
        metavar="REASON",
        help="Only this reason: permanent, exhausted, expired, crashed or cancelled.",
    ),
]
CauseFilter = Annotated[
    str | None,
    typer.Option("--cause", metavar="CAUSE", help="Only this cause, as `resonant dlq --group` shows it."),
]
TextFilter = Annotated[
    str | None, typer.Option("--text", metavar="TEXT", help="Only errors that contain this text.")
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Dead-lettered (unfinished: accepted) at or after this time: an age (30m, 2h, 7d) or RFC 3339.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option("--until", metavar="TIME", help="Dead-lettered (unfinished: accepted) before this time."),
]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="PLACE", help="Continue after this place, printed at the end of a list."),
]

_PLACE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)-(\d{1,18})")


def selection(
    store: CommandStore,
    *,
    ids: Sequence[str] = (),
    endpoint: str | None = None,
    event_type: str | None = None,
    category: Category | None = None,
    code: str | None = None,
    reason: Reason | None = None,
    cause: str | None = None,
    text: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> Selection:
    """Return the selection that the options describe; the store is used only to check names.

    Raises:
        Misuse: unknown endpoint, code or cause, invalid time, text that databases cannot store, or empty value (most likely an
            unset shell variable).
    """
    from resonant.store.views.selection import Selection

    given = {"--endpoint": endpoint, "--type": event_type, "--code": code, "--cause": cause, "--text": text}
    for option, value in given.items():
        if value == "":
            raise options.Misuse(f"{option} is empty")
    if "" in ids:
        raise options.Misuse("an id is empty")

    if endpoint is not None:
        endpoint = options.endpoint_name(endpoint)
    now = time.time()
    try:
        selected = Selection(
            ids=tuple(ids),
            endpoint=endpoint,
            event_type=event_type,
            category=category,
            code=code,
            reason=reason,
            cause=cause,
            text=text,
            since=options.moment("--since", since, now=now),
            until=options.moment("--until", until, now=now),
        )
    except StoreError as error:
        raise options.Misuse(str(error)) from None
    name_checks.check_filters(store, endpoint, code, cause)
    return selected


def place(text: str | None) -> tuple[float, int] | None:
    """Parse the value of ``--after``: a time and a delivery's id.

    Raises:
        Misuse: invalid place.
    """
    if text is None:
        return None
    if not (found := _PLACE.fullmatch(text)):
        raise options.Misuse(
            f"--after {text!r} is not a valid place: use the one printed at the end of a list"
        )
    return float(found[1]), int(found[2])
