"""Resonant compared with other ways to deliver events, with the same events and the same receiver.

The contenders run one after the other, each with only its own services. A contender first delivers some warm-up events. Then,
without and with faults, it delivers single events in an idle system, to measure the latency, and finally all events at once.
Its workers are stopped while those are enqueued, so that time and CPU exclude the enqueuing.

A latency ends when the receiver has read the request. It begins when the producer begins to enqueue the event with the queue's
own call or, for contenders that store nothing, when the sending process begins its sending call. So the latency of a bare call
is that of the httpx call alone.
"""

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from benches.comparing import Comparison, Interrupted, apart, in_one_line, is_chosen, say
from benches.contenders import (
    AWA,
    BULK,
    BULK_POSTGRESQL,
    BULK_TWICE,
    CELERY,
    CONTENDERS,
    DRAMATIQ,
    OBAN,
    PGQUEUER,
    PROCRASTINATE,
    RAW_LOOP,
)
from benches.contenders.contender import Contender, Place, Running
from benches.processes import PeakMemory, wait_until_quiet
from benches.receiver import NotReceived, Receiver, counting_receiver
from benches.standings import (
    Delivered,
    Kind,
    Standing,
    Visit,
    all_cpu_ms,
    cpu_ms,
    events_per_second,
    faulty,
    plain,
)
from benches.surroundings import Missing, empty_home, events
from benches.tables import number

EVENTS = 5_000
_FAULTS = 0.2
_WARM_UP_PART = 0.1
_WARM_UP_SECONDS = 90.0
# One latency is measured for every _LATENCY_OF events, within these limits of number and time.
_LATENCY_OF = 20
_LATENCIES = 100
_LATENCY_SECONDS = 60.0
# The polling period of a drain, so that events arrive at uniformly random moments of the period.
_PAUSE_SECONDS = 0.25
_IDLE_SECONDS, _IDLE_LOOK_SECONDS = 2.0, 0.05
_QUIET_SECONDS = 300.0
# A contender that is slower than this on average, in events per second, counts as stuck.
_STUCK = 10


class _Target(NamedTuple):
    what: str
    unit: str
    value: Callable[[Delivered], float]
    ours: Contender
    theirs: Contender
    at_least: float | None = None
    at_most: float | None = None
    kind: Kind = plain


# The target ratios.
_rate = partial(_Target, "throughput", "events/s", events_per_second)
_cpu = partial(_Target, "CPU with services", "ms an event", all_cpu_ms)
_TARGETS = (
    _rate(BULK, RAW_LOOP, at_least=0.7),
    _rate(BULK_TWICE, DRAMATIQ, at_least=1.5),
    _rate(BULK_TWICE, CELERY, at_least=3),
    _Target("CPU", "ms an event", cpu_ms, BULK_TWICE, DRAMATIQ, at_most=0.45),
    _rate(BULK, RAW_LOOP, at_least=0.85, kind=faulty),
    _rate(BULK_POSTGRESQL, RAW_LOOP, at_least=0.85, kind=faulty),
    _rate(BULK_TWICE, DRAMATIQ, at_least=2, kind=faulty),
    _cpu(BULK_TWICE, DRAMATIQ, at_most=0.45, kind=faulty),
    *(
        target
        for theirs in (PROCRASTINATE, AWA, OBAN, PGQUEUER)
        for kind in (plain, faulty)
        for target in (
            _rate(BULK_POSTGRESQL, theirs, at_least=1, kind=kind),
            _cpu(BULK_POSTGRESQL, theirs, at_most=1, kind=kind),
        )
    ),
)


def run(count: int, rounds: int, only: Sequence[str] = ()) -> list[Comparison | Standing]:
    """Measure, and return the results.

    Args:
        count: events.
        rounds: rounds of each contender.
        only: parts of the names of contenders to run in addition to the raw loop; empty for all.

    Raises:
        Interrupted: the comparison was interrupted; the error has the results so far.
    """
    chosen = [each for each in CONTENDERS.values() if each is RAW_LOOP or is_chosen(each.name, only)]
    standings = {each.name: Standing(each.name, each.in_flight) for each in chosen}
    try:
        for turn in range(1, rounds + 1):
            for standing in [each for each in standings.values() if not each.is_missing]:
                standings[standing.name] = _after_turn(standing, turn, count)
    except KeyboardInterrupt:
        raise Interrupted([*standings.values(), *_compare(standings)]) from None
    return [*standings.values(), *_compare(standings)]


def _after_turn(standing: Standing, turn: int, count: int) -> Standing:
    """Run a round of a contender, and return its new standing."""
    name = standing.name
    try:
        visit = apart(_visit, name, count)
    except Missing as error:
        after = replace(standing, is_missing=True, remark=str(error))
    except Exception as error:  # noqa: BLE001 - the other contenders still run
        after = replace(standing, remark=f"round {turn} failed: {in_one_line(error)}")
    else:
        say(f"  round {turn}: {name}: {_in_short(visit)}")
        return replace(standing, visits=standing.visits | {turn: visit})
    say(f"  {name}: {after.remark}")
    return after


def _compare(standings: dict[str, Standing]) -> list[Comparison]:
    """Compare the contenders of each target, over the rounds that both completed."""
    found: list[Comparison] = []
    for target in _TARGETS:
        ours, theirs = (standings.get(each.name) for each in (target.ours, target.theirs))
        if ours is None or theirs is None:
            continue
        of_ours, of_theirs = ours.delivered(target.kind), theirs.delivered(target.kind)
        if both := sorted(of_ours.keys() & of_theirs.keys()):
            found.append(
                Comparison(
                    f"{target.what}{' with faults' if target.kind is faulty else ''}, {ours.name.removeprefix('Resonant, ')}",
                    target.unit,
                    [target.value(of_ours[turn]) for turn in both],
                    [target.value(of_theirs[turn]) for turn in both],
                    theirs.name,
                    ratio_at_least=target.at_least,
                    ratio_at_most=target.at_most,
                )
            )
    return found


def _visit(name: str, count: int) -> Visit:
    """Measure one contender in its own process, which is the producer."""
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
    _wait(running, receiver, _WARM_UP_SECONDS + warm_up / _STUCK)
    without_faults = _deliver(running, receiver, count, faults=0)
    return Visit(without_faults, _deliver(running, receiver, count, faults=_FAULTS))


def _wait(running: Running, receiver: Receiver, seconds: float) -> tuple[float, float]:
    """Wait until the last enqueued events are done; return the times of the first and the last of them."""
    receipts = receiver.wait(seconds)
    if running.wait:
        running.wait()
    return receipts.first_at, receipts.last_at


def _latencies(running: Running, receiver: Receiver, count: int, *, faults: float) -> list[float]:
    """Enqueue single events in an idle system at random moments; return their latencies in seconds."""
    found: list[float] = []
    rng = random.Random(7)
    trees = [running.worker_tree, *running.service_trees.values()]
    give_up_at = time.monotonic() + _LATENCY_SECONDS
    while len(found) < min(_LATENCIES, max(1, count // _LATENCY_OF)) and time.monotonic() < give_up_at:
        wait_until_quiet(trees, _IDLE_SECONDS, look_seconds=_IDLE_LOOK_SECONDS)
        time.sleep(rng.uniform(0, _PAUSE_SECONDS))
        event = events(1)
        receiver.expect(1, faults=faults)
        began = time.monotonic()
        running.enqueue(event)
        last_at = receiver.wait(_WARM_UP_SECONDS).last_at
        if running.wait:
            began, _ = running.wait()
        found.append(last_at - began)
    return found


def _deliver(running: Running, receiver: Receiver, count: int, *, faults: float) -> Delivered:
    latencies = _latencies(running, receiver, count, faults=faults)
    _settle(running)
    given = events(count)
    workers, services = running.worker_tree, running.service_trees
    receiver.expect(count, faults=faults)
    with workers.stopped(running.is_free):
        running.enqueue(given)
        cpu_before = workers.cpu_seconds()
        of_services_before = {name: tree.cpu_seconds() for name, tree in services.items()}
    with PeakMemory(workers) as memory:
        first_at, last_at = _wait(running, receiver, 60 + count / _STUCK)
    _settle(running)
    return Delivered(
        events_per_second=count / (last_at - first_at),
        cpu_ms=(workers.cpu_seconds() - cpu_before) / count * 1000,
        services_cpu_ms={
            name: (tree.cpu_seconds() - of_services_before[name]) / count * 1000
            for name, tree in services.items()
        },
        peak_megabytes=memory.megabytes,
        latencies=latencies,
    )


def _settle(running: Running) -> None:
    wait_until_quiet([running.worker_tree, *running.service_trees.values()], _QUIET_SECONDS)


def _in_short(visit: Visit) -> str:
    rates = [number(each.events_per_second) for each in (visit.plain, visit.faulty)]
    return f"{rates[0]} events/s, {visit.plain.cpu_ms:.2f} ms of CPU; with faults {rates[1]} events/s"
