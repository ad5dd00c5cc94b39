"""Reject unknown endpoint names, codes and event ids, with suggestions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from resonant import output
from resonant.cli.command_store import CommandStore
from resonant.cli.options import Misuse
from resonant.errors import EndpointError, ResonantError
from resonant.suggestions import did_you_mean, no_such_endpoint

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.store.audit import AuditAction

T = TypeVar("T")


def check_filters(
    store: CommandStore, endpoint: str | None, code: str | None = None, cause: str | None = None
) -> None:
    """Reject an endpoint that neither the store nor Prefect knows, and an unknown code or cause.

    Raises:
        Misuse: unknown endpoint, code or cause; the message has suggestions.
        ResonantError: the store cannot be read.
    """
    if endpoint is not None and endpoint not in (known := _known_names(store, endpoint)):
        raise Misuse(f"no endpoint is named {endpoint!r}{did_you_mean(endpoint, known)}")
    if code is not None:
        from resonant.store.views.known_names import why_no_such_code

        if why := store.read(why_no_such_code, code):
            raise Misuse(why)
    if cause is not None:
        from resonant.store.queue.causes import is_known

        if not store.read(is_known, cause):
            raise Misuse(f"no dead letter has the cause {cause!r}: `resonant dlq --group` lists the causes")


def check_ids(store: CommandStore, ids: Collection[str], source: str | None) -> None:
    """Reject unknown event ids, and what ``check_source`` rejects.

    Raises:
        Misuse: the message lists the ids.
        ResonantError: the store cannot be read.
    """
    from resonant.store.views.known_names import why_no_such_ids

    if ids and (why := store.read(why_no_such_ids, ids)):
        raise Misuse(why)
    check_source(store, ids, source)


def check_source(store: CommandStore, ids: Collection[str], source: str | None) -> None:
    """Reject ids that several sources use, if no source is given, and a source that does not use them.

    Raises:
        Misuse: the message lists the events with these ids.
        ResonantError: the store cannot be read.
    """
    from resonant.store.views.known_names import why_not_this_source

    if ids and (why := store.read(why_not_this_source, ids, source, option="--source")):
        raise Misuse(why)


def check_endpoint(store: CommandStore, endpoint: str, hint: str = "") -> None:
    """Reject an endpoint that neither the store nor a running Prefect server knows.

    Raises:
        Misuse: unknown endpoint; the message has suggestions, and ends with ``hint``.
    """
    known = _known_names(store, endpoint)
    if endpoint not in known:
        raise Misuse(f"{no_such_endpoint(endpoint, known)}{hint}")


def check_routing(store: CommandStore) -> None:
    """Reject events without an endpoint if there are no subscriptions.

    Raises:
        Misuse: the message says how to add one.
    """
    from resonant.store.shared.subscriptions import current_router

    if not len(store.read(current_router)):
        raise Misuse(
            "--endpoint is missing, and there are no subscriptions: "
            "`resonant subscription add ENDPOINT TYPE_GLOB` adds one"
        )


def check_target(store: CommandStore, endpoint: str) -> str | None:
    """Reject an endpoint that neither the store nor a running Prefect server knows.

    Returns:
        A warning if deliveries to the endpoint wait because the last run could not open it; otherwise None.

    Raises:
        Misuse: unknown endpoint; the message has suggestions.
    """
    from resonant.store.views.endpoint_problems import problems

    check_endpoint(store, endpoint, "; --allow-unknown stores the events anyway")
    return next(
        (f"deliveries to {endpoint} wait: {each.reason}" for each in store.read(problems, endpoint)), None
    )


def _known_names(store: CommandStore, endpoint: str) -> set[str]:
    """Return the endpoints of the store; if this one is not among them, also those of a running Prefect server.

    Importing Prefect takes two seconds, so the store remembers an endpoint that Prefect knows.
    """
    from resonant.local.server import known_url, prefect_server
    from resonant.storing import known_with

    configured: set[str] = set()

    async def find_others() -> set[str]:
        if known_url(store.settings) is not None:
            with contextlib.suppress(ResonantError), prefect_server(store.settings, runs_flows=False):
                from resonant.blocks.documents import endpoint_documents

                configured.update(await endpoint_documents())
        return configured

    known = store.run(lambda opened: known_with(opened, endpoint, find_others))
    if endpoint in configured:
        remember(store, [endpoint])
    return known


def is_in_audit(store: CommandStore, endpoint: str) -> bool:
    """Return whether an endpoint exists by the audit; False if the store is missing or cannot be read."""
    from resonant.store.audit import has_endpoint

    try:
        return not store.is_missing and store.read(has_endpoint, endpoint)
    except ResonantError:  # Prefect has the endpoints
        return False


def check_new(store: CommandStore, endpoint: str) -> None:
    """Reject a new endpoint that exists by the audit, which is wrong if Prefect lost the endpoint.

    Raises:
        EndpointError: the message says what to do in both cases.
    """
    if is_in_audit(store, endpoint):
        raise EndpointError(
            f"endpoint {endpoint!r} exists according to the audit of {store.name}: `resonant endpoint update {endpoint}` "
            f"changes it; if it is gone from Prefect, run `resonant endpoint remove {endpoint}` first, or add it with --overwrite"
        )


def remember(store: CommandStore, names: Collection[str]) -> None:
    """Record configured endpoints in the store, so that commands know them without a Prefect server."""
    from resonant.store.views.known_names import remember_endpoints

    _note(lambda: store.run(lambda opened: opened.write(remember_endpoints, names)))


def note_change(
    store: CommandStore, saved: Collection[str], action: AuditAction, **selection: object
) -> bool:
    """Record a change of endpoints in the store and its audit; drains that could not open the saved ones try again at once.

    Args:
        store: the command's store.
        saved: the endpoints that were added or changed.
        action: the command, for the audit.
        selection: the changed endpoints and settings, without secrets.

    Returns:
        False if the store could not record it; a line on standard error then says why.
    """
    from resonant.store.audit import record_change
    from resonant.store.engine.wakeup import announce
    from resonant.store.views.endpoint_problems import clear_problems
    from resonant.store.views.known_names import remember_endpoints

    def write(connection: Connection, names: Collection[str], *, who: str, now: float) -> bool:
        remember_endpoints(connection, names)
        clear_problems(connection, names)
        announce(connection)
        record_change(connection, at=now, who=who, action=action, selection=selection)
        return True

    return bool(_note(lambda: store.change(write, saved)))


def forget(store: CommandStore, names: Collection[str]) -> int:
    """Record in the store that endpoints were removed, and remove their subscriptions; return the number of those."""
    from resonant.store.shared.subscriptions import remove_subscriptions_of
    from resonant.store.views.known_names import forget_endpoint

    def write(connection: Connection, names: Collection[str], *, who: str, now: float) -> int:
        removed = 0
        for name in names:
            forget_endpoint(connection, name)
            removed += len(remove_subscriptions_of(connection, name, who=who, now=now))
        return removed

    return _note(lambda: store.change(write, names)) or 0


def _note(write: Callable[[], T]) -> T | None:
    """Write to the store. Prefect has the endpoints, so a failure is only reported."""
    try:
        return write()
    except ResonantError as error:
        output.say(f"the store did not record the name: {error}")
        return None
