"""``resonant export``: the error report, every dead letter with its history, as one JSON document."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import output
from resonant.cli import options
from resonant.events import rfc3339
from resonant.files import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

    from resonant.cli.running import UntilStopped
    from resonant.files import Write
    from resonant.store.views.reads import History

STDOUT = "-"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "export",
        rich_help_panel=options.LOOK,
        epilog="Example: resonant export --output /var/tmp/errors.json",
    )(export)


def export(
    path: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Output file; - is standard output.")
    ] = "error_report.json",
    with_data: Annotated[bool, typer.Option("--with-data", help="Include each event's data.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write the error report: totals, groups, and every dead letter with its attempts, as JSON.

    The file appears only when it is complete, and only its owner may read it.
    """
    from resonant.cli.running import run_reading

    if path == STDOUT:
        run_reading(partial(_write_report, write=output.write, with_data=with_data))
        return
    with atomic_file(Path(path)) as write:
        count = run_reading(partial(_write_report, write=write, with_data=with_data))
    if as_json:
        output.write(output.to_json({"path": path, "dead_letters": count}) + "\n")
    else:
        output.write_paragraph(
            f"wrote {output.counted(count, 'dead letter')} to {output.visible(path)}", indent=2
        )


def _write_report(
    connection: Connection, until_stopped: UntilStopped, *, write: Write, with_data: bool
) -> int:
    """Write the report, dead letter by dead letter; return their number.

    The totals and groups are from one snapshot, each page of dead letters from a later one: one snapshot for all of them
    would let SQLite's log grow.
    """
    from resonant.cli.documents import group_document, status_document
    from resonant.dead_letters.triage import triage
    from resonant.store.views import reads

    now = time.time()
    head = {
        "generated_at": rfc3339(now),
        "totals": status_document(reads.status(connection, now=now)),
        "groups": [group_document(group) for group in triage(connection)],
    }
    write(output.to_json(head)[:-1] + ', "dead_letters": ')
    count = 0

    def rows() -> Iterator[str]:
        nonlocal count
        for history in until_stopped(reads.each_history(connection, with_events=with_data)):
            count += 1
            yield _row(history)

    output.write_json_array(rows(), write)
    write("}\n")
    return count


def _row(history: History) -> str:
    from resonant.cli.documents import document

    row = document(history.dead_letter)
    row["history"] = [document(attempt) for attempt in history.attempts]
    return output.to_json(row) if history.event is None else output.with_raw(row, "data", history.event.body)
