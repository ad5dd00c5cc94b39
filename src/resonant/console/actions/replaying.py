"""Replay dead letters, or one event. Also the progress of an operation that runs in the background."""

import secrets
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import (
    begin,
    changed,
    checked,
    flag,
    of_plan,
    only,
    plan_key,
    plan_page,
    until,
)
from resonant.console.asked import Asked, Done, Page, path
from resonant.console.plans import Plan
from resonant.dead_letters.replay import ReplayRequest, count_replay, put_back
from resonant.display import counted, some
from resonant.errors import ServerError
from resonant.intake.problems import Problem
from resonant.local.deployment_run import start_run
from resonant.store.audit import AuditEntry, read_audit, record_change
from resonant.store.shared.gates import read_gates
from resonant.store.views.dead_letters import after_deaths
from resonant.store.views.selection import Selection

_DEPLOYMENT = "replay-dead-letters/replay"
_OPTIONS = ("include_permanent", "everything", "limit", "max_rounds", "rate", "to")
_MOST, _SLOWEST, _FASTEST = 1_000_000_000, 0.01, 10_000
_WAITS = {
    "paused": "its deliveries wait until it is resumed",
    "probing": "its deliveries wait until a probe succeeds",
    "paced": "its deliveries are sent at its pace",
}
_PERMANENT = (
    "A permanent failure, such as HTTP 400, will most likely occur again, unless its cause was removed."
)
_SHOWN = 10


def plan(connection: Connection, asked: Asked) -> Page:
    """Show which dead letters would be sent again."""
    options: dict[str, Any] = {name: flag(asked, name) for name in ("include_permanent", "everything")}
    for name in ("limit", "max_rounds"):
        options[name] = asked.number(name, 1, most=_MOST) if asked.text(name) else None
    try:
        options["rate"] = rate = float(asked.text("rate")) if asked.text("rate") else None
    except ValueError:
        rate = 0.0
    if rate is not None and not _SLOWEST <= rate <= _FASTEST:
        raise Problem(422, f"rate {asked.text('rate')!r} is not a number from {_SLOWEST} to {_FASTEST:,}")
    options["to"] = asked.text("to") or None
    selection = checked(connection, asked.selection(besides=_OPTIONS), options["to"])
    return _plan(connection, asked, ReplayRequest(selection, **options))


def plan_event(connection: Connection, asked: Asked) -> Page:
    """Show which dead letters of an event would be sent again, permanent ones too."""
    only(asked, "endpoint", "to")
    (source, event_id), to = asked.names, asked.text("to") or None
    try:
        selection = checked(connection, Selection(ids=(event_id,), source=source))
    except Problem as problem:
        raise Problem(404, problem.detail) from None
    selection = selection.model_copy(update={"endpoint": asked.text("endpoint") or None})
    request = ReplayRequest(checked(connection, selection, to), include_permanent=True, to=to)
    return _plan(connection, asked, request)


def _plan(connection: Connection, asked: Asked, request: ReplayRequest) -> Page:
    bound = until(request.selection, after_deaths(connection, now=asked.now))
    request = replace(request, selection=bound)
    planned, lines = count_replay(connection, request, now=asked.now), []
    if planned.selected:
        one, gates = request.target, read_gates(connection)
        names = [one] if one else request.dead_letters(connection).endpoints(connection)
        held = [
            f"{each} is {gates[each].state}: {_WAITS[gates[each].state]}."
            for each in names
            if each in gates and gates[each].state in _WAITS
        ]
        by = "A flow run of the deployment replay sends" if asked.console.find_ui() else "Drains send"
        pace = f", at most {request.rate:g} per second, after a slow start" if request.rate else ""
        lines = [f"{by} them to {some(names)}{pace}.", *held[:_SHOWN]]
    if planned.permanent or request.include_permanent:
        lines.append(_PERMANENT)
    what = {"selection": bound.as_dict(), **{name: getattr(request, name) for name in _OPTIONS}}
    said = f"{planned.selected:,} would be {planned.sent}"
    return plan_page(asked, "replay", what, documents.replay_plan(planned), said, *lines, *planned.left_out)


@of_plan("replay")
async def replay(asked: Asked, plan: Plan) -> Done:
    """Send the dead letters of a plan again: by a flow run where a Prefect server is known, or else by drains."""
    (what, counts), store, why = plan, asked.console.store, ""
    request = ReplayRequest(**what | {"selection": Selection(**what["selection"])})
    planned = await store.read(count_replay, request, now=asked.now)
    document = documents.replay_plan(planned)
    if document != counts:
        raise changed(document)
    request = replace(request, limit=planned.selected)  # what the operator has seen
    number = counted(planned.selected, "dead letter")
    if asked.console.find_ui() is not None:
        try:
            run = await start_run(
                _DEPLOYMENT, request.as_parameters(), asked.console.settings, key=plan_key(asked)
            )
        except (ServerError, TimeoutError) as error:
            # A run that has started takes its own share of a limit or a rate. Otherwise, each dead letter is taken once.
            if isinstance(error, TimeoutError) and (planned.beyond_limit or request.rate):
                raise Problem(503, f"{error}; try again: a plan starts one run only") from None
            why = f", since {error}"
        else:
            selection = {**request.as_dict(), "flow_run": run}
            audit_id = await store.write(
                record_change, at=asked.now, who=asked.who, action="replay", selection=selection
            )
            document |= {"id": audit_id, "flow_run": run, "dry_run": False}
            return Done(f"a flow run sends {number}", document, path("replays", str(audit_id)))
    start = partial(put_back, store, request, who=asked.who, owner=f"console replay {secrets.token_hex(8)}")
    said = f"{number} put back, and drains send them{why}"
    return await begin(asked, start, said, {**document, "flow_run": None})


replay_event = replay


def progress(connection: Connection, asked: Asked) -> Page:
    """Show how far a replay, a purge or a cancellation is."""
    entry = _entry(connection, asked)
    plans, run, ui = asked.console.plans, entry.selection.get("flow_run"), asked.console.find_ui()
    running, failure = plans.task(entry.id) is not None, plans.failures.get(entry.id)
    document = {"id": entry.id, **documents.audit_entry(entry), "running": running, "failure": failure}
    link = f"{ui.rstrip('/')}/runs/flow-run/{run}" if ui and run else None
    return Page("replay.html", document, {"entry": entry, "run": run, "link": link})


async def cancel(asked: Asked) -> Done:
    """Stop an operation; what it has done stays, and what is left stays as it was."""
    only(asked)
    store, plans = asked.console.store, asked.console.plans
    entry = await store.read(_entry, asked)
    if (task := plans.task(entry.id)) is None:
        raise Problem(
            409, f"{entry.action} {entry.id} does not run in this console: cancel its flow run, if any"
        )
    selection = {"action": entry.action, "id": entry.id}
    await store.write(record_change, at=asked.now, who=asked.who, action="stop", selection=selection)
    await plans.stop(task)
    return Done(f"{entry.action} stopped", selection, path("replays", str(entry.id)))


def _entry(connection: Connection, asked: Asked) -> AuditEntry:
    [text] = asked.names
    audit_id = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004
    found = read_audit(connection, limit=1, before=audit_id + 1)
    if not found or found[0].id != audit_id or found[0].action not in ("replay", "purge", "cancel"):
        raise Problem(404, f"no replay has the id {text!r}: /audit lists them")
    return found[0]
