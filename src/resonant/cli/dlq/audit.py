"""``resonant audit``: who changed what in the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.cli.view import View
from resonant.display import counted
from resonant.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.store.audit import AuditEntry


def audit(
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Maximum rows; 0: all.")] = 50,
    as_json: options.Json = False,
) -> None:
    """List who changed what, newest first: deliveries, endpoints, causes of dead letters, subscriptions and tokens."""
    from resonant.cli.command_store import command_store
    from resonant.store.audit import read_audit

    with command_store(exists=True, named=not as_json) as store:
        entries = store.read(read_audit, limit=limit or None)
    _AUDIT.write(entries, as_json=as_json)
    if not entries and not as_json:
        output.say("no operator has changed anything")


def _cards(entries: Iterator[AuditEntry]) -> Iterator[list[str]]:
    for entry in entries:
        at = rfc3339(entry.at)
        took = entry.took if entry.ended_at is None else f"took {entry.took}"
        deliveries = f", {counted(entry.count, 'delivery', 'deliveries')}" if entry.changes_deliveries else ""
        yield [
            f"{at[:10]} {at[11:19]}Z  {entry.action}{deliveries}, {took}",
            f"by {entry.who}",
            ", ".join(entry.restrictions()),
        ]


_AUDIT = View(
    document=documents.audit_entry,
    columns={
        "at": lambda entry: rfc3339(entry.at),
        "who": lambda entry: entry.who,
        "action": lambda entry: entry.action,
        "count": lambda entry: entry.count if entry.changes_deliveries else "-",
        "took": lambda entry: entry.took,
        "selection": lambda entry: json.dumps(entry.selection, ensure_ascii=False),
    },
    cards=_cards,
)
