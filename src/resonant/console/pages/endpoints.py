"""Endpoints: a list, and one with its history."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Connection, select

from resonant import documents
from resonant.console.asked import Asked, Page
from resonant.console.urgent import states_of
from resonant.events import OWN_SOURCE
from resonant.gate.words import advice, described
from resonant.intake.problems import Problem
from resonant.store import schema
from resonant.store.audit import read_audit
from resonant.store.counts.recent import read_traffic
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.own_events import ids_of_gate
from resonant.store.shared.drains import sent_to
from resonant.store.shared.subscriptions import read_subscriptions
from resonant.store.views import reads
from resonant.store.views.dead_letters import DeadLetters
from resonant.store.views.endpoint_status import EndpointStatus, Governed
from resonant.store.views.known_names import known_endpoints
from resonant.store.views.reads import StoreStatus
from resonant.store.views.selection import Selection
from resonant.suggestions import no_such_endpoint

_ROWS, _MOST_CHANGES, _MOST_WAITING = 50, 50, 10_000
_c, _d, _e = schema.causes, schema.deliveries, schema.events


def endpoints(connection: Connection, asked: Asked) -> Page:
    """List the endpoints whose names contain a text, by name."""
    if unknown := sorted(asked.given.keys() - {"name", "after"}):
        raise Problem(422, f"{', '.join(unknown)}: no such filter: use name")
    text, after = asked.text("name"), asked.text("after")
    names = sorted(each for each in known_endpoints(connection) if text.lower() in each.lower())
    page = [each for each in names if each > after][: _ROWS + 1]
    found = reads.status(connection, now=asked.now)
    of = {each.name: each for each in found.endpoints}
    shown = [of.get(name) or EndpointStatus.unused(name) for name in page[:_ROWS]]
    more = f"/endpoints?{urlencode({'name': text, 'after': page[_ROWS - 1]})}" if len(page) > _ROWS else None
    subscriptions = Counter(each.endpoint for each in read_subscriptions(connection))
    context = {
        "shown": shown,
        "states": states_of(found, sent_to(connection, page, now=asked.now), shown, now=asked.now),
        "traffic": read_traffic(connection, page, now=asked.now),
        "name": text,
        "more": more,
        "total": len(names),
    }
    return Page(
        "endpoints.html", [_document(found, each, subscriptions[each.name], asked) for each in shown], context
    )


def endpoint(connection: Connection, asked: Asked) -> Page:
    """Show an endpoint's state, its history and its attempts of the last day."""
    [name] = asked.names
    if name not in (known := known_endpoints(connection)):
        raise Problem(404, no_such_endpoint(name, known))
    found = reads.status(connection, now=asked.now, endpoint=name)
    of = next(iter(found.endpoints), None) or EndpointStatus.unused(name)
    traffic = read_traffic(connection, [name], now=asked.now)[name]
    subscriptions = read_subscriptions(connection, name)
    sent = sent_to(connection, [name], now=asked.now)
    context = {
        "of": of,
        "state": states_of(found, sent, [of], now=asked.now)[name],
        "said": described(of.gate, held=of.held, now=asked.now, is_sent=bool(sent)),
        "advice": advice(of.gate, asked.now),
        "problem": next(iter(found.endpoint_problems), None),
        "traffic": traffic,
        "codes": list(_codes(connection, name, traffic.codes)),
        "changes": sorted(_changes(connection, name), key=lambda each: -each["at"]),
        "subscriptions": subscriptions,
    }
    return Page("endpoint.html", _document(found, of, len(subscriptions), asked), context)


def _document(found: StoreStatus, of: EndpointStatus, subscriptions: int, asked: Asked) -> dict[str, Any]:
    """Return what `resonant endpoint show --json` says of the store; Prefect has the rest."""
    problem = next((each.reason for each in found.endpoint_problems if each.endpoint == of.name), None)
    gate = Governed(of.gate, of.held)
    return {"name": of.name, **documents.endpoint_state(problem, gate, subscriptions, now=asked.now)}


def _codes(
    connection: Connection, name: str, codes: Mapping[str, int]
) -> Iterator[tuple[str, int, str | None]]:
    """Yield each code with its failed attempts, and where deliveries with it are, if there are any."""
    causes = DeadLetters.of(connection, Selection(endpoint=name)).count_by_cause(connection)
    with_letters = is_any_of(_c.c.id, [each.cause_id for each in causes])
    dead = set(connection.execute(select(_c.c.code).where(with_letters)).scalars())
    waits = (
        select(_d.c.code).where(_d.c.endpoint == name, _d.c.available_at.is_not(None)).limit(_MOST_WAITING)
    )
    waiting = set(connection.execute(waits).scalars())
    for code, number in sorted(codes.items(), key=lambda item: (-item[1], item[0])):
        query = urlencode({"endpoint": name, "code": code})
        place = "/dead-letters" if code in dead else "/deliveries" if code in waiting else None
        yield code, number, f"{place}?{query}" if place and code else None


def _changes(connection: Connection, name: str) -> Iterator[dict[str, Any]]:
    """Yield the changes of a gate that the audit and Resonant's own events report."""
    for entry in read_audit(connection, limit=_MOST_CHANGES, gate_of=name):
        done = {"pause": "paused", "resume": "resumed"}[entry.action]
        yield {"at": entry.at, "what": f"{done} by {entry.who}", "why": entry.selection.get("reason")}
    first, end = ids_of_gate(name)
    query = select(_e.c.type, _e.c.accepted_at, _e.c.body).where(
        _e.c.source == OWN_SOURCE, _e.c.subject == name
    )
    query = query.where(_e.c.id >= first, _e.c.id < end).order_by(_e.c.id.desc()).limit(_MOST_CHANGES)
    for event_type, at, body in connection.execute(query):
        data = json.loads(body or b"{}")
        what = event_type.removeprefix("resonant.endpoint.")
        of_type = f" (type {data['event_type']})" if data.get("event_type") else ""
        if not data.get("paused_by"):  # the audit has it
            yield {"at": at, "what": what + of_type, "why": data.get("reason")}
