"""One attempt: the send, the verdict, and the decision."""

import asyncio
import logging
import random
import re
import ssl
from dataclasses import replace

import anyio
import pytest

from resonant.delivery.classification import Classifier
from resonant.delivery.failure_tables import UNKNOWN
from resonant.delivery.retry import GateView, GiveUp, Park, Retry, RetryPolicy, draw_delay
from resonant.errors import UnexpectedStatus
from resonant.sinks.base import Receipt
from resonant.testing import FixedClock
from support.attempts import (
    EVENT,
    LEASE,
    POLICIES,
    START,
    attempt,
    attempt_runner,
    destination,
    failing,
    refuse,
)


async def succeed(_event):
    return None


async def test_a_delivery_is_an_attempt_with_no_decision():
    async def send(event):
        assert event is EVENT
        clock.advance(99)
        return Receipt(202, "thanks", "the response body took too long")

    clock = FixedClock(START)
    report = await attempt(send, by=attempt_runner(clock=clock), options={"task_run_id": "run-1"})

    assert report.decision is None
    assert report.verdict is None
    assert report.next_step == "delivered"
    made = report.attempt
    assert (made.number, made.round, made.started_at, made.result) == (1, 1, START, "delivered")
    assert (made.status_code, made.excerpt) == (202, "thanks")
    assert made.warning == "the response body took too long"
    assert (made.owner, made.task_run_id) == ("me", "run-1")


async def test_a_sink_may_return_no_receipt():
    made = (await attempt(succeed)).attempt

    assert (made.result, made.status_code, made.excerpt, made.warning) == ("delivered", None, None, None)


async def test_attempts_are_numbered_over_all_rounds_and_budgeted_within_one():
    lease = replace(LEASE, attempts=12, round=3, round_attempts=3)

    report = await attempt(refuse, lease=lease)
    assert (report.attempt.number, report.attempt.round) == (13, 3)
    assert report.decision == Park(135.0, START + 135.0)

    assert (await attempt(refuse, lease=replace(lease, round_attempts=4))).decision == GiveUp("exhausted")


async def test_a_failure_is_kept_with_the_verdict_and_the_decision_taken_on_it():
    report = await attempt(failing(UnexpectedStatus(503, "20", "come back later")))

    assert report.decision == Retry(pytest.approx(22, abs=2.1), pytest.approx(START + 22, abs=2.1))
    assert report.decision.delay >= 20
    kept = report.attempt
    assert (kept.result, kept.category, kept.code, kept.blame) == (
        "failed",
        "transient",
        "http_503",
        "endpoint",
    )
    assert (kept.status_code, kept.retry_after, kept.excerpt) == (503, 20.0, "come back later")
    assert (kept.error_type, kept.error) == (
        "UnexpectedStatus",
        "UnexpectedStatus: the endpoint answered 503",
    )
    assert (kept.decision, kept.delay) == ("retry", report.decision.delay)
    assert kept.next_attempt_at == report.decision.next_attempt_at
    assert kept.maybe_processed is report.verdict.maybe_processed


@pytest.mark.parametrize(
    ("error", "round_attempts", "decision", "said"),
    [
        (UnexpectedStatus(503), 0, "retry", r"retry in 5\.00 s"),
        (UnexpectedStatus(503, "120"), 0, "park", r"parked for 1\d\d s"),
        (UnexpectedStatus(400), 0, "give_up", "given up: permanent"),
        (UnexpectedStatus(503), 4, "give_up", "given up: exhausted"),
        (UnexpectedStatus(503, "1000000000"), 0, "park", r"parked for (8[6-9]|9\d|10[0-3])\d{3} s"),
    ],
)
async def test_the_decision_is_kept_and_said_in_words(error, round_attempts, decision, said):
    report = await attempt(failing(error), lease=replace(LEASE, round_attempts=round_attempts))

    assert report.attempt.decision == decision
    assert re.fullmatch(said, report.next_step)
    assert (report.attempt.delay is None) == (decision == "give_up")


async def test_a_retry_after_beyond_the_end_of_the_round_expires_the_delivery():
    lease = replace(LEASE, round_started_at=START - 49 * 3600)
    report = await attempt(failing(UnexpectedStatus(503, "1000000000")), lease=lease)

    assert (report.attempt.decision, report.next_step) == ("give_up", "given up: expired")


async def test_the_policy_is_the_runs_else_the_deliverys_else_the_endpoints_else_the_default():
    async def budget(**given):
        report = await attempt(
            refuse,
            by=attempt_runner(run_policy=given.get("run")),
            lease=replace(LEASE, policy=given.get("delivery")),
            policy=given.get("endpoint"),
        )
        return report.decision.delay

    assert await budget(run="run", delivery="delivery", endpoint="endpoint") == 2
    assert await budget(delivery="delivery", endpoint="endpoint") == 3
    assert await budget(endpoint="endpoint") == 4
    assert await budget() == 5


async def test_the_budget_of_attempts_is_the_runs_else_the_deliverys_else_the_policys():
    async def is_exhausted(round_attempts, *, run=None, delivery=None):
        lease = replace(LEASE, round_attempts=round_attempts, max_attempts=delivery)
        report = await attempt(refuse, by=attempt_runner(run_max_attempts=run), lease=lease)
        return report.decision == GiveUp("exhausted")

    assert [await is_exhausted(n, run=1, delivery=7) for n in (0, 1)] == [True, True]
    assert [await is_exhausted(n, delivery=7) for n in (5, 6)] == [False, True]
    assert [await is_exhausted(n) for n in (3, 4)] == [False, True]


@pytest.mark.parametrize(
    ("lease", "fields", "said"),
    [
        (replace(LEASE, policy="forgotten"), {}, "no retry policy is named 'forgotten'"),
        (LEASE, {"policy": "forgotten"}, "no retry policy is named 'forgotten'"),
        (replace(LEASE, max_attempts=5000), {}, "max_attempts must be 1 to 1000"),
    ],
)
async def test_an_unusable_policy_is_replaced_by_the_default(lease, fields, said, caplog):
    report = await attempt(refuse, lease=lease, **fields)

    assert report.decision.delay == POLICIES["default"].base
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.message
    assert "evt_1" in record.message


async def test_decorrelated_jitter_goes_on_from_the_last_delay():
    jittery = RetryPolicy(jitter="decorrelated", base=1.0)

    report = await attempt(
        refuse, by=attempt_runner(policy=lambda _name: jittery), lease=replace(LEASE, last_delay=6.0)
    )

    assert report.decision.delay == draw_delay(jittery, 1, random.Random(7), last_delay=6.0)
    assert report.decision.delay > 3  # what is drawn without it


async def test_the_clock_is_read_again_after_the_send():
    async def send(_event):
        clock.advance(10)
        raise UnexpectedStatus(503)

    clock = FixedClock(START)
    report = await attempt(send, by=attempt_runner(clock=clock))

    assert report.attempt.started_at == START
    assert report.attempt.next_attempt_at == START + 10 + report.decision.delay


async def test_a_retry_that_may_not_wait_here_is_parked():
    assert isinstance((await attempt(refuse, options={"longest_wait": lambda: 0.0})).decision, Park)


async def test_the_longest_wait_is_read_after_the_send_has_failed():
    async def send(_event):
        room.append(True)
        raise UnexpectedStatus(503)

    room = []

    assert isinstance(
        (await attempt(send, options={"longest_wait": lambda: 30.0 if room else 0.0})).decision, Retry
    )


async def test_an_endpoints_own_categories_count():
    assert (
        await attempt(failing(UnexpectedStatus(404)), overrides={404: "transient"})
    ).verdict.category == "transient"


async def test_a_users_rule_counts():
    own = Classifier()
    own.rule(KeyError, category="transient", code="not_there_yet")

    assert (
        await attempt(failing(KeyError("x")), by=attempt_runner(classifier=own))
    ).attempt.code == "not_there_yet"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_an_interruption_passes_through(error):
    with pytest.raises(error):
        await attempt_runner().attempt(LEASE, destination(failing(error())))


async def test_a_group_with_an_interruption_in_it_passes_through():
    with pytest.raises(BaseExceptionGroup):
        await attempt(failing(BaseExceptionGroup("both", [ValueError("x"), KeyboardInterrupt()])))


async def cancel_own_task(_event):
    asyncio.current_task().cancel()
    await asyncio.sleep(60)


async def wait_for_a_cancelled_task(_event):
    other = asyncio.create_task(asyncio.sleep(60))
    other.cancel()
    await other


async def time_out_and_cancel(_event):
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(60)
    except TimeoutError:
        raise asyncio.CancelledError from None


async def leave_a_cancelled_scope_open(_event):
    scope = anyio.CancelScope()
    scope.__enter__()
    scope.cancel()
    try:
        await anyio.sleep(60)
    finally:
        scope.__exit__(None, None, None)


@pytest.mark.parametrize(
    "send",
    [
        failing(asyncio.CancelledError()),
        failing(BaseExceptionGroup("both", [ValueError("x"), asyncio.CancelledError()])),
        cancel_own_task,
        wait_for_a_cancelled_task,
        time_out_and_cancel,
        leave_a_cancelled_scope_open,
    ],
)
async def test_a_sink_that_raises_a_cancellation_by_itself_has_failed(send):
    report = await attempt(send)

    assert report.verdict == UNKNOWN
    assert (
        report.attempt.error
        == "RuntimeError: the sink raised CancelledError, but the attempt was not cancelled"
    )
    assert isinstance(report.decision, Retry)
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


async def test_a_timeout_that_a_sink_leaves_behind_cancels_nothing():
    async def send(_event):
        await asyncio.timeout(0.01).__aenter__()

    assert (await attempt(send)).decision is None
    await asyncio.sleep(0.02)


async def test_a_cancelled_attempt_passes_through_and_cancels_its_sink():
    async def send(_event):
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    begun, ended = asyncio.Event(), []
    running = asyncio.create_task(attempt(send))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended


async def test_a_sink_that_never_returns_is_cut_off_after_its_timeout():
    async def send(_event):
        await asyncio.sleep(60)

    report = await attempt(send, timeout=-0.9)

    assert report.verdict.code == "timeout"
    assert report.attempt.error == "TimeoutError: the sink was cut off after 0.1 s"
    assert 0.05 < report.attempt.duration < 10


async def test_a_sink_that_runs_into_its_own_timeout_says_so_itself():
    report = await attempt(failing(TimeoutError("no answer within 15 s")))

    assert report.attempt.error == "TimeoutError: no answer within 15 s"


async def test_the_gate_is_read_only_after_a_failure():
    views = []

    def gate():
        views.append("asked")
        return GateView(governs=True)

    async def fail(_event):
        assert not views
        raise UnexpectedStatus(503)

    report = await attempt(fail, lease=replace(LEASE, round_attempts=2), options={"gate": gate})

    assert views == ["asked"]
    assert report.decision == Park(5.0, START + 5, backoff_until=START + 45)
    assert report.attempt.early is False
    views.clear()
    assert (await attempt(succeed, options={"gate": gate})).decision is None
    assert not views


async def test_a_failure_before_the_end_of_its_own_backoff_is_kept_as_early():
    lease = replace(LEASE, attempts=6, round_attempts=2, backoff_until=START + 40)
    report = await attempt(refuse, lease=lease, options={"gate": lambda: GateView(governs=True)})

    assert report.decision == Park(5.0, START + 5, backoff_until=START + 40, charged=False)
    assert (report.attempt.number, report.attempt.early, report.attempt.decision) == (7, True, "park")
    assert report.next_step == "parked for 5.00 s (early: not counted in max_attempts)"


@pytest.mark.parametrize(
    ("error", "is_given_up"),
    [(ssl.SSLCertVerificationError("self-signed"), False), (UnexpectedStatus(404), True)],
)
async def test_a_permanent_failure_is_given_up_while_the_endpoint_is_down_only_if_it_answered(
    error, is_given_up
):
    down = {"gate": lambda: GateView(governs=True, is_down=True)}
    report = await attempt(failing(error), options=down)

    assert (report.decision == GiveUp("permanent")) == is_given_up
    assert (await attempt(failing(error))).decision == GiveUp("permanent")
