"""Sends announcements of alerts and gates to Prefect, until its event feed shows them.

Prefect's server keeps events in memory at first. It drops them if it is killed, or if its queues are full. If its feed has later
events, but not this one, it is sent again, with the same id. A server without a feed gets each event once.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from prefect.client.orchestration import PrefectClient, get_client
from prefect.context import FlowRunContext
from prefect.events.filters import EventFilter, EventIDFilter
from prefect.logging import get_run_logger

from resonant.dispatch.gate_rows import OnGateChange
from resonant.display import one_line, visible
from resonant.errors import ResonantError
from resonant.store import Store
from resonant.store.shared.announcements import (
    Announcement,
    forget,
    forget_old,
    note_sent,
    read_announcements,
)
from resonant.store.shared.gates import Gate

# For five minutes, the server ignores an event with an id that it has seen, even if it then dropped the event.
SENT_AGAIN_SECONDS = 330.0
# The server stores events a few seconds late, and several at once.
_FEED_DELAY_SECONDS = 30.0
# The page size of the feed, and the most events in one request.
_AT_ONCE = 50
_LAST_SEND_SECONDS = 5.0


async def announce(store: Store) -> None:
    """Send new announcements and those that Prefect dropped; forget those that are in its feed, or a day old.

    Raises:
        StoreUnavailable: the store became unavailable.
        ResonantError: Prefect's server did not accept an event, or its feed could not be read; the next call tries again.
    """
    if not await store.read(read_announcements):
        return
    await store.write(forget_old, now=store.clock())
    pending = await store.read(read_announcements)
    try:
        async with get_client() as client:
            await _send(client, store, [each for each in pending if each.sent_at is None])
            feed_at = await _time_of_feed(client)
            sent = [each for each in pending if each.sent_at is not None and each.sent_at <= feed_at]
            taken = await _ids_in_feed(client, sent)
            await store.write(forget, taken)
            lost_at = min(feed_at - _FEED_DELAY_SECONDS, store.clock() - SENT_AGAIN_SECONDS)
            missing = (each for each in sent if each.id not in taken)
            await _send(client, store, [each for each in missing if (each.sent_at or 0) < lost_at])
    except ResonantError:
        raise
    except Exception as error:  # noqa: BLE001 - Prefect's client raises errors of several kinds
        raise ResonantError(
            "Prefect's server did not accept an event about an alert or a gate, or did not show its event feed; the next run "
            f"tries again: {one_line(str(error))}"
        ) from None


async def _send(client: PrefectClient, store: Store, announcements: list[Announcement]) -> None:
    for start in range(0, len(announcements), _AT_ONCE):
        batch = announcements[start : start + _AT_ONCE]
        events = [{"id": each.id, "related": _this_run(), **each.event} for each in batch]
        # Not emit_event: it sends in a thread and only logs a failure.
        await client.request("POST", "/events", json=events)
        await store.write(note_sent, [each.id for each in batch], now=store.clock())


async def _ids_in_feed(client: PrefectClient, sent: list[Announcement]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(sent), _AT_ONCE):
        ids = EventIDFilter.model_validate({"id": [each.id for each in sent[start : start + _AT_ONCE]]})
        page = await client.read_events(EventFilter(id=ids), limit=_AT_ONCE)
        found |= {str(event.id) for event in page.events}
    return found


async def _time_of_feed(client: PrefectClient) -> float:
    """Return when the server received its newest event, in seconds since the epoch; 0 if it keeps no events."""
    newest = (await client.read_events(EventFilter(), limit=1)).events
    return newest[0].received.timestamp() if newest else 0.0


@asynccontextmanager
async def gate_changes_announced(store: Store) -> AsyncIterator[OnGateChange]:
    """Yield a function to call after each change of a gate: it logs the change, and its announcement is sent in the background."""
    changed = asyncio.Event()
    is_any = False

    def note(_before: Gate, after: Gate) -> None:
        nonlocal is_any
        is_any = True
        changed.set()
        if FlowRunContext.get() is not None:
            reason = f": {visible(after.reason)}" if after.reason else ""
            get_run_logger().warning("Endpoint %s is %s%s", after.endpoint, after.state, reason)

    async def send() -> None:
        while await changed.wait():
            changed.clear()
            with suppress(ResonantError):  # export-metrics sends it
                await announce(store)

    sending = asyncio.create_task(send())
    try:
        yield note
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        if is_any:
            with suppress(ResonantError, TimeoutError):
                async with asyncio.timeout(_LAST_SEND_SECONDS):
                    await announce(store)


def _this_run() -> list[dict[str, Any]]:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return []
    return [
        {
            "prefect.resource.id": f"prefect.flow-run.{context.flow_run.id}",
            "prefect.resource.role": "flow-run",
            "prefect.resource.name": context.flow_run.name,
        }
    ]
