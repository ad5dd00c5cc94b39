import asyncio
import logging
import random
import re
import weakref
from dataclasses import replace

import pytest

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.classification import Classifier
from resonant.delivery.retry import GiveUp, Park, Retry, RetryPolicy, draw_delay
from resonant.errors import UnexpectedStatus
from resonant.events import Event, Lease
from resonant.settings import UnknownPolicy
from resonant.sinks.base import CallableSink, Receipt
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.testing import FixedClock, Receiver, never_answer, reset_before_response, respond
from support.redaction import safe_message

START = 1_800_000_000.0
EVENT = Event(type="order.paid", source="/orders", data={"order": 42}, id="evt_1")
LEASE = Lease(7, 3, "me", EVENT, "orders", round_started_at=START, accepted_at=START)
POLICIES = {
    name: RetryPolicy(max_attempts=attempts, jitter="none", base=float(attempts))
    for name, attempts in (("run", 2), ("delivery", 3), ("endpoint", 4), ("default", 5))
}


def policy(name):
    try:
        return POLICIES["default" if name is None else name]
    except KeyError:
        raise UnknownPolicy(f"no retry policy is named {name!r}") from None


def attempt_runner(**fields):
    return AttemptRunner(**{"clock": FixedClock(START), "rng": random.Random(7), "policy": policy} | fields)


def destination(function, **fields):
    async def close():
        return None

    given = {"describe": lambda error: f"{type(error).__name__}: {error}", "close": close}
    return Destination(name="orders", sink=CallableSink(function), **given | fields)


async def attempt(function, *, lease=LEASE, by=None, options=None, **fields):
    made_by = attempt_runner() if by is None else by
    return await made_by.attempt(lease, destination(function, **fields), **options or {})


def failing(error):
    async def send(_event):
        raise error

    return send


async def succeed(_event):
    return None


refuse = failing(UnexpectedStatus(503))


async def test_a_delivery_is_an_attempt_with_no_decision():
    async def send(event):
        assert event is EVENT
        clock.advance(99)
        return Receipt(202, "thanks", "the answer's body took too long")

    clock = FixedClock(START)
    report = await attempt(send, by=attempt_runner(clock=clock), options={"task_run_id": "run-1"})

    assert report.decision is None
    assert report.verdict is None
    assert report.next_step == "delivered"
    made = report.attempt
    assert (made.number, made.round, made.started_at, made.result) == (1, 1, START, "delivered")
    assert (made.status_code, made.excerpt) == (202, "thanks")
    assert made.warning == "the answer's body took too long"
    assert (made.owner, made.task_run_id) == ("me", "run-1")


async def test_a_sink_need_not_give_a_receipt():
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
        (UnexpectedStatus(503, "90000"), 0, "give_up", "given up: expired"),
    ],
)
async def test_the_decision_is_kept_and_said_in_words(error, round_attempts, decision, said):
    report = await attempt(failing(error), lease=replace(LEASE, round_attempts=round_attempts))

    assert report.attempt.decision == decision
    assert re.fullmatch(said, report.next_step)
    assert (report.attempt.delay is None) == (decision == "give_up")


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
async def test_a_policy_that_cannot_be_used_holds_up_no_delivery(lease, fields, said, caplog):
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


async def test_the_clock_is_asked_again_after_the_send():
    async def send(_event):
        clock.advance(10)
        raise UnexpectedStatus(503)

    clock = FixedClock(START)
    report = await attempt(send, by=attempt_runner(clock=clock))

    assert report.attempt.started_at == START
    assert report.attempt.next_attempt_at == START + 10 + report.decision.delay


async def test_a_retry_that_may_not_wait_here_is_parked():
    assert isinstance((await attempt(refuse, options={"may_wait": lambda: False})).decision, Park)


async def test_whether_a_retry_may_wait_is_asked_once_the_send_has_failed():
    async def send(_event):
        room.append(True)
        raise UnexpectedStatus(503)

    room = []

    assert isinstance((await attempt(send, options={"may_wait": lambda: bool(room)})).decision, Retry)


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


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_what_is_no_failure_passes_through(error):
    with pytest.raises(error):
        await attempt_runner().attempt(LEASE, destination(failing(error())))


async def test_a_group_with_a_cancellation_in_it_passes_through():
    group = BaseExceptionGroup("both", [ValueError("x"), asyncio.CancelledError()])

    with pytest.raises(BaseExceptionGroup):
        await attempt(failing(group))


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


async def test_the_type_and_the_text_of_an_error_are_of_the_same_link_in_the_chain():
    async def send(_event):
        try:
            try:
                raise ConnectionResetError(104, "Connection reset by peer")
            except OSError as error:
                raise RuntimeError("read failed") from error
        except RuntimeError as error:
            raise ValueError("could not send") from error

    endpoint = Endpoint("orders", "https://example.com/hook")
    kept = (await attempt(send, describe=lambda error: safe_message(error, endpoint))).attempt

    assert kept.error_type == "ConnectionResetError"
    assert kept.error.startswith("ConnectionResetError: ")


async def test_errors_that_are_each_others_cause_are_no_riddle():
    outer, inner, itself = RuntimeError("outer"), UnexpectedStatus(503), KeyError("itself")
    outer.__cause__, inner.__cause__, itself.__cause__ = inner, outer, itself

    assert (await attempt(failing(outer))).attempt.error_type == "UnexpectedStatus"
    assert (await attempt(failing(itself))).attempt.error_type == "KeyError"


async def test_an_error_without_a_text_is_still_a_failure_like_any_other():
    class Shy(Exception):
        def __str__(self):
            raise RuntimeError("I have no text")

    kept = (await attempt(failing(Shy()))).attempt

    assert (kept.result, kept.error_type, kept.error) == ("failed", "Shy", "Shy")


@pytest.mark.parametrize(
    ("status", "kept"),
    [(503, 503), ("503", None), (-1, None), (2**70, None), (lambda: 503, None), (None, None)],
)
async def test_only_a_status_that_is_one_is_kept(status, kept):
    class Odd(Exception):
        status_code = status

    assert (await attempt(failing(Odd()))).attempt.status_code == kept


async def test_the_status_is_found_in_the_response_of_other_libraries():
    class Response:
        status_code = 503

    class HTTPStatusError(Exception):
        response = Response()

    assert (await attempt(failing(HTTPStatusError()))).attempt.status_code == 503


@pytest.mark.parametrize(
    ("excerpt", "kept"),
    [("a\x00b\nc", "a b c"), ("x" * 5000, "x" * 1024), ("", None), (b"bytes", None), (None, None)],
)
async def test_of_an_excerpt_what_can_be_stored_is_kept(excerpt, kept):
    class Odd(Exception):
        pass

    error = Odd()
    error.excerpt = excerpt

    async def answer(_event):
        return Receipt(200, excerpt)

    assert (await attempt(failing(error))).attempt.excerpt == kept
    assert (await attempt(answer)).attempt.excerpt == kept


async def test_what_a_sink_gives_back_is_kept_as_its_endpoint_redacts_it():
    async def send(_event):
        return Receipt(200, "the key s3cret", "s3cret is old")

    async def refuse(_event):
        raise UnexpectedStatus(401, excerpt="no s3cret")

    def redact(text):
        return text.replace("s3cret", "***")

    delivered, refused = [(await attempt(each, redact=redact)).attempt for each in (send, refuse)]
    assert (delivered.excerpt, delivered.warning) == ("the key ***", "*** is old")
    assert refused.excerpt == "no ***"


async def test_an_error_is_let_go_once_it_is_judged():
    class Large(Exception):
        pass

    async def send(_event):
        error = Large()
        kept.append(weakref.ref(error))
        try:
            raise error
        finally:
            del error

    kept = []
    report = await attempt_runner().attempt(LEASE, destination(send))
    assert report.attempt.error_type == "Large"
    assert kept[0]() is None


@pytest.mark.parametrize(
    ("script", "error_type", "code", "decision"),
    [
        (respond(200), None, None, None),
        (respond(400, body=b"no such amount"), "UnexpectedStatus", "http_400", "give_up"),
        (reset_before_response(), "ConnectionResetError", "connection_reset", "retry"),
        (never_answer(), "TimeoutError", "timeout", "retry"),
    ],
    ids=["200", "400", "reset", "never answers"],
)
async def test_what_a_real_receiver_does_is_told_as_it_was(script, error_type, code, decision):
    async with Receiver(script) as receiver:
        endpoint = Endpoint("orders", f"{receiver.url}/s3cret-path", allow_private=True, timeout=0.3)
        sink = HttpSink(endpoint)
        opened = Destination(
            name="orders",
            sink=sink,
            describe=lambda error: safe_message(error, endpoint),
            close=sink.aclose,
            timeout=endpoint.timeout,
        )
        try:
            kept = (await attempt_runner().attempt(LEASE, opened)).attempt
        finally:
            await opened.close()

    assert (kept.error_type, kept.code, kept.decision) == (error_type, code, decision)
    assert (kept.error or "").partition(":")[0] == (error_type or "")
    assert "s3cret" not in repr(kept)
