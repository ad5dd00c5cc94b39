"""The final states of flow runs that send deliveries.

A run that fails is always named ``Failed``, which the filters of Prefect's UI and the automations on failed runs expect. See
docs/decisions/0017-states-of-flow-runs.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefect.states import Completed

if TYPE_CHECKING:
    from prefect import State

    from resonant.dispatch.counts import Counts

DEAD_LETTERS = "DeadLetters"
WAITING = "Waiting"


def ended(message: str, counts: Counts, *, waiting: int, data: Any = None) -> State[Any]:
    """Return a completed state, with a name of its own if not every delivery was delivered.

    Args:
        message: counts the outcomes.
        counts: the outcomes of the run's deliveries.
        waiting: the number of its deliveries that wait for a later run.
        data: the run's result.
    """
    name = DEAD_LETTERS if counts.dead_letters else WAITING if waiting else "Completed"
    return Completed(name=name, message=message, data=data)
