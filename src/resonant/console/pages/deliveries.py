"""Deliveries by any filter, and their export."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args
from urllib.parse import urlencode

from sqlalchemy import Connection

from resonant import documents
from resonant.console.asked import Asked, Page
from resonant.delivery.wording import shortened, why
from resonant.events import Status
from resonant.intake.problems import Problem
from resonant.store.shared.gates import read_holds
from resonant.store.views import search
from resonant.store.views.dead_letters import Position
from resonant.store.views.known_names import why_unknown
from resonant.store.views.reads import dead_letters_at, delivered_at
from resonant.store.views.selection import Selection
from resonant.store.views.unfinished import waiting_at
from resonant.suggestions import did_you_mean

ROWS = 50
LEVELS = {"delivered": "ok", "dead_letter": "bad"}
_EXPORTED_ROWS = 10_000
_PAGE_SECONDS, _EXPORT_SECONDS = 0.07, 5.0


class Row(NamedTuple):
    """A row of a list: one delivery; ``state`` is its status in words, ``at`` its next attempt or its end."""

    event_id: str
    source: str
    event_type: str
    endpoint: str
    level: str
    state: str
    attempts: int
    failure: str
    at: float | None


class Listed(NamedTuple):
    """A part of a list; ``after`` is the place of the next part, ``until`` the time at which a search was stopped."""

    rows: list[Row]
    documents: list[Any]
    after: str | None
    until: float | None


def links(asked: Asked, here: str, after: str | None) -> dict[str, Any]:
    """Return the address of the next part of a list, after this place, and the query of the same filters elsewhere."""
    given = {name: value for name, value in asked.given.items() if name != "after" and value not in ("", [])}
    more = f"{here}?{urlencode(given | {'after': after}, doseq=True)}" if after else None
    return {"more": more, "query": urlencode(given, doseq=True)}


def deliveries(connection: Connection, asked: Asked) -> Page:
    """List unfinished deliveries, or those with a status."""
    selection = checked(connection, asked.selection(besides=("status", "after")))
    status = _status(asked)
    listed = list_deliveries(connection, asked, selection, status, rows=ROWS, seconds=_PAGE_SECONDS)
    found = links(asked, "/deliveries", listed.after)
    can_cancel = not (asked.console.read_only or status)
    context = {**found, "listed": listed, "status": status, "can_cancel": can_cancel}
    return Page("deliveries.html", listed.documents, context, next_link(found))


def export(connection: Connection, asked: Asked) -> Page:
    """Return the document of the page's selection, with up to 10,000 rows, as a file."""
    selection = checked(connection, asked.selection(besides=("status", "after")))
    listed = list_deliveries(
        connection, asked, selection, _status(asked), rows=_EXPORTED_ROWS, seconds=_EXPORT_SECONDS
    )
    headers = {"content-disposition": 'attachment; filename="deliveries.json"'}
    return Page(
        "", listed.documents, {}, headers | next_link(links(asked, "/deliveries/export", listed.after))
    )


def next_link(found: dict[str, Any]) -> dict[str, str]:
    """Return the header that leads programs to the next part of a list."""
    return {"link": f'<{found["more"]}>; rel="next"'} if found["more"] else {}


def checked(connection: Connection, selection: Selection) -> Selection:
    """Refuse unknown endpoints, codes and causes, as commands do.

    Raises:
        Problem: 422, with suggestions.
    """
    if why := why_unknown(connection, selection):
        raise Problem(422, why)
    return selection


def list_deliveries(
    connection: Connection,
    asked: Asked,
    selection: Selection,
    status: str | None,
    *,
    rows: int,
    seconds: float,
) -> Listed:
    """Return a part of a list, in the order of the commands; ``status`` None means unfinished."""
    after = None
    if (place := asked.text("after")) and (after := Position.parse(place)) is None:
        raise Problem(422, f"after {place!r} is not a place: use the link to the next page")
    limits: dict[str, Any] = {"limit": rows + 1, "after": after, "seconds": seconds}
    limits["steady"] = asked.console.store.steady
    if status == "dead_letter":
        found = search.find_dead_letters(connection, selection, **limits)
    elif status == "delivered":
        found = search.find_delivered(connection, selection, **limits)
    else:
        found = search.find_unfinished(connection, selection, status=status, **limits)
    listed, made = [], []
    for each, word, at, answer, document in _read(connection, found.positions[:rows], status, asked.now):
        shows = asked.console.shows_bodies
        level = LEVELS.get(status or "", "warn" if each.attempts else "")
        listed.append(_row(each, level, word, at, answer if shows else None))
        made.append(document if shows or "answer" not in document else document | {"answer": None})
    goes_on = len(found.positions) > rows
    last = found.positions[rows - 1] if goes_on else found.stopped_at
    return Listed(listed, made, last and last.place, None if goes_on or last is None else last.at)


def _read(
    connection: Connection, page: Sequence[Position], status: str | None, now: float
) -> Iterator[tuple[Any, str, float | None, str | None, Any]]:
    """Yield each delivery, its state, its next attempt or end, the answer, and its document."""
    holds = read_holds(connection, now)
    if status == "dead_letter":
        for dead in dead_letters_at(connection, page):
            document = documents.dead_letter(dead, holds.state(dead.endpoint))
            yield dead, "dead letter", dead.dead_at, dead.answer, document
    elif status == "delivered":
        for each in delivered_at(connection, page):
            yield each, each.status, each.finished_at, None, documents.delivery(each)
    else:
        for row in waiting_at(connection, page):
            of, is_held = row.delivery, bool(row.why_held(holds, now))
            word = f"{of.status}, {'held' if is_held else row.state(now).replace('_', ' ')}"
            document = documents.waiting(row, now=now, is_held=is_held)
            yield of, word, of.next_attempt_at or row.position.at, row.answered.answer, document


def _row(found: Any, level: str, word: str, at: float | None, answer: str | None) -> Row:
    error = found.error or found.error_type
    is_failed = bool(found.code or error)
    failure = (
        why(reason=found.reason or "failed", code=found.code, error=error, answer=answer)
        if is_failed
        else "-"
    )
    return Row(
        found.event_id,
        found.source,
        found.event_type,
        found.endpoint,
        level,
        word,
        found.attempts,
        shortened(failure),
        at,
    )


def _status(asked: Asked) -> str | None:
    status = asked.text("status")
    if status and status not in get_args(Status):
        raise Problem(422, f"status {status!r}{did_you_mean(status, get_args(Status))}")
    return status or None
