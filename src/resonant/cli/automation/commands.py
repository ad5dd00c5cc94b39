"""``resonant automation``: manage events about failed flow runs of a Prefect server."""

import time
from collections.abc import Collection
from enum import StrEnum
from typing import Annotated

import typer

from resonant import documents, output
from resonant.cli import completion, options
from resonant.cli.command_store import CommandStore, command_store, on_prefect, run_async
from resonant.display import ago, counted
from resonant.suggestions import did_you_mean

commands = typer.Typer(no_args_is_help=True)
_NONE = "no automation is enabled: `resonant automation enable failed-runs --endpoint NAME` enables one"


class Name(StrEnum):
    """The automations that can be enabled."""

    FAILED_RUNS = "failed-runs"


What = Annotated[Name, typer.Argument(metavar="NAME", help="failed-runs: an event for each failed flow run.")]
Endpoint = Annotated[
    str,
    typer.Option(
        metavar="NAME", help="The endpoint that gets the events.", autocompletion=completion.endpoints
    ),
]
Flow = Annotated[
    str,
    typer.Option(metavar="GLOB", help="Only runs of these flows, such as 'import-*'.", show_default=False),
]
Tag = Annotated[str, typer.Option(metavar="TAG", help="Only runs with this tag.", show_default=False)]

AllServers = Annotated[
    bool, typer.Option("--all-servers", help="List those of other Prefect servers on the same store, too.")
]
Server = Annotated[
    str,
    typer.Option(
        metavar="ID",
        help="The id of another Prefect server, such as one that no longer exists; `list --all-servers` shows it.",
        show_default=False,
    ),
]


@commands.command(epilog="Example: resonant automation enable failed-runs --endpoint ops --flow 'import-*'")
def enable(
    _name: What, endpoint: Endpoint, flow: Flow = "", tag: Tag = "", as_json: options.Json = False
) -> None:
    """Send an endpoint an event for each flow run that fails, crashes, times out or is late from now on.

    An automation of the Prefect server starts the deployment report-failed-runs at once, and its schedule finds the runs that the
    automation missed. An event is stored once. Runs of Resonant's own flows are never reported.
    """
    from resonant.store.shared.run_watches import RunWatch, add_watch, read_watches

    watched = options.endpoint_name(endpoint), _text("--flow", flow), _text("--tag", tag)
    with on_prefect() as store:
        from deployments import reports
        from resonant.blocks.documents import require_endpoint

        run_async(require_endpoint(endpoint))
        run_async(reports.check_deployed())
        known = run_async(reports.read_flow_names())
        watch = RunWatch(*watched, run_async(reports.this_server()))
        since = run_async(reports.server_now(time.time, output.say))
        is_new = store.change(add_watch, watch, since=since)
        watches = store.read(read_watches, watch.server)
        run_async(reports.start_for(watches))
    found = next(each for each in watches if each.selection == watch.selection)
    if flow and not any(map(watch.matches_flow, known)):
        output.say(output.visible(f"no flow is named {flow!r} yet{did_you_mean(flow, known)}"))
    text = f"{'enabled' if is_new else 'enabled before'}: {watch.endpoint} gets {watch}"
    document = documents.run_watch(found) | {"added": is_new}
    output.write_result(document, output.visible(text), as_json=as_json)


@commands.command("list", epilog="Example: resonant automation list --json")
def list_(all_servers: AllServers = False, as_json: options.Json = False) -> None:
    """List the enabled automations, and the time until which all failed runs are stored, usually ten minutes ago.

    Other Prefect servers on the same store have their own automations.
    """
    from resonant.store.shared.run_watches import read_watches

    problem = None
    if all_servers:
        with command_store(exists=True, named=not as_json) as store:
            now = store.now()
            found = every = store.read(read_watches)
    else:
        with on_prefect(named=not as_json, exists=True) as store:
            from deployments import reports

            server = run_async(reports.this_server())
            now = run_async(reports.server_now(time.time, output.say))
            found, every = store.read(read_watches, server), store.read(read_watches)
            problem = run_async(reports.problem()) if found else None
    if as_json:
        output.write_json_array(output.to_json(documents.run_watch(each, problem)) for each in found)
    elif found:
        rows = [
            (
                Name.FAILED_RUNS,
                each.endpoint,
                each.flow or "*",
                each.tag or "-",
                ago(now - each.watermark),
                each.server or "-",
            )
            for each in found
        ]
        output.write_table(
            ("automation", "endpoint", "flow", "tag", "stored until", "server"),
            [[output.visible(cell) for cell in row] for row in rows],
        )
    else:
        output.say(_NONE)
    if problem:
        output.say(f"no failed runs are reported: {problem}")
    if others := len(every) - len(found):
        what = f"{counted(others, 'automation')} of other Prefect servers"
        output.say(f"{what}: `resonant automation list --all-servers`")


@commands.command(epilog="Example: resonant automation disable failed-runs --endpoint ops --flow 'import-*'")
def disable(
    _name: What,
    endpoint: Endpoint,
    flow: Flow = "",
    tag: Tag = "",
    server: Server = "",
    as_json: options.Json = False,
) -> None:
    """End the automation that `enable` started with the same options. Stored events are still sent."""
    from resonant.store.shared.run_watches import RunWatch, read_watches, remove_watch

    watch = RunWatch(options.endpoint_name(endpoint), flow, tag)
    with on_prefect() as store:
        from deployments import reports

        this = run_async(reports.this_server())
        watches = store.read(read_watches, server or this)
        found = next((each for each in watches if each.selection == watch.selection), None)
        if found is None:
            see = f"resonant automation list{' --all-servers' if server else ''}"
            raise options.Misuse(f"not enabled: {watch.endpoint} does not get {watch}: see `{see}`")
        store.change(remove_watch, found)
        run_async(reports.start_for(store.read(read_watches, this)))
    text = f"disabled: {watch.endpoint} no longer gets {watch}"
    output.write_result(documents.run_watch(found), output.visible(text), as_json=as_json)


def forget_endpoints(store: CommandStore, names: Collection[str]) -> None:
    """Disable everything for endpoints that are removed, within ``on_prefect``."""
    from deployments import reports
    from resonant.store.shared.run_watches import read_watches, remove_watches_of

    server = run_async(reports.this_server())
    gone = {each.endpoint for each in store.read(read_watches, server)} & set(names)
    for name in gone:
        store.change(remove_watches_of, name, server)
    if gone:
        run_async(reports.start_for(store.read(read_watches, server)))


def _text(option: str, value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise options.Misuse(
            f"{option} {value!r} is not a name: give printable text without spaces around it"
        )
    return value
