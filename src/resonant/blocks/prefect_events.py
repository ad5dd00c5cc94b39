"""Creates Prefect events through Prefect's API, one per event."""

import asyncio
import json
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
from prefect.settings import get_current_settings

from resonant.blocks.prefect_api import PrefectApi
from resonant.display import one_line
from resonant.errors import EventRefused
from resonant.events import Clock, Event, rfc3339
from resonant.sinks.base import Receipt
from resonant.sinks.wire import message

# Prefect's server acknowledges an event that is nested deeper than 198 levels, or larger than its limit, and loses it.
_MOST_LEVELS = 190
# What the server adds to an event before it compares the size.
_ADDED_BYTES = 1_000
_OF_PREFECT = ("prefect.", "prefect-cloud.")


class PrefectEvents:
    """Creates Prefect events. Use it in one event loop; it connects when needed.

    Args:
        name: of the endpoint.
        block: its ``PrefectEventEndpoint``.
        clock: for the time at which an event occurred, in seconds since the epoch.
    """

    def __init__(self, name: str, block: Any, clock: Clock) -> None:
        self._block, self._clock = block, clock
        lacks = "takes no events: its URL ends with /api"
        self._api = PrefectApi(name, block, refused=EventRefused, missing=EventRefused, lacks=lacks)
        self.aclose = self._api.aclose

    async def send(self, event: Event) -> Receipt:
        """Create the Prefect event of an event, unless it exists.

        Raises:
            EventRefused: Prefect refuses it for good, or would lose it.
            PrefectDenied: Prefect refuses the key.
            UnexpectedStatus: any other answer.
            TimeoutError: no answer in time.
            httpx.HTTPError: no answer.
        """
        wanted = _event_of(event, self._clock())
        async with asyncio.timeout(self._block.timeout):
            answer = await self._create([wanted])
        return Receipt(answer.status_code, f"Prefect event {wanted['id']}")

    async def verify(self) -> list[str]:
        """Create no event, which shows whether the server would take one; return no warnings.

        Raises:
            EndpointError: it would not.
        """
        await self._api.checked(self._create([]))
        return []

    async def _create(self, events: list[dict[str, Any]]) -> httpx.Response:
        answer = await self._api.ask("POST", "/events", json=events)
        self._api.content(answer)
        return answer


def event_id(event: Event) -> UUID:
    """Return the id of the Prefect event, which is made from source and id."""
    return uuid5(uuid5(NAMESPACE_URL, event.source), event.id)


def _event_of(event: Event, now: float) -> dict[str, Any]:
    if event.type.startswith(_OF_PREFECT):
        raise EventRefused(f"the type {event.type} is one of Prefect's own events")
    try:
        document = json.loads(message(event, "structured")[1])
        size = len(json.dumps(document, allow_nan=False, ensure_ascii=False).encode())
    except (ValueError, RecursionError) as error:
        raise EventRefused(f"the event cannot be a Prefect event: {one_line(str(error))}") from None
    most = get_current_settings().server.events.maximum_size_bytes - _ADDED_BYTES
    if size > most:
        raise EventRefused(f"the event has {size:,} bytes, and Prefect would lose it: it keeps {most:,}")
    _check(document)
    labels = {name: document[name] for name in ("id", "source", "type", "subject") if name in document}
    return {
        "id": str(event_id(event)),
        "event": event.type,
        "occurred": rfc3339(now),
        # With the prefix, a producer cannot forge the events of a flow run or of another object of Prefect.
        "resource": {
            "prefect.resource.id": f"resonant.source.{event.source}",
            **{f"resonant.event.{name}": value for name, value in labels.items()},
        },
        "payload": document,
    }


def _check(document: Any) -> None:
    """Refuse an event that Prefect would acknowledge and lose."""
    rest = [(document, 1)]
    while rest:
        value, level = rest.pop()
        if level > _MOST_LEVELS:
            raise EventRefused(f"the event has more than {_MOST_LEVELS} levels, and Prefect would lose it")
        if isinstance(value, str) and "\0" in value:
            # On PostgreSQL, it would take other events of Prefect with it.
            raise EventRefused("the event has the character U+0000, which Prefect cannot store")
        if isinstance(value, dict):
            rest += [(each, level + 1) for pair in value.items() for each in pair]
        elif isinstance(value, list):
            rest += [(each, level + 1) for each in value]
