"""The outcomes that a worker records, and those that a late worker can no longer change."""

from dataclasses import replace

import pytest
from sqlalchemy import update

from resonant.delivery.retry import GiveUp, Park, Retry
from resonant.events import Attempt
from resonant.store import Outcome, schema
from support.store_rows import snapshot


class TestRecord:
    def test_outcomes_of_every_kind_go_together(self, desk):
        desk.enqueue(*(f"evt_{number}" for number in range(8)))
        leases = desk.claim()
        desk.begin(*leases)
        decisions = [desk.retry_in(1), desk.park_for(60), GiveUp("exhausted")]
        outcomes = [desk.failed(lease, decision) for lease, decision in zip(leases, decisions, strict=False)]
        outcomes += [desk.delivered(lease) for lease in leases[3:]]
        assert desk.record(*outcomes) == {lease.key for lease in leases}
        status = desk.status()
        assert (status.retrying, status.dead_letter, status.delivered, status.in_flight) == (2, 1, 5, 1)
        assert status.balanced

    def test_any_answer_of_a_receiver_is_storable(self, desk):
        desk.enqueue("evt_1")
        dirty = {"excerpt": "a\0b", "error": "lone \ud800, NUL \0, é and 🙂"}
        desk.fail(desk.claim_one(), desk.retry_in(1), **dirty, error_type="\0", warning="\udfff")
        [attempt] = desk.history("evt_1")
        assert attempt.excerpt == "a\ufffdb"
        assert attempt.error == desk.delivery("evt_1").error == "lone ?, NUL \ufffd, é and 🙂"
        assert (attempt.error_type, attempt.warning) == ("\ufffd", "?")


class TestFailover:
    """A standby that had not received a worker's claim becomes the server, so two workers get the same fencing token."""

    @pytest.fixture
    def leases(self, desk):
        """The leases of the worker whose claim was lost, and of the worker that claimed next."""
        desk.enqueue("evt_1")
        before = desk.row("evt_1")
        first = desk.claim_one(owner="first")
        lost = {name: before[name] for name in ("lease_owner", "lease_token", "available_at")}
        desk.write(lambda connection: connection.execute(update(schema.deliveries).values(lost)))
        second = desk.claim_one(owner="second")
        assert first.key == second.key
        return first, second

    @pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["first", "last"])
    def test_only_the_owner_may_send_and_the_others_outcome_is_history(self, desk, leases, order):
        first, second = leases
        assert desk.begin(first) == set()
        assert desk.begin(second) == {second.key}
        desk.run(desk.store.release([first]))
        assert desk.row("evt_1")["lease_owner"] == "second"

        outcomes = [desk.delivered(lease, started_at=desk.clock() + n) for n, lease in enumerate(leases)]
        for n in order:
            for _ in range(2):  # a write that was not confirmed is repeated
                assert desk.record(outcomes[n]) == ({leases[n].key} if n else set())
        history = sorted((attempt.owner, attempt.late) for attempt in desk.history("evt_1"))
        assert history == [("first", True), ("second", False)]
        assert (desk.row("evt_1")["status"], desk.row("evt_1")["attempts"]) == ("delivered", 1)


class TestLateWorker:
    """A worker that comes back after its lease has gone to somebody else."""

    @pytest.mark.parametrize("how", ["delivered", "retry", "park", "give_up"])
    def test_adds_its_attempt_to_the_history_and_changes_nothing_else(self, desk, how):
        desk.enqueue("evt_1")
        late = desk.claim_one(owner="late")
        desk.begin(late)
        desk.clock.advance(61)
        desk.rescue()
        successor = desk.claim_one(owner="successor")
        desk.begin(successor)
        before = snapshot(desk)
        decisions = {"retry": Retry(1, 1e9), "park": Park(9, 1e9), "give_up": GiveUp("permanent")}
        outcome = desk.delivered(late)
        if how in decisions:
            outcome = desk.failed(late, decisions[how])
        assert desk.record(outcome) == set()
        assert snapshot(desk) == before
        [lost, added] = desk.history("evt_1")
        assert lost.result == "lost"
        assert added == replace(outcome.attempt, late=True)
        assert desk.deliver(successor) == {successor.key}
        assert desk.status().balanced


def test_an_outcome_that_is_recorded_again_while_the_process_waits_counts_once(desk):
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    desk.begin(lease)
    outcome = desk.failed(lease, desk.retry_in(5.0))
    assert desk.record(outcome) == desk.record(outcome) == {lease.key}
    assert len(desk.history("evt_1")) == desk.row("evt_1")["round_attempts"] == desk.counted("attempt") == 1


def test_an_attempts_every_field_is_kept(desk):
    desk.enqueue("evt_1")
    lease = desk.claim_one()
    attempt = Attempt(
        number=1,
        round=1,
        started_at=desk.clock() + 0.123456,
        duration=1.5,
        result="failed",
        status_code=429,
        category="transient",
        code="throttled",
        blame="endpoint",
        maybe_processed=False,
        error_type="UnexpectedStatus",
        error="the endpoint answered 429",
        excerpt="slow down",
        warning="Retry-After is nonsense",
        retry_after=7.0,
        decision="park",
        delay=7.25,
        next_attempt_at=desk.clock() + 7.25,
        owner="worker",
        task_run_id="0f9c",
    )
    assert all(getattr(attempt, name) is not None for name in attempt.__slots__), "a new field belongs here"
    desk.record(Outcome(lease, attempt, desk.park_for(7.25)))
    assert desk.history("evt_1") == (attempt,)
    row = desk.row("evt_1")
    for name in ("status_code", "category", "code", "error_type", "error"):
        assert row[name] == getattr(attempt, name)
