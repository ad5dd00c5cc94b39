"""Replay dead letters, or one event. Also the progress of an operation that runs in the background."""

import secrets
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import changed, checked, flag, only, plan_page, until
from resonant.console.asked import Asked, Done, Page, path
from resonant.dead_letters.replay import ReplayRequest, count_replay, put_back
from resonant.display import counted, some
from resonant.errors import ServerError
from resonant.intake.problems import Problem
from resonant.local.deployment_run import start_run
from resonant.store.audit import AuditEntry, read_entry, record_change
from resonant.store.shared.gates import read_gates
from resonant.store.views.dead_letters import after_deaths
from resonant.store.views.selection import Selection

_DEPLOYMENT = "replay-dead-letters/replay"
_MOST, _SLOWEST, _FASTEST = 1_000_000_000, 0.01, 10_000
_WAITS = {
    "paused": "its deliveries wait until it is resumed",
    "probing": "its deliveries wait until a probe succeeds",
    "paced": "its deliveries are sent at its pace",
}
_PERMANENT = (
    "A permanent failure, such as HTTP 400, will most likely occur again, unless the cause was removed."
)


def plan(connection: Connection, asked: Asked) -> Page:
    """Show which dead letters would be sent again."""
    options: dict[str, Any] = {name: flag(asked, name) for name in ("include_permanent", "everything")}
    for name in ("limit", "max_rounds"):
        options[name] = asked.number(name, 1, most=_MOST) if asked.text(name) else None
    options |= {"rate": _rate(asked.text("rate")), "to": asked.text("to") or None}
    selection = checked(connection, asked.selection(besides=tuple(options)), options["to"])
    return _plan(connection, asked, ReplayRequest(selection, **options), "/dead-letters/replay")


def plan_event(connection: Connection, asked: Asked) -> Page:
    """Show which dead letters of an event would be sent again, permanent ones too."""
    only(asked, "endpoint", "to")
    (source, event_id), to = asked.names, asked.text("to") or None
    endpoint = asked.text("endpoint") or None
    try:
        selection = checked(connection, Selection(ids=(event_id,), source=source))
    except Problem as problem:
        raise Problem(404, problem.detail) from None
    selection = checked(connection, selection.model_copy(update={"endpoint": endpoint}), to)
    request = ReplayRequest(selection, include_permanent=True, to=to)
    return _plan(connection, asked, request, path("events", source, event_id, "replay"))


def _rate(text: str) -> float | None:
    try:
        rate = float(text) if text else None
    except ValueError:
        rate = -1.0
    if rate is not None and not _SLOWEST <= rate <= _FASTEST:
        raise Problem(422, f"rate {text!r} is not a number from {_SLOWEST} to {_FASTEST:,}, per second")
    return rate


def _plan(connection: Connection, asked: Asked, request: ReplayRequest, target: str) -> Page:
    bound = until(request.selection, after_deaths(connection, now=asked.now))
    request = replace(request, selection=bound)
    planned, gates = count_replay(connection, request, now=asked.now), read_gates(connection)
    targets = [request.target] if request.target else request.dead_letters(connection).endpoints(connection)
    held = [
        f"{each} is {gates[each].state}: {_WAITS[gates[each].state]}"
        for each in targets
        if each in gates and gates[each].state in _WAITS
    ]
    known = asked.console.find_ui() is not None
    lines = [
        *([f"Endpoints: {some(targets)}."] if planned.selected else []),
        *planned.left_out,
        *([_PERMANENT] if planned.permanent or (request.include_permanent and planned.selected) else []),
        *held[:10],
        "A flow run of the deployment replay sends them."
        if known
        else "They are put back, and drains send them.",
        *([f"At most {request.rate:g} per second, after a slow start."] if request.rate else []),
    ]
    options = ("include_permanent", "everything", "limit", "max_rounds", "rate", "to")
    return plan_page(
        asked,
        "replay",
        {"selection": bound.as_dict(), **{name: getattr(request, name) for name in options}},
        documents.replay_plan(planned),
        number=planned.selected,
        title="Replay dead letters",
        said=f"{planned.selected:,} would be {planned.sent}",
        lines=lines,
        button="Send again" if request.to is None else f"Send to {request.to}",
        target=target,
    )


async def replay(asked: Asked) -> Done:
    """Send the dead letters of a plan again: by a flow run where a Prefect server is known, or else by drains."""
    only(asked, "plan")
    console, value = asked.console, asked.given.get("plan")
    what = console.plans.read("replay", value, now=asked.now)
    request = ReplayRequest(Selection(**what.what.pop("selection")), **what.what)
    planned = await console.store.read(count_replay, request, now=asked.now)
    if documents.replay_plan(planned) != what.counts:
        raise changed(documents.replay_plan(planned))
    # Never more than the operator has seen.
    request, run, why = replace(request, limit=planned.selected), None, ""
    if console.find_ui() is not None:
        try:
            parameters, key = request.as_parameters(), str(value)[:43]
            run = await start_run(_DEPLOYMENT, parameters, console.settings, key=key)
        except ServerError as error:
            why = f", since {error}"
    if run is not None:
        audit_id = await console.store.write(
            record_change,
            at=asked.now,
            who=asked.who,
            action="replay",
            selection={**request.as_dict(), "flow_run": run},
        )
        text = f"a flow run sends {counted(planned.selected, 'dead letter')}"
    else:
        owner = f"console replay {secrets.token_hex(8)}"
        start = partial(put_back, console.store, request, who=asked.who, owner=owner)
        audit_id = await console.plans.start(lambda on_begin: start(on_begin=on_begin))
        text = f"{counted(planned.selected, 'dead letter')} put back, and drains send them{why}"
    document = {"id": audit_id, "flow_run": run, **documents.replay_plan(planned, dry_run=False)}
    return Done(text, document, path("replays", str(audit_id)))


replay_event = replay


def progress(connection: Connection, asked: Asked) -> Page:
    """Show how far a replay, a purge or a cancellation is."""
    entry, audit_id = _entry(connection, asked)
    plans, run, ui = asked.console.plans, entry.selection.get("flow_run"), asked.console.find_ui()
    running, failure = plans.task(audit_id) is not None, plans.failures.get(audit_id)
    document = {"id": audit_id, **documents.audit_entry(entry), "running": running, "failure": failure}
    link = f"{ui.rstrip('/')}/runs/flow-run/{run}" if ui and run else None
    action = path("replays", str(audit_id), "cancel")
    return Page("replay.html", document, {"entry": entry, "run": run, "link": link, "action": action})


async def cancel(asked: Asked) -> Done:
    """Stop an operation; what it has done stays, and what is left stays as it was."""
    only(asked)
    store, plans = asked.console.store, asked.console.plans
    entry, audit_id = await store.read(_entry, asked)
    if (task := plans.task(audit_id)) is None:
        where = "ask Prefect to cancel its flow run" if entry.selection.get("flow_run") else "nothing to stop"
        raise Problem(409, f"{entry.action} {audit_id} does not run in this console: {where}")
    selection = {"action": entry.action, "id": audit_id}
    await store.write(record_change, at=asked.now, who=asked.who, action="stop", selection=selection)
    await plans.stop(task)
    return Done(f"{entry.action} stopped", selection, path("replays", str(audit_id)))


def _entry(connection: Connection, asked: Asked) -> tuple[AuditEntry, int]:
    [text] = asked.names
    audit_id = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004
    entry = read_entry(connection, audit_id)
    if entry is None or entry.action not in ("replay", "purge", "cancel"):
        raise Problem(404, f"no replay has the id {text!r}: the audit lists them")
    return entry, audit_id
