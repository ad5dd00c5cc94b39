"""The operators of a world: one action each."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.erase import Erasure, erase
from resonant.dead_letters.purge import Chosen, Retention, purge, time_of_purge
from resonant.dead_letters.replay import ReplayRequest, put_back, take_dead_letters
from resonant.delivery.retry import Retry
from resonant.dispatch.dispatcher import Dispatcher
from resonant.errors import UnknownName
from resonant.events import Lease
from resonant.gate.pausing import pause, resume
from resonant.routing import new_subscription
from resonant.store import WorkerStore
from resonant.store.audit import audited
from resonant.store.shared.acknowledgements import acknowledge
from resonant.store.shared.subscriptions import add_subscription, remove_subscriptions_of
from resonant.store.views.selection import Selection
from simulation.broken import Broken
from simulation.loop import Process

if TYPE_CHECKING:
    from simulation.world import World

_WHO = "operator"
SUBJECTS = 20


async def emit_one(dispatcher: Dispatcher, lease: Lease) -> None:
    """Make the attempts of a delivery, as the flow's task does with Prefect's retries."""
    while isinstance(decision := (await dispatcher.attempt(lease.key)).decision, Retry):
        await asyncio.sleep(decision.delay)


class Operation(NamedTuple):
    """One action, about one endpoint, in a process of its own."""

    world: "World"
    process: Process
    store: WorkerStore
    rng: Random
    action: str
    endpoint: str


async def operate(world: "World", process: Process, action: str, endpoint: str) -> None:
    """Do what an operator asks for, about one endpoint."""
    store, rng = world.open_store(process), world.rng(process.name)
    await ACTIONS[action](Operation(world, process, store, rng, action, endpoint))
    world.say(f"{process.name}: {action} {endpoint} done")


async def _replay(asked: Operation) -> None:
    world, process, rng = asked.world, asked.process, asked.rng
    to = rng.choice([name for name in world.endpoints if name != asked.endpoint] or [None])
    request = ReplayRequest(
        Selection(endpoint=asked.endpoint),
        include_permanent=rng.random() < 0.3,
        to=to if asked.action == "replay to" else None,
        rate=rng.choice((None, 20.0)),
        limit=rng.choice((None, 10)),
    )
    async with world.dispatcher(process, process.name) as dispatcher:
        world.observer.note_replay(process, asked.endpoint, request.include_permanent)
        own = dispatcher.store
        if request.to is None and rng.random() < 0.5:  # as the console does without a Prefect server
            await put_back(own, request, who=_WHO, owner=process.name)
            return
        async with audited(own, who=_WHO, action="replay", selection=request.as_dict()) as audit_id:
            taken = take_dead_letters(own, request, owner=process.name, audit_id=audit_id)
            await dispatcher.emit_given(partial(emit_one, dispatcher), taken)


async def _cancel(asked: Operation) -> None:
    await cancel(asked.store, Selection(endpoint=asked.endpoint, event_type="order.sh*"), who=_WHO)


async def _purge(asked: Operation) -> None:
    days, observer = asked.rng.choice((0.0, 60.0 / 86_400)), asked.world.observer
    whats = {
        "purge": Chosen(Selection(endpoint=asked.endpoint), older_than=days),
        "purge delivered": Retention(dead_letters=1_000, delivered=days),
        "remove bodies": Retention(dead_letters=1_000, bodies=days),
    }
    now = await time_of_purge(asked.store)
    promise = (asked.action, asked.endpoint, now - days * 86_400)
    observer.note_purge(asked.process, *promise)
    promised = observer.purgeable(*promise)
    await purge(asked.store, whats[asked.action], who=_WHO, now=now)
    if left := promised & observer.purgeable(*promise):
        raise Broken("removal", f"the {asked.action} of {asked.endpoint} left {len(left)} deliveries")


async def _erase(asked: Operation) -> None:
    query = "SELECT e.subject FROM resonant_deliveries d JOIN resonant_events e ON e.key = d.event_key WHERE d.status = 'retrying' ORDER BY d.id"
    tried = [each for (each,) in asked.world.server.query(query) if each is not None]
    what, observer = (
        Erasure(subject=asked.rng.choice([f"s{asked.rng.randrange(SUBJECTS)}", *tried])),
        asked.world.observer,
    )
    stored = observer.stored_with(what.subject)
    observer.erased_subjects.add(what.subject)
    with suppress(UnknownName):
        report = await erase(asked.store, what, who=_WHO, has_ended=asked.world.has_ended)
        if not report.being_sent:
            observer.note_erased(stored)


async def _acknowledge(asked: Operation) -> None:
    query = "SELECT fingerprint FROM resonant_causes WHERE endpoint = :of"
    for (cause,) in asked.world.server.query(query, of=asked.endpoint):
        await asked.store.write(acknowledge, cause, who=_WHO, note=None, now=asked.store.clock())


async def _pause(asked: Operation) -> None:
    await pause(asked.store, asked.endpoint, who=_WHO)
    later = asked.rng.uniform(5.0, 90.0)
    asked.world.host.call(asked.world.start_operator, "resume", asked.endpoint, after=later)


async def _resume(asked: Operation) -> None:
    await resume(asked.store, asked.endpoint, who=_WHO, send_parked=asked.action == "resume now")


async def _subscribe(asked: Operation) -> None:
    types = asked.rng.choice((["order.paid"], ["order.*"], ["*"]))
    new = replace(new_subscription(asked.endpoint, {"types": types}), id=asked.process.name)
    await asked.store.write(add_subscription, new, who=_WHO, now=asked.store.clock())


async def _unsubscribe(asked: Operation) -> None:
    await asked.store.write(remove_subscriptions_of, asked.endpoint, who=_WHO, now=asked.store.clock())


ACTIONS = {
    "replay": _replay,
    "replay to": _replay,
    "cancel": _cancel,
    "purge": _purge,
    "purge delivered": _purge,
    "erase": _erase,
    "remove bodies": _purge,
    "pause": _pause,
    "resume": _resume,
    "resume now": _resume,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "acknowledge": _acknowledge,
}
