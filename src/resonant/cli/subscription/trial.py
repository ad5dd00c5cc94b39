"""``resonant subscription test``: which endpoints would get an event, and why the others would not."""

import shlex
from collections.abc import Iterator
from typing import Annotated

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.cli.command_store import command_store
from resonant.errors import InvalidEvent
from resonant.events import Event
from resonant.routing import Subscription


def try_one(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="One event in JSON; - is standard input.", show_default=False),
    ],
    event_type: options.EventType = None,
    as_json: options.Json = False,
) -> None:
    """Show which endpoints would get an event, and for each other subscription the first condition that is false.

    Nothing is stored. The file has one event, as a line of `resonant enqueue`. `resonant enqueue` without --endpoint decides in the
    same way. If no subscription matches, the exit code is 1.
    """
    from resonant.store.shared.subscriptions import try_event

    text = options.text_of_file("/dev/stdin" if file == "-" else file, file)
    with command_store(exists=True, named=not as_json) as store:
        try:
            most = store.settings.max_event_bytes
            found = store.read(try_event, text, default_type=event_type, max_bytes=most)
        except InvalidEvent as error:
            raise InvalidEvent(f"{file}: {error}") from None
    if as_json:
        output.write(output.to_json(documents.subscription_test(*found)) + "\n")
    else:
        for line in _lines(*found):
            output.write_paragraph(output.visible(line), indent=4)
    if not found.endpoints:
        raise typer.Exit(1)


def _lines(
    event: Event, endpoints: tuple[str, ...], explained: list[tuple[Subscription, str | None]]
) -> Iterator[str]:
    to = ", ".join(endpoints) if endpoints else "no endpoint"
    yield f"{event.type} of {event.source} goes to {to}"
    for subscription, why_not in explained:
        yield f"  {subscription.endpoint}  {subscription.id}  {'matches' if why_not is None else f'no: {why_not}'}"
    if not endpoints:
        yield f"`resonant subscription add ENDPOINT {shlex.quote(event.type)}` adds a subscription"
