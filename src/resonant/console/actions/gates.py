"""Pause, resume and test an endpoint."""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import flag, only
from resonant.console.asked import Asked, Done, path
from resonant.events import Event
from resonant.events.own import TEST_SOURCE, TEST_TYPE
from resonant.gate import pausing
from resonant.intake.problems import Problem
from resonant.store.audit import record_change
from resonant.store.queue.accept import accept
from resonant.store.shared.gates import GateState, read_gate
from resonant.store.views.known_names import known_endpoints
from resonant.suggestions import no_such_endpoint


async def pause(asked: Asked) -> Done:
    """Pause an endpoint."""
    only(asked, "reason")
    return await _change(asked, partial(pausing.pause, reason=asked.text("reason") or None))


async def resume(asked: Asked) -> Done:
    """Resume an endpoint; with ``now``, its parked deliveries are due now."""
    only(asked, "now")
    return await _change(asked, partial(pausing.resume, send_parked=flag(asked, "now")))


async def test(asked: Asked) -> Done:
    """Store a test event for an endpoint, which drains send once; unlike the command, the console sends nothing itself."""
    only(asked)
    name, event = await _known(asked), Event(type=TEST_TYPE, source=TEST_SOURCE, data={"test": True})
    selection = {"endpoint": name, "event_id": event.id}

    def store_event(connection: Connection) -> GateState:
        accept(connection, [(event, name)], now=asked.now, max_attempts=1)
        record_change(connection, at=asked.now, who=asked.who, action="test", selection=selection)
        return read_gate(connection, name).state

    state = await asked.console.store.write(store_event)
    waits = f"; endpoint {name} is {state}, so it may wait" if state in ("paused", "probing") else ""
    document = {"endpoint": name, "source": event.source, "event_id": event.id}
    text = f"a test event is stored, and a drain sends it{waits}"
    return Done(text, document, path("events", event.source, event.id))


async def _change(asked: Asked, change: Callable[..., Coroutine[Any, Any, pausing.OperatorChange]]) -> Done:
    name, store = await _known(asked), asked.console.store
    done = await change(store, name, who=asked.who)
    return Done(done.text, documents.gate_change(done, now=store.clock()), path("endpoints", name))


async def _known(asked: Asked) -> str:
    [name] = asked.names
    if name not in (known := await asked.console.store.read(known_endpoints)):
        raise Problem(404, no_such_endpoint(name, known))
    return name
