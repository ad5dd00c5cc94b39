"""The final states of flow runs that send deliveries.

A run that fails is always named ``Failed``, which the filters of Prefect's UI and the automations on failed runs expect. See
docs/decisions/0017-states-of-flow-runs.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.states import Completed

if TYPE_CHECKING:
    from prefect import State

    from resonant.dispatch.tracking import Tracker

DEAD_LETTERS = "DeadLetters"
WAITING = "Waiting"


def ended(message: str, *, dead_letters: int, waiting: int = 0, data: Any = None) -> State[Any]:
    """Return a completed state, with a name of its own if not every delivery was delivered.

    Args:
        message: counts the outcomes.
        dead_letters: the number of dead letters among the run's deliveries.
        waiting: the number of its deliveries that are parked or held.
        data: the run's result.
    """
    name = DEAD_LETTERS if dead_letters else WAITING if waiting else "Completed"
    return Completed(name=name, message=message, data=data)


def ended_with(own: Tracker, message: str) -> State[Any]:
    """Return the completed state of a run whose own deliveries are tracked."""
    outcomes = own.outcomes
    waiting = outcomes.parked + outcomes.held
    return ended(message, dead_letters=outcomes.dead_letters.total(), waiting=waiting)
