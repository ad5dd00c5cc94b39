"""One attempt: the send, the verdict, the decision, and its record for the history."""

import asyncio
import logging
import random
import re
import ssl
import weakref
from dataclasses import replace

import anyio
import pytest

from resonant.delivery.failure_tables import UNKNOWN
from resonant.delivery.retry import GateView, GiveUp, Park, Retry, RetryPolicy, draw_delay
from resonant.errors import UnexpectedStatus
from resonant.events import rfc3339
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
from support.events import changed
from support.redaction import safe_message

GOVERNED = {"gate": lambda: GateView(governs=True)}
DOWN = {"gate": lambda: GateView(governs=True, is_down=True)}


async def succeed(_event):
    return None


class Odd(Exception):
    """A failure with attributes of any kind."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def fields(record, expected):
    return {name: getattr(record, name) for name in expected}


# --- the record -----------------------------------------------------------------------------------------------------


async def test_a_delivery_is_recorded_without_a_decision():
    async def send(event):
        assert event is EVENT
        clock.advance(99)
        return Receipt(202, "thanks", "the response body took too long")

    clock = FixedClock(START)
    report = await attempt(send, by=attempt_runner(clock=clock), options={"task_run_id": "run-1"})
    assert (report.decision, report.verdict, report.next_step) == (None, None, "delivered")
    expected = {
        "number": 1,
        "round": 1,
        "started_at": START,
        "result": "delivered",
        "status_code": 202,
        "excerpt": "thanks",
        "warning": "the response body took too long",
        "owner": "me",
        "task_run_id": "run-1",
    }
    assert fields(report.attempt, expected) == expected

    nothing = dict.fromkeys(("status_code", "excerpt", "warning")) | {"result": "delivered"}
    assert fields((await attempt(succeed)).attempt, nothing) == nothing


async def test_a_failure_is_recorded_with_its_verdict_and_decision():
    report = await attempt(failing(UnexpectedStatus(503, "20", "come back later")))
    assert report.decision == Retry(pytest.approx(22, abs=2.1), pytest.approx(START + 22, abs=2.1))
    assert report.decision.delay >= 20
    expected = {
        "result": "failed",
        "category": "transient",
        "code": "http_503",
        "blame": "endpoint",
        "status_code": 503,
        "retry_after": 20.0,
        "excerpt": "come back later",
        "error_type": "UnexpectedStatus",
        "error": "UnexpectedStatus: the endpoint answered 503",
        "decision": "retry",
        "delay": report.decision.delay,
        "next_attempt_at": report.decision.next_attempt_at,
        "maybe_processed": report.verdict.maybe_processed,
    }
    assert fields(report.attempt, expected) == expected


@pytest.mark.parametrize(
    ("error", "changes", "decision", "shown"),
    [
        (UnexpectedStatus(503), {}, "retry", r"retry in 5\.00 s"),
        (UnexpectedStatus(503, "120"), {}, "park", r"parked for 1\d\d s"),
        (UnexpectedStatus(400), {}, "give_up", "given up: permanent"),
        (UnexpectedStatus(503), {"round_attempts": 4}, "give_up", "given up: exhausted"),
        (UnexpectedStatus(503, "1000000000"), {}, "park", r"parked for (8[6-9]|9\d|10[0-3])\d{3} s"),
        (
            UnexpectedStatus(503, "1000000000"),
            {"round_started_at": START - 49 * 3600},
            "give_up",
            "given up: expired",
        ),
        (
            UnexpectedStatus(503, "120"),
            {"event": changed(LEASE.event, extensions_json=f'{{"expirytime":"{rfc3339(START + 60)}"}}')},
            "give_up",
            "given up: expired",
        ),
    ],
)
async def test_the_decision_is_recorded_and_described(error, changes, decision, shown):
    report = await attempt(failing(error), lease=replace(LEASE, **changes))
    assert report.attempt.decision == decision
    assert re.fullmatch(shown, report.next_step)
    assert (report.attempt.delay is None) == (decision == "give_up")


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"status_code": 503}, {"status_code": 503}),
        ({"response": Odd(status_code=503)}, {"status_code": 503}),  # as other libraries have it
        *(({"status_code": odd}, {"status_code": None}) for odd in ("503", -1, 2**70, None, lambda: 503)),
        ({"excerpt": "a\x00b\nc"}, {"excerpt": "a b c"}),
        ({"excerpt": "x" * 5000}, {"excerpt": "x" * 1024}),
        *(({"excerpt": odd}, {"excerpt": None}) for odd in ("", b"bytes", None)),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_only_valid_attributes_of_a_failure_are_recorded(attributes, expected):
    assert fields((await attempt(failing(Odd(**attributes)))).attempt, expected) == expected
    if "excerpt" in attributes:

        async def answer(_event):
            return Receipt(200, attributes["excerpt"])

        assert fields((await attempt(answer)).attempt, expected) == expected


async def test_the_answer_of_a_sink_is_redacted_by_its_endpoint():
    async def send(_event):
        return Receipt(200, "the key s3cret", "s3cret is old")

    def redact(text):
        return text.replace("s3cret", "***")

    delivered = (await attempt(send, redact=redact)).attempt
    assert (delivered.excerpt, delivered.warning) == ("the key ***", "*** is old")
    refused = failing(UnexpectedStatus(401, excerpt="no s3cret"))
    assert (await attempt(refused, redact=redact)).attempt.excerpt == "no ***"


async def test_the_type_and_the_text_are_of_the_last_cause():
    errors = ValueError("could not send"), RuntimeError("read failed"), ConnectionResetError(104, "reset")
    for error, cause in zip(errors, errors[1:] + errors[:1], strict=True):
        error.__cause__ = cause  # in a circle
    made = (await attempt(failing(errors[0]), describe=safe_message)).attempt
    assert made.error_type == "ConnectionResetError"
    assert made.error == "ConnectionResetError: [Errno 104] reset"


async def test_an_error_without_a_text_is_recorded_by_its_type():
    class Shy(Exception):
        def __str__(self):
            raise RuntimeError("I have no text")

    expected = {"result": "failed", "error_type": "Shy", "error": "Shy"}
    assert fields((await attempt(failing(Shy()))).attempt, expected) == expected


async def test_an_error_is_freed_after_its_verdict():
    async def send(_event):
        error = Odd()
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    kept = []
    assert (await attempt(send)).attempt.error_type == "Odd"
    await asyncio.sleep(0)  # until then, the event loop keeps the sink's task
    assert kept[0]() is None


# --- policies and clocks --------------------------------------------------------------------------------------------


async def test_attempts_are_numbered_over_all_rounds_and_budgeted_within_one():
    lease = replace(LEASE, attempts=12, round=3, round_attempts=3)
    report = await attempt(refuse, lease=lease)
    assert (report.attempt.number, report.attempt.round) == (13, 3)
    assert report.decision == Park(135.0, START + 135.0)
    assert (await attempt(refuse, lease=replace(lease, round_attempts=4))).decision == GiveUp("exhausted")


@pytest.mark.parametrize(
    ("run", "delivery", "configured", "delay"),
    [
        ("run", "delivery", "endpoint", 2),
        (None, "delivery", "endpoint", 3),
        (None, None, "endpoint", 4),
        (None, None, None, 5),
    ],
)
async def test_the_policy_is_that_of_the_run_the_delivery_the_endpoint_or_the_default(
    run, delivery, configured, delay
):
    by, lease = attempt_runner(run_policy=run), replace(LEASE, policy=delivery)
    assert (await attempt(refuse, by=by, lease=lease, policy=configured)).decision.delay == delay


@pytest.mark.parametrize(("run", "delivery", "budget"), [(1, 7, 1), (None, 7, 7), (None, None, 5)])
async def test_max_attempts_is_that_of_the_run_the_delivery_or_the_policy(run, delivery, budget):
    by, lease = attempt_runner(run_max_attempts=run), replace(LEASE, max_attempts=delivery)
    for made in range(budget + 1):
        report = await attempt(refuse, by=by, lease=replace(lease, round_attempts=made))
        assert (report.decision == GiveUp("exhausted")) == (made + 1 >= budget)


@pytest.mark.parametrize(
    ("lease", "options", "said"),
    [
        (replace(LEASE, policy="forgotten"), {}, "no retry policy is named 'forgotten'"),
        (LEASE, {"policy": "forgotten"}, "no retry policy is named 'forgotten'"),
        (replace(LEASE, max_attempts=5000), {}, "max_attempts must be 1 to 1000"),
    ],
)
async def test_an_unusable_policy_is_replaced_by_the_default(lease, options, said, caplog):
    report = await attempt(refuse, lease=lease, **options)
    assert report.decision.delay == POLICIES["default"].base
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert said in record.message
    assert "evt_1" in record.message


async def test_decorrelated_jitter_continues_from_the_last_delay():
    jittery = RetryPolicy(jitter="decorrelated", base=1.0)
    by = attempt_runner(policy=lambda _name: jittery)
    report = await attempt(refuse, by=by, lease=replace(LEASE, last_delay=6.0))
    assert report.decision.delay == draw_delay(jittery, 1, random.Random(7), last_delay=6.0)
    assert report.decision.delay > 3  # the most that is drawn without it


async def test_an_endpoints_own_categories_count():
    refused = await attempt(failing(UnexpectedStatus(404)), overrides={404: "transient"})
    assert refused.verdict.category == "transient"


async def test_the_clock_the_longest_wait_and_the_gate_are_read_after_the_failure():
    async def send(_event):
        clock.advance(10)
        assert read == []
        raise UnexpectedStatus(503)

    def noting(name, value):
        return lambda: read.append(name) or value

    clock, read = FixedClock(START), []
    options = {"longest_wait": noting("longest_wait", 30.0), "gate": noting("gate", GateView())}
    report = await attempt(send, by=attempt_runner(clock=clock), options=options)
    assert sorted(read) == ["gate", "longest_wait"]
    assert isinstance(report.decision, Retry)
    assert report.attempt.started_at == START
    assert report.attempt.next_attempt_at == START + 10 + report.decision.delay
    read.clear()
    assert (await attempt(succeed, options=options)).decision is None
    assert read == []


async def test_a_retry_that_may_not_wait_in_the_process_is_parked():
    assert isinstance((await attempt(refuse, options={"longest_wait": lambda: 0.0})).decision, Park)


# --- under a gate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "decision", "is_early"),
    [
        ({"round_attempts": 2}, Park(5.0, START + 5, backoff_until=START + 45), False),
        (
            {"attempts": 6, "round_attempts": 2, "backoff_until": START + 40},
            Park(5.0, START + 5, backoff_until=START + 40, charged=False),
            True,
        ),
    ],
)
async def test_a_failure_before_the_end_of_its_own_backoff_is_recorded_as_early(changes, decision, is_early):
    report = await attempt(refuse, lease=replace(LEASE, **changes), options=GOVERNED)
    assert report.decision == decision
    assert (report.attempt.early, report.attempt.decision) == (is_early, "park")
    early = " (not counted in max_attempts)" if is_early else ""
    assert report.next_step == f"parked for 5.00 s{early}"


@pytest.mark.parametrize(
    ("error", "is_given_up"),
    [(ssl.SSLCertVerificationError("self-signed"), False), (UnexpectedStatus(404), True)],
)
async def test_while_the_endpoint_is_down_only_a_permanent_answer_is_given_up(error, is_given_up):
    assert ((await attempt(failing(error), options=DOWN)).decision == GiveUp("permanent")) == is_given_up
    assert (await attempt(failing(error))).decision == GiveUp("permanent")


# --- interruptions and deadlines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        BaseExceptionGroup("both", [ValueError("x"), KeyboardInterrupt()]),
    ],
    ids=repr,
)
async def test_an_interruption_passes_through(error):
    with pytest.raises(type(error)):
        await attempt_runner().attempt(LEASE, destination(failing(error)))


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
    problem = "the sink raised CancelledError, but the attempt was not cancelled"
    assert report.attempt.error == f"RuntimeError: {problem}"
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
    report = await attempt(lambda _event: asyncio.sleep(60), timeout=-0.9)
    assert report.verdict.code == "timeout"
    assert report.attempt.error == "TimeoutError: the sink was cut off after 0.1 s"
    assert 0.05 < report.attempt.duration < 10


async def test_a_sinks_own_timeout_keeps_its_text():
    report = await attempt(failing(TimeoutError("no answer within 15 s")))
    assert report.attempt.error == "TimeoutError: no answer within 15 s"
