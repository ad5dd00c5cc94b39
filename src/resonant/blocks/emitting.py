"""Stores the events of calls in flows: of ``emit``, of hooks, and of the methods of blocks."""

import logging
from functools import partial
from typing import Any, TypeAlias

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL

from resonant import storing
from resonant.blocks.documents import endpoint_documents
from resonant.display import visible
from resonant.errors import ConflictingEvent
from resonant.events import Event
from resonant.input_lines import event_from_fields
from resonant.local.calls import place_of_call, repeatable_id
from resonant.settings import Settings, load_settings
from resonant.store import EnqueueResult

Logger: TypeAlias = logging.Logger | logging.LoggerAdapter[logging.Logger]

_logger = logging.getLogger(__name__)


async def store_given(
    given: Event | dict[str, Any],
    endpoint: str | None = None,
    *,
    is_of_block: bool = False,
    place: str | None = None,
) -> tuple[str, bool]:
    """Store an event in the store of ``RESONANT_DATABASE_URL``; return its id, and whether it was not stored before.

    Args:
        given: an ``Event``, or the members of an input line. In a run of Prefect, an event without an ``id`` gets one that a retry
            of the run repeats.
        endpoint, is_of_block: as for ``store_event``.
        place: the place of the call; by default, this counts the call to find it.

    Raises:
        InvalidEvent: the event is malformed.
        ResonantError: as for ``store_event``.
    """
    settings = load_settings()
    place = (place or place_of_call()) if isinstance(given, dict) and given.get("id") is None else None
    if isinstance(given, Event):
        event = given
    else:
        fields = given if place is None else {**given, "id": _id_at(place, given, endpoint)}
        event = event_from_fields(fields, max_bytes=settings.max_event_bytes)
    try:
        return event.id, was_new(await _store(event, endpoint, settings, is_of_block=is_of_block))
    except ConflictingEvent:
        if place is None:
            raise
        run_logger().warning(
            "not stored: event of type %r and source %r for %s: call %s of the surrounding run stored other content in an earlier try, "
            "as event %s; give each event an id",
            event.type,
            event.source,
            endpoint or "its subscribers",
            place.rpartition(" ")[2],
            event.id,
        )
        return event.id, False


async def store_event(
    event: Event, endpoint: str | None = None, *, is_of_block: bool = False
) -> EnqueueResult:
    """Store an event in the store of ``RESONANT_DATABASE_URL``; wait up to 20 seconds for an unavailable one.

    Args:
        event: the event.
        endpoint: the only endpoint that gets the event; None: each endpoint with a matching subscription.
        is_of_block: whether a saved block names the endpoint, which is then accepted if no Prefect server answers.

    Raises:
        UnknownEndpoint: neither the store nor the server of ``PREFECT_API_URL`` knows the endpoint.
        EndpointError, UnroutedEvent, ConflictingEvent: as for ``resonant.enqueue``.
        SettingsError: the environment is malformed.
        StoreError: the store cannot be used.
    """
    return await _store(event, endpoint, load_settings(), is_of_block=is_of_block)


def was_new(result: EnqueueResult) -> bool:
    """Return whether the only event of a call was not stored before."""
    return not result.outcomes[0].duplicate


def run_logger() -> Logger:
    """Return the logger of the surrounding run; outside of a run, that of this module."""
    try:
        return get_run_logger()
    except MissingContextError:
        return _logger


async def _store(
    event: Event, endpoint: str | None, settings: Settings, *, is_of_block: bool
) -> EnqueueResult:
    unasked = {endpoint} if endpoint and is_of_block else set()
    find_others = partial(_endpoints_of_prefect, unasked)
    return await storing.store_event(event, endpoint, settings, find_others=find_others)


def _id_at(place: str, fields: dict[str, Any], endpoint: str | None) -> str:
    """Return an id that a retry of the surrounding run repeats."""
    return repeatable_id(place, endpoint, *(str(fields.get(each)) for each in ("type", "source", "subject")))


async def _endpoints_of_prefect(unasked: set[str]) -> set[str]:
    """Return the endpoints of the Prefect server, such as those saved in its UI; ``unasked`` if no server answers."""
    if not PREFECT_API_URL.value():  # Prefect would start a server
        return unasked
    try:
        return set(await endpoint_documents())
    except Exception as error:  # noqa: BLE001 - Prefect's client raises many kinds of errors
        _logger.warning("Prefect's endpoints cannot be read: %s", visible(str(error)) or type(error).__name__)
        return unasked
