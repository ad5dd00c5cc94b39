"""After any actions in any order, the store agrees with a plain model of it, and its invariants hold.

Hypothesis makes up the workers, the operators and the crashes. After each step everything in the store is compared with
the model; a failure is shown as the program that led to it.
"""

from collections import Counter
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test
from sqlalchemy import select

from resonant.events import EventKey
from resonant.metrics.statistics import read_statistics
from resonant.store import schema
from resonant.store.counts.acceptances import read_ledgers
from resonant.store.counts.counters import read_ever
from resonant.store.views import reads
from support.examples import examples
from support.store_model import ATTEMPT_COLUMNS, COLUMNS, HASHED
from support.store_operators import Operators

VIEWS_EVERY = 4  # steps, since the queries for operators take more time than all others


class Machine(Operators):
    """Workers, operators and producers on one store, which must agree with the model after each step."""

    def __init__(self, desk) -> None:
        super().__init__(desk)
        self.steps = 0

    @invariant()
    def the_store_is_as_the_model_says(self):
        self.steps += 1
        found = self.run(self.desk.store.read(look))
        deliveries, model = found["deliveries"], self.model
        assert {row["id"]: {name: row[name] for name in COLUMNS} for row in deliveries} == {
            each.id: {name: getattr(each, name) for name in COLUMNS} for each in model.all()
        }
        assert found["histories"] == {each.id: each.history for each in model.all() if each.history}
        assert found["causes"] == {each.id: each.cause for each in model.all(status="dead_letter")}
        assert found["webhook_ids"] == model.webhook_ids
        assert found["endpoints"] == {
            name: (model.accepted[name], model.purged[name]) for name in model.accepted
        }
        if self.steps % VIEWS_EVERY == 0:
            self.check_views()

    def check_views(self):
        status, counters = self.run(self.desk.store.read(look_at_views, self.clock()))
        self.check_balance(status)
        for each in status.endpoints:
            self.check_endpoint(each)
        self.check_counters(counters)

    def teardown(self):
        """Statistics count everything that happened, including events that were purged since."""
        self.check_views()
        statistics = self.run(self.desk.store.read(read_statistics, now=self.clock(), since=0))
        [found] = statistics.overall.itertuples()
        counted: Counter[tuple[str, str]] = Counter()
        for labels, count in self.model.counted.items():
            counted[labels.measure, labels.result] += count
        kinds = Counter(each.status for each in self.model.all())
        failed = counted["attempt", "failed"] + counted["attempt", "lost"]
        assert (found.attempts, found.failed_attempts) == (counted["attempt", "delivered"] + failed, failed)
        assert found.success == counted["delivery", "delivered"]
        assert found.dead_letter == counted["delivery", "dead_letter"] - counted["replay", "replayed"]
        assert found.unfinished == kinds["pending"] + kinds["retrying"]
        assert sum(statistics.count("reason").values()) == found.dead_letter
        if not self.model.purged.total():
            tried = [each.attempts for each in self.model.all() if each.attempts]
            assert found.retries == sum(tried) - len(tried)
            assert not tried or found.retries_max == max(tried) - 1
        super().teardown()

    def check_balance(self, status):
        kinds = Counter(each.status for each in self.model.all())
        counted = [status.pending, status.retrying, status.delivered, status.dead_letter, status.purged]
        assert status.balanced
        assert status.accepted == sum(counted) == self.model.accepted.total()
        assert counted == [
            *(kinds[name] for name in ("pending", "retrying", "delivered", "dead_letter")),
            self.model.purged.total(),
        ]
        assert status.in_flight == sum(each.in_flight for each in status.endpoints)
        due_at = [each.oldest_due_at for each in status.endpoints if each.oldest_due_at is not None]
        assert status.oldest_due_at == min(due_at, default=None)
        dead = self.model.all(status="dead_letter")
        assert status.by_category == Counter(
            "cancelled" if each.reason == "cancelled" else each.category or "unknown" for each in dead
        )
        assert status.oldest_dead_at == min((each.finished_at for each in dead), default=None)

    def check_endpoint(self, status):
        found = self.model.all(endpoint=status.name)
        for name in ("pending", "retrying", "delivered", "dead_letter"):
            assert getattr(status, name) == sum(each.status == name for each in found)
        unfinished = [each for each in found if not each.is_final]
        later = [each for each in unfinished if each.available_at > self.clock()]
        assert status.in_flight == sum(each.is_leased for each in later)
        assert status.parked == len(later) - status.in_flight
        assert status.due == len(unfinished) - len(later)
        due_at = [each.next_attempt_at if each.is_leased else each.available_at for each in unfinished]
        assert status.oldest_due_at == min(due_at, default=None)

    def check_counters(self, counters):
        assert {labels: each.count for labels, each in counters.items()} == self.model.counted
        for labels, before in self.counters.items():
            assert counters[labels].count >= before.count
            assert counters[labels].total >= before.total
        self.counters = counters


_events, _causes = schema.events.c, schema.causes.c
_ATTEMPTS = select(schema.attempts).order_by(schema.attempts.c.id)
_DELIVERIES = select(schema.deliveries, _events.id.label("event_id"), _events.source).join(
    schema.events, _events.key == schema.deliveries.c.event_key
)
_CAUSES = select(
    *(schema.deliveries.c.id, _causes.endpoint, _causes.event_type),
    *(_causes.reason, _causes.category, _causes.code),
).where(_causes.id == schema.deliveries.c.cause_id, schema.is_dead_letter)
_EVENTS = select(_events.source, _events.id, _events.webhook_id)


def look(connection) -> dict[str, Any]:
    """Read the rows that the model knows of, in one snapshot."""
    histories: dict[int, list[tuple[Any, ...]]] = {}
    for row in connection.execute(_ATTEMPTS).mappings():
        histories.setdefault(row["delivery_id"], []).append(tuple(row[name] for name in ATTEMPT_COLUMNS))
    return {
        "deliveries": connection.execute(_DELIVERIES).mappings().all(),
        "histories": histories,
        "causes": {row[0]: tuple(row[1:]) for row in connection.execute(_CAUSES)},
        "webhook_ids": {
            EventKey(row.source, row.id): HASHED if row.webhook_id != row.id else row.id
            for row in connection.execute(_EVENTS)
        },
        "endpoints": {name: tuple(ledger) for name, ledger in read_ledgers(connection).items()},
    }


def look_at_views(connection, now: float):
    return reads.status(connection, now=now), read_ever(connection)


def test_after_any_operations_the_store_agrees_with_a_plain_model(desk, store_url):
    run_state_machine_as_test(
        partial(Machine, desk),
        settings=settings(
            max_examples=examples(60 if store_url.startswith("sqlite") else 20),
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            # Phase.shrink would shorten the program that failed, in minutes: add it to look into one.
            phases=[Phase.generate],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
