"""``resonant subscription``: manage the subscriptions of endpoints."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import completion, filters, name_checks, options
from resonant.cli.command_store import command_store
from resonant.cli.subscription import given, trial
from resonant.display import counted
from resonant.routing.globs import WILDCARDS

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.routing import Subscription
    from resonant.store.views.selection import Selection

commands = typer.Typer(no_args_is_help=True)
# The commands shown after a removal; `--json` has all.
_MOST_SHOWN = 10
_NONE = "no subscriptions: `resonant subscription add ENDPOINT TYPE_GLOB` adds one"


@commands.command(epilog="Example: resonant subscription add shop 'order.*' --source '/eu/*'")
def add(
    endpoint: Annotated[
        str,
        typer.Argument(metavar="ENDPOINT", help="The endpoint's name.", autocompletion=completion.endpoints),
    ],
    types: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE_GLOB",
            help="Event types, such as 'order.*'; '*' is every type except Resonant's own, and the default with --source or --filter.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="GLOB", help="Only events of these sources, such as '/eu/*'.")
    ] = None,
    filter_: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="JSON",
            help="Only events for which this CloudEvents filter is true; repeatable. @FILE reads it from a file.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Subscribe an endpoint to events: it gets a delivery of each future event that matches.

    This concerns events that are stored without naming an endpoint. An event matches if its type matches one of the globs, its
    source matches --source, and every --filter is true. In a glob, * matches any text and ? one character.

    A filter has one of the dialects exact, prefix, suffix, all, any and not, as in {"not": {"exact": {"subject": "test"}}}. It
    sees the attributes of an event, never its data.
    """
    from resonant.store.shared.subscriptions import add_subscription

    name = options.endpoint_name(endpoint)
    if not (types or filter_) and source is None:
        raise options.Misuse(
            f"which events should {name} get? Give their types, such as 'order.*', or '*' for every type"
        )
    terms = {"types": types, "source": source, "filters": given.filters(filter_ or [])}
    wanted = given.subscription(name, terms)
    with command_store() as store:
        name_checks.check_endpoint(store, name)
        found, is_new = store.change(add_subscription, wanted)
    text = f"added {found.id}: {name} gets {found}" if is_new else f"{found.id} exists: {name} gets {found}"
    document = documents.subscription(found) | {"added": is_new}
    output.write_result(document, output.visible(text), as_json=as_json)


@commands.command("list", epilog="Example: resonant subscription list --endpoint shop")
def list_(
    endpoint: filters.Endpoint = None,
    as_json: options.Json = False,
) -> None:
    """List the subscriptions, sorted by endpoint."""
    from resonant.store.shared.subscriptions import read_subscriptions

    with command_store(exists=True, named=not as_json) as store:
        name = None if endpoint is None else options.endpoint_name(endpoint)
        name_checks.check_filters(store, name)
        found = store.read(read_subscriptions, name)
    if as_json:
        output.write_json_array(output.to_json(documents.subscription(each)) for each in found)
    elif found:
        output.write_table(("id", "endpoint", "types", "source", "filters"), list(map(_cells, found)))
    else:
        output.say(_NONE)


def _cells(of: Subscription) -> list[str]:
    filters = " ".join(map(output.to_json, of.filters)) or "-"
    cells = (of.id, of.endpoint, " ".join(of.types) or "*", of.source or "*", filters)
    return [output.visible(cell) for cell in cells]


@commands.command(epilog="Example: resonant subscription show sub_3f9a")
def show(
    subscription_id: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The subscription's id, or a unique prefix of it.",
            autocompletion=completion.subscriptions,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show one subscription."""
    from resonant.store.shared.subscriptions import read_subscriptions

    with command_store(exists=True, named=not as_json) as store:
        found = given.find(store.read(read_subscriptions), subscription_id)
    text = output.visible(f"{found.id}: {found.endpoint} gets {found}")
    output.write_result(documents.subscription(found), text, as_json=as_json)


@commands.command(epilog="Example: resonant subscription remove sub_3f9a")
def remove(
    ids: Annotated[
        list[str],
        typer.Argument(
            metavar="ID",
            help="Ids of subscriptions, or unique prefixes of them.",
            autocompletion=completion.subscriptions,
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Remove subscriptions. This concerns future events only: deliveries that are stored stay, and are sent."""
    from resonant.store.shared.subscriptions import read_subscriptions, remove_subscriptions

    with command_store(exists=True) as store:
        known = store.read(read_subscriptions)
        found = {each.id: each for each in (given.find(known, each) for each in ids)}
        store.change(remove_subscriptions, list(found))
        unfinished, shared = store.read(_unfinished, list(found.values()))
    if as_json:
        output.write(output.to_json(documents.subscriptions_removed(found, unfinished, shared)) + "\n")
        return
    for each in found.values():
        output.write_paragraph(output.visible(f"removed {each.id}: {each.endpoint} got {each}"), indent=2)
    for command, number in list(unfinished.items())[:_MOST_SHOWN]:
        waiting = counted(number, "delivery is", "deliveries are")
        text = (
            f"{waiting} unfinished: `{command}` cancels them, also those of producers that named the endpoint"
        )
        output.write_paragraph(output.visible(text), indent=2)
    if more := list(unfinished.values())[_MOST_SHOWN:]:
        output.write(f"{sum(more):,} more are unfinished, of {len(more):,} other types\n")
    if shared:
        waiting = counted(shared, "delivery is", "deliveries are")
        output.write_paragraph(
            f"{waiting} unfinished and of a type that another subscription of the endpoint matches", indent=2
        )


def _unfinished(connection: Connection, removed: list[Subscription]) -> tuple[dict[str, int], int]:
    """Count the unfinished deliveries that the subscriptions may have caused.

    Returns:
        Their numbers, by the command that cancels them; and the number of those that a remaining subscription may have
        caused, which no command cancels.
    """
    from resonant.dead_letters.cancel import unfinished_by_type
    from resonant.routing import Router
    from resonant.store.shared.subscriptions import read_subscriptions
    from resonant.store.views.selection import Selection

    found: dict[str, int] = {}
    shared: dict[tuple[str, str], int] = {}
    for each in removed:
        others = Router(read_subscriptions(connection, each.endpoint))
        source = None if each.source is None or WILDCARDS & set(each.source) else each.source
        for glob in each.types or [None]:
            selection = Selection(endpoint=each.endpoint, event_type=glob, source=source)
            numbers = unfinished_by_type(connection, selection)
            of_others = {name: number for name, number in numbers.items() if others.may_want(name)}
            if of_others:
                # The command would take them as globs, which may match the types of the others.
                of_others |= {name: number for name, number in numbers.items() if WILDCARDS & set(name)}
            shared |= {(each.endpoint, name): number for name, number in of_others.items()}
            if of_others:
                for name in sorted(numbers.keys() - of_others.keys()):
                    found[_cancelling(selection.model_copy(update={"event_type": name}))] = numbers[name]
            elif numbers:
                found[_cancelling(selection)] = sum(numbers.values())
    return found, sum(shared.values())


def _cancelling(selection: Selection) -> str:
    options = {"--type": selection.event_type, "--source": selection.source}
    given = [f" {name} {shlex.quote(value)}" for name, value in options.items() if value is not None]
    return f"resonant cancel --endpoint {selection.endpoint}{''.join(given)}"


commands.command("test", epilog="Example: resonant subscription test order.json")(trial.try_one)
