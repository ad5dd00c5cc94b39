"""Stores one event in the configured store, and refuses an endpoint that nobody knows."""

from collections.abc import Awaitable, Callable, Collection

from resonant.configured import open_configured_store
from resonant.errors import UnknownEndpoint
from resonant.events import Event
from resonant.settings import Settings
from resonant.store import EnqueueResult
from resonant.store.views.known_names import known_endpoints
from resonant.suggestions import no_such_endpoint


async def store_event(
    event: Event,
    endpoint: str | None,
    settings: Settings,
    *,
    find_others: Callable[[], Awaitable[Collection[str]]],
) -> EnqueueResult:
    """Store an event; wait up to 20 seconds for an unavailable store.

    Args:
        event: the event.
        endpoint: the only endpoint that gets the event; None: each endpoint with a matching subscription.
        settings: provide the store's URL.
        find_others: returns the endpoints that the store may not know; called only if it does not know the endpoint.

    Raises:
        UnknownEndpoint: the endpoint is unknown.
        EndpointError, UnroutedEvent, ConflictingEvent: as for ``resonant.enqueue``.
        StoreError: the store cannot be used.
    """
    async with open_configured_store(settings, patient=True) as store:
        if endpoint is not None and endpoint not in (known := await store.read(known_endpoints)):
            known |= {*await find_others()}
            if endpoint not in known:
                raise UnknownEndpoint(no_such_endpoint(endpoint, known))
        return await store.enqueue(event, endpoint)
