"""The first page: what needs a person, then the balance and each endpoint."""

from sqlalchemy import Connection

from resonant.console.asked import Asked, Page
from resonant.console.urgent import find_cards, states_of
from resonant.dead_letters.triage import triage
from resonant.overview import Overview, read_overview
from resonant.store.counts.recent import read_traffic
from resonant.store.views.endpoint_status import EndpointStatus

_MOST_ENDPOINTS, _MOST_CARDS = 100, 20
_RANK = ("bad", "warn", "ok")


def now(connection: Connection, asked: Asked) -> Page:
    """Show what needs a person, in order of urgency, then the balance and each endpoint."""
    read = _overview(connection, asked)
    cards = find_cards(read, triage(connection), now=asked.now)
    found = read.found
    document = {"urgent": [card.document for card in cards], **_document(read, asked)}
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
    return Page("now.html", document, context)


def status(connection: Connection, asked: Asked) -> Page:
    """Show the document of ``resonant status --json``."""
    return now(connection, asked)._replace(document=_document(_overview(connection, asked), asked))


def _overview(connection: Connection, asked: Asked) -> Overview:
    console = asked.console
    return read_overview(connection, str(console.store), console.settings, now=asked.now)


def _document(read: Overview, asked: Asked) -> dict[str, object]:
    # Only Prefect knows what is paused, and the console does not ask it.
    has_deployments = any(name.startswith("resonant-deployment/") for name in read.known)
    return read.document(None if has_deployments else {}, now=asked.now)
