"""``resonant audit``: who changed what in the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import documents, output
from resonant.cli import options
from resonant.cli.view import View
from resonant.display import counted, some
from resonant.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.store.audit import AuditEntry

# Ages in days, in the selection of a purge.
_AGES = ("dead_letters", "delivered")


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


def _took(entry: AuditEntry) -> str:
    # The process was killed or still runs; the count is valid either way.
    return "not ended" if entry.ended_at is None else f"{entry.ended_at - entry.at:.1f} s"


def _counts(entry: AuditEntry) -> bool:
    """Return whether an operation changes deliveries."""
    return entry.count > 0 or entry.action in ("replay", "cancel", "purge", "erase")


def _cards(entries: Iterator[AuditEntry]) -> Iterator[list[str]]:
    for entry in entries:
        at = rfc3339(entry.at)
        took = _took(entry) if entry.ended_at is None else f"took {_took(entry)}"
        deliveries = f", {counted(entry.count, 'delivery', 'deliveries')}" if _counts(entry) else ""
        yield [
            f"{at[:10]} {at[11:19]}Z  {entry.action}{deliveries}, {took}",
            f"by {entry.who}",
            ", ".join(_restrictions(entry.selection)),
        ]


def _restrictions(selection: dict[str, Any]) -> Iterator[str]:
    """Describe each restriction of a selection."""
    for name, value in selection.items():
        words = name.replace("_", " ")
        if name in ("since", "until") and isinstance(value, int | float):
            yield f"{words} {rfc3339(value)}"
        elif isinstance(value, float):
            yield f"{words} older than {value:g} days" if name in _AGES else f"{words} {value:g}"
        elif value is True:
            yield words
        elif isinstance(value, list) and value:
            yield f"{words} {some([str(each) for each in value])}"
        elif value not in (None, False, {}, []):
            yield f"{words} {value}"


_AUDIT = View(
    document=documents.audit_entry,
    columns={
        "at": lambda entry: rfc3339(entry.at),
        "who": lambda entry: entry.who,
        "action": lambda entry: entry.action,
        "count": lambda entry: entry.count if _counts(entry) else "-",
        "took": _took,
        "selection": lambda entry: json.dumps(entry.selection, ensure_ascii=False),
    },
    cards=_cards,
)
