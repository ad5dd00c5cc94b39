"""An endpoint that waits for its runs, on a real Prefect server: what a run comes to decides about the delivery."""

import time

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.dead_letters.advice import advise
from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import Event
from resonant.gate.measurements import Answer
from resonant.testing import Receiver, never_answer, respond, retry_after
from support.block_attempts import outcome_of, verdict
from support.deployments import EVENT_ONLY, Deployments, LossyRelay, endpoint_of

pytestmark = pytest.mark.engine

NAME = "resonant-deployment/retrain"
KEY = f"{NAME}/e-1"
FAILURES = [("FAILED", "unknown run_failed sent"), ("CRASHED", "transient run_crashed sent")]
NUMBER = {"properties": {"number": {"type": "integer"}}, "required": ["number"]}


@pytest.fixture
def deployments(prefect_api):
    made = Deployments(prefect_api)
    with made.api, temporary_settings({PREFECT_API_URL: prefect_api}):
        yield made


class Waiting:
    """One delivery to an endpoint that waits. Each look comes from a new process, which knows only what the store has."""

    def __init__(self, deployments: Deployments, **fields) -> None:
        self.api, self.deployments = deployments.api, deployments
        self.name = deployments.make()
        self.fields = {"wait": True} | fields
        self.event = Event(id="e-1", type="t", source="/s", data={"n": 1})
        self.later = 0.0  # added to the time
        self.lease = {"round": 1, "round_attempts": 0, "round_started_at": time.time()}

    async def look(self, **fields):
        """Make an attempt, and keep of it what the store keeps; return its outcome."""
        destination = endpoint_of(self.name, **self.fields | fields).open(NAME, clock=self._clock)
        try:
            outcome = await outcome_of(destination, self.event, clock=self._clock, **self.lease)
        finally:
            await destination.close()
        decision = outcome.decision
        if decision is not None and not (isinstance(decision, Park) and not decision.charged):
            self.lease["round_attempts"] += 1
        return outcome

    def _clock(self) -> float:
        return time.time() + self.later

    async def miss(self):
        """Make an attempt at which Prefect fails; return its outcome."""
        async with Receiver(respond(500)) as server:
            outcome = await self.look(api_url=f"{server.url}/api")
        assert verdict(outcome.attempt) == "transient http_500 sent"
        return outcome

    def replay(self) -> None:
        self.lease |= {
            "round": self.lease["round"] + 1,
            "round_attempts": 0,
            "round_started_at": self._clock(),
        }

    def runs(self) -> dict[str, str]:
        """Return the ids of the runs by their keys."""
        return {each["idempotency_key"]: each["id"] for each in self.deployments.runs(self.name)}

    def end(self, state: str, key: str = KEY, **fields: str) -> None:
        """Set a run's state."""
        given = {"state": {"type": state} | fields, "force": True}
        self.api.post(f"/flow_runs/{self.runs()[key]}/set_state", json=given)


def is_waiting(outcome) -> bool:
    assert verdict(outcome.attempt) == "transient run_unfinished sent"
    assert isinstance(outcome.decision, Park)
    return outcome.attempt.early and not outcome.decision.charged


async def test_an_event_is_delivered_when_its_run_has_completed(deployments):
    delivery = Waiting(deployments)
    first = await delivery.look()
    assert is_waiting(first)
    assert first.attempt.status_code == 201
    assert first.attempt.error == "RunUnfinished: the run is Scheduled"
    assert delivery.runs()[KEY] in first.attempt.excerpt
    for state in ("PENDING", "RUNNING", "PAUSED", "CANCELLING"):
        delivery.end(state)
        assert is_waiting(await delivery.look())
    delivery.end("COMPLETED")
    last = await delivery.look()
    assert (last.attempt.result, last.attempt.excerpt) == ("delivered", first.attempt.excerpt)
    assert list(delivery.runs()) == [KEY]


@pytest.mark.parametrize(
    ("age", "earliest", "latest"),
    [(0, 10, 12), (40, 10, 12), (600, 120, 145), (3_600, 300, 360), (86_000, 300, 360)],
)
async def test_looks_become_rarer(deployments, age, earliest, latest):
    began = time.monotonic()
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.later = age
    delay = (await delivery.look()).decision.delay
    assert earliest <= delay <= latest + (time.monotonic() - began) / 4


@pytest.mark.parametrize(
    ("state", "expected"),
    FAILURES,
)
async def test_a_failed_run_is_a_charged_failure_and_the_next_attempt_is_a_new_run(
    deployments, state, expected
):
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.end(state, message="no more\nmemory")
    failed = await delivery.look()
    assert verdict(failed.attempt) == expected
    assert isinstance(failed.decision, Retry)
    assert failed.attempt.error.endswith(f"the run is {state.title()}: no more memory")
    assert list(delivery.runs()) == [KEY]
    assert is_waiting(await delivery.look())
    assert set(delivery.runs()) == {KEY, f"{KEY}.2"}
    assert is_waiting(await delivery.look())
    assert len(delivery.runs()) == 2
    delivery.end("COMPLETED", f"{KEY}.2")
    assert (await delivery.look()).attempt.result == "delivered"


async def test_a_flow_that_always_fails_gets_three_runs_and_a_replay_one_more(deployments):
    delivery, outcome = Waiting(deployments), None
    for number in range(1, 4):
        assert is_waiting(await delivery.look())
        delivery.end("FAILED", KEY if number == 1 else f"{KEY}.{number}")
        outcome = await delivery.look()
    assert outcome.decision == GiveUp("exhausted")
    assert len(delivery.runs()) == 3
    delivery.replay()
    assert is_waiting(await delivery.look())
    assert set(delivery.runs()) == {KEY, *(f"{KEY}.{number}" for number in (2, 3, 4))}


@pytest.mark.parametrize("answer", [respond(500), retry_after("40"), never_answer()])
async def test_a_poll_that_fails_is_not_counted_as_a_failed_run(deployments, answer):
    delivery, outcome = Waiting(deployments), None
    for number in range(1, 4):
        async with Receiver(answer) as server:
            missed = await delivery.look(api_url=f"{server.url}/api", timeout=0.3)
        assert not missed.decision.charged
        assert missed.decision.delay >= (40 if missed.attempt.retry_after else 10)
        assert is_waiting(await delivery.look())
        delivery.end("FAILED", KEY if number == 1 else f"{KEY}.{number}")
        outcome = await delivery.look()
    assert (outcome.attempt.code, outcome.decision) == ("run_failed", GiveUp("exhausted"))
    assert len(delivery.runs()) == 3


async def test_a_run_that_was_created_many_times_is_found(deployments):
    delivery = Waiting(deployments)
    for number in range(1, 23):
        await delivery.look()
        delivery.end("CRASHED", KEY if number == 1 else f"{KEY}.{number}")
        await delivery.look()
    assert len(delivery.runs()) == 22
    assert is_waiting(await delivery.look())
    assert f"{KEY}.23" in delivery.runs()


async def test_a_failure_that_a_killed_process_did_not_record_is_reported_again(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.end("FAILED")
    await delivery.look()
    delivery.lease["round_attempts"] = 0
    assert verdict((await delivery.look()).attempt) == "unknown run_failed sent"
    assert list(delivery.runs()) == [KEY]


async def test_a_lost_answer_and_an_outage_during_the_wait_start_no_second_run(deployments, prefect_api):
    delivery, relay = Waiting(deployments), LossyRelay(prefect_api)
    async with Receiver(relay) as server:
        outcome = await delivery.look(api_url=f"{server.url}/api")
    assert verdict(outcome.attempt) == "transient connection_reset sent"
    assert is_waiting(await delivery.look())
    await delivery.miss()
    assert is_waiting(await delivery.look())
    assert list(delivery.runs().values()) == relay.lost


async def test_a_cancelled_run_is_given_up_and_a_replay_is_a_new_run(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.end("CANCELLED")
    outcome = await delivery.look()
    assert verdict(outcome.attempt) == "permanent run_cancelled sent"
    assert outcome.decision == GiveUp("permanent")
    delivery.replay()
    assert is_waiting(await delivery.look())
    assert set(delivery.runs()) == {KEY, f"{KEY}.2"}


@pytest.mark.parametrize(
    ("state", "expected"),
    [*FAILURES, ("CANCELLED", "permanent run_cancelled sent")],
)
async def test_the_end_of_a_run_is_reported_although_prefect_failed_during_the_wait(
    deployments, state, expected
):
    delivery = Waiting(deployments)
    await delivery.look()
    await delivery.miss()
    delivery.end(state)
    assert verdict((await delivery.look()).attempt) == expected
    assert list(delivery.runs()) == [KEY]


async def test_a_run_that_was_cancelled_before_a_replay_is_followed_by_a_new_one(deployments):
    delivery = Waiting(deployments, wait_at_most=60)
    await delivery.look()
    delivery.later = 62
    assert verdict((await delivery.look()).attempt) == "permanent run_overdue sent"
    delivery.end("CANCELLED")
    delivery.replay()
    assert is_waiting(await delivery.look())
    assert set(delivery.runs()) == {KEY, f"{KEY}.2"}


async def test_a_run_that_is_cancelled_after_a_replay_is_given_up(deployments):
    delivery = Waiting(deployments, wait_at_most=60)
    await delivery.look()
    delivery.later = 62
    await delivery.look()
    delivery.later = 0
    delivery.replay()
    assert is_waiting(await delivery.look())
    delivery.end("CANCELLED")
    assert verdict((await delivery.look()).attempt) == "permanent run_cancelled sent"
    assert list(delivery.runs()) == [KEY]


async def test_a_deleted_run_is_replaced_by_a_new_one(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    first = delivery.runs()[KEY]
    deployments.api.delete(f"/flow_runs/{first}")
    outcome = await delivery.look()
    assert is_waiting(outcome)
    assert outcome.attempt.status_code == 201
    assert delivery.runs()[KEY] != first
    delivery.end("COMPLETED")
    assert (await delivery.look()).attempt.result == "delivered"


async def test_a_second_run_that_is_deleted_is_replaced_by_a_new_one(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.end("FAILED")
    await delivery.look()
    await delivery.look()
    deployments.api.delete(f"/flow_runs/{delivery.runs()[f'{KEY}.2']}")
    assert is_waiting(await delivery.look())
    assert set(delivery.runs()) == {KEY, f"{KEY}.2"}


async def test_a_run_that_does_not_end_is_given_up_and_a_replay_waits_for_it_again(deployments):
    delivery = Waiting(deployments, wait_at_most=60)
    await delivery.look()
    delivery.later = 20
    assert is_waiting(await delivery.look())
    delivery.later = 62
    outcome = await delivery.look()
    assert verdict(outcome.attempt) == "permanent run_overdue sent"
    assert outcome.attempt.error.endswith("the run is Scheduled after 60 s, the longest wait")
    delivery.replay()
    assert is_waiting(await delivery.look())
    delivery.end("COMPLETED")
    assert (await delivery.look()).attempt.result == "delivered"
    assert list(delivery.runs()) == [KEY]


async def test_an_operator_who_repeats_the_run_in_prefect_gets_it_delivered(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.end("FAILED")
    await delivery.look()
    delivery.end("RUNNING")
    assert is_waiting(await delivery.look())
    delivery.end("COMPLETED")
    assert (await delivery.look()).attempt.result == "delivered"
    assert list(delivery.runs()) == [KEY]


async def test_a_run_is_found_after_its_deployment_has_changed(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    deployments.make(NUMBER, flow=delivery.name.partition("/")[0])
    assert is_waiting(await delivery.look())
    delivery.end("FAILED")
    await delivery.look()
    assert verdict((await delivery.look()).attempt) == "permanent run_refused"
    deployments.make(EVENT_ONLY, flow=delivery.name.partition("/")[0])
    delivery.replay()
    assert is_waiting(await delivery.look())


async def test_an_event_whose_id_looks_like_a_second_run_has_a_run_of_its_own(deployments):
    delivery = Waiting(deployments)
    await delivery.look()
    delivery.end("FAILED")
    await delivery.look()
    first, lease = delivery.event, delivery.lease.copy()
    for other in ("e-1.2", "e-1/2"):
        delivery.event = Event(id=other, type="t", source="/s", data={})
        await delivery.look()
    delivery.event, delivery.lease = first, lease
    await delivery.look()
    assert len(delivery.runs()) == 4


@pytest.mark.parametrize("state", ["RUNNING", "FAILED", "CRASHED", "CANCELLED", "COMPLETED"])
async def test_the_gate_counts_unfinished_and_failed_runs_as_accepted(deployments, state):
    delivery = Waiting(deployments)
    for _ in range(2):
        outcome = await delivery.look()
        answer = Answer(outcome.verdict, outcome.attempt.status_code, 0.1)
        assert (answer.works, answer.is_local, answer.is_refusal) == (True, False, False)
        delivery.end(state)


async def test_sending_by_hand_does_not_wait(deployments):
    name = deployments.make()
    block = endpoint_of(name, wait=True).named("by-hand")
    assert (await block.deliver(Event(type="t", source="/s", data={}))).status_code == 201


@pytest.mark.parametrize(
    "code", ["run_failed", "run_crashed", "run_cancelled", "run_overdue", "run_unfinished"]
)
def test_the_dead_letter_names_the_next_step(code):
    line = advise(code=code, reason="exhausted", category="unknown", endpoint=NAME, event_id="e-1")
    assert "`resonant detail e-1`" in line
    assert f"resonant replay --endpoint {NAME} --code {code}" in line
