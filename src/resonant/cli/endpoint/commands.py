"""``resonant endpoint``: manage endpoints. Each is a Prefect block that contains its secrets."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from resonant import documents, output
from resonant.cli import asking, name_checks, options
from resonant.cli.automation import commands as automation
from resonant.cli.command_store import CommandStore, load_endpoint, on_prefect, run_async
from resonant.cli.endpoint import deployment as endpoint_deployment
from resonant.cli.endpoint import gate as endpoint_gate
from resonant.cli.endpoint import importing
from resonant.cli.endpoint import options as given
from resonant.cli.endpoint import view as endpoint_view
from resonant.cli.subscription import given as subscription_given
from resonant.display import counted
from resonant.endpoint_settings import NETWORK
from resonant.errors import EndpointError, NotReady, UnknownEndpoint
from resonant.events import Attempt, Event, Lease, rfc3339
from resonant.events.own import TEST_SOURCE, TEST_TYPE
from resonant.sinks.signing import new_secret, public_key, scheme_of

if TYPE_CHECKING:
    from pydantic import SecretStr

    from resonant.routing import Subscription
    from resonant.settings import Settings
    from resonant.sinks.signing import Scheme

commands = typer.Typer(no_args_is_help=True)
_FOLLOW = "processes that are sending follow within a minute"


@commands.command(
    epilog="Example: resonant endpoint add billing https://hooks.example.com/billing --secret-stdin"
)
@options.grouped
def add(
    name: options.EndpointName,
    settings: given.SettingOptions,
    target: endpoint_deployment.PrefectOptions,
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="http or https; - reads it from standard input.")
    ] = None,
    secret_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-stdin",
            help="Read the signing secret (whsec_... or whsk_...) from standard input.",
            rich_help_panel=given.SIGNING,
        ),
    ] = False,
    signing: Annotated[
        Literal["ed25519"] | None,
        typer.Option(
            metavar="SCHEME",
            help="ed25519: generate a key pair, and print the public key for the receiver.",
            rich_help_panel=given.SIGNING,
        ),
    ] = None,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private",
            help="Allow private addresses, such as 127.0.0.1.",
            rich_help_panel=NETWORK,
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Change an existing endpoint, as `endpoint update` does. With --deployment or --prefect-event: replace all its settings.",
        ),
    ] = False,
    types: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOBS",
            help="Subscribe it to these event types, such as 'order.*,invoice.*', as `subscription add` does.",
        ),
    ] = None,
) -> None:
    """Save an endpoint under a name: a URL, a Prefect deployment (each event starts a run) or Prefect events (each event creates one).

    With --deployment, the endpoint is named resonant-deployment/NAME. Each run gets the whole event as the parameter `event`,
    unless --parameter maps single values. With --prefect-event, the name is resonant-prefect-event/NAME.

    Every user of the machine can see a command's arguments. Pass secrets with --secret-stdin, --header @FILE, --proxy @FILE,
    or - for a URL that contains a token.
    """
    from resonant.settings import load_settings

    if target.option is not None:
        others = {
            "URL": url,
            "--secret-stdin": secret_stdin,
            "--signing": signing,
            "--allow-private": allow_private,
        }
        name = endpoint_deployment.full_name(name, target)
        wanted = _subscription(name, types)
        changes = settings.changes(url=None, allow_private=None)
        endpoint_deployment.add(
            name, target, changes, others, overwrite=overwrite, subscribe=partial(_subscribe, wanted=wanted)
        )
        return
    if url is None:
        raise options.Misuse("give a URL, --deployment FLOW/DEPLOYMENT, or --prefect-event")
    name = _webhook_name(name)
    changes = settings.changes(url=url, allow_private=allow_private or None)
    if signing and (secret_stdin or overwrite):
        raise options.Misuse(
            "--signing cannot be combined with --secret-stdin or --overwrite: `resonant endpoint rotate-secret` gives an "
            "existing endpoint a new key"
        )
    secret = given.line_of_stdin("the signing secret") if secret_stdin else signing and new_secret(signing)
    # Unusable values are refused before a server is started. An existing endpoint may allow private addresses.
    configured = load_settings()
    changes.check(name, configured, secret=secret, may_be_private=overwrite)
    wanted = _subscription(name, types)
    check = None if overwrite else partial(name_checks.check_new, endpoint=name)
    with on_prefect(configured, before_start=check) as store:
        from resonant.blocks import WebhookEndpoint
        from resonant.blocks.catalog import save_webhook_endpoint

        if secret is not None:
            changes.fields["signing_secret"] = given.secret(secret)
        if overwrite:
            with contextlib.suppress(UnknownEndpoint):
                _update(store, name, changes)
                _subscribe(store, wanted)
                return
        block = WebhookEndpoint(
            **changes.fields,
            headers=given.secret(json.dumps(changes.headers)) if changes.headers else None,
            status_overrides=changes.overrides,
        )
        run_async(save_webhook_endpoint(name, block, overwrite=False, new_secret=block.signing_secret))
        name_checks.note_change(store, [name], "endpoint add", endpoint=name)
        output.write_paragraph(
            f"saved endpoint {name}; `resonant endpoint test {name}` sends it a test event"
        )
        if secret is not None and (public := public_key(secret)):
            output.write(f"public key: {public}\n")
        _subscribe(store, wanted)


def _subscription(name: str, types: list[str] | None) -> Subscription | None:
    if types is None:
        return None
    globs = [glob.strip() for each in types for glob in each.split(",")]
    return subscription_given.subscription(name, {"types": globs}, "--types: ")


def _subscribe(store: CommandStore, wanted: Subscription | None) -> None:
    from resonant.store.shared.subscriptions import add_subscription

    if wanted is not None:
        store.change(add_subscription, wanted)
        output.write_paragraph(output.visible(f"{wanted.endpoint} gets {wanted}"))


@commands.command(epilog="Example: resonant endpoint update billing --timeout 30")
@options.grouped
def update(
    name: options.EndpointName,
    settings: given.SettingOptions,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="http or https; - reads it from standard input.")
    ] = None,
    allow_private: Annotated[
        bool | None,
        typer.Option(
            "--allow-private/--refuse-private",
            help="Allow or refuse private addresses.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    clear: Annotated[
        list[given.Clearable] | None, typer.Option(metavar="FIELD", help=given.CLEAR_HELP)
    ] = None,
) -> None:
    """Change only the given settings of an endpoint. `rotate-secret` changes its signing secret.

    --header and --override add an entry, or replace the one with the same name.
    """
    from resonant.settings import load_settings

    name = _webhook_name(name)
    changes = settings.changes(url=url, allow_private=allow_private)
    if not (changes or clear):
        raise options.Misuse("nothing to change: `resonant endpoint update -h` lists the options")
    configured = load_settings()
    changes.check(name, configured, may_be_private=True)
    with on_prefect(configured) as store:
        _update(store, name, changes, clear=given.cleared_fields(clear))


def _update(
    store: CommandStore, name: str, changes: given.Changes, clear: Collection[str] = frozenset()
) -> None:
    from resonant.blocks.catalog import update_webhook_endpoint

    kept = run_async(
        update_webhook_endpoint(
            name, changes.fields, headers=changes.headers, overrides=changes.overrides, clear=clear
        )
    )
    settings = sorted({*changes.names, *clear})
    name_checks.note_change(store, [name], "endpoint update", endpoint=name, settings=settings)
    output.write_paragraph(f"changed endpoint {name}; kept {kept or 'nothing else'}")


def _webhook_name(name: str) -> str:
    name = options.endpoint_name(name)
    if name.startswith((options.DEPLOYMENTS, endpoint_deployment.EVENTS)):
        of_deployment = name.startswith(options.DEPLOYMENTS)
        again = "--deployment FLOW/DEPLOYMENT" if of_deployment else "--prefect-event"
        raise options.Misuse(f"`resonant endpoint add {name} {again} --overwrite` changes this endpoint")
    if "/" in name:
        raise options.Misuse(
            "only webhook endpoints can be changed here: edit other block types in the Prefect UI or in your code"
        )
    return name


commands.command("import", epilog="Example: resonant endpoint import endpoints.yaml --dry-run")(
    importing.import_
)
commands.command("list", epilog="Example: resonant endpoint list")(endpoint_view.list_)
commands.command(epilog="Example: resonant endpoint show billing")(endpoint_view.show)


@commands.command(epilog="Example: resonant endpoint test billing")
def test(name: options.EndpointName, as_json: options.Json = False) -> None:  # noqa: PT028 - a command
    """Send one event of type `resonant.test` to an endpoint without storing it, and show the outcome."""
    from resonant.delivery.wording import outcome

    name = options.endpoint_name(name)
    with on_prefect() as store:
        attempt = run_async(_test(name, store.settings))
    document = documents.endpoint_test(name, attempt)
    is_run = attempt.result == "delivered" and name.startswith(options.DEPLOYMENTS)
    said = outcome(attempt) + (f": {attempt.excerpt}" if is_run else "")  # the run and its link
    output.write_result(document, output.visible(said), as_json=as_json)
    if attempt.result != "delivered":
        raise typer.Exit(1)


commands.command(epilog='Example: resonant endpoint pause billing --reason "maintenance until 18:00"')(
    endpoint_gate.pause
)
commands.command(epilog="Example: resonant endpoint resume billing --now")(endpoint_gate.resume)


@commands.command("rotate-secret", epilog="Example: resonant endpoint rotate-secret billing > new-secret")
def rotate_secret(
    name: options.EndpointName,
    secret_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-stdin",
            help="Read the new secret (whsec_... or whsk_...) from standard input instead of generating one.",
        ),
    ] = False,
    signing: Annotated[
        Literal["hmac", "ed25519"] | None,
        typer.Option(
            metavar="SCHEME",
            help="Generate a shared secret (hmac) or a key pair (ed25519); by default, the kind that the endpoint has.",
        ),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(
            metavar="HOURS", min=0, max=8760, help="How long the old secret also signs; 0: not at all."
        ),
    ] = 24.0,
    end: Annotated[
        bool, typer.Option("--end", help="End the current rotation: stop signing with the old secret.")
    ] = False,
) -> None:
    """Rotate an endpoint's signing secret. For --overlap hours, the old secret also signs.

    The command saves the new secret, and prints on standard output what the receiver needs: the new secret, or the public
    key of an Ed25519 key. Processes that are sending use it within a minute; from then on, the receiver may switch at any
    time within the overlap.
    """
    name = options.endpoint_name(name)
    if (end and (secret_stdin or signing)) or (secret_stdin and signing):
        raise options.Misuse("--end, --secret-stdin and --signing cannot be combined")
    secret = given.secret(given.line_of_stdin("the new signing secret")) if secret_stdin else None
    now = datetime.now(UTC)
    with on_prefect() as store:
        note = partial(name_checks.note_change, store, [name], "endpoint rotate-secret", endpoint=name)
        if end:
            from resonant.blocks.catalog import end_rotation

            run_async(end_rotation(name, now=now))
            note(end=True)
            output.say(f"endpoint {name}: signs with the new secret alone; {_FOLLOW}")
            return
        until = run_async(_rotate(name, secret, signing, overlap=timedelta(hours=overlap), now=now))
        note(overlap_hours=overlap)
    if until is None:
        output.say(f"endpoint {name}: signs with the new secret alone; {_FOLLOW}")
    else:
        output.say(
            f"endpoint {name}: signs with the new and the old secret until {rfc3339(until.timestamp())}; {_FOLLOW}. "
            "Give the receiver the new secret or public key after that, and before the overlap ends"
        )


@commands.command(epilog="Example: resonant endpoint remove billing --yes")
def remove(
    name: options.EndpointName,
    yes: options.Yes = False,
) -> None:
    """Remove an endpoint, its subscriptions and its automations (`resonant automation list`).

    Its deliveries stay in the store; unfinished ones wait until it is added again. If Prefect has lost the endpoint, the command
    only records the removal, and its subscriptions stay.
    """
    name = options.endpoint_name(name)
    if not (yes or asking.can_ask()):
        raise options.Misuse("removing an endpoint needs confirmation: give --yes")
    with on_prefect() as store:
        from resonant.blocks.catalog import remove_endpoint
        from resonant.blocks.documents import require_endpoint

        try:
            if not yes:
                run_async(require_endpoint(name))
                asking.confirm(
                    f"removing endpoint {name} and its subscriptions: its deliveries stay in the store, and wait until it is added again",
                    "Remove?",
                )
            run_async(remove_endpoint(name))
        except UnknownEndpoint:
            if not name_checks.is_in_audit(store, name):
                raise
            _record_removal(store, name)
            return
        gone = name_checks.forget(store, [name])
        name_checks.note_change(store, [], "endpoint remove", endpoint=name)
        automation.forget_endpoints(store, [name])
    subscriptions = f" and {counted(gone, 'subscription')}" if gone else ""
    output.write(f"removed endpoint {name}{subscriptions}\n")


def _record_removal(store: CommandStore, name: str) -> None:
    """Record that Prefect lost an endpoint. Its subscriptions stay: another Prefect server may have the endpoint."""
    from resonant.store.shared.subscriptions import read_subscriptions

    kept = len(store.read(read_subscriptions, name))
    if not name_checks.note_change(store, [], "endpoint remove", endpoint=name):
        raise typer.Exit(1)
    if not kept:
        name_checks.forget(store, [name])
    stay = counted(kept, "subscription stays", "subscriptions stay")
    kept_too = f"; its {stay}: see `resonant subscription list --endpoint {name}`" if kept else ""
    output.write_paragraph(f"Prefect has no endpoint {name}; recorded its removal{kept_too}", indent=2)


async def _test(name: str, settings: Settings) -> Attempt:
    from resonant.blocks import DeploymentEndpoint
    from resonant.delivery.attempt import AttemptRunner
    from resonant.delivery.trace import AttemptSpans

    block = await load_endpoint(name)
    for warning in await block.verify(name):
        output.say(f"endpoint {name}: {warning}")
    if isinstance(block, DeploymentEndpoint):
        block = block.without_wait()
    destination = block.open(name)
    event = Event(type=TEST_TYPE, source=TEST_SOURCE, data={"test": True})
    now = time.time()
    lease = Lease(0, 0, "endpoint-test", event, name, round_started_at=now, accepted_at=now)
    try:
        spans = AttemptSpans(settings.trace)
        runner = AttemptRunner(clock=time.time, rng=random.Random(), spans=spans)
        if destination.prepare is not None:
            with contextlib.suppress(NotReady):  # the attempt reports it
                await destination.prepare()
        report = await runner.attempt(lease, destination)
    finally:
        await destination.close()
    return report.attempt


async def _rotate(
    name: str, given_secret: SecretStr | None, signing: Scheme | None, *, overlap: timedelta, now: datetime
) -> datetime | None:
    """Rotate a secret, and print it, even if it is unknown whether it was saved. A given one is not printed."""
    import asyncio

    from resonant.blocks.catalog import rotate_secret

    block = await load_endpoint(name)  # if no server answers, nothing can be saved
    current = getattr(block, "signing_secret", None)
    scheme = signing or scheme_of(current.get_secret_value() if current else "")
    secret = given_secret or given.secret(new_secret(scheme))
    for_receiver = public_key(secret.get_secret_value()) or (
        "" if given_secret else secret.get_secret_value()
    )
    try:
        until = await rotate_secret(name, secret, overlap=overlap, now=now)
    except EndpointError:
        raise  # nothing was saved
    except (Exception, asyncio.CancelledError) as error:
        # Prefect may have saved the secret, and only its answer is lost.
        _print(for_receiver)
        again = f"Run the command again with it: `resonant endpoint rotate-secret {name} --secret-stdin`"
        if public_key(secret.get_secret_value()):
            again = f"`resonant endpoint show {name}` shows the saved public keys"
        said = (
            f"endpoint {name!r}: the answer to the save is missing ({type(error).__name__}), so the new secret may be "
            f"saved. {again}"
        )
        if isinstance(error, asyncio.CancelledError):
            raise output.Interrupted(said) from None
        raise EndpointError(said) from error
    _print(for_receiver)
    return until


def _print(for_receiver: str) -> None:
    if for_receiver:
        output.write(f"{for_receiver}\n")
        output.flush()
