"""The options that select deliveries, shared by all commands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from resonant.cli import completion, name_checks, options
from resonant.errors import StoreError
from resonant.events import Category, Reason

if TYPE_CHECKING:
    from resonant.cli.command_store import CommandStore
    from resonant.store.views.dead_letters import Position
    from resonant.store.views.selection import Selection

Endpoint = Annotated[str | None, options.endpoint_option("Only this endpoint.")]
Source = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="SOURCE", help="Only events of this source, as `resonant detail` shows it."
    ),
]
After = Annotated[
    str | None,
    typer.Option("--after", metavar="PLACE", help="Continue after this place, printed at the end of a list."),
]


@dataclass(frozen=True, slots=True)
class Filters:
    """The options that select deliveries."""

    endpoint: Endpoint = None
    event_type: Annotated[
        str | None, typer.Option("--type", metavar="GLOB", help="Only these event types, such as 'order.*'.")
    ] = None
    source: Source = None
    category: Annotated[
        Category | None,
        typer.Option(metavar="CATEGORY", help="Only this category: transient, permanent or unknown."),
    ] = None
    code: Annotated[
        str | None,
        typer.Option(
            metavar="CODE", help="Only this code, such as http_503.", autocompletion=completion.codes
        ),
    ] = None
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="Only errors that contain this text.")] = (
        None
    )
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Dead-lettered (unfinished: accepted) at or after this time: an age (30m, 2h, 7d) or RFC 3339.",
        ),
    ] = None
    until: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Dead-lettered (unfinished: accepted) before this time."),
    ] = None

    def selection(self, store: CommandStore, *, ids: Sequence[str] = ()) -> Selection:
        """Return the selection that the options describe; the store is used only to check names.

        Raises:
            Misuse: unknown endpoint, code or cause, invalid time, text that databases cannot store, or empty value (most
                likely an unset shell variable).
        """
        from resonant.store.views.selection import Selection

        given = asdict(self)
        for name, value in given.items():
            if value == "":
                raise options.Misuse(f"--{name.removeprefix('event_')} is empty")
        if "" in ids:
            raise options.Misuse("an id is empty")

        if self.endpoint is not None:
            given["endpoint"] = options.endpoint_name(self.endpoint)
        now = store.now() if self.since or self.until else 0.0
        for name in ("since", "until"):
            given[name] = options.moment(f"--{name}", given[name], now=now)
        try:
            selected = Selection(ids=tuple(ids), **given)
        except StoreError as error:
            raise options.Misuse(str(error)) from None
        name_checks.check_filters(store, selected.endpoint, selected.code, selected.cause)
        return selected


@dataclass(frozen=True, slots=True)
class ReplayFilters(Filters):
    """The options that select dead letters to replay."""

    reason: Annotated[
        Reason | None,
        typer.Option(
            metavar="REASON",
            help="Only this reason: permanent, exhausted, expired, crashed or cancelled.",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class DeadLetterFilters(ReplayFilters):
    """The options that select dead letters."""

    cause: Annotated[
        str | None,
        typer.Option(metavar="CAUSE", help="Only this cause, as `resonant dlq --group` shows it."),
    ] = None


def position(after: str | None) -> Position | None:
    """Parse the value of ``--after``: a time and a delivery's id.

    Raises:
        Misuse: invalid place.
    """
    if after is None:
        return None
    from resonant.store.views.dead_letters import Position

    if (found := Position.parse(after)) is None:
        raise options.Misuse(
            f"--after {after!r} is not a valid place: use the one printed at the end of a list"
        )
    return found
