"""``resonant status``: show the state of the store, and the next step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from resonant import output
from resonant.cli import documents, filters, name_checks, options
from resonant.cli.command_store import command_store
from resonant.display import ago, counted
from resonant.events import rfc3339

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from resonant.cli.inspect import overview
    from resonant.metrics.alerts import Key
    from resonant.store.views.reads import StoreStatus

# Unclaimed deliveries that are overdue by more than this, in seconds, need another emission.
_OVERDUE_SECONDS = 60.0


class _Read(NamedTuple):
    """The status, in the parts that ``resonant status`` shows; ``store`` is the URL without its password."""

    store: str
    found: StoreStatus
    purges: overview.Purges | None
    raised: dict[Key, float]
    alert_texts: dict[Key, str]
    is_sent: bool


def status(
    endpoint: filters.Endpoint = None,
    as_json: options.Json = False,
) -> None:
    """Show each endpoint, a forecast of the daily purge, active alerts and, last, the balance and the next step.

    The balance: accepted = pending + retrying + delivered + dead letter + purged. The numbers of an endpoint count
    deliveries, except its failed attempts.
    """
    from resonant.cli.inspect import overview
    from resonant.metrics.alerts import ALL_ENDPOINTS, read_raised
    from resonant.store.shared.drains import is_sending
    from resonant.store.views import reads

    with command_store(exists=True) as opened:
        name = None if endpoint is None else options.endpoint_name(endpoint)
        name_checks.check_filters(opened, name)
        settings = opened.settings

        now = time.time()

        def read(connection: Connection, store: str) -> _Read:
            found = reads.status(connection, now=now, endpoint=name)
            purges = None if name else overview.read_purges(connection, settings, found, now=now)
            places = (name, ALL_ENDPOINTS)
            raised = {
                key: at
                for key, at in read_raised(connection).items()
                if name is None or key.endpoint in places
            }
            texts = {}
            if raised:  # otherwise pandas is not loaded
                from resonant.metrics.conditions import describe

                texts = describe(connection, raised, settings, now=now)
            return _Read(store, found, purges, raised, texts, is_sending(connection, now=now, endpoint=name))

        status = opened.run(lambda store: store.read(read, str(store)))
    if not as_json:
        overview.write_page(settings, status.found)
        _write_status(status, now=now)
        return
    document = documents.status(status.found)
    document["store"] = status.store
    document["alerts"] = documents.alerts(status.raised, status.alert_texts)
    if status.purges:
        document["retention"] = documents.retention(*status.purges)
    output.write(output.to_json(document) + "\n")


def _write_status(status: _Read, *, now: float) -> None:
    """Write the most important last: on a terminal it stays visible."""
    from resonant.cli.inspect import overview

    found = status.found
    on_terminal = output.stdout().is_terminal
    output.write_paragraph(output.visible(f"store: {status.store}"), indent=2)
    if rows := overview.endpoint_rows(found.endpoints, now=now, on_terminal=on_terminal):
        output.write_table(overview.ENDPOINT_COLUMNS, rows)
        if more := len(found.endpoints) - len(rows):
            output.write(f"{counted(more, 'more endpoint')}: --json lists all\n")
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
    for line in overview.problem_lines(found.endpoint_problems, now=now):
        output.write_paragraph(line, indent=2)
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
    backlog, new = found.oldest_due
    for what, moment in (
        ("oldest due", found.oldest_due_at),
        ("oldest due of the last five minutes' events", new if backlog else None),
        ("oldest dead letter", found.oldest_dead_at),
    ):
        if moment is not None:
            output.write(f"{what}: {ago(now - moment)}, {rfc3339(moment)}\n")


def next_step(found: StoreStatus, *, now: float, is_sent: bool) -> str:
    """Return advice for the operator, on one line.

    Args:
        found: the status.
        is_sent: whether a run sends deliveries.
    """
    waiting = found.pending + found.retrying
    if not found.balanced:
        accounted_for = waiting + found.delivered + found.dead_letter + found.purged
        return (
            f"{found.accepted:,} were accepted and {accounted_for:,} are accounted for: "
            "keep a copy of the database and report this"
        )
    if not found.accepted:
        return "nothing is stored yet: `resonant emit FILE --endpoint URL` stores and sends"
    steps, oldest_due_at = [], found.oldest_due_at
    if held := found.held:
        steps.append(f"{counted(held, 'delivery is', 'deliveries are')} held, as shown above")
        waiting -= held
        others = [each.oldest_due_at for each in found.endpoints if not each.is_held]
        oldest_due_at = min((at for at in others if at is not None), default=None)
    if waiting and not (is_sent or found.in_flight):
        steps.append(
            f"{counted(waiting, 'delivery waits', 'deliveries wait')}, and no run sends them: `resonant emit` sends "
            "what is due, `resonant up` sends all"
        )
    elif waiting > found.in_flight and oldest_due_at and now - oldest_due_at > _OVERDUE_SECONDS:
        steps.append(
            f"{counted(waiting, 'delivery waits', 'deliveries wait')}: `resonant emit` sends them, "
            "`resonant deliveries` lists them"
        )
    elif waiting:
        steps.append(f"{counted(waiting, 'delivery is', 'deliveries are')} in progress")
    if found.dead_letter:
        steps.append(f"`resonant dlq` shows {counted(found.dead_letter, 'dead letter')}")
    return "; ".join(steps) or "nothing to do"
