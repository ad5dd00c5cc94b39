"""Turns errors that a user must correct into failed flow runs with a one-line message and no traceback."""

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec

from prefect.client.schemas.objects import State
from prefect.states import Failed

from resonant.display import visible
from resonant.errors import ResonantError
from resonant.local.compatibility import cancelled_by_sigterm

P = ParamSpec("P")


def fail_with_message(
    flow_function: Callable[P, Awaitable[State[None]]],
) -> Callable[P, Awaitable[State[None]]]:
    """Turn a ``ResonantError``, whose text is for users, into a failed state; other errors propagate.

    Prefect evaluates a flow's annotations in the wrapper's module, so a module of flows must not
    import ``annotations`` from ``__future__``.
    """

    @functools.wraps(flow_function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> State[None]:
        try:
            with cancelled_by_sigterm():
                state = await flow_function(*args, **kwargs)
        except ResonantError as error:
            state = Failed(message=str(error))
        if state.message:
            state.message = visible(state.message)
        return state

    return run
