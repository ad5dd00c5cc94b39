"""``resonant deliveries``: list unfinished deliveries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from resonant import documents, output
from resonant.cli import filters, options, view
from resonant.cli.command_store import CommandStore, UntilStopped, command_store
from resonant.display import ago, counted, some
from resonant.events import minute, rfc3339

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.store.shared.gates import Gate, Gates, Holds
    from resonant.store.views.dead_letters import Position
    from resonant.store.views.selection import Selection
    from resonant.store.views.unfinished import Waiting, WaitingGroup

_STATES = {"in_flight": "in flight", "due": "due", "parked": "parked"}
_WHAT = "unfinished deliveries"
_NEVER_TRIED = "not tried yet"
# The most failing types that a line names.
_MOST_TYPES = 3
Unfinished = Literal["pending", "retrying"]


@options.grouped
def deliveries(
    *,
    limit: view.Limit = None,
    where: filters.Filters,
    status: Annotated[
        Unfinished | None,
        typer.Option(metavar="STATUS", help="pending (never tried) or retrying."),
    ] = None,
    after: filters.After = None,
    group: Annotated[
        bool | None,
        typer.Option(
            "--group/--no-group",
            help="Count deliveries by endpoint and last failure code. On a terminal, this is the default if they do not fit the "
            "screen, and neither --limit nor --after is given.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List unfinished deliveries, longest due first: due, held by the endpoint's gate, parked or in flight.

    --since and --until select by acceptance time. `resonant cancel` gives up deliveries, with the same filters.
    """
    from resonant.store.views.unfinished import count_unfinished

    with command_store(exists=True, named=not as_json) as store:
        selection = where.selection(store)
        if group and after is not None:
            raise options.Misuse("--after cannot be combined with --group")
        if group is None and not as_json and limit is None and after is None:
            group = view.fills_a_screen(store, count_unfinished, selection, status=status)
        rows = view.DEFAULT_LIMIT if limit is None else limit
        if group:
            _list_groups(store, selection, status, limit=rows, as_json=as_json)
        else:
            before = filters.position(after)
            _list_deliveries(store, selection, status, limit=rows, before=before, as_json=as_json)


def _list_deliveries(
    store: CommandStore,
    selection: Selection,
    status: Unfinished | None,
    *,
    limit: int,
    before: Position | None,
    as_json: bool,
) -> None:
    from resonant.store.shared.gates import read_holds
    from resonant.store.views.unfinished import count_unfinished, each_unfinished

    now = store.now()

    def show(connection: Connection, until_stopped: UntilStopped[Any]) -> None:
        rows = each_unfinished(connection, selection, status=status, limit=limit or None, after=before)
        listed = _deliveries(read_holds(connection, now), now=now)
        seen = listed.write(until_stopped(rows), as_json=as_json)
        total = count_unfinished(connection, selection, status=status, at_most=view.COUNTED)
        if not total:
            output.say(view.no_rows(_WHAT, selection))
        elif 0 < limit < total:
            last = seen.last and seen.last.position
            rest = each_unfinished(connection, selection, status=status, limit=1, after=last or before)
            view.say_page(seen.count, total, last if next(rest, None) else None)

    store.read_rows(show)


def _list_groups(
    store: CommandStore, selection: Selection, status: Unfinished | None, *, limit: int, as_json: bool
) -> None:
    from resonant.store.shared.gates import read_gates
    from resonant.store.views.unfinished import group_unfinished

    now = store.now()

    groups, gates = store.read(
        lambda opened: (
            group_unfinished(opened, selection, now=now, status=status),
            read_gates(opened),
        )
    )
    none = view.no_rows(_WHAT, selection)
    is_whole = view.write_groups(groups, _groups(gates, now=now), limit=limit, none=none, as_json=as_json)
    if is_whole and not as_json and output.stdout().is_terminal:
        total = counted(sum(group.count for group in groups), "delivery", "deliveries")
        output.say(f"{total} in {counted(len(groups), 'group')}: --no-group lists each")


def _deliveries(holds: Holds, *, now: float) -> view.View[Waiting]:
    def held(row: Waiting) -> str:
        return row.why_held(holds, now)

    def state(row: Waiting) -> str:
        return "held" if held(row) else "waits" if _waits(row, now) else _STATES[row.state(now)]

    return view.View(
        document=lambda row: documents.waiting(row, now=now, is_held=bool(held(row))),
        columns={
            "event": lambda row: row.delivery.event_id,
            "type": lambda row: row.delivery.event_type,
            "endpoint": lambda row: row.delivery.endpoint,
            "status": lambda row: row.delivery.status,
            "state": state,
            "due": lambda row: rfc3339(_due_at(row)),
            "tries": lambda row: row.delivery.attempts,
            "last error": _why,
        },
        cards=lambda rows: (_card(row, held(row), now=now) for row in rows),
        identity=lambda row: (row.delivery.event_id, row.delivery.source),
    )


def _due_at(row: Waiting) -> float:
    return row.delivery.next_attempt_at or row.position.at


def _waits(row: Waiting, now: float) -> bool:
    """Return whether a leased delivery waits in its process for its retry."""
    return row.state(now) == "in_flight" and (row.delivery.next_attempt_at or now) > now


def _card(row: Waiting, why_held: str, *, now: float) -> list[str]:
    delivery, due_at = row.delivery, _due_at(row)
    moment = minute(due_at)
    match row.state(now):
        case "in_flight" if _waits(row, now):
            what = f"waits in its process for the retry at {moment}, {ago(now - due_at)}"
        case "in_flight":
            what = f"in flight, leased by {delivery.leased_by}"
        case "due":
            held = f"held because {why_held}; " if why_held else ""
            what = f"{held}due since {moment}, {ago(now - due_at)}"
        case _:
            what = f"parked until {moment}, {ago(now - due_at)}"
    return [
        f"{delivery.event_id} from {delivery.source}  to {delivery.endpoint}",
        f"{what}, {counted(delivery.attempts, 'try', 'tries')}, {delivery.event_type}",
        _why(row),
    ]


def _why(row: Waiting) -> str:
    from resonant.delivery.wording import why

    delivery = row.delivery
    error = delivery.error or delivery.error_type
    return why(reason=_NEVER_TRIED, code=delivery.code, error=error, answer=row.answered.answer)


def _groups(gates: Gates, *, now: float) -> view.View[WaitingGroup]:
    return view.View(
        document=documents.waiting_group,
        columns={
            "endpoint": lambda group: group.endpoint,
            "code": lambda group: group.code or "-",
            "count": lambda group: group.count,
            "due": lambda group: group.due,
            "held": lambda group: group.held,
            "in flight": lambda group: group.in_flight,
            "parked": lambda group: group.parked,
            "oldest due": lambda group: rfc3339(group.oldest_due_at),
            "parked until": lambda group: "-" if group.parked_until is None else rfc3339(group.parked_until),
            "most tries": lambda group: group.most_attempts,
            "last error": _group_why,
        },
        cards=partial(_group_cards, gates=gates, now=now),
        indent=9,
    )


def _group_cards(groups: Iterator[WaitingGroup], *, gates: Gates, now: float) -> Iterator[list[str]]:
    """Yield the lines of each endpoint: its totals, then each failure."""
    for endpoint, of_endpoint in groupby(groups, key=attrgetter("endpoint")):
        rows = list(of_endpoint)
        held = sum(row.held for row in rows)
        counts = {
            f"held ({_why_held(gates[endpoint], now)})": held,
            "due": sum(row.due for row in rows) - held,
            "in flight": sum(row.in_flight for row in rows),
            "parked": sum(row.parked for row in rows),
        }
        states = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        until = max((row.parked_until for row in rows if row.parked_until is not None), default=None)
        last = "" if until is None else f", the last until {minute(until)}"
        oldest = ago(now - min(row.oldest_due_at for row in rows))
        yield [f"{endpoint}: {states}{last}; oldest due {oldest}", *map(_group_line, rows)]


def _why_held(gate: Gate, now: float) -> str:
    """Return why a gate holds deliveries back, such as ``order.paid fails``."""
    if gate.state != "normal":
        return f"the endpoint is {gate.state}"
    types = sorted(gate.failing_at(now))
    return f"{some(types, _MOST_TYPES)} {'fails' if len(types) == 1 else 'fail'}"


def _group_line(group: WaitingGroup) -> str:
    tries = f", up to {counted(group.most_attempts, 'try', 'tries')}" if group.code else ""
    return f"{group.count:>5,}  {_group_why(group)}{tries}, e.g. {group.example}"


def _group_why(group: WaitingGroup) -> str:
    from resonant.delivery.wording import why

    return why(reason=_NEVER_TRIED, code=group.code, error=group.error, answer=group.answer)
