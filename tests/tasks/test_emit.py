"""The task of one delivery, without the engine: its result, its errors, and its requests to Prefect."""

import asyncio
import random
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
from prefect.settings import PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.retry import MAX_ATTEMPTS_LIMIT, GiveUp, Park, Retry, RetryPolicy
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.send.unsent import Expired, Held
from resonant.errors import UnexpectedStatus
from resonant.events import Event, rfc3339
from resonant.gate.words import advice
from resonant.sinks.base import CallableSink
from resonant.store import WorkerStore
from resonant.store.shared.gates import Gate
from resonant.testing import FixedClock
from tasks import emit
from tasks.emit import DeliveryRef, Undelivered, dead_letter, emit_event, why_held

DEFAULT = RetryPolicy()


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Make one attempt of one event through the task's function, with a sink of the test's."""
    monkeypatch.setattr(emit, "get_run_logger", lambda: SimpleNamespace(warning=lambda *_: None))

    async def run(sink, policy: RetryPolicy = DEFAULT, *, clock=time.time, before=lambda: None, **event):
        async def close():
            return None

        store = await WorkerStore.open(f"sqlite:///{tmp_path}/store.db", clock=clock)
        await store.enqueue([Event(type="order.paid", source="/s", data={"n": 1}, id="e1", **event)], "hooks")

        async def open_destination(name):
            return Destination(name, CallableSink(sink), describe=str, close=close)

        attempt_runner = AttemptRunner(clock=store.clock, rng=random.Random(1), policy=lambda _: policy)
        seen = {}

        async def emit_one(lease):
            before()
            seen["ref"] = DeliveryRef.of(lease)
            emit.given.set(emit.Given(dispatcher, seen["ref"]))
            try:
                seen["result"] = await emit_event.fn()
            except (Undelivered, Expired) as failure:
                seen["failure"] = failure

        async with Dispatcher(store, attempt_runner, open_destination, owner="me") as dispatcher:
            seen["counts"] = await dispatcher.run(emit_one)
        await store.close()
        return SimpleNamespace(**{"result": None, "failure": None} | seen)

    with temporary_settings({PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
        yield run


async def deliver(_event):
    return None


def answering(status, **fields):
    async def answer(_event):
        raise UnexpectedStatus(status, **fields)

    return answer


async def test_a_delivery_returns_nothing_and_its_reference_holds_no_payload(attempt):
    seen = await attempt(deliver)

    assert (seen.result.name, seen.result.data.result, seen.failure) == ("Completed", None, None)
    assert (seen.ref.event_id, seen.ref.event_type, seen.ref.endpoint) == ("e1", "order.paid", "hooks")
    assert not hasattr(seen.ref, "body")
    assert seen.ref.name == "order.paid e1 to hooks"


async def test_a_failure_that_will_be_retried_raises_the_decision(attempt):
    seen = await attempt(answering(503))

    assert isinstance(seen.failure.decision, Retry)
    assert str(seen.failure) == f"attempt 1: transient http_503; retry in {seen.failure.decision.delay:.2f} s"


async def test_a_dead_letter_raises_an_error_with_the_answer_and_the_next_commands(
    attempt,
):
    seen = await attempt(answering(422, excerpt='{"error": "no amount"}' + " " * 300))

    assert isinstance(seen.failure.decision, GiveUp)
    assert str(seen.failure).startswith(
        'attempt 1: permanent http_422; given up: permanent; the answer: {"error": "no amount"}'
    )
    assert len(str(seen.failure)) < 300
    assert str(seen.failure).endswith(
        "; next: `resonant detail e1` shows every attempt, `resonant retry e1` sends it again"
    )
    assert seen.failure.__cause__ is None
    assert seen.failure.__suppress_context__, "an error of httpx contains the URL"
    assert dead_letter.task_run_name.format(ref=seen.ref) == "order.paid e1 to hooks"
    with pytest.raises(Undelivered, match="permanent http_422; given up: permanent"):
        await dead_letter.fn(seen.ref, seen.failure)


async def test_an_event_that_expires_while_its_task_run_starts_fails_the_task_run(attempt):
    clock = FixedClock(1_800_000_000.0)
    extensions = {"expirytime": rfc3339(clock() + 5)}
    seen = await attempt(deliver, clock=clock, before=lambda: clock.advance(5), extensions=extensions)

    assert str(seen.failure) == (
        "nothing was sent: the event's expirytime has passed; its delivery is a dead letter (expired)"
    )
    assert seen.counts.dead_letters == {"expired": 1}


async def test_a_parked_delivery_completes_and_says_until_when_it_waits_and_why(attempt):
    clock = FixedClock(1_800_000_000.0)
    seen = await attempt(answering(503), RetryPolicy(base=60), clock=clock)

    assert (seen.result.name, seen.result.is_completed()) == ("Parked", True)
    waits, sends, why = seen.result.message.split("; ", 2)
    due = datetime.fromisoformat(waits.removeprefix("waits for its retry, due at "))
    assert 40 < due.timestamp() - clock() < 80
    assert sends == "a running drain or the next `resonant emit` sends it"
    assert why.startswith("attempt 1: transient http_503; parked for ")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (
            {
                "state": "probing",
                "reason": "20 failures in a row",
                "failing_since": 400.0,
                "probe_at": 1012.0,
            },
            "probing for 10 min, after 20 failures in a row; next probe in 12 s; nothing was sent this time; next: "
            + advice(Gate("hooks", "probing", since=700.0, failing_since=400.0), 1000.0),
        ),
        (
            {"state": "paused", "paused_by": "ann", "reason": "migration"},
            "paused for 5 min by ann: migration; nothing was sent this time; next: `resonant endpoint resume hooks` sends again",
        ),
        (
            {"state": "normal"},
            "normal; nothing was sent this time; next: a running drain or the next `resonant emit` sends it",
        ),
    ],
)
def test_the_message_of_a_held_delivery_says_why_until_when_and_the_next_step(gate, said):
    gate = Gate("hooks", since=700.0, **gate)

    assert why_held(Held(gate), 1000.0) == f"waits for endpoint hooks: {said}"


def test_the_message_of_a_delivery_without_a_token_says_why():
    held = Held(
        Gate("hooks", since=700.0), "no OAuth token: the server https://auth.example.com answered 503"
    )
    assert why_held(held, 1000.0) == (
        "waits for endpoint hooks: no OAuth token: the server https://auth.example.com answered 503; "
        "nothing was sent this time; next: a running drain or the next `resonant emit` sends it"
    )


def undelivered(decision):
    failure = Undelivered.__new__(Undelivered)
    failure.decision = decision
    return SimpleNamespace(data=failure)


@pytest.mark.parametrize(
    ("decision", "retries"), [(Retry(1.5, 0.0), True), (Park(99.0, 0.0), False), (GiveUp("exhausted"), False)]
)
def test_prefect_retries_after_exactly_the_decided_delay(decision, retries):
    assert emit_event.retry_condition_fn(emit_event, None, undelivered(decision)) is retries
    if retries:
        assert emit_event.retry_delay_seconds[0] == emit_event.retry_delay_seconds[49] == 1.5


def test_prefect_retries_only_deliveries_and_often_enough_for_every_policy():
    assert emit_event.retry_condition_fn(emit_event, None, SimpleNamespace(data=OSError("disk"))) is False
    assert emit_event.retries >= MAX_ATTEMPTS_LIMIT


async def test_concurrent_deliveries_do_not_see_each_others_delay():
    async def decided(delay):
        emit_event.retry_condition_fn(emit_event, None, undelivered(Retry(delay, 0.0)))
        await asyncio.sleep(0)
        return emit_event.retry_delay_seconds[0]

    assert await asyncio.gather(*(decided(float(n)) for n in range(50))) == [float(n) for n in range(50)]
