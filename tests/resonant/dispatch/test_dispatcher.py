"""A run of the dispatcher from its first claim to its end."""

import asyncio
import random
from collections import Counter
from dataclasses import replace

import pytest

from resonant.delivery.retry import RetryPolicy, draw_delay
from resonant.dispatch.limits import Limits
from resonant.events import Event
from resonant.sinks.base import CallableSink
from support.dispatching import (
    QUICK,
    START,
    Scene,
    answering,
    appending_to,
    deliveries,
    fail,
    failing_first,
    ran,
    rows,
    scene,
    sink_target,
    succeed,
)
from support.sqlite import listening
from support.waiting import until

pytestmark = pytest.mark.usefixtures("lane")


async def test_every_due_delivery_is_emitted(tmp_path):
    sent = []
    worker = await ran(tmp_path, orders=appending_to(sent), due=300)
    assert sorted(sent) == sorted(worker.ids)
    assert worker.counts.delivered == 300
    assert Counter(deliveries(tmp_path, "status, attempts")) == {("delivered", 1): 300}
    assert rows(tmp_path, "SELECT endpoint, last_claim_at FROM resonant_claims") == [("orders", START)]


async def test_a_failure_is_retried_until_it_is_delivered(tmp_path):
    slow = replace(QUICK, base=1.5)
    counts = (await ran(tmp_path, orders=failing_first(2), due=3, policy=slow)).counts
    assert (counts.delivered, counts.retried, counts.attempts) == (3, 3, 9)
    numbers = rows(tmp_path, "SELECT number, count(*) FROM resonant_attempts GROUP BY number")
    assert numbers == [(1, 3), (2, 3), (3, 3)]


async def test_a_delivery_ends_as_its_last_decision_says(tmp_path):
    # A Retry-After stops the whole endpoint.
    sinks = {
        "refusing": answering(400),
        "down": answering(503),
        "busy": answering(503, "600"),
        "busier": answering(503, "7200"),
    }
    policy = replace(QUICK, max_age=3600.0)
    worker = await ran(tmp_path, policy=policy, sinks=sinks, due=dict.fromkeys(sinks, 1))
    assert str(worker.counts) == (
        "0 delivered, 1 retried, 1 parked, 3 dead-lettered (1 exhausted, 1 expired, 1 permanent)"
    )
    assert deliveries(tmp_path, "status, reason") == [
        ("dead_letter", "permanent"),
        ("dead_letter", "exhausted"),
        ("retrying", None),
        ("dead_letter", "expired"),
    ]


async def test_each_delay_is_drawn_from_the_delay_before_it(tmp_path):
    jittery = RetryPolicy(jitter="decorrelated", base=1.0, max_attempts=6, park_after=1e6)

    async with scene(tmp_path, policy=jittery, orders=fail, due=1) as worker:
        while not (await worker.run()).dead_letters:
            await worker.wait_for_parked(longest=1e6)
    *delays, last = [delay for (delay,) in rows(tmp_path, "SELECT delay FROM resonant_attempts ORDER BY id")]

    rng, expected = random.Random(7), []
    for number in range(1, 6):
        before = expected[-1] if expected else None
        expected.append(draw_delay(jittery, number, rng, last_delay=before))
    assert (delays, last) == (expected, None)


@pytest.mark.usefixtures("real_time")  # otherwise, no outcome waits for a commit
async def test_many_events_share_few_transactions(tmp_path, monkeypatch):
    monkeypatch.setattr(Scene, "chunk_size", 100 * Scene.chunk_size)

    count = Counter()
    async with scene(tmp_path, orders=succeed, due=1000) as worker:
        now = asyncio.get_running_loop().time
        began_at = now()
        with listening("commit", lambda c: count.update([c.get_execution_options().get("write")])):
            await worker.run()
        seconds = now() - began_at
    # Two for each event otherwise. On a quiet machine: 20 of begins with the outcomes of those before them, 20 of outcomes alone,
    # 10 of claims, and those of the first few sends.
    assert count[True] < 200
    # four polls a second and one check for counts to fold; one of each at the start, and one of each at the end
    assert count[None] <= 5 * seconds + 4


@pytest.mark.usefixtures("warm")
async def test_deliveries_are_claimed_ahead_and_many_at_once(tmp_path, without_polls):
    def note_claims(_connection, _cursor, statement, *_):
        claims.extend(["claim"] * ("UPDATE resonant_deliveries" in statement and "RETURNING" in statement))

    async def send(event):
        if event.id == first:
            await until(lambda: len(sent) == 399)
        await asyncio.sleep(rng.random() / 100)
        sent.append(event.id)

    sent, claims, rng = [], [], random.Random(7)
    async with scene(tmp_path, orders=send, limits=Limits(concurrency=20), due=400) as worker:
        first, *_ = worker.ids
        with listening("before_cursor_execute", note_claims):
            assert (await worker.run()).delivered == 400
    assert 10 <= len(claims) <= 20


@pytest.mark.parametrize(
    ("number", "pause", "expected"),
    [(1, 0, 1), (1, 2, 2), (5, 0, 2)],
    ids=["a single event", "after a pause", "several events"],
)
async def test_the_send_of_a_single_event_begins_with_its_claim(tmp_path, number, pause, expected):
    """Otherwise, the claim and the beginning are two updates, each with its commit."""
    updates, seen = [], []

    def note_update(_connection, _cursor, statement, *_):
        if "UPDATE resonant_deliveries" in statement:
            updates.append(statement)

    async def send(_event):
        seen.append(len(updates))

    async def emit_one(lease):
        worker.clock.advance(pause)
        await worker.emit_one(lease)

    async with scene(tmp_path, orders=send, limits=Limits(concurrency=1), due=number) as worker:
        with listening("before_cursor_execute", note_update):
            assert (await worker.run(emit_one)).delivered == number
    assert seen[0] == expected


async def test_large_events_are_claimed_only_as_memory_has_room(tmp_path, monkeypatch):
    monkeypatch.setattr("resonant.dispatch.flights.flights.MOST_BYTES", 60 * 10_000)
    monkeypatch.setattr(Scene, "chunk_size", 200 * Scene.chunk_size)

    async with scene(tmp_path, orders=succeed, limits=Limits(concurrency=10)) as worker:
        data = "x" * 10_000
        events = [Event(type="t", source="/s", data=data, id=f"evt_{n}") for n in range(300)]
        await worker.store.enqueue(events, "orders")
        held = worker.count_claims()
        assert (await worker.run()).delivered == 300
        assert worker.dispatcher._flights.counts.bytes == 0
    assert 10 < max(held) <= 60


async def test_every_endpoint_is_closed_at_the_end_even_if_closing_one_fails(tmp_path):
    def destination(name, error=None):
        async def close():
            closed.append(name)
            if error is not None:
                raise error

        return sink_target(name, CallableSink(succeed), close=close)

    closed = []
    sinks = {"a": destination("a", OSError("broken")), "b": destination("b")}
    async with scene(tmp_path, sinks=sinks, due={"a": 1, "b": 1}) as worker:
        await worker.run()
        assert not closed
    assert sorted(closed) == ["a", "b"]
