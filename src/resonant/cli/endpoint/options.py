"""The options of ``endpoint add`` and ``endpoint update``, and parsers for their values."""

from __future__ import annotations

import ssl
import sys
from dataclasses import asdict, dataclass, field, make_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant.cli import options
from resonant.endpoint_settings import SETTINGS, Setting
from resonant.errors import EndpointError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from resonant.events import Category
    from resonant.settings import Settings

# The statuses of HTTP that an endpoint may classify differently.
STATUSES = range(100, 600)
# The smallest value of an option whose number must be above 0.
_LEAST = 0.001
# A panel of the help texts.
SIGNING = "Signatures"
# What --clear resets: settings with entries first.
_CLEARABLE = dict.fromkeys(
    each.clear for each in sorted(SETTINGS.values(), key=lambda each: each.kind != list[str]) if each.clear
)
*_FIRST, _LAST = _CLEARABLE
CLEAR_HELP = f"Reset {', '.join(_FIRST)} or {_LAST}; repeatable."
Clearable = StrEnum("Clearable", {each: each for each in _CLEARABLE})  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Changes:
    """The given settings of an endpoint.

    Attributes:
        fields: of its block, without headers and overrides.
        headers: to send with every event.
        overrides: the categories of statuses.
    """

    fields: dict[str, Any]
    headers: dict[str, str]
    overrides: dict[int, Category]

    def __bool__(self) -> bool:
        return bool(self.names)

    @property
    def names(self) -> set[str]:
        """The names of the given settings."""
        groups = {"headers": self.headers, "status_overrides": self.overrides}
        return {*self.fields, *(name for name, values in groups.items() if values)}

    def check(
        self, name: str, settings: Settings, *, secret: str | None = None, may_be_private: bool
    ) -> None:
        """Check the given values without Prefect.

        Args:
            name: the endpoint's name.
            settings: have the policies.
            secret: signs the events.
            may_be_private: whether the URL may be a private address, even if the fields do not say so.

        Raises:
            Misuse: a value cannot be used.
        """
        from resonant.sinks.endpoint import Endpoint
        from resonant.sinks.network.client_certificate import certificate_of, check_new_certificate
        from resonant.sinks.network.proxy import proxy_of
        from resonant.sinks.oauth import OAuth

        options.known_policy(self.fields.get("policy"), settings)

        def plain(field: str) -> str:
            return self.fields[field].get_secret_value() if field in self.fields else ""

        client_id = self.fields.get("oauth_client_id")
        chain, key = plain("client_certificate"), plain("client_key")
        token_url, client_secret = plain("oauth_token_url"), plain("oauth_client_secret")
        try:
            if chain:
                check_new_certificate(name, chain, datetime.now(UTC))
            Endpoint(
                name=name,
                url=plain("url") or "https://host.invalid/",
                headers=self.headers,
                signing_secrets=() if secret is None else (secret,),
                allow_private=may_be_private or bool(self.fields.get("allow_private")),
                proxy=proxy_of(name, plain("proxy"), lambda: None),
                # Of a saved endpoint, a renewed certificate may keep its key.
                client_certificate=certificate_of(name, chain, key) if chain and key else None,
                # Of a saved endpoint, one of them may be changed.
                oauth=OAuth(token_url, client_id, client_secret)
                if token_url and client_id and client_secret
                else None,
            )
        except EndpointError as error:
            raise options.Misuse(str(error)) from None


def _option(setting: Setting) -> Any:
    """Return the type of a command's parameter."""
    if setting.name == "policy":  # the shell completes it
        return options.Policy
    option = typer.Option(
        setting.option,
        metavar=setting.metavar,
        help=setting.help,
        rich_help_panel=setting.panel,
        min=setting.limits.get("ge", _LEAST) if setting.limits else None,
        max=setting.limits.get("le"),
    )
    return Annotated[setting.kind | None, option]


_Given: Any = make_dataclass(
    "_Given",
    [(each.name, _option(each), field(default=None)) for each in SETTINGS.values() if each.help],
    frozen=True,
)


class SettingOptions(_Given):  # type: ignore[misc]
    """The options that ``endpoint add`` and ``endpoint update`` share."""

    def changes(self, *, url: str | None, allow_private: bool | None) -> Changes:
        """Parse the options.

        Args:
            url: the URL, if it is given; ``-`` reads it from standard input.
            allow_private: whether private addresses are allowed, if that is given.

        Raises:
            Misuse: a header is not ``NAME:VALUE``, an override not ``STATUS=CATEGORY``, or standard input is empty.
        """
        given = asdict(self) | {"allow_private": allow_private}
        headers = dict(map(_header, given.pop("headers") or []))
        overrides = dict(map(_override, given.pop("status_overrides") or []))
        found = {name: _saved(SETTINGS[name], value) for name, value in given.items() if value is not None}
        if url is not None:
            found["url"] = secret(line_of_stdin("the URL") if url == "-" else url)
        return Changes(found, headers, overrides)


def _saved(setting: Setting, given: Any) -> Any:
    """Return what is saved of the value of an option."""
    if setting.file == "path":
        return path_of_certificates(given, f"{setting.option} {given}")
    return _secret_from(setting, given) if setting.secret else given


def path_of_certificates(given: str, option: str) -> str:
    """Return the absolute path of a file of certificates: processes that send run in other folders.

    Raises:
        Misuse: it cannot be read, or has no certificates.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=given)
    except ssl.SSLError:
        raise options.Misuse(f"{option}: no certificates in PEM") from None
    except OSError as error:
        raise options.Misuse(f"{option}: {error.strerror}") from None
    return str(Path(given).absolute())


def _secret_from(setting: Setting, given: str) -> SecretStr:
    """Return a secret from the value of its option or the file that this names."""
    option, text, may_be_text = f"{setting.option} {given}", given, setting.file == "@"
    if not may_be_text or text.startswith("@"):
        text = options.text_of_file(text.removeprefix("@") if may_be_text else text, option)
    if not text.strip():
        raise options.Misuse(f"{option.strip()} is empty")
    return secret(text.strip() if may_be_text else text)


def cleared_fields(clear: list[Clearable] | None) -> set[str]:
    """Return the names of the block's fields to reset to their defaults."""
    return {name for name, setting in SETTINGS.items() if setting.clear in (clear or [])}


def secret(text: str) -> SecretStr:
    """Wrap a string in ``SecretStr``."""
    from pydantic import SecretStr

    return SecretStr(text)


def line_of_stdin(what: str) -> str:
    """Read one line from standard input, without echo on a terminal.

    Raises:
        Misuse: standard input is empty.
    """
    import getpass

    line = getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not line.strip():
        raise options.Misuse(f"standard input is empty: {what} is missing")
    return line.strip()


def _header(text: str) -> tuple[str, str]:
    if text.startswith("@"):
        text = options.text_of_file(text[1:], f"--header {text}").strip()
    name, colon, value = text.partition(":")
    if not colon:
        raise options.Misuse("--header must be NAME:VALUE")
    return name.strip(), value.strip()


def _override(text: str) -> tuple[int, Category]:
    status, _, category = text.partition("=")
    if not (status.isascii() and status.isdigit() and int(status) in STATUSES):
        raise options.Misuse(f"--override {text!r} must be STATUS=CATEGORY, such as 404=transient")
    for known in ("transient", "permanent", "unknown"):
        if category == known:
            return int(status), known
    raise options.Misuse(f"--override {text!r}: the category must be transient, permanent or unknown")
