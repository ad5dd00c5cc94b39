"""``resonant dlq ack``: acknowledge causes of dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import name_checks, options
from resonant.cli.command_store import command_store
from resonant.display import counted

if TYPE_CHECKING:
    from sqlalchemy import Connection


commands = typer.Typer()


@commands.command(epilog="Example: resonant dlq ack 3f9a0c1d2e4b --note 'fixed in release 42'")
def ack(
    causes: Annotated[
        list[str],
        typer.Argument(metavar="CAUSE", help="Causes, as `resonant dlq --group` shows them."),
    ],
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A note on one line, shown with the cause.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="End the acknowledgement.")] = False,
    as_json: options.Json = False,
) -> None:
    """Acknowledge causes of dead letters: alerts about dead letters leave them out, and the triage shows them last.

    This also applies to new dead letters of the same cause, and to no other cause. The acknowledgement ends by itself once the
    dead letters that are in the queue now have been replayed or purged. The next failure then opens the cause again.
    """
    from resonant.dead_letters.acknowledging import change_causes, checked_note
    from resonant.errors import ResonantError
    from resonant.store.queue.attempts import storable

    if undo and note is not None:
        raise options.Misuse("--note cannot be combined with --undo")
    try:
        note = checked_note(note)
    except ResonantError as error:
        raise options.Misuse(f"--{error}") from None
    causes = list(dict.fromkeys(storable(each) or "" for each in causes))

    def change(connection: Connection, who: str, now: float) -> dict[str, int]:
        return change_causes(connection, causes, note=note, undo=undo, who=who, now=now)

    with command_store(exists=True) as store:
        for cause in causes:
            name_checks.check_filters(store, None, cause=cause)
        found = store.change(change)
    done = "reopened" if undo else "acknowledged"
    if as_json:
        output.write(output.to_json(documents.acknowledged(found, done)) + "\n")
        return
    for cause, number in found.items():
        output.write(f"{done} {cause}: {counted(number, 'dead letter')}\n")
