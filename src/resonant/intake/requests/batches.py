"""Stores the events of one request: all or none, or with ``Prefer: handling=lenient`` the good ones."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from resonant.events import Event
from resonant.intake.problems import Refusal, refused
from resonant.intake.requests.lock_turns import LockTurns
from resonant.store.queue.accept import Acceptance, Conflict, accept


class BatchResult(NamedTuple):
    """The outcomes of a request's events, in their order."""

    stored: Sequence[Acceptance]
    refused: Sequence[Refusal]


async def store_batch(
    turns: LockTurns, given: Sequence[Event | Refusal], endpoint: str | None, *, now: float, is_lenient: bool
) -> BatchResult:
    """Store events in one transaction. If another transaction has locked one of them, the batch waits its turn.

    Args:
        turns: for batches with locked events, on the store that receives the events.
        given: events, and refusals of those that are not valid.
        endpoint: receives them; None: the subscriptions decide.
        now: seconds since the epoch.
        is_lenient: stores the good events, if there are any; otherwise, a refusal refuses all.

    Raises:
        Problem: nothing is stored.
    """
    refusals = [each for each in given if isinstance(each, Refusal)]
    if refusals and not is_lenient:
        raise refused(refusals, of=len(given))
    events = {index: each for index, each in enumerate(given) if not isinstance(each, Refusal)}
    wanted = [(event, endpoint) for event in events.values()]
    key = tuple(event.id for event in events.values())
    try:
        outcomes = await turns.write(key, _accept, wanted, now=now, is_lenient=is_lenient)
    except _NothingStored as rolled_back:
        outcomes = rolled_back.outcomes
    refusals += filter(None, map(refusal_of, events, outcomes))
    refusals.sort(key=lambda refusal: refusal.index)
    stored = [outcome for outcome in outcomes if not outcome.problem]
    if refusals and not (is_lenient and stored):
        raise refused(refusals, of=len(given))
    return BatchResult(stored, refusals)


def refusal_of(index: int, outcome: Acceptance) -> Refusal | None:
    """Return why the event at this position of a request was not stored; None if it is."""
    if outcome.problem is None:
        return None
    if isinstance(outcome.problem, Conflict):
        # The client may not be allowed to read what is stored.
        return Refusal(index, outcome.problem.without_content, "conflict")
    return Refusal(index, str(outcome.problem), "unrouted")


class _NothingStored(Exception):
    """Rolls back a batch of which an event was refused."""

    def __init__(self, outcomes: list[Acceptance]) -> None:
        super().__init__()
        self.outcomes = outcomes


def _accept(
    connection: Connection, wanted: Sequence[tuple[Event, str | None]], *, now: float, is_lenient: bool
) -> list[Acceptance]:
    outcomes = accept(connection, wanted, now=now)
    if not is_lenient and any(outcome.problem for outcome in outcomes):
        raise _NothingStored(outcomes)
    return outcomes
