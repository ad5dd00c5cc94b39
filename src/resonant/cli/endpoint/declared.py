"""Reads endpoints from a file, compares them with the saved ones, and exports them. Imports the project's blocks."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import SecretStr, ValidationError

from resonant.blocks import DeploymentEndpoint, EndpointBlock, WebhookEndpoint
from resonant.blocks.catalog import begin_rotation
from resonant.cli import options
from resonant.cli.endpoint import declared_subscriptions
from resonant.cli.endpoint import options as given
from resonant.declared_file import REFERENCES, read_declarations, resolve
from resonant.endpoint_settings import SETTINGS
from resonant.errors import EndpointError
from resonant.settings import Settings, first_problem
from resonant.sinks.network.client_certificate import check_new_certificate
from resonant.sinks.network.proxy import DIRECT, Proxy
from resonant.sinks.oauth import without_query
from resonant.sinks.signing import check_new_secret
from resonant.suggestions import did_you_mean

if TYPE_CHECKING:
    from pathlib import Path


_OVERLAP = timedelta(hours=24)
_ROTATION = ("previous_signing_secret", "previous_signing_secret_until")
_FIELDS: Mapping[type[EndpointBlock], list[str]] = {
    WebhookEndpoint: [name for name in WebhookEndpoint.model_fields if name in SETTINGS],
    DeploymentEndpoint: list(DeploymentEndpoint.model_fields),
}
_OTHERS = ("name", declared_subscriptions.KEY)
_SECRETS = [name for name, setting in SETTINGS.items() if setting.secret and name != "headers"]
_SECRETS_OF_PREFECT = ["api_key", "auth_string"]
_REFERENCES = [*(name for name, setting in SETTINGS.items() if setting.reference), *_SECRETS_OF_PREFECT]
_URLS = ("url", "oauth_token_url")


@dataclass(frozen=True, slots=True)
class Change:
    """What an import does with one endpoint.

    Attributes:
        name: the endpoint's name.
        kind: ``added``, ``changed``, ``removed`` or ``unchanged``.
        block: the endpoint to save; None to remove it.
        fields: the change of each changed setting in words, without secrets.
    """

    name: str
    kind: str
    block: EndpointBlock | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def parse(
    rows: Iterable[Any], source: str, folder: Path, settings: Settings, *, any_file: bool = False
) -> dict[str, EndpointBlock]:
    """Return the declared endpoints by name.

    Args:
        rows: as ``read`` returns them.
        source: the file's name, for messages.
        folder: the folder of relative paths in references.
        settings: contain the retry policies.
        any_file: whether references may name files outside this folder.

    Raises:
        Misuse: an endpoint is invalid. The message contains no secret.
    """
    blocks: dict[str, EndpointBlock] = {}

    def resolved(value: object) -> str:
        return resolve(value, source, folder, any_file=any_file, hint=": --any-file allows it")

    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(name := row.get("name"), str):
            raise options.Misuse(
                f"{source}: endpoint {number} must have a name, as text, and a url or a deployment"
            )
        name = options.endpoint_name(name)
        if "/" in name and "deployment" not in row:
            raise options.Misuse(
                f"{source}: endpoint {name!r} is not of type webhook-endpoint, and has no deployment"
            )
        if name in blocks:
            raise options.Misuse(f"{source}: endpoint {name!r} is declared twice")
        try:
            block = blocks[name] = _block(name, row, resolved, settings)
            if isinstance(block, WebhookEndpoint) and (file := block.ca_file) is not None:
                block.ca_file = given.path_of_certificates(str(folder / file), f"its ca_file {file}")
        except (ValueError, options.Misuse) as error:
            raise options.Misuse(f"{source}: endpoint {name!r}: {error}") from None
    return blocks


def read(text: str, source: str) -> list[Any]:
    """Return the declared endpoints as they are written, except that the name of a deployment's endpoint gets its block type.

    Args:
        text: YAML or JSON; JSON lines if every line begins with ``{``.
        source: the file's name, for messages.

    Raises:
        Misuse: the text is neither YAML nor JSON.
    """
    try:
        rows = read_declarations(text)
    except ValueError as error:
        raise options.Misuse(f"{source}: {error}") from None
    match rows:
        case {"endpoints": found} | [{"endpoints": found}]:
            rows = found
    if not isinstance(rows, list | None):
        raise options.Misuse(f"{source}: must be a list of endpoints")
    for row in rows or []:
        if isinstance(row, dict) and "deployment" in row and isinstance(name := row.get("name"), str):
            row["name"] = options.DEPLOYMENTS + name.removeprefix(options.DEPLOYMENTS)
    return rows or []


def _block(
    name: str, row: Mapping[str, Any], resolved: Callable[[object], str], settings: Settings
) -> EndpointBlock:
    """Return a declared endpoint; raises ``ValueError`` with a text without its name."""
    kind: type[EndpointBlock] = DeploymentEndpoint if "deployment" in row else WebhookEndpoint
    known = _FIELDS[kind]
    fields = {key: value for key, value in row.items() if key not in _OTHERS and value is not None}
    for key in fields:
        if key not in known:
            raise ValueError(f"unknown setting {key!r}{did_you_mean(str(key), [*known, *_OTHERS])}")
    for key in _REFERENCES:
        if not str(fields.get(key, "env:")).startswith(REFERENCES):
            raise ValueError(f"its {key} must be env:NAME or file:PATH, so that the file has no secret")
    for key in fields.keys() & {*_SECRETS, *_SECRETS_OF_PREFECT}:
        fields[key] = SecretStr(resolved(fields[key]))
    if headers := fields.pop("headers", None):
        fields["headers"] = _headers(headers, resolved)
    try:
        block = kind.model_validate(fields)
        block.check(name)
    except ValidationError as error:
        (setting, *_), problem = first_problem(error)
        raise ValueError(f"its {setting}: {problem}") from None
    except EndpointError as error:
        raise ValueError(str(error).removeprefix(f"endpoint {name!r}: ")) from None
    if wrong := [status for status in fields.get("status_overrides", {}) if status not in given.STATUSES]:
        raise ValueError(f"its status_overrides: {wrong[0]} is not a status from 100 to 599")
    settings.policy(block.policy)
    return block


def _headers(headers: object, resolved: Callable[[object], str]) -> SecretStr:
    if not isinstance(headers, dict) or any(type(value) not in {int, str} for value in headers.values()):
        raise ValueError("its headers must map names to text, in quotes if it looks like another value")
    return SecretStr(json.dumps({str(key): resolved(value) for key, value in headers.items()}))


def as_written(row: Mapping[str, Any]) -> dict[str, str]:
    """Return where a declared endpoint sends, and each of its references, as written in the file, by setting.

    A token URL is shown without its query, and a proxy without its user and password.
    """
    given = {f"header {key}": value for key, value in (row.get("headers") or {}).items()}
    shown_too = ("deployment", "api_url", *_SECRETS_OF_PREFECT)
    given |= {key: row[key] for key in (*_SECRETS, *shown_too) if row.get(key) is not None}
    shown_as: dict[str, Callable[[str], str]] = {
        "url": str,
        "deployment": str,
        "api_url": without_query,
        "oauth_token_url": without_query,
        "proxy": lambda url: url if url == DIRECT else Proxy(url).origin,
    }
    shown = {}
    for key, value in given.items():
        if (text := str(value)).startswith(REFERENCES):
            shown[key] = text
        elif key in shown_as:
            shown[key] = shown_as[key](text)
    return shown


def check_new_secrets(
    declared: Mapping[str, EndpointBlock], saved: Mapping[str, object], source: str
) -> None:
    """Refuse new signing secrets that are too short or too long, and new certificates that are not valid now.

    Saved ones are still used.

    Raises:
        Misuse: the message names ``source``, and contains no secret.
    """
    for name, block in declared.items():
        try:
            if secret := _new(block, saved.get(name), "signing_secret"):
                check_new_secret(name, secret)
            if chain := _new(block, saved.get(name), "client_certificate"):
                check_new_certificate(name, chain, datetime.now(UTC))
        except EndpointError as error:
            raise options.Misuse(f"{source}: {error}") from None


def _new(declared: EndpointBlock, saved: object, field: str) -> str | None:
    """Return a declared secret; None without one, or if it is saved already."""
    secret = getattr(declared, field, None)
    return None if secret is None or secret == getattr(saved, field, None) else secret.get_secret_value()


def compare(
    declared: Mapping[str, EndpointBlock], saved: Mapping[str, object], *, prune: bool, now: datetime
) -> list[Change]:
    """Return what to change. A new signing secret begins a rotation: the old one also signs for 24 hours.

    Args:
        declared: the blocks by name.
        saved: the block of every saved endpoint by name, or its error.
        prune: whether to remove the other endpoints of these kinds.
        now: the current time.

    Raises:
        EndpointError: a new signing secret comes during a rotation.
    """
    changes = [_change(name, block, saved.get(name), now) for name, block in declared.items()]
    gone = [name for name in saved if prune and name not in declared and _is_declarable(name)]
    return [*changes, *(Change(name, "removed") for name in gone)]


def _is_declarable(name: str) -> bool:
    return "/" not in name or name.startswith(options.DEPLOYMENTS)


def _change(name: str, declared: EndpointBlock, saved: object, now: datetime) -> Change:
    if not isinstance(saved, type(declared)):
        return Change(name, "added" if saved is None else "changed", declared)
    fields = dict(_differences(name, saved, declared))
    block, secret = declared, getattr(declared, "signing_secret", None)
    if isinstance(saved, WebhookEndpoint) and secret is not None:
        rotated = saved.model_copy()
        if secret != saved.signing_secret:
            begin_rotation(name, rotated, secret, overlap=_OVERLAP, now=now)
        block = declared.model_copy(update={each: getattr(rotated, each) for each in _ROTATION})
    return Change(name, "changed" if fields else "unchanged", block, fields)


def _differences(name: str, saved: Any, declared: Any) -> Iterator[tuple[str, str]]:
    for key in _FIELDS[type(declared)]:
        old, new = getattr(saved, key), getattr(declared, key)
        if key == "headers":
            with contextlib.suppress(EndpointError):  # the saved ones cannot be used
                old, new = saved.header_values(name) or None, declared.header_values(name) or None
        if old != new and (key in _SECRETS_OF_PREFECT or (key in SETTINGS and SETTINGS[key].secret)):
            yield key, f"{key} {'removed' if new is None else 'added' if old is None else 'changed'}"
        elif old != new:
            yield key, f"{key} {json.dumps(old)} → {json.dumps(new)}"


def exported(
    blocks: Mapping[str, EndpointBlock], subscriptions: Mapping[str, Any], *, with_urls: bool
) -> str:
    """Return endpoints as YAML for an import. Secrets are references to environment variables.

    Args:
        blocks: the endpoints by name.
        subscriptions: the terms of their subscriptions by name.
        with_urls: whether to write URLs, which may contain tokens, as they are.
    """
    rows = []
    for name, block in blocks.items():
        row = _exported(name, block, with_urls=with_urls)
        if found := subscriptions.get(name):
            row[declared_subscriptions.KEY] = found
        rows.append(row)
    return str(yaml.safe_dump({"endpoints": rows}, sort_keys=False, allow_unicode=True, width=120))


def _exported(name: str, block: Any, *, with_urls: bool) -> dict[str, Any]:
    name = name.removeprefix(options.DEPLOYMENTS)

    def reference(what: str) -> str:
        # The two underscores keep the variables of `a-b` and of `a` apart.
        return "env:" + re.sub(r"\W", "_", f"ENDPOINT_{name}__{what}".upper())

    row: dict[str, Any] = {"name": name}
    for key in _FIELDS[type(block)]:
        value = getattr(block, key)
        if key == "headers":
            value = {header: reference(header) for header in block.header_values(name)}
        elif isinstance(value, SecretStr):
            plain = value.get_secret_value()
            is_shown = (
                plain == DIRECT or (with_urls and key in _URLS) or (key == _URLS[1] and "?" not in plain)
            )
            value = plain if is_shown else reference(key)
        if value not in (type(block).model_fields[key].get_default(call_default_factory=True), {}):
            row[key] = value
    return row
