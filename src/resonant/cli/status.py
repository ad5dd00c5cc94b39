"""``resonant status``, ``dlq``, ``failed`` and ``retry-candidates``: show the state of the store and its dead letters."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, TypeVar

import typer

from resonant import output
from resonant.cli import dlq_view, filters, name_checks, options
from resonant.events import (
    Category,
    Reason,
    rfc3339,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from resonant.cli import overview
    from resonant.cli.running import UntilStopped
    from resonant.metrics.alerts import Key
    from resonant.settings import Settings
    from resonant.store import Store
    from resonant.store.views.reads import StoreStatus
    from resonant.store.views.selection import Selection

DEFAULT_LIMIT = 50
COUNTED = 10_000
# A dead letter takes at least this many lines on a terminal.
_FEWEST_LINES = 4
# Unclaimed deliveries that are overdue by more than this, in seconds, need another emission.
_OVERDUE_SECONDS = 60.0
_Word = TypeVar("_Word", bound=str)


@dataclass(frozen=True, slots=True)
class _List:
    """A command that lists dead letters, or only those of its reason or category."""

    name: str
    help: str
    example: str
    reason: Reason | None = None
    category: Category | None = None


class _Read(NamedTuple):
    """The status, in the parts that ``resonant status`` shows."""

    found: StoreStatus
    purges: overview.Purges | None
    raised: dict[Key, float]
    alert_texts: dict[Key, str]
    is_sent: bool


_LISTS = (
    _List("dlq", "List dead letters, newest first.", "resonant dlq --group --since 2h"),
    _List(
        "failed",
        "List permanent failures, which a retry would not fix.",
        "resonant failed --type 'com.example.order.*' --limit 0",
        reason="permanent",
    ),
    _List(
        "retry-candidates",
        "List dead letters that a retry may deliver (category transient).",
        "resonant retry-candidates --code http_503 --json",
        category="transient",
    ),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("status", rich_help_panel=options.LOOK, epilog="Example: resonant status --json")(status)
    for each in _LISTS:
        panel, epilog = options.LOOK, f"Example: {each.example}"
        app.command(each.name, help=each.help, rich_help_panel=panel, epilog=epilog)(_listing(each))


def status(
    endpoint: filters.EndpointFilter = None,
    as_json: options.Json = False,
) -> None:
    """Show each endpoint, a forecast of the daily purge, active alerts and, last, the balance and the next step.

    The balance: accepted = pending + retrying + delivered + dead letter + purged. The numbers of an endpoint count
    deliveries, except its failed attempts.
    """
    from resonant.cli import overview
    from resonant.cli.documents import status_document
    from resonant.cli.running import run_with_store
    from resonant.metrics.alerts import ALL_ENDPOINTS, read_raised
    from resonant.settings import load_settings
    from resonant.store.shared.drains import is_sending

    name = None if endpoint is None else options.endpoint_name(endpoint)
    name_checks.check_filters(name, None)
    settings = load_settings()

    async def read(store: Store) -> _Read:
        found = await store.status(endpoint=name)
        purges = None if name else await store.read(overview.read_purges, settings, found, now=store.clock())
        raised = await store.read(read_raised)
        shown = {
            key: at for key, at in raised.items() if name is None or key.endpoint in (name, ALL_ENDPOINTS)
        }
        texts = await store.read(_alert_texts, shown, settings, now=store.clock())
        is_sent = await store.read(is_sending, now=store.clock(), endpoint=name)
        return _Read(found, purges, shown, texts, is_sent)

    status = run_with_store(read, settings)
    if as_json:
        document = status_document(status.found)
        document["alerts"] = overview.alert_documents(status.raised, status.alert_texts)
        if status.purges:
            document["retention"] = status.purges.document()
        output.write(output.to_json(document) + "\n")
        return
    _write_status(status, now=time.time())


def _alert_texts(
    connection: Connection, raised: dict[Key, float], settings: Settings, *, now: float
) -> dict[Key, str]:
    """Describe the active alerts; without any, do not load pandas."""
    if not raised:
        return {}
    from resonant.metrics.conditions import describe

    return describe(connection, raised, settings.alert_thresholds, now=now, is_counted=settings.rollups)


def _write_status(status: _Read, *, now: float) -> None:
    """Write the most important last: on a terminal it stays visible."""
    from resonant.cli import overview

    found = status.found
    on_terminal = output.stdout().is_terminal
    if rows := overview.endpoint_rows(found.endpoints, now=now, on_terminal=on_terminal):
        output.write_table(overview.ENDPOINT_COLUMNS, rows)
        if more := overview.endpoints_left_out(found.endpoints):
            output.write(f"{output.counted(more, 'more endpoint')}: --json lists all\n")
    if status.purges:
        if on_terminal and rows:
            output.write("\n")
        for line in status.purges.lines(now=now):
            output.write_paragraph(line, indent=2)
    _write_counts(found, now=now)
    for line in overview.alert_lines(status.raised, status.alert_texts, now=now):
        output.write_paragraph(line, indent=2)
    for line in overview.gate_lines(found.governed, now=now):
        output.write_paragraph(line, indent=2)
    for each in found.endpoint_problems:
        reason, since = output.visible(each.reason), output.ago(now - each.since)
        output.write_paragraph(f"deliveries to {each.endpoint} wait: {reason} (first seen {since})", indent=2)
    balanced = "yes" if found.balanced else "NO"
    output.write_paragraph(
        f"balanced: {balanced}; {next_step(found, now=now, is_sent=status.is_sent)}", indent=2
    )


def _write_counts(found: StoreStatus, *, now: float) -> None:
    if output.stdout().is_terminal:
        output.write("\n")
    names = ("accepted", "pending", "retrying", "delivered", "dead letter", "purged")
    counts = (*(getattr(found, name.replace(" ", "_")) for name in names),)
    output.write_table(
        names, [[f"{count:,}".rjust(len(name)) for name, count in zip(names, counts, strict=True)]]
    )
    categories = ", ".join(f"{count:,} {category}" for category, count in found.by_category.items())
    dead_letters = f"; dead letters: {categories}" if categories else ""
    output.write(f"in flight: {found.in_flight:,}{dead_letters}\n")
    for what, moment in (
        ("oldest due", found.oldest_due_at),
        ("oldest dead letter", found.oldest_dead_at),
    ):
        if moment is not None:
            output.write(f"{what}: {output.ago(now - moment)}, {rfc3339(moment)}\n")


def next_step(found: StoreStatus, *, now: float, is_sent: bool) -> str:
    """Return advice for the operator, on one line.

    Args:
        found: the status.
        now: seconds since the epoch.
        is_sent: whether a run sends deliveries.
    """
    waiting = found.pending + found.retrying
    if not found.balanced:
        counted = waiting + found.delivered + found.dead_letter + found.purged
        return (
            f"{found.accepted:,} were accepted and {counted:,} are accounted for: "
            "keep a copy of the database and report this"
        )
    if not found.accepted:
        return "nothing is stored yet: `resonant emit FILE --endpoint URL` stores and sends"
    steps, oldest_due_at = [], found.oldest_due_at
    if held := found.held:
        steps.append(f"{output.counted(held, 'delivery is', 'deliveries are')} held, as shown above")
        waiting -= held
        others = [each.oldest_due_at for each in found.endpoints if not each.is_held]
        oldest_due_at = min((at for at in others if at is not None), default=None)
    if waiting and not (is_sent or found.in_flight):
        steps.append(
            f"{output.counted(waiting, 'delivery waits', 'deliveries wait')}, and no run sends them: `resonant emit` sends "
            "what is due, `resonant up` sends all"
        )
    elif waiting > found.in_flight and oldest_due_at and now - oldest_due_at > _OVERDUE_SECONDS:
        steps.append(
            f"{output.counted(waiting, 'delivery waits', 'deliveries wait')}: `resonant emit` sends them, "
            "`resonant deliveries` lists them"
        )
    elif waiting:
        steps.append(f"{output.counted(waiting, 'delivery is', 'deliveries are')} in progress")
    if found.dead_letter:
        steps.append(f"`resonant dlq` shows {output.counted(found.dead_letter, 'dead letter')}")
    return "; ".join(steps) or "nothing to do"


def _listing(which: _List) -> Callable[..., None]:
    def listing(
        *,
        limit: Annotated[
            int | None, typer.Option(metavar="N", min=0, help="Maximum rows, 50 by default; 0: all.")
        ] = None,
        endpoint: filters.EndpointFilter = None,
        event_type: filters.TypeFilter = None,
        category: filters.CategoryFilter = None,
        code: filters.CodeFilter = None,
        reason: filters.ReasonFilter = None,
        cause: filters.CauseFilter = None,
        text: filters.TextFilter = None,
        since: filters.Since = None,
        until: filters.Until = None,
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
        selection = filters.selection(
            endpoint=endpoint,
            event_type=event_type,
            category=_only(which, "category", which.category, category),
            code=code,
            reason=_only(which, "reason", which.reason, reason),
            cause=cause,
            text=text,
            since=since,
            until=until,
        )
        now = time.time()
        if group and after is not None:
            raise options.Misuse("--after cannot be combined with --group")
        if group is None:
            group = not as_json and limit is None and after is None and _fills_a_screen(selection)
        rows = DEFAULT_LIMIT if limit is None else limit
        if group:
            _list_groups(selection, limit=rows, as_json=as_json, now=now)
        else:
            _list_dead_letters(selection, limit=rows, after=filters.place(after), as_json=as_json, now=now)

    return listing


def _fills_a_screen(selection: Selection) -> bool:
    """Return whether standard output is a terminal, and the dead letters fill more than its height."""
    from resonant.cli.running import run_with_store
    from resonant.store.views.reads import count_dead_letters

    console = output.stdout()
    if not console.is_terminal:
        return False
    fit = console.height // _FEWEST_LINES
    return run_with_store(lambda store: store.read(count_dead_letters, selection, at_most=fit + 1)) > fit


def _only(which: _List, field: str, fixed: _Word | None, asked: _Word | None) -> _Word | None:
    if fixed and asked and asked != fixed:
        raise options.Misuse(f"{which.name} lists only {field} {fixed}: use `resonant dlq --{field} {asked}`")
    return fixed or asked


def _list_groups(selection: Selection, *, limit: int, as_json: bool, now: float) -> None:
    from resonant.cli.documents import group_document
    from resonant.cli.running import run_with_store
    from resonant.dead_letters.triage import triage

    groups = run_with_store(lambda store: store.read(triage, selection))
    shown = groups[:limit] if limit else groups
    if as_json:
        output.write_json_array(output.to_json(group_document(group)) for group in shown)
    elif shown:
        dlq_view.write_groups(shown, now=now)
    if len(shown) < len(groups):
        output.say(f"showing {len(shown):,} of {len(groups):,} groups: --limit 0 shows all")
    elif groups and not as_json and output.stdout().is_terminal:
        total = output.counted(sum(group.count for group in groups), "dead letter")
        output.say(f"{total} in {output.counted(len(groups), 'group')}: --no-group lists each")
    elif not groups:
        output.say("no dead letters" if selection.is_empty else "no dead letters match")


def _list_dead_letters(
    selection: Selection, *, limit: int, after: tuple[float, int] | None, as_json: bool, now: float
) -> None:
    from resonant.cli.documents import document
    from resonant.cli.running import run_reading
    from resonant.store.shared.gates import states_not_normal
    from resonant.store.views.dead_letters import DeadLetters, Position
    from resonant.store.views.reads import count_dead_letters, each_dead_letter

    before = None if after is None else Position(*after)

    def show(connection: Connection, until_stopped: UntilStopped) -> None:
        states = states_not_normal(connection)
        dead_letters = until_stopped(
            each_dead_letter(connection, selection, limit=limit or None, before=before)
        )
        if as_json:
            output.write_json_array(
                output.to_json({**document(each), "endpoint_state": states.get(each.endpoint, "normal")})
                for each in dead_letters
            )
        else:
            dlq_view.write_dead_letters(dead_letters, states, now=now)
        # Counting a million rows takes longer than showing the first page.
        total = count_dead_letters(connection, selection, at_most=COUNTED)
        if 0 < limit < total:
            of = f"{total:,}" if total < COUNTED else f"{COUNTED:,} or more"
            shown = DeadLetters.of(connection, selection).newest(connection, limit=limit + 1, before=before)
            if len(shown) > limit:
                at, delivery_id = shown[-2]
                more = f"--after {at!r}-{delivery_id} shows the next, --limit 0 all"
            else:
                more = "these are the last"
            output.say(f"showing {min(len(shown), limit):,} of {of}: {more}")
        elif not total:
            output.say("no dead letters" if selection.is_empty else "no dead letters match")

    run_reading(show)
