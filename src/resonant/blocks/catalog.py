"""Saves, updates and removes endpoints by name, and rotates their signing secrets."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from resonant.blocks.documents import DEFAULT_BLOCK_TYPE, require_endpoint, webhook_endpoints
from resonant.blocks.endpoint import EndpointBlock
from resonant.blocks.loading import load_endpoint
from resonant.blocks.webhook_endpoint import WebhookEndpoint
from resonant.endpoint_settings import SETTINGS
from resonant.errors import EndpointError, UnknownEndpoint
from resonant.local.compatibility import schema_id
from resonant.sinks.signing import check_new_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from resonant.events import Category

_SOON_RETRIES, _SOON_SECONDS = 3, "0.03"


def name_from_url(url: str) -> str:
    """Return an endpoint's name from a URL's host and port: ``127-0-0-1-8080``, ``hooks-example-com``.

    Raises:
        EndpointError: the URL has no host.
    """
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, ValueError):
        raise EndpointError("the URL is not well-formed") from None
    where = f"{host}-{parsed.port}" if parsed.port else host
    name = re.sub(r"[^a-z0-9]+", "-", where.lower()).strip("-")
    if not name or parsed.scheme not in {"http", "https"}:
        raise EndpointError("the URL must be http://HOST... or https://HOST...")
    return name


async def save_webhook_endpoint(
    name: str, block: WebhookEndpoint, *, overwrite: bool, new_secret: SecretStr | None = None
) -> None:
    """Check an endpoint, and save it.

    Args:
        name: the endpoint's name.
        block: the endpoint.
        overwrite: whether it may exist.
        new_secret: its signing secret, if that is new: an existing one may have any length.

    Raises:
        EndpointError: it cannot be used as configured, has a new secret that is too short or too long, or exists and
            ``overwrite`` is not set.
    """
    block.to_endpoint(name)
    if new_secret is not None:
        check_new_secret(name, new_secret.get_secret_value())
    try:
        await block.asave(name, overwrite=overwrite)
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectAlreadyExists):
            raise
        raise EndpointError(
            f"endpoint {name!r} exists: `resonant endpoint update {name}` changes it"
        ) from None


async def update_webhook_endpoint(
    name: str,
    fields: Mapping[str, Any],
    *,
    headers: Mapping[str, str],
    overrides: Mapping[int, Category],
    clear: Collection[str] = (),
) -> str:
    """Change an endpoint, and save it.

    Args:
        name: the endpoint's name.
        fields: new values for fields of its block.
        headers, overrides: added to the existing ones.
        clear: fields to reset to their defaults first.

    Returns:
        A phrase that lists the unchanged settings, for a message.

    Raises:
        UnknownEndpoint: no endpoint has that name.
        EndpointError: not a webhook endpoint, incompletely configured, or unusable with these values.
    """
    block = await _webhook_endpoint(name)
    for field in clear:
        setattr(block, field, type(block).model_fields[field].get_default(call_default_factory=True))
    for field, value in fields.items():
        setattr(block, field, value)
    new = {header.lower() for header in headers}
    kept_headers = {key: value for key, value in block.header_values(name).items() if key.lower() not in new}
    if headers:
        block.headers = SecretStr(json.dumps({**kept_headers, **headers}))
    kept_overrides = {status for status in block.status_overrides if status not in overrides}
    block.status_overrides = {**block.status_overrides, **overrides}
    await save_webhook_endpoint(name, block, overwrite=True, new_secret=fields.get("signing_secret"))
    values = {**dict(block), "headers": len(kept_headers), "status_overrides": len(kept_overrides)}
    if block.mode == "binary":
        values["mode"] = None
    return ", ".join(
        setting.kept.format(values[name])
        for name, setting in SETTINGS.items()
        if setting.kept and name not in fields and values[name]
    )


async def endpoint_for_url(url: str, *, allow_private: bool) -> str:
    """Return the name of the endpoint for this URL, made from host and port; save the endpoint if it is new.

    Raises:
        EndpointError: the URL cannot be used, or an endpoint with another URL has that name.
    """
    name = name_from_url(url)
    new = WebhookEndpoint(url=SecretStr(url), allow_private=allow_private)
    new.to_endpoint(name)
    try:
        known = await load_endpoint(name)
    except UnknownEndpoint:
        await save_webhook_endpoint(name, new, overwrite=False)
        return name
    if not isinstance(known, WebhookEndpoint) or known.url != new.url:
        raise EndpointError(
            f"endpoint {name!r} exists with another URL: `resonant endpoint add NAME URL` saves this one under "
            "another name"
        )
    if allow_private and not known.allow_private:
        known.allow_private = True
        await save_webhook_endpoint(name, known, overwrite=True)
    return name


async def rotate_secret(
    name: str, secret: SecretStr, *, overlap: timedelta, now: datetime
) -> datetime | None:
    """Save a new signing secret, and keep signing with the old one too until the end of the overlap.

    Repeating the last rotation with the same secret changes nothing, so an interrupted command can be repeated.

    Args:
        name: the endpoint's name.
        secret: the new secret.
        overlap: how long the old secret also signs.
        now: the current time.

    Returns:
        When the old secret stops signing; None if it does not sign any more.

    Raises:
        EndpointError: nothing was saved, since the endpoint does not exist, is unusable with this secret, already has
            it, or is in a rotation: a third secret would cut off a receiver that still knows only the first.
    """
    block = await _webhook_endpoint(name)
    if block.signing_secret == secret:
        if (until := block.previous_signing_secret_until) is None:
            raise EndpointError(f"endpoint {name!r}: this is its signing secret already")
        return until if until > now else None
    begin_rotation(name, block, secret, overlap=overlap, now=now)
    await save_webhook_endpoint(name, block, overwrite=True, new_secret=secret)
    return block.previous_signing_secret_until if block.previous_signing_secret else None


def begin_rotation(
    name: str, block: WebhookEndpoint, secret: SecretStr, *, overlap: timedelta, now: datetime
) -> None:
    """Give a block a new signing secret, and keep the old one until the end of the overlap.

    Raises:
        EndpointError: a rotation is under way.
    """
    until = block.previous_signing_secret_until
    if block.previous_signing_secret is not None and (until is None or until > now):
        raise EndpointError(
            f"endpoint {name!r}: a rotation is under way: `resonant endpoint rotate-secret {name} --end` ends it"
        )
    overlaps = block.signing_secret is not None and overlap > timedelta()
    block.previous_signing_secret = block.signing_secret if overlaps else None
    block.previous_signing_secret_until = now + overlap if overlaps else now
    block.signing_secret = secret


async def end_rotation(name: str, *, now: datetime) -> None:
    """Remove the old secret.

    Raises:
        EndpointError: the endpoint does not exist, or has no old secret.
    """
    block = await _webhook_endpoint(name)
    if block.previous_signing_secret is None:
        raise EndpointError(f"endpoint {name!r}: no rotation is under way")
    block.previous_signing_secret = None
    block.previous_signing_secret_until = now
    await save_webhook_endpoint(name, block, overwrite=True)


async def remove_endpoint(name: str) -> None:
    """Remove an endpoint, even an unusable one; its deliveries stay in the store.

    Raises:
        UnknownEndpoint: no endpoint has that name.
    """
    document = await require_endpoint(name)
    async with get_client() as client:
        with contextlib.suppress(ObjectNotFound):  # another command has just removed it
            await client.delete_block_document(document.id)


async def save_endpoints(blocks: Mapping[str, EndpointBlock | None], on_saved: Callable[[str], None]) -> None:
    """Save or remove endpoints, and register the type of webhook endpoints only once, which takes most of the time.

    Args:
        blocks: the checked endpoints by name; None removes an endpoint.
        on_saved: called with each name after the endpoint was saved or removed.

    Raises:
        EndpointError: another command saves or removes the same endpoint.
    """
    if not blocks:
        return
    async with get_client(httpx_settings={"event_hooks": {"response": [_retry_soon]}}) as client:
        await WebhookEndpoint.register_type_and_schema(client=client)
        kind = await client.read_block_type_by_slug(DEFAULT_BLOCK_TYPE)
        # Not the latest schema on the server: an older Resonant may have registered one without our newer secret fields, and
        # Prefect shows a value in plain text if the schema does not mark it as a secret.
        ours = schema_id(WebhookEndpoint)
        saved = await webhook_endpoints(blocks)
        # One at a time: Prefect's server refuses all but one of the simultaneous writes to its SQLite database.
        for name, block in blocks.items():
            try:
                document = saved.get(name)
                if "/" in name:
                    await _save_or_remove(name, block)
                elif block is None:
                    if document is not None:
                        await client.delete_block_document(document.id)
                else:
                    # `block.model_dump` copies the block's JSON schema for each field.
                    values = {
                        field: value.get_secret_value() if isinstance(value, SecretStr) else value
                        for field, value in block
                    }
                    fields: dict[str, Any] = {
                        "data": to_jsonable_python(values),
                        "block_schema_id": ours,
                    }
                    if document is None:
                        new = BlockDocumentCreate(name=name, block_type_id=kind.id, **fields)
                        await client.create_block_document(new)
                    else:
                        update = BlockDocumentUpdate(merge_existing_data=False, **fields)
                        await client.update_block_document(document.id, update)
            except (ObjectAlreadyExists, ObjectNotFound):
                raise EndpointError(
                    f"endpoint {name!r}: another command saved or removed it meanwhile: import it again"
                ) from None
            on_saved(name)


async def _save_or_remove(name: str, block: EndpointBlock | None) -> None:
    """Save or remove an endpoint of another type."""
    if block is not None:
        await block.asave(name.partition("/")[2], overwrite=True)
        return
    with contextlib.suppress(UnknownEndpoint):
        await remove_endpoint(name)


async def _retry_soon(response: httpx.Response) -> None:
    """Let Prefect's client repeat a refused request soon: on SQLite, about one in twenty meets another write.

    Its own first wait, of two seconds, would take most of the time of an import.
    """
    retries = response.request.extensions.get("retries", 0)
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE and retries < _SOON_RETRIES:
        response.request.extensions["retries"] = retries + 1
        response.headers.setdefault("retry-after", _SOON_SECONDS)


async def _webhook_endpoint(name: str) -> WebhookEndpoint:
    block = await load_endpoint(name)
    if not isinstance(block, WebhookEndpoint):
        raise EndpointError(f"endpoint {name!r} is not a webhook endpoint, so it signs nothing")
    return block
