"""Reject unknown endpoint names, codes and event ids, with suggestions."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, TypeVar

from resonant import output
from resonant.cli.options import Misuse
from resonant.errors import ResonantError
from resonant.suggestions import did_you_mean, no_such_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import httpx
    from sqlalchemy import Connection

    from resonant.cli.running import CommandStore
    from resonant.settings import Settings

T = TypeVar("T")

_ASK_SECONDS = 5.0
_PAGE = 200


def check_filters(
    store: CommandStore, endpoint: str | None, code: str | None = None, cause: str | None = None
) -> None:
    """Reject an endpoint that neither the store nor Prefect knows, and an unknown code or cause.

    Raises:
        Misuse: unknown endpoint, code or cause; the message has suggestions.
        ResonantError: the store cannot be read.
    """
    if endpoint is not None:
        _check_endpoint(store, endpoint)
    if code is not None:
        from resonant.store.views.known_names import why_no_such_code

        if why := store.read(why_no_such_code, code):
            raise Misuse(why)
    if cause is not None:
        from resonant.store.queue.causes import is_known

        if not store.read(is_known, cause):
            raise Misuse(f"no dead letter has the cause {cause!r}: `resonant dlq --group` lists the causes")


def check_ids(store: CommandStore, ids: Collection[str]) -> None:
    """Reject unknown event ids.

    Raises:
        Misuse: unknown ids; the message lists them.
        ResonantError: the store cannot be read.
    """
    from resonant.store.views.known_names import why_no_such_ids

    if ids and (why := store.read(why_no_such_ids, ids)):
        raise Misuse(why)


def check_target(store: CommandStore, endpoint: str) -> str | None:
    """Reject an endpoint that neither the store nor a running Prefect server knows.

    Returns:
        A warning if the store knows the endpoint, but the server does not; otherwise None.

    Raises:
        Misuse: unknown endpoint; the message has suggestions.
    """
    configured = configured_endpoints(store.settings)
    if configured and endpoint in configured:
        return None
    stored = _stored_names(store)
    if endpoint not in stored:
        unknown = no_such_endpoint(endpoint, stored | (configured or set()))
        raise Misuse(f"{unknown}; --allow-unknown stores the events anyway")
    if configured is None:
        return None
    return f"endpoint {endpoint!r} is not configured: its deliveries wait until it is added again"


def configured_endpoints(settings: Settings) -> set[str] | None:
    """Return the endpoints of a running Prefect server; None if no server gives a valid answer."""
    import httpx

    from resonant.local.server import known_url

    url = known_url(settings)
    if url is None:
        return None
    auth = os.environ.get("PREFECT_API_AUTH_STRING")
    headers = {"authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    try:
        with httpx.Client(headers=headers, timeout=_ASK_SECONDS, trust_env=False) as client:
            return _ask(client, f"{url.rstrip('/')}/block_documents/filter")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError):
        return None


def _ask(client: httpx.Client, url: str) -> set[str]:
    found: set[str] = set()
    for offset in range(0, 1_000_000, _PAGE):
        query = {
            "block_schemas": {"block_capabilities": {"all_": ["deliver-events"]}},
            "limit": _PAGE,
            "offset": offset,
        }
        documents = client.post(url, json=query).raise_for_status().json()
        found |= {
            f"{each['block_type']['slug']}/{each['name']}".removeprefix("webhook-endpoint/")
            for each in documents
        }
        if len(documents) < _PAGE:
            break
    return found


def _check_endpoint(store: CommandStore, endpoint: str) -> None:
    stored = _stored_names(store)
    if endpoint in stored:
        return
    configured = configured_endpoints(store.settings) or set()
    if endpoint not in configured:
        raise Misuse(f"no endpoint is named {endpoint!r}{did_you_mean(endpoint, stored | configured)}")


def remember(store: CommandStore, names: Collection[str]) -> None:
    """Record configured endpoints in the store, so that commands know them without a Prefect server."""
    from resonant.store.views import endpoint_names

    _note(store, endpoint_names.remember, names)


def forget(store: CommandStore, name: str) -> None:
    """Record in the store that an endpoint was removed."""
    from resonant.store.views import endpoint_names

    _note(store, endpoint_names.forget, name)


def _note(store: CommandStore, operation: Callable[[Connection, T], None], names: T) -> None:
    """Write names to the store. The endpoint is in Prefect already, so a failure is only reported."""
    try:
        store.run(lambda opened: opened.write(operation, names))
    except ResonantError as error:
        output.say(f"the store did not record the name: {error}")


def _stored_names(store: CommandStore) -> set[str]:
    from resonant.store.views import endpoint_names

    return store.read(endpoint_names.known)
