"""``resonant endpoint``: where events go. Endpoints are Prefect blocks, and their secrets live there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Annotated

import typer

from resonant.cli import options, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.classify import Category
    from resonant.settings import Settings

_commands = typer.Typer(no_args_is_help=True)
_SECRET_BYTES = 32  # Standard Webhooks wants 24 to 64
_SECONDS_PER_HOUR = 3600
Name = Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(
        _commands,
        name="endpoint",
        help="Say where events go: add, list, show, test, rotate-secret, remove.",
        rich_help_panel=options.RUN,
        epilog="Example: resonant endpoint add billing https://hooks.example.com/billing",
    )


@contextlib.contextmanager
def _prefect() -> Iterator[Settings]:
    """Have a server to ask, and the project's blocks at hand."""
    from resonant.cli.project import make_flows_importable
    from resonant.cli.server import prefect_server
    from resonant.settings import load_settings

    settings = load_settings()
    make_flows_importable()
    with prefect_server(settings):
        yield settings


@_commands.command(
    epilog="Example: resonant endpoint add billing https://hooks.example.com/billing --secret-stdin"
)
def add(
    name: Name,
    url: Annotated[str, typer.Argument(metavar="URL", help="http or https; - reads it from standard input.")],
    header: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:VALUE", help="Sent with every event; may be given again. @FILE reads from a file."
        ),
    ] = None,
    secret_stdin: Annotated[
        bool,
        typer.Option("--secret-stdin", help="Read the signing secret (whsec_...) from standard input."),
    ] = False,
    policy: options.Policy = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.001, max=600, help="Deadline of one attempt.")
    ] = 15.0,
    concurrency: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Sends at the same time, instead of the common limit."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS=CATEGORY",
            help="e.g. 404=transient; transient, permanent or unknown. May be given again.",
        ),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Allow private addresses, such as 127.0.0.1.")
    ] = False,
    ca_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Certificates (PEM) to trust instead of the public ones."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the endpoint of this name.")
    ] = False,
) -> None:
    """Save an endpoint under a name.

    Secrets do not belong in a command's arguments, which every user of the machine can see: give them by
    --secret-stdin, --header @FILE, or - for a URL that holds a token.
    """
    from pydantic import SecretStr

    name = options.endpoint_name(name)
    if "/" in name:
        raise options.Misuse(
            "endpoints of other block types are made in the Prefect UI, or by their own code"
        )
    headers = dict(_header(text) for text in header or [])
    overrides = dict(_override(text) for text in override or [])
    if url == "-":
        url = _line_of_stdin("the URL")
    secret = SecretStr(_line_of_stdin("the signing secret")) if secret_stdin else None
    with _prefect() as settings:
        from blocks import WebhookEndpoint
        from blocks.catalog import save_webhook_endpoint

        block = WebhookEndpoint(
            url=SecretStr(url),
            headers=SecretStr(json.dumps(headers)) if headers else None,
            signing_secret=secret,
            policy=options.known_policy(policy, settings) if policy else None,
            timeout=timeout,
            concurrency=concurrency,
            status_overrides=overrides,
            allow_private=allow_private,
            ca_file=ca_file,
        )
        asyncio.run(save_webhook_endpoint(name, block, overwrite=overwrite))
    output.write(f"saved endpoint {name}; `resonant endpoint test {name}` sends it a test event\n")


@_commands.command("list", epilog="Example: resonant endpoint list")
def list_(as_json: options.Json = False) -> None:
    """List the endpoints; URLs are secret, and not shown."""
    from resonant.errors import EndpointError

    with _prefect():
        from blocks.catalog import list_endpoints

        found = asyncio.run(list_endpoints())
    problems = {name: str(block) for name, block in found if isinstance(block, EndpointError)}
    rows = [{"name": name, **_shown(block)} for name, block in found if name not in problems]
    if as_json:
        broken = [{"name": name, "problem": problem} for name, problem in problems.items()]
        output.write_json_array(map(output.to_json, [*rows, *broken]))
        return
    if rows:
        # Each block type has fields of its own.
        columns = list(dict.fromkeys(name for row in rows for name in row))
        output.write_table(columns, [[_cell(row.get(name)) for name in columns] for row in rows])
    for name, problem in problems.items():
        output.say(f"endpoint {name} cannot be used: {problem}")
    if not found:
        output.say("no endpoints: `resonant endpoint add NAME URL` makes one")


@_commands.command(epilog="Example: resonant endpoint show billing")
def show(name: Name, as_json: options.Json = False) -> None:
    """Show how an endpoint is configured; of secrets, only whether they are set."""
    from resonant.cli.running import run_with_store
    from resonant.events import rfc3339

    name = options.endpoint_name(name)
    with _prefect() as settings:
        from blocks import load_endpoint

        shown = {"name": name, **_shown(asyncio.run(load_endpoint(name)))}
        gone_at = run_with_store(lambda store: store.gone_at(name), settings)
        shown["gone_since"] = None if gone_at is None else rfc3339(gone_at)
    if as_json:
        output.write(output.to_json(shown) + "\n")
        return
    for key, value in shown.items():
        output.write(f"{key}: {_cell(value)}\n")


@_commands.command(epilog="Example: resonant endpoint test billing")
def test(name: Name) -> None:
    """Send one event of type `resonant.test` to an endpoint, once, past the store; say what it answered."""
    name = options.endpoint_name(name)
    with _prefect():
        answer = asyncio.run(_test(name))
    output.write(f"{answer}\n")
    if not answer.startswith("delivered"):
        raise typer.Exit(1)


@_commands.command("rotate-secret", epilog="Example: resonant endpoint rotate-secret billing > new-secret")
def rotate_secret(
    name: Name,
    secret_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-stdin", help="Read the new secret (whsec_...) from standard input; else one is made."
        ),
    ] = False,
    keep_old: Annotated[
        float,
        typer.Option(
            metavar="HOURS", min=0, max=8760, help="How long the old one signs too; 0 stops it at once."
        ),
    ] = 24.0,
    end: Annotated[
        bool, typer.Option("--end", help="End the rotation that is under way: the old secret signs no more.")
    ] = False,
) -> None:
    """Let a new secret sign an endpoint's events; for a time the old one signs them too, then it stops by itself.

    First both are saved. Then the command waits until every run that is under way signs with both, and only then prints
    the new secret, alone, on standard output: from here on the receiver may change over whenever it likes.
    """
    from pydantic import SecretStr

    name = options.endpoint_name(name)
    if end and secret_stdin:
        raise options.Misuse("--end takes no new secret")
    secret = SecretStr(_line_of_stdin("the new signing secret") if secret_stdin else _new_secret())
    with _prefect() as settings:
        from resonant.cli.rotating import end_rotation, rotate

        if end:
            end_rotation(name, settings)
        else:
            rotate(name, secret, settings, keep_old=keep_old * _SECONDS_PER_HOUR, show=not secret_stdin)


@_commands.command(epilog="Example: resonant endpoint remove billing --yes")
def remove(name: Name, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Remove an endpoint. Its deliveries stay in the store; unfinished ones wait until it is there again."""
    name = options.endpoint_name(name)
    if not yes:
        import sys

        if not sys.stdin.isatty():
            raise options.Misuse("removing an endpoint is asked for on a terminal, or confirmed by --yes")
        typer.confirm(f"Remove endpoint {name}?", abort=True)
    with _prefect():
        from blocks.catalog import remove_endpoint

        asyncio.run(remove_endpoint(name))
    output.write(f"removed endpoint {name}\n")


async def _test(name: str) -> str:
    import random
    import time

    from blocks import load_endpoint
    from resonant.courier import Courier
    from resonant.events import Lease, make_event

    target = (await load_endpoint(name)).open(name)
    event = make_event(type="resonant.test", source="/resonant/endpoint-test", data={"test": True})
    now = time.time()
    lease = Lease(0, 0, "endpoint-test", event, name, round_started_at=now, accepted_at=now)
    try:
        report = await Courier(clock=time.time, rng=random.Random()).attempt(lease, target)
    finally:
        await target.close()
    attempt = report.attempt
    took = f"in {attempt.duration * 1000:.0f} ms"
    if report.decision is None:
        return f"delivered {took}" + (f", answered {attempt.status_code}" if attempt.status_code else "")
    return f"failed {took}: {attempt.category} {attempt.code}: {attempt.error}"


def _shown(block: object) -> dict[str, object]:
    """Return an endpoint's configuration without its secrets."""
    from pydantic import SecretStr

    shown: dict[str, object] = {"type": type(block).get_block_type_slug()}  # type: ignore[attr-defined]
    for name in type(block).model_fields:  # type: ignore[attr-defined]
        value = getattr(block, name)
        if isinstance(value, SecretStr) or hasattr(value, "get_secret_value"):
            shown[name] = "set" if value.get_secret_value() else None
        else:
            shown[name] = (
                str(value) if value is not None and not isinstance(value, int | float | dict) else value
            )
    return shown


def _cell(value: object) -> str:
    if value is None or value == {}:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _header(text: str) -> tuple[str, str]:
    if text.startswith("@"):
        from pathlib import Path

        try:
            text = Path(text[1:]).read_text().strip()
        except OSError as error:
            raise options.Misuse(f"--header {text}: {error.strerror}") from None
    name, colon, value = text.partition(":")
    if not colon:
        raise options.Misuse("--header must be NAME:VALUE")
    return name.strip(), value.strip()


def _override(text: str) -> tuple[int, Category]:
    status, _, category = text.partition("=")
    if not (status.isascii() and status.isdigit() and 100 <= int(status) <= 599):  # noqa: PLR2004 - HTTP's range
        raise options.Misuse(f"--override {text!r} must be STATUS=CATEGORY, as in 404=transient")
    for known in ("transient", "permanent", "unknown"):
        if category == known:
            return int(status), known
    raise options.Misuse(f"--override {text!r}: the category is transient, permanent or unknown")


def _new_secret() -> str:
    import base64
    import secrets

    return f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()}"


def _line_of_stdin(what: str) -> str:
    import getpass
    import sys

    line = getpass.getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not line.strip():
        raise options.Misuse(f"{what} was to come from standard input, which is empty")
    return line.strip()
