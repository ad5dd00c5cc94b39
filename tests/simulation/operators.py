"""The operators of a world: one action each."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from resonant.dead_letters.cancel import cancel
from resonant.dead_letters.erase import Erasure, erase
from resonant.dead_letters.purge import Chosen, Retention, purge, time_of_purge
from resonant.dead_letters.replay import ReplayRequest, take_dead_letters
from resonant.delivery.retry import Retry
from resonant.dispatch.dispatcher import Dispatcher
from resonant.errors import StoreUnavailable, UnknownName
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


async def emit_one(dispatcher: Dispatcher, lease: Lease) -> None:
    """Make the attempts of a delivery, as the flow's task does with Prefect's retries."""
    while isinstance(decision := (await dispatcher.attempt(lease.key)).decision, Retry):
        await asyncio.sleep(decision.delay)


async def operate(world: "World", process: Process, action: str, endpoint: str) -> None:
    """Do what an operator asks for, about one endpoint."""
    rng = world.rng(process.name)
    store = world.open_store(process)
    selection = Selection(endpoint=endpoint)
    if action in {"replay", "replay to"}:
        to = rng.choice([name for name in world.endpoints if name != endpoint] or [None])
        request = ReplayRequest(
            selection,
            include_permanent=rng.random() < 0.3,
            to=to if action == "replay to" else None,
            rate=rng.choice((None, 20.0)),
            limit=rng.choice((None, 10)),
        )
        async with world.dispatcher(process, process.name) as dispatcher:
            world.observer.note_replay(process, endpoint, request.include_permanent)
            own = dispatcher.store
            async with audited(own, who=_WHO, action="replay", selection=request.as_dict()) as audit_id:
                taken = take_dead_letters(own, request, owner=process.name, audit_id=audit_id)
                await dispatcher.emit_given(partial(emit_one, dispatcher), taken)
    elif action == "cancel":
        await cancel(store, Selection(endpoint=endpoint, event_type="order.sh*"), who=_WHO)
    elif action in {"purge", "purge delivered", "remove bodies"}:
        await _purge(world, process, store, action, endpoint, days=rng.choice((0.0, 60.0 / 86_400)))
    elif action == "erase":
        what = Erasure(subject=f"s{rng.randrange(50)}")
        stored = world.observer.stored_with(what.subject)
        world.observer.erased_subjects.add(what.subject)
        try:
            report = await erase(store, what, who=_WHO, has_ended=world.has_ended)
        except UnknownName:
            return
        if not report.being_sent:
            world.observer.note_erased(stored)
    elif action == "acknowledge":
        causes = world.server.query("SELECT fingerprint FROM resonant_causes WHERE endpoint = :of", of=endpoint)
        for (cause,) in causes:
            await store.write(acknowledge, cause, who=_WHO, note=None, now=store.clock())
    elif action == "pause":
        await pause(store, endpoint, who=_WHO)
        world.host.call(world.start_operator, "resume", endpoint, after=rng.uniform(5.0, 90.0))
    elif action in {"resume", "resume now"}:
        world.observer.note_resume(endpoint)
        await resume(store, endpoint, who=_WHO, send_parked=action == "resume now")
        world.observer.note_resume(endpoint)
    elif action == "subscribe":
        types = rng.choice((["order.paid"], ["order.*"], ["*"]))
        new = replace(new_subscription(endpoint, {"types": types}), id=process.name)
        await store.write(add_subscription, new, who=_WHO, now=store.clock())
    else:
        await store.write(remove_subscriptions_of, endpoint, who=_WHO, now=store.clock())
    world.say(f"{process.name}: {action} {endpoint} done")


async def _purge(
    world: "World", process: Process, store: WorkerStore, action: str, endpoint: str, *, days: float
) -> None:
    whats = {
        "purge": Chosen(Selection(endpoint=endpoint), older_than=days),
        "purge delivered": Retention(dead_letters=1_000, delivered=days),
        "remove bodies": Retention(dead_letters=1_000, bodies=days),
    }
    now = await time_of_purge(store)
    promise = (action, endpoint, now - days * 86_400)
    world.observer.note_purge(process, *promise)
    promised = world.observer.purgeable(*promise)
    await purge(store, whats[action], who=_WHO, now=now)
    if left := promised & world.observer.purgeable(*promise):
        raise Broken("removal", f"the {action} of {endpoint} left {len(left)} deliveries")
