"""``resonant token``: who may send events over HTTP."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import documents, output
from resonant.cli import name_checks, options
from resonant.cli.command_store import command_store
from resonant.cli.view import View
from resonant.display import ago
from resonant.events import rfc3339
from resonant.suggestions import did_you_mean

if TYPE_CHECKING:
    from resonant.store.shared.tokens import Token

commands = typer.Typer(no_args_is_help=True)
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]


@commands.command(epilog="Example: resonant token create shop --source '/shop/*' --type 'order.*' --rate 100")
def create(
    name: Name,
    source: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only events of these sources, such as '/shop/*'.")
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--type", metavar="GLOB", help="Only events of these types, such as 'order.*'."),
    ] = None,
    endpoint: Annotated[
        str | None, options.endpoint_option("Send its events to this endpoint alone, without routing.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="R", min=0.001, help="At most this many events per second, in each server process."
        ),
    ] = None,
    read: Annotated[bool, typer.Option("--read", help="Also allow reading deliveries.")] = False,
) -> None:
    """Create a token, and print it on standard output. It is not stored and cannot be shown again.

    Producers send it to `resonant serve` in the header `Authorization: Bearer`. To change a token, create another one and revoke
    the first.
    """
    from resonant.intake.access import token_changes

    if not _NAME.fullmatch(name):
        raise options.Misuse(
            f"{name!r} is not a valid name: use lower case letters, digits and single dashes, such as shop-eu"
        )
    if not math.isfinite(rate or 0.0):
        raise options.Misuse(f"--rate {rate} is not a number of events per second")
    scopes: dict[str, Any] = {
        "source": _glob("--source", source),
        "type": _glob("--type", event_type),
        "endpoint": None if endpoint is None else options.endpoint_name(endpoint),
        "rate": rate,
        "can_read": read,
    }
    with command_store() as store:
        name_checks.check_filters(store, scopes["endpoint"])
        text = store.change(token_changes.create, name, **scopes)
    if text is None:
        raise options.Misuse(
            f"a token is named {name!r}: choose another name, or revoke it (resonant token revoke {name})"
        )
    output.write(f"{text}\n")
    output.flush()
    output.say(f"token {name}: this is the only time that it is shown")
    if not (source or "").strip("*"):
        output.say(
            f"token {name} may use every source: it can take the ids of other producers before they do, and find out which "
            "ids they have used; --source limits it"
        )


@commands.command("list", epilog="Example: resonant token list --json")
def list_(as_json: options.Json = False) -> None:
    """List the tokens: what each may send, when it was last used, and whether it is revoked."""
    from resonant.store.shared.tokens import read_tokens

    with command_store(exists=True, named=not as_json) as store:
        found, now = store.read(read_tokens), store.now()
    _tokens(now).write(found, as_json=as_json)
    if not found and not as_json:
        output.say("no tokens; `resonant token create NAME` creates one")


@commands.command(epilog="Example: resonant token revoke shop")
def revoke(name: Name) -> None:
    """Revoke a token. Every running server refuses it within two seconds."""
    from resonant.intake.access import token_changes
    from resonant.store.shared.tokens import read_tokens

    with command_store() as store:
        is_revoked = store.change(token_changes.revoke, name)
        known = () if is_revoked else store.read(read_tokens)
    if not is_revoked:
        valid = {each.name for each in known if each.revoked_at is None}
        raise options.Misuse(f"no valid token is named {name!r}{did_you_mean(name, valid)}")
    output.write(f"revoked token {name}\n")


def _glob(option: str, text: str | None) -> str | None:
    if text is not None and not (text and text.isprintable()):
        raise options.Misuse(
            f"{option} {text!r} is not a glob: give text, where * matches any text, ? one character"
        )
    return text


def _scopes(token: Token) -> Iterator[str]:
    """Describe each restriction and right of a token."""
    for name in ("source", "type", "endpoint"):
        if value := getattr(token, name):
            yield f"{name} {value}"
    if token.rate is not None:
        yield f"{token.rate:g} events/s"
    if token.can_read:
        yield "read"


def _cards(tokens: Iterator[Token], now: float) -> Iterator[list[str]]:
    for token in tokens:
        used = "never used" if token.last_used_at is None else f"last used {ago(now - token.last_used_at)}"
        revoked = "" if token.revoked_at is None else f", revoked {rfc3339(token.revoked_at)}"
        yield [f"{token.name}{revoked}", ", ".join(_scopes(token)) or "all events", used]


def _time(at: float | None) -> str:
    return "" if at is None else rfc3339(at)


def _tokens(now: float) -> View[Token]:
    return View(
        document=documents.token,
        columns={
            "name": lambda token: token.name,
            "scopes": lambda token: ", ".join(_scopes(token)),
            "created": lambda token: _time(token.created_at),
            "last used": lambda token: _time(token.last_used_at),
            "revoked": lambda token: _time(token.revoked_at),
        },
        cards=lambda tokens: _cards(tokens, now),
    )
