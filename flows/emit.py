"""The flow ``emit_events``: stores the given events, and sends due deliveries as task runs or in chunks."""

import asyncio
import math
import time
from typing import Annotated, Any

from prefect import State, flow
from prefect.logging import get_run_logger
from pydantic import Field

from flows.failing import fail_with_message
from flows.naming import named
from resonant.dispatch.caller import get_caller
from resonant.dispatch.held import count_held, say_problems
from resonant.dispatch.limits import LANES, Lane
from resonant.dispatch.run.event_loop import use_uvloop_in_flow_run
from resonant.errors import StoreRefused, StoreUnavailable
from resonant.settings import Settings, load_settings
from tasks.wiring import (
    ended,
    open_dispatcher,
    say_outcomes,
    send_due,
    store_events,
)

_PAUSE_WITHOUT_STORE_SECONDS = 1.0

# Prefect loads this module before it starts the event loop of the flow run.
use_uvloop_in_flow_run()


@flow(
    flow_run_name=named("emit to", "endpoint", otherwise="every endpoint", instead={"successors": "drain"}),
    persist_result=False,
)
@fail_with_message
async def emit_events(
    events: list[dict[str, Any]] | None = None,
    endpoint: str | None = None,
    policy: str | None = None,
    max_attempts: Annotated[int | None, Field(ge=1, le=1000)] = None,
    run_for: Annotated[float, Field(ge=0)] = 0,
    lane: Lane = "auto",
    successors: Annotated[int, Field(ge=0, le=100)] = 0,
) -> State[Any]:
    """Deliver events to HTTP endpoints.

    With events, the run waits until each event is delivered, parked or a dead letter, even if another worker sends it.
    Its final message counts these outcomes. Parked means that the next attempt is due in more than 30 seconds. Without
    events, the run sends all due deliveries and waits for deliveries that other workers hold. It takes over the
    deliveries of lost workers.

    A dead letter fails its task run, not this flow: the run completes with the state DeadLetters, or Waiting if some of its
    events are parked or held. The flow fails if the store or the named endpoint cannot be opened.
    In a run for every endpoint, the deliveries of an endpoint that cannot be opened wait, and the message says why.

    Args:
        events: Events to store first, as input lines (512 KiB at most; use `resonant enqueue` for more).
        endpoint: Name of the endpoint. If empty, subscriptions choose the endpoints of the given events, and the run sends to
            every endpoint.
        policy: Name of a retry policy that overrides the deliveries' own policies in this run.
        max_attempts: Maximum number of attempts in a round; overrides the policy's value.
        run_for: Seconds to keep sending deliveries as they become due. 0 ends the run when nothing is due.
        lane: `auto` gives each delivery its own task run while at most 100 start per second, and sends chunks above
            that. `task` gives every delivery its own task run. `bulk` sends everything in chunks, one task run each.
            A failed delivery of a chunk is retried in a later one. A chunk's first 20 dead letters get failed task runs.
        successors: Keep sending until this many younger runs with `successors` are alive, and for another 30 seconds.
            With 2, two runs are always alive, so that one continues if the other crashes. Such a run also
            waits while the store is unavailable, instead of failing. 0 disables this condition.
    """
    settings = load_settings()
    options = {"policy": policy, "max_attempts": max_attempts}
    bounds = LANES[lane] | {"successors": successors}
    ends_at = time.monotonic() + (run_for or math.inf)
    is_reopened = False
    while True:
        try:
            return await _emit(
                settings, events, endpoint, is_reopened=is_reopened, run_for=run_for, **options, **bounds
            )
        except StoreUnavailable as error:
            is_over = time.monotonic() + _PAUSE_WITHOUT_STORE_SECONDS >= ends_at
            if events is not None or not successors or isinstance(error, StoreRefused) or is_over:
                raise
            get_run_logger().warning("waiting for the store: %s", error)
        await asyncio.sleep(_PAUSE_WITHOUT_STORE_SECONDS)
        is_reopened = True
        if run_for:
            run_for = max(0.001, ends_at - time.monotonic())


async def _emit(
    settings: Settings,
    events: list[dict[str, Any]] | None,
    endpoint: str | None,
    *,
    is_reopened: bool,
    **options: Any,
) -> State[Any]:
    async with open_dispatcher(settings, **options) as dispatcher:
        if is_reopened:  # the previous dispatcher could not release its leases; no process crashed
            await dispatcher.store.release_all(dispatcher.owner)
        own = get_caller().tracker
        if events is not None:
            own = await store_events(dispatcher, events, endpoint, max_bytes=settings.max_event_bytes)
        counts = await send_due(dispatcher, endpoint=endpoint, own=own)
        if own is not None:
            await own.finish(ended=dispatcher.owner)
            waiting = own.outcomes.parked + own.outcomes.held
            return ended(say_outcomes(own, endpoint), own.outcomes, waiting=waiting)
        held = await count_held(dispatcher.store, counts, endpoint, ended=dispatcher.owner)
    problems = dispatcher.problems
    message = "; ".join([str(counts), *held, *say_problems(problems)])
    return ended(message, counts, waiting=counts.held + len(problems))
