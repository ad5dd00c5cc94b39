"""``resonant detail``: one event with its whole history."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import filters, options
from resonant.cli.command_store import command_store
from resonant.delivery.wording import dated, facts, laid_out, next_step, state
from resonant.display import counted, hexdump
from resonant.errors import ResonantError
from resonant.events import Attempt, Delivery, Event, rfc3339

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.store.shared.gates import Holds
    from resonant.store.views.reads import Detail

_SHOWN_DATA_CHARACTERS = 4_000
_SHOWN_BYTES = 128
_SHOWN_DIGITS = 16
_NAMED_MATCHES = 3
_INDENT = 16


def detail(
    event_id: Annotated[
        str, typer.Argument(metavar="ID", help="The event's id or webhook-id, or a unique prefix of the id.")
    ],
    source: filters.Source = None,
    as_json: options.Json = False,
) -> None:
    """Show one event: its attributes and data, and every attempt with its error, delay and next step."""
    from resonant.store.shared.gates import read_holds

    with command_store(exists=True, named=not as_json) as store:
        # Refuses text that no event can have.
        filters.Filters(source=source).selection(store, ids=[event_id])
        now = store.now()
        found, holds = store.read(
            lambda opened: (_find(opened, event_id, source, place=store.name), read_holds(opened, now))
        )
    if as_json:
        output.write(documents.with_data(documents.detail(found), found.event) + "\n")
    else:
        for line in _event_lines(found, now=now):
            output.write_paragraph(line, indent=_INDENT)
        for line in _data_lines(found.event, source):
            output.write(f"{line}\n")  # not wrapped, so that users can copy it
        for line in _delivery_lines(found, holds, now=now):
            output.write_paragraph(line, indent=_INDENT if line.startswith(" ") else 4)


def _find(connection: Connection, given: str, source: str | None, *, place: str | None) -> Detail:
    from resonant.store.views import reads
    from resonant.store.views.known_names import why_not_this_source

    event_id, source = _identify(connection, given, source)
    if why := why_not_this_source(connection, [event_id], source, option="--source"):
        raise options.Misuse(why)
    if found := reads.detail(connection, event_id, source):
        return found
    similar = reads.find_similar_id(connection, given, source)
    hint = f": did you mean {similar}?" if similar else ";"
    raise ResonantError(
        f"no event {given!r} is stored in {place}{hint} `resonant deliveries` and `resonant dlq` list ids"
    )


def _identify(connection: Connection, given: str, source: str | None) -> tuple[str, str | None]:
    """Return an event's id and, if it is known, its source."""
    from resonant.store.views import reads
    from resonant.store.views.known_names import why_no_such_ids

    if why_no_such_ids(connection, [given]) is None:
        return given, source
    if key := reads.find_webhook_id(connection, given):
        return key.id, source or key.source
    match reads.find_event_ids(connection, given, source, limit=_NAMED_MATCHES + 1):
        case [] | [_] as found:
            return next(iter(found), given), source
        case several:
            named = ", ".join(several[:_NAMED_MATCHES])
            more = " ..." if len(several) > _NAMED_MATCHES else ""
            raise ResonantError(f"several events begin with {given!r}: {named}{more}")


def _event_lines(found: Detail, *, now: float) -> Iterator[str]:
    event = found.event
    yield output.visible(event.id)
    yield f"  type      {output.visible(event.type)}"
    yield f"  source    {output.visible(event.source)}"
    if event.subject is not None:
        yield f"  subject   {output.visible(event.subject)}"
    yield f"  time      {event.time}"
    if event.datacontenttype is not None:
        yield f"  content   {output.visible(event.datacontenttype)}"
    if event.dataschema is not None:
        yield f"  schema    {output.visible(event.dataschema)}"
    for name, value in event.extensions.items():
        yield f"  extension {name}: {output.visible(value if isinstance(value, str) else json.dumps(value))}"
    if event.traceparent is not None:
        yield f"  trace     {output.visible(' '.join(filter(None, (event.traceparent, event.tracestate))))}"
    if event.webhook_id != event.id:
        yield f"  sent as   {event.webhook_id}, its webhook-id"
    yield f"  accepted  {dated(found.accepted_at, now)}"
    yield f"  data      {_size(event)}"


def _size(event: Event) -> str:
    size = counted(len(event.body), "byte")
    match event.form:
        case "bytes":
            return f"{size}, binary, sha256 {sha256(event.body).hexdigest()[:_SHOWN_DIGITS]}"
        case "text":
            return f"{size} of text"
        case "absent":
            return "none"
        case "removed":
            return "removed by the retention of bodies (RESONANT_BODY_RETENTION_DAYS)"
        case "erased":
            return "erased, with all other content of the event"
    return size


def _delivery_lines(found: Detail, holds: Holds, *, now: float) -> Iterator[str]:
    for delivery, attempts in found.deliveries:
        yield ""
        yield f"{delivery.endpoint}: {state(delivery, holds.why(delivery.endpoint, found.event.type), now)}"
        for attempt in attempts:
            last = attempt is attempts[-1]
            yield from _attempt_lines(attempt, delivery, is_last=last)
        if delivery.code == "event_expired":
            yield f"       error    {delivery.error}"  # no attempt has it


def _data_lines(event: Event, source: str | None) -> Iterator[str]:
    if event.form == "bytes":
        shown, is_whole = hexdump(event.body[:_SHOWN_BYTES]), len(event.body) <= _SHOWN_BYTES
    else:
        text = laid_out(event.body) if event.form == "json" else event.body.decode()
        shown, is_whole = text[:_SHOWN_DATA_CHARACTERS], len(text) <= _SHOWN_DATA_CHARACTERS
    for line in shown.split("\n") if shown else ():
        yield f"    {output.visible(line)}"
    if not is_whole:
        option = f" --source {shlex.quote(source)}" if source else ""
        yield f"    ... (resonant detail {shlex.quote(output.visible(event.id))}{option} --json shows all of it)"


def _attempt_lines(attempt: Attempt, delivery: Delivery, *, is_last: bool) -> Iterator[str]:
    yield f"  {attempt.number:>3}  {rfc3339(attempt.started_at)}  {', '.join(facts(attempt))}"
    for name, text in (
        ("error", attempt.error or attempt.error_type),
        ("answer", attempt.excerpt),
        ("warning", attempt.warning),
        ("next", next_step(attempt, delivery, is_last=is_last)),
    ):
        if text:
            yield f"       {name:<8} {output.visible(text)}"
