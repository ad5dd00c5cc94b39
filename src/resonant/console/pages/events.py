"""One event, and every attempt of its deliveries."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection

from resonant import documents
from resonant.console.asked import Asked, Page, path
from resonant.console.pages.deliveries import LEVELS
from resonant.delivery.wording import facts, laid_out, next_step, state
from resonant.display import hexdump
from resonant.events import Delivery, Event
from resonant.intake.problems import Problem
from resonant.output import to_json
from resonant.sinks.as_curl import as_curl, headers_of
from resonant.store.shared.gates import read_holds
from resonant.store.views import reads
from resonant.store.views.known_names import why_not_this_source
from resonant.store.views.selection import Selection

_MOST_ATTEMPTS, _MOST_DELIVERIES = 100, 100
_MOST_CHARACTERS, _MOST_BYTES = 65_536, 4_096


def event(connection: Connection, asked: Asked) -> Page:
    """Show an event, and the attempts of its deliveries."""
    source, event_id = asked.names
    Selection(ids=(event_id,), source=source)  # refuses text that no event can have
    if unknown := sorted(asked.given.keys() - {"attempts"}):
        raise Problem(422, f"{', '.join(unknown)}: no such value of this page: use attempts=all")
    if (shown := asked.text("attempts")) not in ("", "all"):
        raise Problem(422, f"attempts {shown!r}: use all")
    if (found := reads.detail(connection, event_id, source)) is None:
        raise Problem(404, _why_unknown(connection, event_id, source))
    holds, shows = read_holds(connection, asked.now), asked.console.shows_bodies
    ui = (asked.console.find_ui() or "").rstrip("/")
    chosen = found.deliveries if shown else found.deliveries[:_MOST_DELIVERIES]
    views = [
        {
            "delivery": delivery,
            "kind": LEVELS.get(delivery.status, "warn"),
            "state": state(delivery, holds.why(delivery.endpoint, found.event.type), asked.now),
            "left_out": 0 if shown else max(0, len(attempts) - _MOST_ATTEMPTS),
            "attempts": [
                {
                    "made": each,
                    "facts": ", ".join(facts(each)),
                    "next": next_step(each, delivery, is_last=each is attempts[-1]),
                    "run": f"{ui}{path('runs', 'task-run', each.task_run_id)}"
                    if ui and each.task_run_id
                    else None,
                    "answer": each.excerpt if shows else None,
                }
                for each in (attempts if shown else attempts[-_MOST_ATTEMPTS:])
            ],
        }
        for delivery, attempts in chosen
    ]
    here = path("events", source, event_id)
    context = {
        "event": found.event,
        "accepted_at": found.accepted_at,
        "views": views,
        "more_deliveries": len(found.deliveries) - len(chosen),
        "body": _body(found.event) if shows else None,
        "headers": headers_of(found.event),
        "curl": as_curl(found.event) if shows else None,
        "here": here,
        "dead": _dead(here, [each for each, _ in found.deliveries]),
    }
    document: dict[str, Any] = documents.detail(found)
    if shows:
        return Page("event.html", documents.with_data(document, found.event), context)
    for each in document["deliveries"]:
        each["history"] = [made | {"excerpt": None} for made in each["history"]]
    return Page("event.html", to_json(document | {"data_gone": "hidden"}), context)


def _why_unknown(connection: Connection, event_id: str, source: str) -> str:
    if why := why_not_this_source(connection, [event_id], source, option="source"):
        return why
    similar = reads.find_similar_id(connection, event_id)
    hint = f": did you mean {similar}?" if similar else "; /deliveries lists events"
    return f"no event {event_id!r} is stored{hint}"


def _dead(here: str, deliveries: Sequence[Delivery]) -> dict[str, str]:
    """Return the address of the plan to send again, for each endpoint that has given up."""
    dead = [each.endpoint for each in deliveries if each.status == "dead_letter"]
    return {name: f"{here}/replay?endpoint={quote(name, safe='')}" for name in dead}


def _body(event: Event) -> tuple[str, list[str], bool]:
    """Return what the body is, its first lines, and whether these are all."""
    match event.form:
        case "absent":
            return "none", [], True
        case "removed":
            return "removed by the retention of bodies", [], True
        case "erased":
            return "erased, with all other content of the event", [], True
        case "bytes":
            shown = hexdump(event.body[:_MOST_BYTES])
            return "bytes", shown.split("\n") if shown else [], len(event.body) <= _MOST_BYTES
    text = laid_out(event.body) if event.form == "json" else event.body.decode()
    kind = "JSON" if event.form == "json" else "text"
    return kind, text[:_MOST_CHARACTERS].split("\n"), len(text) <= _MOST_CHARACTERS
