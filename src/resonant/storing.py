"""Says which endpoints are known, and stores one event in the configured store."""

from collections.abc import Awaitable, Callable, Collection
from typing import TypeAlias

from resonant.configured import open_configured_store
from resonant.errors import UnknownEndpoint
from resonant.events import Event
from resonant.settings import Settings
from resonant.store import EnqueueResult, Store
from resonant.store.views.known_names import known_endpoints
from resonant.suggestions import no_such_endpoint

FindEndpoints: TypeAlias = Callable[[], Awaitable[Collection[str]]]


async def known_with(store: Store, endpoint: str, find_others: FindEndpoints) -> set[str]:
    """Return the known endpoints: those of the store, and if it does not know this one, also those of Prefect.

    Args:
        store: knows endpoints that a command added, and those that ever had a delivery.
        endpoint: the one in question.
        find_others: returns the endpoints of Prefect, which takes longer.
    """
    known = await store.read(known_endpoints)
    return known if endpoint in known else known | {*await find_others()}


async def require_known(store: Store, endpoint: str, find_others: FindEndpoints) -> None:
    """Refuse an endpoint that is unknown, by ``known_with``.

    Raises:
        UnknownEndpoint: the message has suggestions.
    """
    if endpoint not in (known := await known_with(store, endpoint, find_others)):
        raise UnknownEndpoint(no_such_endpoint(endpoint, known))


async def store_event(
    event: Event, endpoint: str | None, settings: Settings, *, find_others: FindEndpoints
) -> EnqueueResult:
    """Store an event; wait up to 20 seconds for an unavailable store.

    Args:
        event: the event.
        endpoint: the only endpoint that gets the event; None: each endpoint with a matching subscription.
        settings: provide the store's URL.
        find_others: as for ``known_with``.

    Raises:
        UnknownEndpoint: the endpoint is unknown.
        EndpointError, UnroutedEvent, ConflictingEvent: as for ``resonant.enqueue``.
        StoreError: the store cannot be used.
    """
    async with open_configured_store(settings, patient=True) as store:
        if endpoint is not None:
            await require_known(store, endpoint, find_others)
        return await store.enqueue(event, endpoint)
