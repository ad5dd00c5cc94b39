"""The options of ``endpoint add`` and ``endpoint update``, and parsers for their values."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from resonant.cli import options
from resonant.errors import EndpointError

if TYPE_CHECKING:
    from pydantic import SecretStr

    from resonant.events import Category
    from resonant.settings import Settings

# The statuses of HTTP that an endpoint may classify differently.
STATUSES = range(100, 600)
OAUTH_FIELDS = {
    f"oauth_{field}"
    for field in ("token_url", "client_id", "client_secret", "scope", "audience", "authentication")
}
# The options for secrets. Each takes the name of a file; those for URLs take it after @.
_SECRETS = {
    "proxy": "--proxy",
    "oauth_token_url": "--oauth-token-url",
    "client_certificate": "--client-cert",
    "client_key": "--client-key",
    "oauth_client_secret": "--oauth-client-secret-file",
}
_URLS = ("proxy", "oauth_token_url")
# The panels of the help texts.
NETWORK, SIGNING, _OAUTH = "Network and TLS", "Signatures", "OAuth 2.0"


class Clearable(StrEnum):
    """The settings that ``endpoint update --clear`` resets."""

    HEADERS = "headers"
    OVERRIDES = "overrides"
    POLICY = "policy"
    CONCURRENCY = "concurrency"
    RATE = "rate"
    CA_FILE = "ca-file"
    PROXY = "proxy"
    CLIENT_CERT = "client-cert"
    OAUTH = "oauth"


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
        url = self.fields.get("url")
        client_id = self.fields.get("oauth_client_id")
        proxy, token_url, chain, key, client_secret = (
            self.fields[field].get_secret_value() if field in self.fields else "" for field in _SECRETS
        )
        try:
            if chain:
                check_new_certificate(name, chain, datetime.now(UTC))
            Endpoint(
                name=name,
                url=url.get_secret_value() if url else "https://host.invalid/",
                headers=self.headers,
                signing_secrets=() if secret is None else (secret,),
                allow_private=may_be_private or bool(self.fields.get("allow_private")),
                proxy=proxy_of(name, proxy, lambda: None),
                # Of a saved endpoint, a renewed certificate may keep its key.
                client_certificate=certificate_of(name, chain, key) if chain and key else None,
                # Of a saved endpoint, one of them may be changed.
                oauth=OAuth(token_url, client_id, client_secret)
                if token_url and client_id and client_secret
                else None,
            )
        except EndpointError as error:
            raise options.Misuse(str(error)) from None


@dataclass(frozen=True, slots=True)
class SettingOptions:
    """The options that ``endpoint add`` and ``endpoint update`` share."""

    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:VALUE",
            help="A header to send with every event; repeatable. @FILE reads it from a file.",
        ),
    ] = None
    policy: options.Policy = None
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.001,
            max=600,
            help="Deadline for one attempt; default for a new endpoint: 15.",
        ),
    ] = None
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Concurrent sends per run, instead of the default limit."),
    ] = None
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.001,
            max=10_000,
            help="Sends per second across all processes; no limit by default.",
        ),
    ] = None
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS=CATEGORY",
            help="Classify a status differently, such as 404=transient; repeatable.",
        ),
    ] = None
    ca_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="CA certificates (PEM) to trust instead of the public ones.",
            rich_help_panel=NETWORK,
        ),
    ] = None
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="HTTP proxy to connect through, instead of RESONANT_PROXY; none: connect directly. @FILE reads it from a file.",
            rich_help_panel=NETWORK,
        ),
    ] = None
    client_certificate: Annotated[
        str | None,
        typer.Option(
            "--client-cert",
            metavar="FILE",
            help="Certificate (PEM, with those of its issuers) that identifies Resonant to the receiver; its content is saved.",
            rich_help_panel=NETWORK,
        ),
    ] = None
    client_key: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Private key (PEM, no passphrase) of the client certificate; its content is saved.",
            rich_help_panel=NETWORK,
        ),
    ] = None
    mode: Annotated[
        Literal["binary", "structured"] | None,
        typer.Option(
            metavar="MODE",
            help="binary: the body is the event's data, and headers have its attributes; the default for a new endpoint. "
            "structured: the body is the whole event, in JSON.",
        ),
    ] = None
    oauth_token_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="URL of the token endpoint; tokens are requested with client credentials. @FILE reads it from a file.",
            rich_help_panel=_OAUTH,
        ),
    ] = None
    oauth_client_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Client id.", rich_help_panel=_OAUTH)
    ] = None
    oauth_client_secret: Annotated[
        str | None,
        typer.Option(
            "--oauth-client-secret-file",
            metavar="FILE",
            help="File that contains the client secret; it is saved.",
            rich_help_panel=_OAUTH,
        ),
    ] = None
    oauth_scope: Annotated[
        str | None,
        typer.Option(metavar="SCOPES", help="Requested scopes, separated by spaces.", rich_help_panel=_OAUTH),
    ] = None
    oauth_audience: Annotated[
        str | None,
        typer.Option(metavar="AUDIENCE", help="Requested audience.", rich_help_panel=_OAUTH),
    ] = None
    oauth_authentication: Annotated[
        Literal["basic", "body"] | None,
        typer.Option(
            metavar="HOW",
            help="Send client id and secret as Basic authentication (basic, the default) or in the body (body).",
            rich_help_panel=_OAUTH,
        ),
    ] = None

    def changes(self, *, url: str | None, allow_private: bool | None) -> Changes:
        """Parse the options.

        Args:
            url: the URL, if it is given; ``-`` reads it from standard input.
            allow_private: whether private addresses are allowed, if that is given.

        Raises:
            Misuse: a header is not ``NAME:VALUE``, an override not ``STATUS=CATEGORY``, or standard input is empty.
        """
        fields = asdict(self) | {"allow_private": allow_private}
        headers = dict(map(_header, fields.pop("header") or []))
        overrides = dict(map(_override, fields.pop("override") or []))
        found = {name: value for name, value in fields.items() if value is not None}
        for name in (each for each in _SECRETS if each in found):
            option, text = f"{_SECRETS[name]} {found[name]}", found[name]
            if name not in _URLS or text.startswith("@"):
                text = options.text_of_file(text.removeprefix("@") if name in _URLS else text, option)
            if not text.strip():
                raise options.Misuse(f"{option.strip()} is empty")
            found[name] = secret(text.strip() if name in _URLS else text)
        if url is not None:
            found["url"] = secret(line_of_stdin("the URL") if url == "-" else url)
        return Changes(found, headers, overrides)


def cleared_fields(clear: list[Clearable] | None) -> set[str]:
    """Return the names of the block's fields to reset to their defaults."""
    names = {
        Clearable.OVERRIDES: {"status_overrides"},
        Clearable.CA_FILE: {"ca_file"},
        Clearable.CLIENT_CERT: {"client_certificate", "client_key"},
        Clearable.OAUTH: OAUTH_FIELDS,
    }
    return {name for each in clear or [] for name in names.get(each, {each.value})}


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
