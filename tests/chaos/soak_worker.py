"""One of the processes of the soak: ``python soak_worker.py ROLE ORDERS``, with orders as JSON.

``produce`` stores events at a steady rate, ``drain`` emits them in runs that go on for a minute, as the drain deployment
does, and ``keep`` exports metrics, collects and purges. None needs Prefect.
"""

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos_worker import ENDPOINT, export_to

from resonant.dead_letters.purge import Retention, purge
from resonant.dead_letters.triage import triage
from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.limits import Limits
from resonant.dispatch.run.event_loop import use_uvloop
from resonant.events import Event
from resonant.store import Store
from resonant.store.shared.processes import has_ended
from support.dispatching import dispatching_to, emit, opened

# A Retry-After of 24 hours or more expires a delivery at once.
_POLICY = RetryPolicy(max_attempts=6, base=0.5, factor=3.0, cap=15.0, park_after=5.0, max_age=24 * 3600.0)
_TIMEOUT_SECONDS = 2.0
_RUN_SECONDS = 60.0
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Orders:
    """The orders of a process.

    Attributes:
        url: the store's URL.
        receiver: the receiver's URL.
        folder: for archives and metrics.
        ends_at: when events are no longer stored, in seconds since the epoch; unfinished ones are still emitted.
        rate: events per second.
        keep_minutes: how long final deliveries are kept, and how far metrics look back.
    """

    url: str
    receiver: str
    folder: str
    ends_at: float
    rate: float
    keep_minutes: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def event_of(number: int) -> Event:
    data = {"n": number, "x": "ü" * (number % 200)}
    return Event(type=f"soak.{number % 5}", source="/soak", data=data, id=f"soak-{number:08d}")


async def produce(store: Store, orders: Orders) -> None:
    started_at, number = time.time(), 0
    while (now := time.time()) < orders.ends_at:
        upto = int((now - started_at) * orders.rate)
        if upto > number:
            await store.enqueue([event_of(each) for each in range(number, upto)], ENDPOINT)
            number = upto
        await asyncio.sleep(0.2)
    (Path(orders.folder) / "produced").write_text(f"{number}")


async def drain(store: Store, orders: Orders) -> None:
    while time.time() < orders.ends_at or await store.unfinished():
        seconds = min(_RUN_SECONDS, orders.ends_at - time.time())
        limits = Limits(run_for=max(0.0, seconds))
        options = {"owner": f"drain-{time.time()}", "policy": _POLICY, "limits": limits}
        async with dispatching_to(orders.receiver, store, timeout=_TIMEOUT_SECONDS, **options) as dispatcher:
            await emit(dispatcher)
        if time.time() >= orders.ends_at:
            await asyncio.sleep(0.5)


async def keep(store: Store, orders: Orders) -> None:
    folder = Path(orders.folder)
    days, number = orders.keep_minutes / (24 * 60), 0
    pause = min(_MINUTE, orders.keep_minutes * _MINUTE / 4)
    while time.time() < orders.ends_at:
        await store.rescue_ended(has_ended)
        await store.read(triage)
        await export_to(folder / "resonant.prom", store, hours=orders.keep_minutes / 60)
        archive = folder / f"purged-{number:04d}.jsonl.gz"
        await purge(store, Retention(days, days), who="soak", now=store.clock(), archive=archive)
        number += 1
        await asyncio.sleep(max(0.0, min(pause, orders.ends_at - time.time())))


async def work(role: str, orders: Orders) -> None:
    """Do one of the roles to its end."""
    async with opened(orders.url) as store:
        await {"produce": produce, "drain": drain, "keep": keep}[role](store, orders)


if __name__ == "__main__":
    use_uvloop()  # as in a flow run
    asyncio.run(work(sys.argv[1], Orders(**json.loads(sys.argv[2]))))
