"""``resonant export``: the error report, every dead letter with its history, as one JSON document."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.cli.command_store import UntilStopped, command_store
from resonant.cli.view import Seen
from resonant.display import counted
from resonant.files import Write, atomic_file

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.store.views.reads import DeadLetterHistory

STDOUT = "-"


def export(
    path: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Output file; - is standard output.")
    ] = "error_report.json",
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Include each event's data and attributes.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write the error report: totals, groups, and every dead letter with its attempts, as JSON.

    The file appears only when it is complete, and only its owner may read it.
    """
    with command_store(exists=True, named=path != STDOUT and not as_json) as store:
        write_report = partial(_write_report, with_data=with_data, now=store.now())
        if path == STDOUT:
            store.read_rows(partial(write_report, write=output.write))
            return
        with atomic_file(Path(path)) as write:
            count = store.read_rows(partial(write_report, write=write))
    said = f"wrote {counted(count, 'dead letter')} to {output.visible(path)}"
    output.write_result(documents.exported(path, count), said, as_json=as_json)


def _write_report(
    connection: Connection, until_stopped: UntilStopped[Any], *, write: Write, with_data: bool, now: float
) -> int:
    """Write the report, dead letter by dead letter; return their number.

    The totals and groups are from one snapshot, each page of dead letters from a later one: one snapshot for all of them
    would let SQLite's log grow.
    """
    from resonant.dead_letters.triage import triage
    from resonant.store.views import reads

    write(documents.report_head(reads.status(connection, now=now), triage(connection), now=now))
    histories = Seen(until_stopped(reads.each_history(connection, with_events=with_data)))
    output.write_json_array(map(_row, histories), write)
    write("}\n")
    return histories.count


def _row(history: DeadLetterHistory) -> str:
    row = documents.dead_letter_history(history)
    if history.event is None:
        return output.to_json(row)
    return documents.with_data({**row, **documents.event(history.event)}, history.event)
