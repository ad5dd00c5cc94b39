"""Resonant against other ways to get events delivered, on the same events, sent to the same receiver.

Each contender in its turn is started with all that it needs, and nothing of the others runs meanwhile. It delivers some
events to warm up; then one at a time, at random moments of a second, for its latency; then all, without and with faults. Its
workers are stopped while these are handed over, so that none of that is in the time, nor in the CPU.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING

from benches.contenders import (
    BULK,
    BULK_TWICE,
    CELERY,
    CONTENDERS,
    DRAMATIQ,
    EMPTY_TASKS,
    RAW_LOOP,
    TASK,
)
from benches.contenders.contender import Place
from benches.measuring import Comparison, apart, number, say
from benches.processes import PeakMemory, wait_until_quiet
from benches.receiver import NotReceived, Receiver, counting_receiver
from benches.standings import Delivered, Standing, Visit
from benches.surroundings import Missing, empty_home, events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benches.contenders.contender import Contender, Running

EVENTS = 5_000
_FAULTS = 0.2
_WARM_UP_PART = 0.1
_WARM_UP_SECONDS = 90.0
_LATENCIES = 100
_LATENCY_SECONDS = 20.0
_PAUSE_SECONDS = 1.0
_QUIET_SECONDS = 300.0
# Slower than this on average, in events a second, is taken for stuck.
_STUCK = 10


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison | Standing]:
    """Measure, and return what came out.

    Args:
        count: events.
        rounds: how often each contender has its turn.
        only: parts of contenders' names, for these and the raw loop alone; all where it is empty.
    """
    chosen = [
        each
        for each in CONTENDERS.values()
        if each is RAW_LOOP or not only or any(part.lower() in each.name.lower() for part in only)
    ]
    visits: dict[str, dict[int, Visit]] = {each.name: {} for each in chosen}
    remarks: dict[str, str] = {}
    missing: set[str] = set()
    for turn in range(1, rounds + 1):
        for contender in chosen:
            if contender.name in missing:
                continue
            try:
                visits[contender.name][turn] = visit = apart(_visit, contender.name, count)
            except Missing as error:
                missing.add(contender.name)
                remarks[contender.name] = str(error)
                say(f"  {contender.name}: {error}")
            except Exception as error:  # noqa: BLE001 - whatever it was, the others have their turn
                remarks[contender.name] = f"round {turn} failed: {type(error).__name__}: {error}"
                say(f"  {contender.name}: {remarks[contender.name]}")
            else:
                say(f"  round {turn}: {contender.name}: {_in_short(visit)}")
    standings = {
        each.name: Standing(each.name, each.in_flight, visits[each.name], remarks.get(each.name, ""))
        for each in chosen
    }
    return [*standings.values(), *_targets(standings)]


def _targets(standings: dict[str, Standing]) -> list[Comparison]:
    """Compare what the issues ask for."""
    found: list[Comparison] = []

    def compare(
        what: str,
        unit: str,
        value: Callable[[Delivered], float],
        ours: Contender,
        theirs: Contender,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        if ours.name not in standings or theirs.name not in standings:
            return
        of_ours, of_theirs = standings[ours.name].visits, standings[theirs.name].visits
        both = sorted(of_ours.keys() & of_theirs.keys())
        if both:
            found.append(
                Comparison(
                    f"{what}, {ours.name.removeprefix('Resonant, ')}",
                    unit,
                    [value(of_ours[turn].plain) for turn in both],
                    [value(of_theirs[turn].plain) for turn in both],
                    theirs.name,
                    ratio_at_least=at_least,
                    ratio_at_most=at_most,
                )
            )

    def speed(each: Delivered) -> float:
        return each.events_per_second

    def cpu(each: Delivered) -> float:
        return each.cpu_ms

    compare("throughput", "events/s", speed, TASK, EMPTY_TASKS, at_least=0.85)
    compare("throughput", "events/s", speed, BULK, RAW_LOOP, at_least=0.7)
    compare("throughput", "events/s", speed, BULK_TWICE, DRAMATIQ, at_least=1.5)
    compare("throughput", "events/s", speed, BULK_TWICE, CELERY, at_least=3)
    compare("CPU", "ms an event", cpu, BULK_TWICE, DRAMATIQ, at_most=0.45)
    return found


def _visit(name: str, count: int) -> Visit:
    """Measure one contender; in a process of its own, which is the producer."""
    contender = CONTENDERS[name]
    with contextlib.ExitStack() as stack:
        settings = stack.enter_context(empty_home())
        receiver = stack.enter_context(counting_receiver())
        folder = settings.home.parent / "contender"
        folder.mkdir()
        place = Place(settings, folder, receiver.url)
        running = stack.enter_context(contender.start(place))
        try:
            return _measure(running, receiver, count)
        except NotReceived as error:
            log = place.log.read_text(errors="replace").strip().splitlines()
            raise NotReceived(f"{error}; its log ends with {log[-1:]}") from None


def _measure(running: Running, receiver: Receiver, count: int) -> Visit:
    warm_up = max(1, round(count * _WARM_UP_PART))
    receiver.expect(warm_up)
    running.enqueue(events(warm_up))
    if running.wait:
        running.wait()
        return Visit(_deliver(running, receiver, count, faults=0), None, [])
    receiver.wait(_WARM_UP_SECONDS + warm_up / _STUCK)
    _settle(running)
    latencies = _latencies(running, receiver, seconds=min(_LATENCY_SECONDS, count / 100))
    plain = _deliver(running, receiver, count, faults=0)
    return Visit(plain, _deliver(running, receiver, count, faults=_FAULTS), latencies)


def _latencies(running: Running, receiver: Receiver, *, seconds: float) -> list[float]:
    """Hand over one event after the other, each to an idle system, for so long at most."""
    found: list[float] = []
    rng = random.Random(7)
    give_up_at = time.monotonic() + seconds
    while len(found) < _LATENCIES and (time.monotonic() < give_up_at or not found):
        time.sleep(rng.uniform(0, _PAUSE_SECONDS))
        event = events(1)
        receiver.expect(1)
        began = time.monotonic()
        running.enqueue(event)
        found.append(receiver.wait(_WARM_UP_SECONDS).last_at - began)
    return found


def _deliver(running: Running, receiver: Receiver, count: int, *, faults: float) -> Delivered:
    given = events(count)
    workers, services = running.worker_tree, running.service_trees
    receiver.expect(count, faults=faults)
    with workers.stopped(running.is_free):
        enqueue_began = time.monotonic()
        running.enqueue(given)
        enqueued_after = time.monotonic() - enqueue_began
        cpu_before = workers.cpu_seconds()
        of_services_before = {name: tree.cpu_seconds() for name, tree in services.items()}
    with PeakMemory(workers) as memory:
        if running.wait:
            first_at, last_at = running.wait()
        else:
            receipts = receiver.wait(60 + count / _STUCK)
            first_at, last_at = receipts.first_at, receipts.last_at
    _settle(running)
    received = receiver.so_far()
    return Delivered(
        events_per_second=count / (last_at - first_at),
        cpu_ms=(workers.cpu_seconds() - cpu_before) / count * 1000,
        services_cpu_ms={
            name: (tree.cpu_seconds() - of_services_before[name]) / count * 1000
            for name, tree in services.items()
        },
        peak_megabytes=memory.megabytes,
        quiet_after=time.monotonic() - last_at,
        requests=received.requests,
        duplicates=received.duplicates,
        enqueue_seconds=enqueued_after,
    )


def _settle(running: Running) -> None:
    wait_until_quiet([running.worker_tree, *running.service_trees.values()], _QUIET_SECONDS)


def _in_short(visit: Visit) -> str:
    text = f"{number(visit.plain.events_per_second)} events/s, {visit.plain.cpu_ms:.2f} ms of CPU"
    return text + (f"; with faults {number(visit.faulty.events_per_second)} events/s" if visit.faulty else "")
