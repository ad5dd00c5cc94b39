"""``resonant erase``: remove the content of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from resonant import documents, output
from resonant.cli import asking, filters, name_checks, options
from resonant.display import counted

if TYPE_CHECKING:
    from resonant.cli.command_store import CommandStore
    from resonant.dead_letters.erase import Erasure, ErasurePlan


@options.grouped
def erase(
    *,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="The id of an event; repeatable.")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(metavar="SUBJECT", help="Only events with exactly this subject.")
    ] = None,
    source: filters.Source = None,
    event_type: Annotated[
        str | None,
        typer.Option("--type", metavar="GLOB", help="Only these event types, such as 'user.*'."),
    ] = None,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    as_json: options.Json = False,
) -> None:
    """Remove the content of events irreversibly: data, id, subject, time, extensions, and receivers' answers.

    Give --id, --subject, or --source with --type. Unfinished deliveries are given up first. The deliveries stay, with source, type,
    endpoint, attempts, times and outcomes. If a producer sends an erased event again, it is neither stored nor sent.

    The command waits up to 45 seconds for deliveries that are being sent. If some are still being sent then, their events stay, and
    the exit code is 1. It is also 1 if no event meets the conditions, and none met them in an earlier erasure. After an
    interruption, run the command again. At the end, it lists the places that it cannot reach.
    """
    from resonant.cli.command_store import command_store, who_runs_this
    from resonant.cli.progress import progress
    from resonant.dead_letters.erase import erase as erase_events
    from resonant.dead_letters.erase import out_of_reach

    with command_store(exists=True) as store:
        what = _what(store, ids or [], subject, source, event_type)
        planned = _plan(store, what)
        if not planned.events:
            _check_that_nothing_is_left(store, what)
        if dry_run:
            output.write_result(documents.erasure_plan(planned), _describe(planned), as_json=as_json)
            return
        if planned.events and not yes:
            if not asking.can_ask():
                raise options.Misuse(f"{_describe(planned)}, irreversibly: give --yes")
            asking.confirm(f"{_describe(planned)}, irreversibly", "Erase?")
        with progress("erasing", planned.events) as show:
            report = store.run(
                lambda opened: erase_events(opened, what, who=who_runs_this(), on_progress=show)
            )
        left = out_of_reach(report, store.settings)
    unfinished = f", {report.cancelled:,} of them unfinished" if report.cancelled else ""
    said = f"{counted(report.events, 'event')} erased, with {counted(report.deliveries, 'delivery', 'deliveries')}{unfinished}"
    output.write_result(documents.erased(report, left), said, as_json=as_json)
    for each in () if as_json else left:
        output.write_paragraph(f"out of reach: {each.what}: {output.visible(each.advice)}", indent=2)
    if report.being_sent:
        output.say(
            f"resonant: {counted(report.being_sent, 'event')} not erased while being sent: run the command again"
        )
        raise typer.Exit(1)


def _what(
    store: CommandStore, ids: list[str], subject: str | None, source: str | None, event_type: str | None
) -> Erasure:
    from resonant.dead_letters.erase import Erasure

    if subject == "":
        raise options.Misuse("--subject is empty")
    # Refuses text that no event can have.
    filters.Filters(source=source, event_type=event_type, text=subject).selection(store, ids=ids)
    if not ids and subject is None and (source is None or event_type is None):
        raise options.Misuse("no events selected: give --id, --subject, or --source with --type")
    name_checks.check_source(store, ids, source)
    return Erasure(tuple(dict.fromkeys(ids)), subject, source, event_type)


def _plan(store: CommandStore, what: Erasure) -> ErasurePlan:
    from resonant.cli.progress import progress
    from resonant.dead_letters.erase import plan_erasure
    from resonant.errors import UnknownName

    try:
        with progress("searching") as show:
            return store.run(lambda opened: plan_erasure(opened, what, on_progress=show))
    except UnknownName as error:
        raise options.Misuse(str(error)) from None


def _check_that_nothing_is_left(store: CommandStore, what: Erasure) -> None:
    """Refuse conditions that no event meets, unless it was an erasure that removed what they compare."""
    from resonant.dead_letters.erase import Erasure, was_erased

    if what != Erasure(what.ids) and not store.read(was_erased, what):
        output.say(
            "resonant: no event meets these conditions: nothing was erased. Subjects and sources are compared exactly; "
            "an earlier erasure may have removed the events"
        )
        raise typer.Exit(1)


def _describe(planned: ErasurePlan) -> str:
    unfinished = f", {planned.unfinished:,} of them unfinished" if planned.unfinished else ""
    sent = f", {planned.being_sent:,} being sent now" if planned.being_sent else ""
    deliveries = counted(planned.deliveries, "delivery", "deliveries")
    return f"{counted(planned.events, 'event')} would be erased, with {deliveries}{unfinished}{sent}"
