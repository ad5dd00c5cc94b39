"""``resonant dlq``, ``failed`` and ``retry-candidates``: list dead letters."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from resonant import output
from resonant.cli import filters, options, view
from resonant.display import counted, visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from resonant.cli.command_store import CommandStore, UntilStopped
    from resonant.events import Category, Reason
    from resonant.store.views.dead_letters import Position
    from resonant.store.views.selection import Selection

_Word = TypeVar("_Word", bound=str)


def _command(
    name: str, doc: str, *, only_reason: Reason | None = None, only_category: Category | None = None
) -> Callable[..., None]:
    """Return a command that lists dead letters, or only those of a reason or category."""

    def listing(
        ctx: typer.Context,
        *,
        limit: view.Limit = None,
        where: filters.DeadLetterFilters,
        after: filters.After = None,
        group: Annotated[
            bool | None,
            typer.Option(
                "--group/--no-group",
                help="Group dead letters by cause, with advice for each group. On a terminal, this is the default if they do "
                "not fit the screen, and neither --limit nor --after is given.",
            ),
        ] = None,
        as_json: options.Json = False,
    ) -> None:
        from resonant.cli.command_store import command_store
        from resonant.store.views.reads import count_dead_letters

        if ctx.invoked_subcommand is not None:
            _refuse_options(ctx)
            return
        with command_store(exists=True, named=not as_json) as store:
            category: Category | None = _only(name, "category", only_category, where.category)
            reason: Reason | None = _only(name, "reason", only_reason, where.reason)
            selection = replace(where, category=category, reason=reason).selection(store)
            if group and after is not None:
                raise options.Misuse("--after cannot be combined with --group")
            if group is None:
                is_open = not as_json and limit is None and after is None
                group = is_open and view.fills_a_screen(store, count_dead_letters, selection)
            rows = view.DEFAULT_LIMIT if limit is None else limit
            if group:
                _list_groups(store, selection, limit=rows, as_json=as_json)
            else:
                _list_dead_letters(
                    store, selection, limit=rows, before=filters.position(after), as_json=as_json
                )

    listing.__name__, listing.__doc__ = name, doc
    return options.grouped(listing)


def _refuse_options(ctx: typer.Context) -> None:
    """Refuse the options of the list before the name of a subcommand, which would ignore them."""
    for parameter in ctx.command.params:
        source = ctx.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            raise options.Misuse(
                f"{parameter.opts[0]} before {ctx.invoked_subcommand} has no effect: remove it, or put it after {ctx.invoked_subcommand}"
            )


def _only(name: str, field: str, fixed: _Word | None, asked: _Word | None) -> _Word | None:
    if fixed and asked and asked != fixed:
        raise options.Misuse(f"{name} lists only {field} {fixed}: use `resonant dlq --{field} {asked}`")
    return fixed or asked


def _list_groups(store: CommandStore, selection: Selection, *, limit: int, as_json: bool) -> None:
    from resonant.cli.dlq import view as dlq_view
    from resonant.dead_letters.triage import triage

    groups = store.read(triage, selection)
    shown_as = dlq_view.groups(now=store.now())
    none = view.no_rows("dead letters", selection)
    is_whole = view.write_groups(groups, shown_as, limit=limit, none=none, as_json=as_json)
    if is_whole and not as_json and output.stdout().is_terminal:
        total = counted(sum(group.count for group in groups), "dead letter")
        output.say(f"{total} in {counted(len(groups), 'group')}: --no-group lists each")
        if any(group.acknowledged is None for group in groups):
            output.say("`resonant dlq ack CAUSE` ends the alerts about a cause")
        if groups:
            _say_page(store)


def _list_dead_letters(
    store: CommandStore,
    selection: Selection,
    *,
    limit: int,
    before: Position | None,
    as_json: bool,
) -> None:
    from resonant.cli.dlq import view as dlq_view
    from resonant.store.shared.gates import read_holds
    from resonant.store.views.dead_letters import DeadLetters
    from resonant.store.views.reads import count_dead_letters, each_dead_letter

    now = store.now()

    def show(connection: Connection, until_stopped: UntilStopped[Any]) -> None:
        rows = each_dead_letter(connection, selection, limit=limit or None, before=before)
        shown = dlq_view.dead_letters(read_holds(connection, now), now=now).write(
            until_stopped(rows), as_json=as_json
        )
        if shown.first and not as_json and output.stdout().is_terminal:
            output.write(dlq_view.NEXT_COMMANDS.format(example=shlex.quote(visible(shown.first.event_id))))
        # Counting a million rows takes longer than showing the first page.
        total = count_dead_letters(connection, selection, at_most=view.COUNTED)
        if 0 < limit < total:
            keys = DeadLetters.of(connection, selection).newest(connection, limit=limit + 1, before=before)
            view.say_page(min(len(keys), limit), total, keys[-2] if len(keys) > limit else None)
        elif not total:
            output.say(view.no_rows("dead letters", selection))

        if shown.first and not as_json and output.stdout().is_terminal:
            _say_page(store)

    store.read_rows(show)


def _say_page(store: CommandStore) -> None:
    from resonant.local.artifacts import TRIAGE_ARTIFACT, known_page

    if page := known_page(store.settings, TRIAGE_ARTIFACT):
        output.say(f"Prefect's UI shows the causes: {page}")


dlq = _command("dlq", "List dead letters, newest first.")
failed = _command("failed", "List permanent failures, which a retry would not fix.", only_reason="permanent")
retry_candidates = _command(
    "retry-candidates",
    "List dead letters that a retry may deliver (category transient).",
    only_category="transient",
)
