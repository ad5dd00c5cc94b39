"""``resonant deliveries``: list unfinished deliveries."""

from __future__ import annotations

import time
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resonant import output
from resonant.cli import filters, options
from resonant.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection

    from resonant.cli.running import UntilStopped
    from resonant.store.shared.gates import GateState
    from resonant.store.views.selection import Selection
    from resonant.store.views.unfinished import Waiting, WaitingGroup

DEFAULT_LIMIT = 50
COUNTED = 10_000
_COLUMNS = ("event", "type", "endpoint", "status", "state", "due", "tries", "last error")
_GROUP_COLUMNS = (
    *("endpoint", "code", "count", "due", "in flight", "parked", "oldest due", "parked until", "most tries"),
    "last error",
)
_STATES = {"in_flight": "in flight", "due": "due", "parked": "parked"}
# Rows per table, as in dlq_view.
_TABLE_ROWS = 1_000
_NEVER_TRIED = "not tried yet"
Unfinished = Literal["pending", "retrying"]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        "deliveries",
        rich_help_panel=options.LOOK,
        epilog="Example: resonant deliveries --endpoint billing --group",
    )(deliveries)


def deliveries(
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Maximum rows; 0: all.")] = DEFAULT_LIMIT,
    endpoint: filters.EndpointFilter = None,
    event_type: filters.TypeFilter = None,
    status: Annotated[
        Unfinished | None,
        typer.Option(metavar="STATUS", help="pending (never tried) or retrying."),
    ] = None,
    category: filters.CategoryFilter = None,
    code: filters.CodeFilter = None,
    text: filters.TextFilter = None,
    since: filters.Since = None,
    until: filters.Until = None,
    after: filters.After = None,
    group: Annotated[
        bool, typer.Option("--group", help="Count deliveries by endpoint and last failure code.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List unfinished deliveries, longest due first: due, held by the endpoint's gate, parked or in flight.

    --since and --until select by acceptance time. `resonant cancel` gives up deliveries, with the same filters.
    """
    selection = filters.selection(
        endpoint=endpoint, event_type=event_type, category=category, code=code, text=text, since=since, until=until,
    )  # fmt: skip
    if group and after is not None:
        raise options.Misuse("--after cannot be combined with --group")
    if group:
        _list_groups(selection, status, limit=limit, as_json=as_json)
    else:
        _list_deliveries(selection, status, limit=limit, after=after, as_json=as_json)


def _list_deliveries(
    selection: Selection, status: Unfinished | None, *, limit: int, after: str | None, as_json: bool
) -> None:
    from resonant.cli.running import run_reading
    from resonant.store.shared.gates import states_not_normal
    from resonant.store.views.unfinished import Place, count_unfinished, each_unfinished

    now = time.time()
    place = filters.place(after)
    before = None if place is None else Place(*place)

    def show(connection: Connection, until_stopped: UntilStopped) -> None:
        shown, last = 0, before

        def noted(rows: Iterator[Waiting]) -> Iterator[Waiting]:
            nonlocal shown, last
            for row in rows:
                shown, last = shown + 1, row.place
                yield row

        rows = each_unfinished(connection, selection, status=status, limit=limit or None, after=before)
        gates = states_not_normal(connection)
        _write_rows(noted(until_stopped(rows)), gates, as_json=as_json, now=now)
        total = count_unfinished(connection, selection, status=status, at_most=COUNTED)
        if not total:
            _say_none(selection)
        elif 0 < limit < total:
            rest = each_unfinished(connection, selection, status=status, limit=1, after=last)
            of = f"{total:,}" if total < COUNTED else f"{COUNTED:,} or more"
            more = "these are the last"
            if shown and last and next(rest, None):
                more = f"--after {last.available_at!r}-{last.id} shows the next, --limit 0 all"
            output.say(f"showing {shown:,} of {of}: {more}")

    run_reading(show)


def _write_rows(
    rows: Iterator[Waiting], gates: Mapping[str, GateState], *, as_json: bool, now: float
) -> None:
    if as_json:
        output.write_json_array(output.to_json(_document(row, gates, now)) for row in rows)
    elif output.stdout().is_terminal:
        for row in rows:
            _write_on_screen(row, gates, now=now)
    else:
        while page := list(islice(rows, _TABLE_ROWS)):
            output.write_table(_COLUMNS, [_columns(row, gates, now) for row in page])


def _held(row: Waiting, gates: Mapping[str, GateState], now: float) -> GateState | None:
    """Return the state of the gate that holds a delivery; None if it is not due or not held."""
    return gates.get(row.delivery.endpoint) if row.state(now) == "due" else None


def _waits(row: Waiting, now: float) -> bool:
    """Return whether a leased delivery waits in its process for its retry."""
    return row.state(now) == "in_flight" and (row.delivery.next_attempt_at or now) > now


def _say_none(selection: Selection) -> None:
    output.say("no unfinished deliveries" if selection.is_empty else "no unfinished deliveries match")


def _list_groups(selection: Selection, status: Unfinished | None, *, limit: int, as_json: bool) -> None:
    from resonant.cli.running import run_with_store
    from resonant.store.shared.gates import states_not_normal
    from resonant.store.views.unfinished import group_unfinished

    now = time.time()

    def read(connection: Connection) -> tuple[list[WaitingGroup], dict[str, GateState]]:
        groups = group_unfinished(connection, selection, now=now, status=status)
        return groups, states_not_normal(connection)

    groups, gates = run_with_store(lambda store: store.read(read))
    shown = groups[:limit] if limit else groups
    if as_json:
        output.write_json_array(output.to_json(_group_document(group, gates)) for group in shown)
    elif output.stdout().is_terminal:
        for endpoint, of_endpoint in groupby(shown, key=attrgetter("endpoint")):
            _write_groups_on_screen(list(of_endpoint), gates.get(endpoint), now=now)
    elif shown:
        output.write_table(_GROUP_COLUMNS, [_group_columns(group) for group in shown])
    if len(shown) < len(groups):
        output.say(f"showing {len(shown):,} of {len(groups):,} groups: --limit 0 shows all")
    elif not groups:
        _say_none(selection)


def _document(row: Waiting, gates: Mapping[str, GateState], now: float) -> output.Document:
    from resonant.cli.documents import document

    is_held = _held(row, gates, now) is not None
    return {
        **document(row.delivery),
        "state": row.state(now),
        **row.answered._asdict(),
        "held": is_held,
    }


def _group_document(group: WaitingGroup, gates: Mapping[str, GateState]) -> output.Document:
    return {
        "endpoint": group.endpoint,
        "code": group.code,
        "count": group.count,
        "due": group.due,
        "in_flight": group.in_flight,
        "parked": group.parked,
        "oldest_due": rfc3339(group.oldest_due_at),
        "parked_until": None if group.parked_until is None else rfc3339(group.parked_until),
        "most_attempts": group.most_attempts,
        "example": group.example,
        "error": group.error,
        "answer": group.answer,
        "held": group.due if group.endpoint in gates else 0,
    }


def _why(row: Waiting) -> str:
    from resonant.delivery.wording import why

    delivery = row.delivery
    return output.visible(
        why(
            reason=_NEVER_TRIED,
            code=delivery.code,
            error=delivery.error or delivery.error_type,
            answer=row.answered.answer,
        )
    )


def _write_on_screen(row: Waiting, gates: Mapping[str, GateState], *, now: float) -> None:
    delivery, state = row.delivery, row.state(now)
    due_at = delivery.next_attempt_at or row.place.available_at
    due = rfc3339(due_at)
    moment = f"{due[:10]} {due[11:16]}Z"
    match state:
        case "in_flight" if _waits(row, now):
            what = f"waits in its process for the retry at {moment}, {output.ago(now - due_at)}"
        case "in_flight":
            what = f"in flight, leased by {delivery.leased_by}"
        case "due":
            gate = _held(row, gates, now)
            held = f"held because the endpoint is {gate}; " if gate else ""
            what = f"{held}due since {moment}, {output.ago(now - due_at)}"
        case _:
            what = f"parked until {moment}, {output.ago(now - due_at)}"
    tries = output.counted(delivery.attempts, "try", "tries")
    output.write_paragraph(f"{delivery.event_id}  to {delivery.endpoint}", indent=2)
    output.write_paragraph(f"  {what}, {tries}, {output.visible(delivery.event_type)}", indent=4)
    output.write_paragraph(f"  {_why(row)}", indent=4)
    output.write("\n")


def _columns(row: Waiting, gates: Mapping[str, GateState], now: float) -> tuple[str, ...]:
    delivery = row.delivery
    return (
        delivery.event_id,
        output.visible(delivery.event_type),
        delivery.endpoint,
        delivery.status,
        "held" if _held(row, gates, now) else "waits" if _waits(row, now) else _STATES[row.state(now)],
        rfc3339(delivery.next_attempt_at or row.place.available_at),
        str(delivery.attempts),
        _why(row),
    )


def _write_groups_on_screen(groups: list[WaitingGroup], gate: GateState | None, *, now: float) -> None:
    """Write the groups of one endpoint: its totals, then each failure."""
    counts = {
        f"held (the endpoint is {gate})" if gate else "due": sum(group.due for group in groups),
        "in flight": sum(group.in_flight for group in groups),
        "parked": sum(group.parked for group in groups),
    }
    states = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    until = max((group.parked_until for group in groups if group.parked_until is not None), default=None)
    last = "" if until is None else f", the last until {rfc3339(until)[:16].replace('T', ' ')}Z"
    oldest = output.ago(now - min(group.oldest_due_at for group in groups))
    output.write_paragraph(f"{groups[0].endpoint}: {states}{last}; oldest due {oldest}", indent=2)
    for group in groups:
        tries = f", up to {output.counted(group.most_attempts, 'try', 'tries')}" if group.code else ""
        output.write_paragraph(
            f"  {group.count:>5,}  {_group_why(group)}{tries}, e.g. {group.example}", indent=9
        )
    output.write("\n")


def _group_columns(group: WaitingGroup) -> tuple[str, ...]:
    return (
        group.endpoint,
        group.code or "-",
        str(group.count),
        str(group.due),
        str(group.in_flight),
        str(group.parked),
        rfc3339(group.oldest_due_at),
        "-" if group.parked_until is None else rfc3339(group.parked_until),
        str(group.most_attempts),
        _group_why(group),
    )


def _group_why(group: WaitingGroup) -> str:
    from resonant.delivery.wording import why

    return output.visible(why(reason=_NEVER_TRIED, code=group.code, error=group.error, answer=group.answer))
