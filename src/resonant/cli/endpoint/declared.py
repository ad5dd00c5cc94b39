"""Reads endpoints from a file, compares them with the saved ones, and exports them. Imports the project's blocks."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import SecretStr, ValidationError

from resonant.blocks import WebhookEndpoint
from resonant.blocks.catalog import begin_rotation
from resonant.cli import options
from resonant.cli.endpoint import declared_subscriptions
from resonant.cli.endpoint import options as given
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
# An alias repeats at most this many values.
_MOST_REPEATED = 1_000
_ROTATION = ("previous_signing_secret", "previous_signing_secret_until")
_FIELDS = [name for name in WebhookEndpoint.model_fields if name in SETTINGS]
_OTHERS = ("name", declared_subscriptions.KEY)
_SECRETS = [name for name, setting in SETTINGS.items() if setting.secret and name != "headers"]
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
    block: WebhookEndpoint | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def parse(
    rows: Iterable[Any], source: str, folder: Path, settings: Settings, *, any_file: bool = False
) -> dict[str, WebhookEndpoint]:
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
    blocks: dict[str, WebhookEndpoint] = {}

    def resolved(value: object) -> str:
        return _resolved(value, source, folder, any_file=any_file)

    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(name := row.get("name"), str):
            raise options.Misuse(f"{source}: endpoint {number} must have a name, as text, and a url")
        name = options.endpoint_name(name)
        if "/" in name:
            raise options.Misuse(f"{source}: endpoint {name!r} is not of type webhook-endpoint")
        if name in blocks:
            raise options.Misuse(f"{source}: endpoint {name!r} is declared twice")
        try:
            blocks[name] = _block(name, row, resolved, settings)
        except (ValueError, options.Misuse) as error:
            raise options.Misuse(f"{source}: endpoint {name!r}: {error}") from None
    return blocks


def read(text: str, source: str) -> list[Any]:
    """Return the declared endpoints as they are written.

    Args:
        text: YAML or JSON; JSON lines if every line begins with ``{``.
        source: the file's name, for messages.

    Raises:
        Misuse: the text is neither YAML nor JSON.
    """
    lines = text.splitlines()
    if all(line.startswith("{") for line in lines if line.strip()):  # JSON lines: make them one YAML list
        text = "\n".join(line and f"- {line}" for line in lines)
    try:
        # YAML allows no tabs, and JSON does.
        rows = yaml.load(text.expandtabs(), _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = str(error.problem) if isinstance(error, _Refused) else "invalid YAML or JSON"
        raise options.Misuse(f"{source}: {problem}{where}") from None
    match rows:
        case {"endpoints": found} | [{"endpoints": found}]:
            rows = found
    if not isinstance(rows, list | None):
        raise options.Misuse(f"{source}: must be a list of endpoints")
    return rows or []


class _Refused(yaml.MarkedYAMLError):  # type: ignore[misc]
    pass


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses repeated keys and aliases that multiply.

    Of two endpoints with the same keys and no dash between them, only the last would remain. Aliases of aliases can make a short
    file larger than the memory.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node, index: Any) -> yaml.Node:
        is_alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark
        node = super().compose_node(parent, index)
        if not is_alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            each_part = chain.from_iterable(parts) if isinstance(node, yaml.MappingNode) else parts
            self._sizes[node] = 1 + sum(self._sizes[part] for part in each_part)
        elif node not in self._sizes or self._sizes[node] > _MOST_REPEATED:
            raise _Refused(
                problem="aliases must not contain themselves or repeat too many values", problem_mark=mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise _Refused(problem=f"the key {key.value!r} is repeated", problem_mark=key.start_mark)
                keys.add(key.value)
        return super().construct_mapping(node, deep)


def _block(
    name: str, row: Mapping[str, Any], resolved: Callable[[object], str], settings: Settings
) -> WebhookEndpoint:
    """Return a declared endpoint; raises ``ValueError`` with a text without its name."""
    fields = {key: value for key, value in row.items() if key not in _OTHERS and value is not None}
    for key in fields:
        if key not in _FIELDS:
            raise ValueError(f"unknown setting {key!r}{did_you_mean(str(key), [*_FIELDS, *_OTHERS])}")
    for key in (name for name, setting in SETTINGS.items() if setting.reference):
        if not str(fields.get(key, "env:")).startswith(("env:", "file:")):
            raise ValueError(f"its {key} must be env:NAME or file:PATH, so that the file has no secret")
    for key in fields.keys() & _SECRETS:
        fields[key] = SecretStr(resolved(fields[key]))
    if headers := fields.pop("headers", None):
        fields["headers"] = _headers(headers, resolved)
    try:
        block = WebhookEndpoint.model_validate(fields)
        block.check(name)
    except ValidationError as error:
        (setting, *_), problem = first_problem(error)
        raise ValueError(f"its {setting}: {problem}") from None
    except EndpointError as error:
        raise ValueError(str(error).removeprefix(f"endpoint {name!r}: ")) from None
    if wrong := [status for status in block.status_overrides if status not in given.STATUSES]:
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
    given |= {key: row[key] for key in _SECRETS if row.get(key) is not None}
    shown_as: dict[str, Callable[[str], str]] = {
        "url": str,
        "oauth_token_url": without_query,
        "proxy": lambda url: url if url == DIRECT else Proxy(url).origin,
    }
    shown = {}
    for key, value in given.items():
        if (text := str(value)).startswith(("env:", "file:")):
            shown[key] = text
        elif key in shown_as:
            shown[key] = shown_as[key](text)
    return shown


def _resolved(value: object, source: str, folder: Path, *, any_file: bool) -> str:
    """Return a value; replace a reference by the environment variable or the file that it names."""
    kind, _, where = str(value).partition(":")
    if kind == "env":
        if not (found := os.environ.get(where)):
            raise ValueError(f"the environment variable {where} is not set")
        return found
    if kind == "file":
        if not (any_file or (folder / where).resolve().is_relative_to(folder.resolve())):
            raise ValueError(f"{where} is not below the folder of {source}: --any-file allows it")
        if not (found := options.text_of_file(folder / where, where).strip()):
            raise ValueError(f"the file {where} is empty")
        return found
    return str(value)


def check_new_secrets(
    declared: Mapping[str, WebhookEndpoint], saved: Mapping[str, object], source: str
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


def _new(declared: WebhookEndpoint, saved: object, field: str) -> str | None:
    """Return a declared secret; None without one, or if it is saved already."""
    secret = getattr(declared, field)
    return None if secret is None or secret == getattr(saved, field, None) else secret.get_secret_value()


def compare(
    declared: Mapping[str, WebhookEndpoint], saved: Mapping[str, object], *, prune: bool, now: datetime
) -> list[Change]:
    """Return what to change. A new signing secret begins a rotation: the old one also signs for 24 hours.

    Args:
        declared: the blocks by name.
        saved: the block of every saved endpoint by name, or its error.
        prune: whether to remove webhook endpoints that are not declared.
        now: the current time.

    Raises:
        EndpointError: a new signing secret comes during a rotation.
    """
    changes = [_change(name, block, saved.get(name), now) for name, block in declared.items()]
    gone = [name for name in saved if prune and "/" not in name and name not in declared]
    return [*changes, *(Change(name, "removed") for name in gone)]


def _change(name: str, declared: WebhookEndpoint, saved: object, now: datetime) -> Change:
    if not isinstance(saved, WebhookEndpoint):
        return Change(name, "added" if saved is None else "changed", declared)
    fields = dict(_differences(name, saved, declared))
    block, secret = declared, declared.signing_secret
    if secret is not None:
        rotated = saved.model_copy()
        if secret != saved.signing_secret:
            begin_rotation(name, rotated, secret, overlap=_OVERLAP, now=now)
        block = declared.model_copy(update={each: getattr(rotated, each) for each in _ROTATION})
    return Change(name, "changed" if fields else "unchanged", block, fields)


def _differences(name: str, saved: WebhookEndpoint, declared: WebhookEndpoint) -> Iterator[tuple[str, str]]:
    for key in _FIELDS:
        old, new = getattr(saved, key), getattr(declared, key)
        if key == "headers":
            with contextlib.suppress(EndpointError):  # the saved ones cannot be used
                old, new = saved.header_values(name) or None, declared.header_values(name) or None
        if old != new and SETTINGS[key].secret:
            yield key, f"{key} {'removed' if new is None else 'added' if old is None else 'changed'}"
        elif old != new:
            yield key, f"{key} {json.dumps(old)} → {json.dumps(new)}"


def exported(
    blocks: Mapping[str, WebhookEndpoint], subscriptions: Mapping[str, Any], *, with_urls: bool
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


def _exported(name: str, block: WebhookEndpoint, *, with_urls: bool) -> dict[str, Any]:
    def reference(what: str) -> str:
        # The two underscores keep the variables of `a-b` and of `a` apart.
        return "env:" + re.sub(r"\W", "_", f"ENDPOINT_{name}__{what}".upper())

    row: dict[str, Any] = {"name": name}
    for key in _FIELDS:
        value = getattr(block, key)
        if key == "headers":
            value = {header: reference(header) for header in block.header_values(name)}
        elif isinstance(value, SecretStr):
            plain = value.get_secret_value()
            is_shown = (
                plain == DIRECT or (with_urls and key in _URLS) or (key == _URLS[1] and "?" not in plain)
            )
            value = plain if is_shown else reference(key)
        if value not in (WebhookEndpoint.model_fields[key].get_default(call_default_factory=True), {}):
            row[key] = value
    return row
