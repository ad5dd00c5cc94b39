"""``resonant retry``, ``replay``, ``cancel`` and ``audit``: manage the dead-letter queue."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import output
from resonant.cli import asking, filters, name_checks, options
from resonant.cli.purge import purge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect import State

    from resonant.dead_letters.replay import ReplayPlan, ReplayRequest
    from resonant.events import DeadLetter
    from resonant.settings import Settings
    from resonant.store.audit import AuditEntry

_IDS_SHOWN = 10
# Ages in days, in the selection of a purge.
_AGES = ("dead_letters", "delivered")
_AFTER_CTRL_C = "a running drain or the next `resonant emit` sends them; run the command again for the remaining dead letters"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command, example in (
        (retry, "resonant retry evt_0193c5c2-7a31-7c4e-9d0b-5f7e0a1b2c3d"),
        (replay, "resonant replay --endpoint billing --code http_503 --since 2h --rate 50"),
        (cancel, "resonant cancel --endpoint billing --type 'order.*'"),
        (purge, "resonant purge --endpoint billing --code http_422"),
        (audit, "resonant audit --json"),
    ):
        app.command(rich_help_panel=options.WORK, epilog=f"Example: {example}")(command)


def retry(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Event ids of dead letters.")],
    policy: options.Policy = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Send these dead letters again now.

    Asks for confirmation if a failure was permanent, since the event will most likely fail again. If any become dead
    letters again, the exit code is 1 and a message shows how to list them. --json prints the same keys as `replay`.
    """
    from resonant.cli.running import run_with_store
    from resonant.dead_letters.replay import ReplayRequest
    from resonant.errors import ResonantError
    from resonant.settings import load_settings

    settings = load_settings()
    policy = options.known_policy(policy, settings)
    selection = filters.selection(ids=list(dict.fromkeys(ids)))
    dead_letters = run_with_store(lambda store: store.dead_letters(selection), settings)
    if missing := set(ids) - {dead_letter.event_id for dead_letter in dead_letters}:
        raise ResonantError(
            f"{_some(sorted(missing))} {'is' if len(missing) == 1 else 'are'} not in the dead-letter queue: nothing was "
            "sent (`resonant dlq` lists the queue)"
        )
    permanent = [dead_letter for dead_letter in dead_letters if dead_letter.category == "permanent"]
    if permanent and not yes:
        _confirm_permanent(permanent)
    request = ReplayRequest(selection, include_permanent=True)
    _run_replay(settings, request, policy, as_json=as_json, verbose=verbose)


def replay(
    endpoint: filters.EndpointFilter = None,
    event_type: filters.TypeFilter = None,
    category: filters.CategoryFilter = None,
    code: filters.CodeFilter = None,
    reason: filters.ReasonFilter = None,
    text: filters.TextFilter = None,
    since: filters.Since = None,
    until: filters.Until = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Select every dead letter; required without a filter.")
    ] = False,
    include_permanent: Annotated[
        bool, typer.Option("--include-permanent", help="Send permanent failures too.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Maximum number of dead letters.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="N", min=0.01, max=10_000, help="Dead letters per second, after a slow start."),
    ] = None,
    policy: options.Policy = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Send the selected dead letters again, oldest first, and keep their history.

    Permanent failures are skipped unless --include-permanent is given; if all selected ones are skipped, the exit code
    is 1. Ctrl-C stops the replay cleanly; run the command again to resume. Concurrent replays never take the same dead
    letter. If any become dead letters again, the exit code is 1 and a message shows how to list them.

    --json prints dry_run, selected, left_out_permanent and left_out_by_limit. Without --dry-run it adds replayed, delivered,
    retried, parked, held, dead_letter, by_reason, purged and unfinished.
    """
    from resonant.dead_letters.replay import ReplayRequest, plan
    from resonant.settings import load_settings

    settings = load_settings()
    policy = options.known_policy(policy, settings)
    selection = filters.selection(
        endpoint=endpoint, event_type=event_type, category=category, code=code, reason=reason, text=text,
        since=since, until=until,
    )  # fmt: skip
    if selection.is_empty and not everything:
        raise options.Misuse("no dead letters selected: give a filter or --all")
    request = ReplayRequest(
        selection, include_permanent=include_permanent, limit=limit, rate=rate, everything=everything
    )
    if dry_run:
        from resonant.cli.running import run_with_store

        planned = run_with_store(lambda store: plan(store, request), settings)
        document = _as_document(planned, dry_run=True)
        if as_json:
            output.write(output.to_json(document) + "\n")
        else:
            output.write_paragraph(str(planned), indent=2)
        return
    _run_replay(settings, request, policy, as_json=as_json, verbose=verbose)


def cancel(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Event ids.")] = None,
    endpoint: filters.EndpointFilter = None,
    event_type: filters.TypeFilter = None,
    category: filters.CategoryFilter = None,
    code: filters.CodeFilter = None,
    text: filters.TextFilter = None,
    since: filters.Since = None,
    until: filters.Until = None,
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
    from resonant.cli.running import run_with_store, who_runs_this
    from resonant.dead_letters.cancel import cancel as cancel_deliveries
    from resonant.dead_letters.cancel import cancellable

    selection = filters.selection(
        ids=ids or (), endpoint=endpoint, event_type=event_type, category=category, code=code, text=text,
        since=since, until=until,
    )  # fmt: skip
    if selection.is_empty and not everything:
        raise options.Misuse("no deliveries selected: give ids, a filter or --all")
    name_checks.check_ids(selection.ids)
    ask = asking.can_ask() and not yes
    if dry_run or ask:
        expected = run_with_store(lambda store: store.read(cancellable, selection))
    if dry_run:
        found = {"would_cancel": expected.number, "being_sent": expected.being_sent, "dry_run": True}
        output.write(f"{output.to_json(found) if as_json else expected}\n")
        return
    if ask and expected.number:
        asking.confirm(f"{expected}, and can be replayed later", "Give up?")
    cancelled = run_with_store(lambda store: cancel_deliveries(store, selection, who=who_runs_this()))
    if as_json:
        output.write(output.to_json({"cancelled": cancelled}) + "\n")
    else:
        output.write(f"{output.counted(cancelled, 'delivery', 'deliveries')} given up\n")


def audit(
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Maximum rows; 0: all.")] = 50,
    as_json: options.Json = False,
) -> None:
    """List who replayed, cancelled or purged deliveries, and who paused or resumed endpoints, newest first."""
    from resonant.cli.running import run_with_store
    from resonant.events import rfc3339
    from resonant.store.audit import read_audit

    entries = run_with_store(lambda store: store.read(read_audit, limit=limit or None))
    if as_json:
        rows = (
            {
                "at": rfc3339(each.at),
                "who": each.who,
                "action": each.action,
                "selection": each.selection,
                "count": each.count,
                "ended_at": None if each.ended_at is None else rfc3339(each.ended_at),
            }
            for each in entries
        )
        output.write_json_array(map(output.to_json, rows))
    elif entries and output.stdout().is_terminal:
        for entry in entries:
            _write_on_screen(entry)
    elif entries:
        output.write_table(
            ("at", "who", "action", "count", "took", "selection"),
            [
                (
                    rfc3339(each.at),
                    output.visible(each.who),
                    each.action,
                    str(each.count),
                    # The process was killed or still runs; the count is valid either way.
                    "not ended" if each.ended_at is None else f"{each.ended_at - each.at:.1f} s",
                    output.visible(json.dumps(each.selection, ensure_ascii=False)),
                )
                for each in entries
            ],
        )
    else:
        output.say("nothing was replayed, cancelled, purged, paused or resumed")


def _write_on_screen(entry: AuditEntry) -> None:
    from resonant.events import rfc3339

    at = rfc3339(entry.at)
    took = "not ended" if entry.ended_at is None else f"took {entry.ended_at - entry.at:.1f} s"
    counted = f", {output.counted(entry.count, 'delivery', 'deliveries')}"
    if not entry.count and entry.action in ("pause", "resume"):
        counted = ""
    lines = [
        f"by {output.visible(entry.who)}",
        output.visible(", ".join(_asked(entry.selection))),
    ]
    output.write(f"{at[:10]} {at[11:19]}Z  {entry.action}{counted}, {took}\n")
    for line in filter(None, lines):
        output.write_paragraph(f"  {line}", indent=4)
    output.write("\n")


def _asked(selection: dict[str, Any]) -> Iterator[str]:
    """Describe each restriction of a selection."""
    from resonant.events import rfc3339

    for name, value in selection.items():
        words = name.replace("_", " ")
        if name in ("since", "until") and isinstance(value, int | float):
            yield f"{words} {rfc3339(value)}"
        elif isinstance(value, float):
            yield f"{words} older than {value:g} days" if name in _AGES else f"{words} {value:g}"
        elif value is True:
            yield words
        elif isinstance(value, list):
            yield f"{words} {_some([str(each) for each in value])}"
        elif value not in (None, False, {}):
            yield f"{words} {value}"


def _run_replay(
    settings: Settings, request: ReplayRequest, policy: str | None, *, as_json: bool, verbose: bool
) -> None:
    from resonant.cli.flow_runs import run_flow
    from resonant.cli.running import who_runs_this
    from resonant.cli.sending import print_outcomes, tracked
    from resonant.configured import open_configured_store
    from resonant.dead_letters.replay import plan
    from resonant.dispatch.tracking import Tracker

    tracker: Tracker
    document: dict[str, object]

    async def start() -> State[None]:
        from flows.dead_letters import replay_dead_letters

        nonlocal tracker, document
        async with open_configured_store(settings) as store:
            planned = await plan(store, request)
            tracker, document = Tracker(store), _as_document(planned, dry_run=False)
            async with tracked(
                tracker,
                "replaying",
                who=who_runs_this(),
                total=planned.selected,
                hidden=verbose or not planned.selected,
                goes_on=_AFTER_CTRL_C,
            ):
                parameters = request.as_parameters()
                run: Any = replay_dead_letters(**parameters, policy=policy, return_state=True)
                state: State[None] = await run
        return state

    def is_outcome(_failed: State[Any]) -> bool:
        outcomes = tracker.outcomes
        if not outcomes.total:
            return bool(document["left_out_permanent"])
        return outcomes.dead_letters.total() == outcomes.total

    state = run_flow(settings, start, verbose=verbose, reported=is_outcome)
    document["replayed"] = tracker.outcomes.total
    if not state.is_completed() and not tracker.outcomes.total:
        if as_json:
            output.write(output.to_json(document | tracker.as_dict()) + "\n")
            output.flush()
        output.say(f"resonant: {state.message}")
        raise typer.Exit(1)
    print_outcomes(
        tracker, str(state.message), document, endpoint=request.selection.endpoint, as_json=as_json
    )


def _as_document(planned: ReplayPlan, *, dry_run: bool) -> dict[str, object]:
    return {
        "dry_run": dry_run,
        "selected": planned.selected,
        "left_out_permanent": planned.permanent,
        "left_out_by_limit": planned.beyond_limit,
    }


def _confirm_permanent(permanent: list[DeadLetter]) -> None:
    named = _some([dead_letter.event_id for dead_letter in permanent])
    if not asking.can_ask():
        raise options.Misuse(f"the failure of {named} was permanent: --yes sends them anyway")
    for dead_letter in permanent[:_IDS_SHOWN]:
        output.say(f"{dead_letter.event_id}: {dead_letter.code}: {dead_letter.error}")
    asking.confirm(f"the failure of {named} was permanent", "Send again anyway?")


def _some(ids: list[str]) -> str:
    shown = ", ".join(ids[:_IDS_SHOWN])
    return shown if len(ids) <= _IDS_SHOWN else f"{shown} and {len(ids) - _IDS_SHOWN:,} more"
