"""``resonant source``: the declared sources of webhooks, and what a recorded request would become."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.cli.run.serve import given_sources
from resonant.cli.view import View
from resonant.display import duration
from resonant.errors import InvalidEvent
from resonant.suggestions import did_you_mean

if TYPE_CHECKING:
    from resonant.events import Event
    from resonant.intake.sources.source import Source

commands = typer.Typer(no_args_is_help=True)
File = Annotated[
    Path,
    typer.Option("--sources", metavar="FILE", help="The file that declares the sources.", show_default=False),
]


@commands.command("list", epilog="Example: resonant source list --sources sources.yaml")
def list_(sources: File, as_json: options.Json = False) -> None:
    """List the sources of a file: how each is checked, and what its webhooks become. This also checks the file."""
    found = given_sources(sources)
    _VIEW.write(found.values(), as_json=as_json)
    if not found and not as_json:
        output.say(f"no sources in {sources}")


@commands.command(
    "test", epilog="Example: resonant source test github --sources sources.yaml --request recorded.http"
)
def try_request(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The source's name.", show_default=False)],
    sources: File,
    request: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="A request as it was sent: headers, an empty line and the body; a request line may come first.",
            show_default=False,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show which event a recorded request would become, or why it would be refused. Nothing is stored.

    The age of a signed time is shown, but does not count. If the request would be refused, the exit code is 1.
    """
    from resonant.intake.sources.recorded import read_request
    from resonant.intake.sources.schemes import Forged
    from resonant.intake.sources.source import Stale
    from resonant.settings import load_settings

    found = given_sources(sources)
    if (source := found.get(name)) is None:
        raise options.Misuse(f"{sources}: no source is named {name!r}{did_you_mean(name, found)}")
    try:
        received, query = read_request(request.read_bytes())
    except OSError as error:
        raise options.Misuse(f"{request}: {error.strerror}") from None
    except ValueError as error:
        raise options.Misuse(f"{request}: {error}") from None
    age = None
    try:
        source.check(received, query, time.time())
    except Stale as stale:
        age = stale.age
    except Forged:
        raise InvalidEvent(
            f"{request}: refused with 401: the signature, token or password does not fit the secret of {name!r}"
        ) from None
    try:
        event = source.event(received, most_bytes=source.max_bytes or load_settings().max_event_bytes)
    except InvalidEvent as error:
        raise InvalidEvent(f"{request}: refused: {error}") from None
    if as_json:
        output.write(output.to_json(documents.source_test(event)) + "\n")
    else:
        for line in _lines(event):
            output.write_paragraph(output.visible(line), indent=12)
    if age is not None:
        is_old = f"{duration(age)} old" if age > 0 else f"{duration(-age)} ahead"
        output.say(f"the signed time is {is_old}: a server refuses it now with 403")


def _lines(event: Event) -> Iterator[str]:
    values = {
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "subject": event.subject,
        **event.extensions,
        "data": f"{len(event.body):,} bytes, {event.datacontenttype or ('JSON' if event.form == 'json' else event.form)}",
    }
    for key, value in values.items():
        if value is not None:
            yield f"{key:<12}{value}"


def _cards(sources: Iterator[Source]) -> Iterator[list[str]]:
    for each in sources:
        yield [
            f"{each.name}: {each.verify}",
            f"type {each.type.text}, source {each.source.text}",
            f"id {_ids(each)}",
            f"endpoint {each.endpoint}" if each.endpoint else "",
        ]


def _ids(source: Source) -> str:
    return " or ".join(each.text for each in source.ids)


_VIEW: View[Source] = View(
    document=documents.source,
    columns={
        "name": lambda each: each.name,
        "verify": lambda each: each.verify,
        "type": lambda each: each.type.text,
        "source": lambda each: each.source.text,
        "id": _ids,
        "endpoint": lambda each: each.endpoint or "",
    },
    cards=_cards,
)
