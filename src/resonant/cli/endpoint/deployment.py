"""``resonant endpoint add --deployment`` and ``--prefect-event``: endpoints on a Prefect server."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import output
from resonant.cli import name_checks, options
from resonant.cli.command_store import on_prefect, run_async
from resonant.endpoint_settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from resonant.cli.command_store import CommandStore
    from resonant.cli.endpoint.options import Changes

EVENTS = "resonant-prefect-event/"
_PANEL = "Prefect"
# The settings of a webhook endpoint that this one has, too.
_SHARED = {"policy", "timeout", "concurrency", "rate"}
# An endpoint that is added again keeps these.
_WITHOUT_OPTIONS = ("api_url", "api_key", "auth_string")


@dataclass(frozen=True)
class PrefectOptions:
    """The options of ``endpoint add`` for endpoints on a Prefect server."""

    deployment: Annotated[
        str | None,
        typer.Option(
            metavar="FLOW/DEPLOYMENT",
            help="Start a run of this Prefect deployment for each event, instead of sending to a URL.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=POINTER",
            help="A parameter of the flow and the JSON pointer of its value in the event, such as order=/data/order; repeatable. "
            "By default, event= (the whole event).",
            rich_help_panel=_PANEL,
        ),
    ] = None
    as_text: Annotated[
        bool,
        typer.Option(
            "--as-text", help="Give the parameters as JSON text, for type str.", rich_help_panel=_PANEL
        ),
    ] = False
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", help="A tag of the runs; repeatable.", rich_help_panel=_PANEL),
    ] = None
    work_queue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="An existing work queue, instead of the deployment's.",
            rich_help_panel=_PANEL,
        ),
    ] = None

    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Deliver an event only when its run has completed; retry with a new run if it fails.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    wait_at_most: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="With --wait, the longest wait for the end of a run; a day by default.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    prefect_event: Annotated[
        bool,
        typer.Option(
            "--prefect-event",
            help="Make a Prefect event of each event, for automations, instead of sending to a URL.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    @property
    def option(self) -> str | None:
        """The option that selects the kind of endpoint; None for a URL.

        Raises:
            Misuse: both kinds are given, or another option needs --deployment.
        """
        if self.deployment is not None:
            if self.prefect_event:
                raise options.Misuse("--deployment cannot be combined with --prefect-event")
            return "--deployment"
        if given := next(
            (name for name, value in vars(self).items() if value and name != "prefect_event"), None
        ):
            raise options.Misuse(f"--{given.replace('_', '-')} needs --deployment FLOW/DEPLOYMENT")
        return "--prefect-event" if self.prefect_event else None


def full_name(name: str, target: PrefectOptions) -> str:
    """Return the name of an endpoint on a Prefect server, with its block type.

    Raises:
        Misuse: invalid, or with another block type.
    """
    prefix = EVENTS if target.prefect_event else options.DEPLOYMENTS
    name = options.endpoint_name(name.removeprefix(prefix))
    if "/" in name:
        raise options.Misuse(f"endpoint {name!r}: with {target.option}, give a name without a block type")
    return prefix + name


def add(
    name: str,
    target: PrefectOptions,
    changes: Changes,
    others: Mapping[str, object],
    *,
    overwrite: bool,
    subscribe: Callable[[CommandStore], None],
) -> None:
    """Check that Prefect answers, and that a deployment exists and takes the parameters; save the endpoint.

    Args:
        name: its full name.
        target: the options for Prefect.
        changes: the settings that it may share with webhook endpoints.
        others: options that it does not have, and whether they are given.
        overwrite: whether it may exist.
        subscribe: called with the store at the end.
    """
    from resonant.settings import load_settings

    given = [option for option, value in others.items() if value]
    given += [SETTINGS[field].option for field in sorted(changes.names - _SHARED)]
    if given:
        raise options.Misuse(f"{target.option} cannot be combined with {given[0]}")
    configured = load_settings()
    options.known_policy(changes.fields.get("policy"), configured)
    fields = changes.fields | ({} if target.prefect_event else _fields(target))
    check = None if overwrite else partial(name_checks.check_new, endpoint=name)
    with on_prefect(configured, before_start=check) as store:
        warnings = run_async(_save(name, fields, overwrite=overwrite))
        name_checks.note_change(store, [name], "endpoint add", endpoint=name)
        for warning in warnings:
            output.say(f"endpoint {name}: {warning}")
        tried = "makes a Prefect event of" if target.prefect_event else "starts a run with"
        output.write_paragraph(f"saved endpoint {name}; `resonant endpoint test {name}` {tried} a test event")
        subscribe(store)


def _fields(target: PrefectOptions) -> dict[str, Any]:
    parameters: dict[str, str] = {}
    for text in target.parameter or []:
        parameter, equals, pointer = text.partition("=")
        if not (parameter and equals) or pointer[:1] not in {"", "/"}:
            raise options.Misuse(f"--parameter {text!r} must be NAME=POINTER, such as order=/data/order")
        parameters[parameter] = pointer
    if target.wait_at_most is not None and not target.wait:
        raise options.Misuse("--wait-at-most needs --wait")
    return {
        "deployment": target.deployment,
        "parameters": parameters,
        "as_text": target.as_text,
        "tags": target.tag or [],
        "work_queue": target.work_queue,
        "wait": target.wait,
        **({} if target.wait_at_most is None else {"wait_at_most": target.wait_at_most}),
    }


async def _save(name: str, fields: dict[str, Any], *, overwrite: bool) -> list[str]:
    from pydantic import ValidationError

    from resonant.blocks import DeploymentEndpoint, PrefectEventEndpoint
    from resonant.blocks.documents import endpoint_documents
    from resonant.errors import EndpointError
    from resonant.settings import first_problem

    existing = (await endpoint_documents(include_secrets=True)).get(name)
    if existing and not overwrite:
        raise EndpointError(f"endpoint {name!r} exists: --overwrite changes it")
    if existing:
        fields = fields | {field: existing.data.get(field) for field in _WITHOUT_OPTIONS}
    kind = PrefectEventEndpoint if name.startswith(EVENTS) else DeploymentEndpoint
    try:
        block = kind(**fields)
    except ValidationError as error:
        place, problem = first_problem(error)
        raise options.Misuse(f"--{str(place[0]).replace('_', '-')}: {problem}") from None
    warnings = await block.verify(name)
    await block.asave(name.partition("/")[2], overwrite=overwrite)
    return warnings
