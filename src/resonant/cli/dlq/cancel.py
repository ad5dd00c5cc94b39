"""``resonant cancel``: give up unfinished deliveries."""

from typing import Annotated

import typer

from resonant import documents, output
from resonant.cli import asking, filters, name_checks, options
from resonant.display import counted


@options.grouped
def cancel(
    *,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Event ids.")] = None,
    where: filters.Filters,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Select every unfinished delivery; required without ids or a filter."),
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Give up unfinished deliveries: they become dead letters with reason cancelled, which can be replayed.

    Asks for confirmation on a terminal. --since and --until select by acceptance time. Deliveries that are being sent are
    not cancelled.
    """
    from resonant.cli.command_store import command_store, who_runs_this
    from resonant.dead_letters.cancel import cancel as cancel_deliveries
    from resonant.dead_letters.cancel import cancellable

    with command_store(exists=True) as store:
        selection = where.selection(store, ids=ids or ())
        if selection.is_empty and not everything:
            raise options.Misuse("no deliveries selected: give ids, a filter or --all")
        name_checks.check_ids(store, selection.ids, selection.source)
        ask = asking.can_ask() and not yes
        if dry_run or ask:
            expected = store.read(cancellable, selection)
        if dry_run:
            output.write_result(documents.cancellable(expected), str(expected), as_json=as_json)
            return
        if ask and expected.number:
            asking.confirm(f"{expected}, and can be replayed later", "Give up?")
        cancelled = store.run(lambda opened: cancel_deliveries(opened, selection, who=who_runs_this()))
    said = f"{counted(cancelled, 'delivery', 'deliveries')} given up"
    output.write_result(documents.cancelled(cancelled), said, as_json=as_json)
