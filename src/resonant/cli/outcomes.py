"""Show the progress and outcomes of a command's own deliveries, for `emit`, `retry` and `replay`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import typer

from resonant import output
from resonant.cli.progress import shown_until_the_end
from resonant.display import counted, some

if TYPE_CHECKING:
    from resonant.dispatch.counts import Counts
    from resonant.dispatch.tracking import Tracker
    from resonant.store import WorkerStore


@contextlib.asynccontextmanager
async def tracked(
    tracker: Tracker,
    what: str,
    *,
    store: WorkerStore,
    who: str | None = None,
    total: int | None = None,
    hidden: bool,
    goes_on: str,
) -> AsyncIterator[None]:
    """Pass the tracker and the store to the flow that the block runs, and show the progress of its deliveries.

    Args:
        tracker: tracks the command's own deliveries.
        what: the work, such as ``emitting``.
        store: the command's store.
        total: the expected number of deliveries; None: the number tracked now.
        hidden: show no progress, since Prefect's log is shown or nothing is expected.
        goes_on: how the remaining deliveries are sent, for the message after Ctrl-C.

    Raises:
        Interrupted: Ctrl-C; the message says what remains.
    """
    from resonant.dispatch.caller import Caller, calling

    outcomes = tracker.outcomes

    async def look() -> tuple[int, str]:
        await tracker.look_if_due()
        notes = (outcomes.undelivered, await holding(store))
        return outcomes.settled, "; ".join(filter(None, notes))

    try:
        expected = outcomes.total if total is None else total
        async with shown_until_the_end(what, expected, look, hidden=hidden):
            with calling(Caller(tracker, who, store)):
                yield
    except asyncio.CancelledError:
        await tracker.finish()
        raise output.Interrupted(_after_ctrl_c(outcomes, sent_later(tracker.holding, goes_on))) from None


async def holding(store: WorkerStore, endpoint: str | None = None) -> str:
    """Return which gates hold due deliveries, such as ``shop is probing``; empty if none does.

    Args:
        endpoint: only this endpoint; None for any.
    """
    from resonant.store.views.endpoint_status import governed

    now = store.clock()
    found = [
        f"{gate.endpoint} is {gate.state.replace('normal', 'waiting')}"
        if gate.governs_at(now)
        else f"{gate.endpoint} holds {some(sorted(gate.failing_at(now)))}"
        for gate, held in await store.read(governed, now=now)
        if held and endpoint in (None, gate.endpoint)
    ]
    return some(found) if found else ""


def sent_later(held_by: Sequence[str], goes_on: str) -> str:
    """Return how deliveries are sent after an interruption.

    Args:
        held_by: a line about each endpoint whose gate holds deliveries.
        goes_on: how they are sent once no gate holds them.
    """
    return "; ".join([*held_by, f"then {goes_on}"]) if held_by else goes_on


def _after_ctrl_c(outcomes: Counts, goes_on: str) -> str:
    delivered = outcomes.delivered + outcomes.delivered_before
    text = f"interrupted: {delivered:,} of {outcomes.total:,} delivered"
    if dead := outcomes.dead_letters.total():
        text += f", {dead:,} dead-lettered"
    waiting = outcomes.unfinished + outcomes.parked + outcomes.held
    return f"{text}, {waiting:,} wait: {goes_on}" if waiting else text


def print_outcomes(
    tracker: Tracker, text: str, document: output.Document, *, endpoint: str | None, as_json: bool
) -> None:
    """Print the outcomes of a command's own deliveries.

    Args:
        tracker: tracks these deliveries.
        text: the output without ``--json``.
        document: the output with ``--json``.
        endpoint: the endpoint, if all deliveries go to the same one.
        as_json: whether ``--json`` was given.

    Raises:
        typer.Exit: with code 1 if some are dead letters, or held by a paused endpoint.
    """
    output.write_result(document, text, as_json=as_json)
    if held := tracker.outcomes.held:
        output.flush()
        if paused := _paused(tracker, endpoint):
            say_paused(paused, held)
        elif tracker.holding:
            for line in tracker.holding:
                output.say(line)
        else:
            waits = counted(held, "delivery waits", "deliveries wait")
            output.say(f"{waits} for the endpoint: `resonant status` shows why and until when")
    if tracker.parked:
        output.flush()
        output.say(tracker.parked)
    if number := tracker.outcomes.dead_letters.total():
        output.flush()
        shown = f"`{tracker.dead_letters_shown_by(endpoint)}`"
        output.say(f"resonant: {counted(number, 'dead letter')}: {shown} shows why")
    if number or _paused(tracker, endpoint):
        raise typer.Exit(1)


def say_paused(endpoint: str, held: int) -> None:
    """Write to standard error that a paused endpoint holds deliveries, and how to resume it."""
    waits = counted(held, "delivery waits", "deliveries wait")
    output.say(f"resonant: {waits}: {endpoint} is paused; `resonant endpoint resume {endpoint}` sends again")


def _paused(tracker: Tracker, endpoint: str | None) -> str | None:
    """Return the paused endpoint that holds some of these deliveries, if any."""
    if endpoint is None:
        return min(tracker.paused, default=None)
    return endpoint if endpoint in tracker.paused else None
