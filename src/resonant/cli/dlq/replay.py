"""``resonant retry`` and ``replay``: send dead letters again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from resonant import documents, output
from resonant.cli import asking, completion, filters, name_checks, options
from resonant.display import some

if TYPE_CHECKING:
    from prefect import State

    from resonant.cli.command_store import CommandStore
    from resonant.dead_letters.replay import ReplayPlan, ReplayRequest
    from resonant.events import DeadLetter
    from resonant.store import WorkerStore

_SHOWN = 10
_AFTER_CTRL_C = "a running drain or the next `resonant emit` sends them; run the command again for the remaining dead letters"


def retry(
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Event ids of dead letters.")],
    source: filters.Source = None,
    policy: options.Policy = None,
    yes: options.Yes = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Send these dead letters again now.

    Asks for confirmation if a failure was permanent, since the event will most likely fail again. If any become dead
    letters again, the exit code is 1 and a message shows how to list them. --json prints the same keys as `replay`.
    """
    from resonant.cli.command_store import command_store
    from resonant.dead_letters.replay import ReplayRequest
    from resonant.errors import ResonantError
    from resonant.store.queue.causes import ERASED

    with command_store(exists=True) as store:
        policy = options.known_policy(policy, store.settings)
        selection = filters.Filters(source=source).selection(store, ids=list(dict.fromkeys(ids)))
        name_checks.check_source(store, selection.ids, source)
        dead_letters = store.run(lambda opened: opened.dead_letters(selection))
        if missing := set(ids) - {dead_letter.event_id for dead_letter in dead_letters}:
            raise ResonantError(
                f"{some(sorted(missing))} {'is' if len(missing) == 1 else 'are'} not in the dead-letter queue: nothing "
                "was sent (`resonant dlq` lists the queue)"
            )
        if erased := {each.event_id for each in dead_letters if each.error_type == ERASED}:
            raise ResonantError(f"{some(sorted(erased))}: erased, so it cannot be sent: nothing was sent")
        permanent = [dead_letter for dead_letter in dead_letters if dead_letter.category == "permanent"]
        if permanent and not yes:
            _confirm_permanent(permanent)
        request = ReplayRequest(selection, include_permanent=True)
        _run_replay(store, request, policy, as_json=as_json, verbose=verbose)


@options.grouped
def replay(
    *,
    where: filters.ReplayFilters,
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
    max_rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Skip dead letters that were given up in N rounds or more; no limit by default.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Send the events to this endpoint instead; the dead letters stay in the queue.",
            autocompletion=completion.endpoints,
        ),
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

    With --to, new deliveries of the same events go to another endpoint. Events that it already has a delivery of are skipped.

    --json prints dry_run, selected, to, left_out_permanent, left_out_by_rounds, left_out_erased, left_out_by_limit and
    left_out_existing.
    Without --dry-run it adds replayed, delivered, retried, parked, held, dead_letter, by_reason, purged and unfinished.
    """
    from resonant.cli.command_store import command_store
    from resonant.dead_letters.replay import ReplayRequest, plan

    with command_store(exists=True) as store:
        policy = options.known_policy(policy, store.settings)
        selection = where.selection(store)
        if selection.is_empty and not everything:
            raise options.Misuse("no dead letters selected: give a filter or --all")
        request = ReplayRequest(
            selection,
            include_permanent=include_permanent,
            limit=limit,
            rate=rate,
            max_rounds=max_rounds,
            everything=everything,
            to=_other_endpoint(store, to, selection.endpoint),
        )
        if dry_run:
            planned = store.run(lambda opened: plan(opened, request))
            output.write_result(documents.replay_plan(planned), str(planned), as_json=as_json)
        else:
            _run_replay(store, request, policy, as_json=as_json, verbose=verbose)


def _other_endpoint(store: CommandStore, to: str | None, selected: str | None) -> str | None:
    """Check the name of the endpoint that the events are sent to instead.

    Raises:
        Misuse: invalid or unknown name, or the endpoint of the selected dead letters.
    """
    if to is None:
        return None
    to = options.endpoint_name(to, "--to")
    if to == selected:
        raise options.Misuse(
            f"the selected dead letters are those of {to}: leave out --to to send them to it again"
        )
    name_checks.check_filters(store, to)
    return to


def _run_replay(
    store: CommandStore, request: ReplayRequest, policy: str | None, *, as_json: bool, verbose: bool
) -> None:
    from resonant.cli.command_store import who_runs_this
    from resonant.cli.flow_runs import run_flow
    from resonant.cli.outcomes import print_outcomes, tracked
    from resonant.dead_letters.replay import plan
    from resonant.dispatch.tracking import Tracker

    tracker: Tracker
    planned: ReplayPlan

    async def start(opened: WorkerStore) -> State[None]:
        from flows.dead_letters import replay_dead_letters

        nonlocal tracker, planned
        planned = await plan(opened, request)
        tracker = Tracker(opened)
        async with tracked(
            tracker,
            "replaying",
            store=opened,
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
            return bool(planned.left_out)
        return outcomes.dead_letters.total() == outcomes.total

    state = run_flow(store, start, verbose=verbose, reported=is_outcome)
    document = documents.replayed(planned, tracker.outcomes)
    if not state.is_completed() and not tracker.outcomes.total:
        if as_json:
            output.write(output.to_json(document) + "\n")
            output.flush()
        output.say(f"resonant: {state.message}")
        raise typer.Exit(1)
    print_outcomes(tracker, str(state.message), document, endpoint=request.target, as_json=as_json)


def _confirm_permanent(permanent: list[DeadLetter]) -> None:
    named = some([dead_letter.event_id for dead_letter in permanent])
    if not asking.can_ask():
        raise options.Misuse(f"the failure of {named} was permanent: --yes sends them anyway")
    for dead_letter in permanent[:_SHOWN]:
        output.say(f"{dead_letter.event_id}: {dead_letter.code}: {dead_letter.error}")
    asking.confirm(f"the failure of {named} was permanent", "Send again anyway?")
