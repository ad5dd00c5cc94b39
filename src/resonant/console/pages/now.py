"""The first page: what needs a person, then the balance and each endpoint."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.console.urgent import Card, find_cards, states_of
from resonant.dead_letters.triage import triage_page
from resonant.overview import Overview, read_overview
from resonant.store.counts.recent import read_traffic
from resonant.store.views.dead_letters import DeadLetters
from resonant.store.views.endpoint_status import EndpointStatus
from resonant.store.views.selection import Selection

_MOST_ENDPOINTS, _MOST_CARDS, _MOST_CAUSES = 100, 20, 50
_RANK = ("bad", "warn", "ok")


def now(connection: Connection, asked: Asked) -> Page:
    """Show what needs a person, in order of urgency, then the balance and each endpoint."""
    console = asked.console
    read = read_overview(connection, console.store, console.settings, now=asked.now)
    causes = triage_page(connection, DeadLetters.of(connection, Selection()), limit=_MOST_CAUSES)
    cards = find_cards(read, causes.groups, now=asked.now)
    found = read.found
    states = states_of(found, read.sent, found.endpoints, now=asked.now)

    def rank(each: EndpointStatus) -> tuple[int, int, int, str]:
        return _RANK.index(states[each.name][0]), -(each.failed_last_hour or 0), -each.due, each.name

    shown = sorted(found.endpoints, key=rank)[:_MOST_ENDPOINTS]
    context = {
        "cards": cards[:_MOST_CARDS],
        "others": len(cards) - _MOST_CARDS,
        "found": found,
        "shown": shown,
        "states": states,
        "traffic": read_traffic(connection, [each.name for each in shown], now=asked.now),
    }
    urgent = partial(_document, read, cards, now=asked.now)
    return Page("now.html", urgent, context)


def status(connection: Connection, asked: Asked) -> Page:
    """Show the first page; as JSON, the document of ``resonant status --json``."""
    page = now(connection, asked)
    return page._replace(document=lambda: {k: v for k, v in page.document().items() if k != "urgent"})


def _document(read: Overview, cards: Sequence[Card], *, now: float) -> dict[str, Any]:
    # Only Prefect knows what is paused, and the console does not ask it.
    has_deployments = any(name.startswith("resonant-deployment/") for name in read.known)
    return {
        "urgent": [card.document for card in cards],
        **read.document(None if has_deployments else {}, now=now),
    }
