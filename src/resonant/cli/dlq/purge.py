"""``resonant purge``: remove final deliveries permanently."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import asking, filters, options

if TYPE_CHECKING:
    from resonant.cli.command_store import CommandStore
    from resonant.dead_letters.purge import Chosen, Retention
    from resonant.settings import Settings
    from resonant.store.views.selection import Selection


@options.grouped
def purge(
    *,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            min=0,
            help="Remove dead letters older than this; 0: all. Required without a filter.",
        ),
    ] = None,
    delivered_older_than: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, help="Also remove successful deliveries older than this; kept by default."
        ),
    ] = None,
    where: filters.DeadLetterFilters,
    archive: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write deliveries to this new file before removing them, instead of one in the archive folder; compressed "
            "if the name ends in .gz. If it exists, a number is added to the name.",
        ),
    ] = None,
    no_archive: Annotated[
        bool, typer.Option("--no-archive", help="Remove deliveries without an archive.")
    ] = False,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Remove final deliveries permanently, with their history: old ones, or the dead letters that the filters select.

    On a terminal, the command shows the numbers and asks for confirmation. Elsewhere, filters and an age of 0 need --yes,
    and a purge by age alone runs without it, so that scheduled purges work.

    Deliveries are first written to an archive, a new file for each purge, in the folder of the daily purge unless --archive or
    --no-archive is given.

    Retention by reason and by endpoint (RESONANT_RETENTION_BY_REASON, RESONANT_RETENTION_BY_ENDPOINT) overrides
    --older-than. It does not apply if there is a filter.
    """
    from resonant.cli.command_store import command_store, who_runs_this
    from resonant.cli.progress import progress
    from resonant.dead_letters.purge import archive_path, time_of_purge
    from resonant.dead_letters.purge import purge as purge_deliveries

    if not math.isfinite(older_than or 0.0) or not math.isfinite(delivered_older_than or 0.0):
        raise options.Misuse("an age in days must be a finite number")
    if archive == "":
        raise options.Misuse("--archive is empty")
    if archive is not None and no_archive:
        raise options.Misuse("--archive cannot be combined with --no-archive")
    with command_store(exists=True) as store:
        selection = where.selection(store)
        what = _what(store.settings, selection, older_than, delivered_older_than)
        now = store.run(time_of_purge)  # before the question: the purge removes only what was counted
        if not (yes or dry_run):
            place = None if no_archive else archive or str(store.settings.archive_folder)
            any_age = None
            if not (selection.is_empty and older_than):
                any_age = "dead letters", "--older-than"
            elif delivered_older_than == 0:
                any_age = "delivered history", "--delivered-older-than"
            _ask(store, what, place, any_age=any_age, now=now)
        path = None if dry_run or no_archive else archive_path(archive, store.settings, now)

        with progress("purging") as show:
            report = store.run(
                lambda opened: purge_deliveries(
                    opened,
                    what,
                    who=who_runs_this(),
                    archive=path,
                    dry_run=dry_run,
                    now=now,
                    on_progress=show,
                )
            )
    used = None if report.archive is None else str(report.archive)
    said = f"{report}; archived in {output.visible(used)}" if used else str(report)
    output.write_result(documents.purged(report), said, as_json=as_json, indent=0)


def _what(
    settings: Settings, selection: Selection, older_than: float | None, delivered_older_than: float | None
) -> Retention | Chosen:
    from resonant.dead_letters.purge import Chosen, Retention

    if not selection.is_empty:
        if delivered_older_than is not None:
            raise options.Misuse(
                "--delivered-older-than cannot be combined with filters, which select dead letters"
            )
        return Chosen(selection, older_than or 0.0)
    if older_than is None:
        raise options.Misuse(
            "nothing selected: give --older-than DAYS, or a filter such as --endpoint and --code"
        )
    return replace(Retention.of_settings(settings), dead_letters=older_than, delivered=delivered_older_than)


def _ask(
    store: CommandStore,
    what: Retention | Chosen,
    archive: str | None,
    *,
    any_age: tuple[str, str] | None,
    now: float,
) -> None:
    """Ask for confirmation on a terminal, unless there is nothing to remove.

    Args:
        any_age: what would be removed at any age, and the option that gives it a minimum age; None: a purge by age
            alone, as schedules run it.

    Raises:
        Misuse: nobody can answer, and this is not a purge by age alone.
        typer.Exit: with code 1, unless the answer is yes.
    """
    from resonant.dead_letters.purge import forecast

    if not asking.can_ask():
        if any_age is None:
            return
        removed, option = any_age
        raise options.Misuse(
            f"this removes {removed} of any age: give --yes, or only a minimum age with {option}"
        )
    expected = store.read(forecast, what, now=now)
    if expected.dead_letters or expected.delivered:
        kept = f"and archived in {output.visible(archive)}" if archive else "without an archive"
        asking.confirm(f"{expected} would be removed permanently, {kept}", "Remove?")
