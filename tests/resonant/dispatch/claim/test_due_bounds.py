"""From when on a run searches for due deliveries while complete searches are slow."""

import asyncio
import math
import time
from collections import Counter

import pytest

from resonant.delivery.retry import RetryPolicy
from resonant.dispatch.claim import due_bounds
from resonant.dispatch.claim.due_bounds import DueBounds
from resonant.dispatch.limits import Limits
from resonant.errors import UnexpectedStatus
from resonant.store import WorkerStore
from resonant.store.queue.leases import Due
from resonant.testing import FixedClock
from support.dispatching import appending_to, draining, enqueue, opened
from support.waiting import until

POLL_SECONDS, SLOW_SECONDS = 0.25, 0.1
NOBODY = frozenset()


@pytest.fixture
def monotonic():
    return FixedClock(5.0)


@pytest.fixture
def bounds(monotonic):
    return DueBounds(POLL_SECONDS, monotonic)


def look_at_all(bounds, *found, seconds=SLOW_SECONDS):
    """Note a complete search at the time 1000."""
    bounds.note([Due(*each) for each in found], bounds=None, at=1000.0, seconds=seconds)


def test_nothing_is_left_out_while_searches_are_quick(bounds):
    for _ in range(2):
        assert bounds.of_next_look(NOBODY) is None
        look_at_all(bounds, ("orders", 990.0), seconds=0.01)
        assert bounds.of(["orders"]) == {}


def test_after_a_slow_search_others_begin_where_it_found_the_earliest(bounds):
    look_at_all(bounds, ("behind", 900.0), ("sent", 1060.0))
    assert bounds.of_next_look(NOBODY) == {"behind": 900.0, "sent": 999.0}
    assert bounds.of(["behind", "idle"]) == {"behind": 900.0, "idle": 999.0}


def test_the_bounds_follow_the_searches(bounds):
    look_at_all(bounds, ("behind", 900.0))
    given = bounds.of_next_look(frozenset({"woken"}))
    assert given == {"behind": 900.0, "woken": 999.0}
    bounds.note([Due("behind", 950.0)], bounds=given, at=1010.0, seconds=math.inf)
    assert bounds.of_next_look(NOBODY) == {"behind": 950.0, "woken": 1009.0}
    assert bounds.of(["idle"]) == {"idle": 999.0}, "nobody has looked since"


@pytest.mark.parametrize(
    ("seconds", "pause"), [(SLOW_SECONDS, 20 * SLOW_SECONDS), (60.0, 5.0)], ids=["slow", "very slow"]
)
def test_complete_searches_take_a_twentieth_of_the_time_or_follow_after_five_seconds(
    bounds, monotonic, seconds, pause
):
    look_at_all(bounds, seconds=seconds)
    monotonic.advance(pause - 0.01)
    assert bounds.of_next_look(NOBODY) == {}
    monotonic.advance(0.02)
    assert bounds.of_next_look(NOBODY) is None


@pytest.mark.parametrize(("woken_for", "expected"), [(frozenset({"woken"}), {"woken": 999.0}), (None, None)])
def test_a_look_that_fails_is_repeated_for_the_same_endpoints(bounds, woken_for, expected):
    look_at_all(bounds)
    for _ in range(2):
        assert bounds.of_next_look(woken_for) == expected
        woken_for = NOBODY


def test_a_commit_for_an_unknown_endpoint_needs_a_complete_search(bounds):
    look_at_all(bounds)
    assert bounds.of_next_look(None) is None


@pytest.fixture
def looks(monkeypatch):
    """Return the bounds of the searches so far, None for complete ones.

    Each search counts as so slow that three seconds pass between complete ones: longer than between polls on a busy machine.
    """
    looks, look, note = [], WorkerStore.look, DueBounds.note

    async def record_look(store, endpoint=None, **options):
        looks.append(options["bounds"])
        return await look(store, endpoint, **options)

    def note_slow_search(own, found, **facts):
        note(own, found, **facts | {"seconds": 0.15})

    monkeypatch.setattr(WorkerStore, "look", record_look)
    monkeypatch.setattr(DueBounds, "note", note_slow_search)
    return looks


@pytest.fixture
def one_complete(monkeypatch):
    """Let no complete search follow a slow one during the test."""
    monkeypatch.setattr(due_bounds, "SEARCH_SHARE", 1e-9)
    monkeypatch.setattr(due_bounds, "_LONGEST_WAIT_SECONDS", 600.0)


async def test_an_event_committed_late_is_sent_after_the_next_complete_search(postgresql_url, looks):
    sent = []
    late = opened(postgresql_url, clock=lambda: time.time() - 10)
    async with (
        opened(postgresql_url) as store,
        late as producer,
        draining(store, appending_to(sent), limits=Limits(run_for=60)),
    ):
        await until(lambda: {} in looks)
        complete = looks.count(None)
        stored = await enqueue(producer)
        await until(lambda: sent == stored)
    assert looks.count(None) > complete


@pytest.mark.usefixtures("one_complete")
async def test_all_events_of_a_new_endpoint_are_sent_without_a_complete_search(postgresql_url, looks):
    sent = []

    async def send_slowly(event):
        await asyncio.sleep(0.05)
        sent.append(event.id)

    limits = Limits(run_for=60, concurrency=2)
    async with opened(postgresql_url) as store, draining(store, send_slowly, limits=limits):
        await until(lambda: {} in looks)
        complete = looks.count(None)
        stored = await enqueue(store, 60)
        await until(lambda: sorted(sent) == stored)
    assert looks.count(None) == complete


@pytest.mark.usefixtures("one_complete")
async def test_a_retry_for_a_new_endpoint_is_sent_without_a_complete_search(postgresql_url, looks):
    sent = Counter()

    async def fail_first(event):
        sent[event.id] += 1
        if sent[event.id] == 1:
            raise UnexpectedStatus(503)

    policy = RetryPolicy(base=0.4, factor=1.0, jitter="none", park_after=0.0)
    async with (
        opened(postgresql_url) as store,
        draining(store, fail_first, policy=policy, limits=Limits(run_for=60)),
    ):
        await until(lambda: {} in looks)
        complete = looks.count(None)
        await enqueue(store)
        await until(lambda: sent.total() == 2)
    assert looks.count(None) == complete
