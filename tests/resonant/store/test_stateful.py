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


class Machine(Operators):
    """Workers, operators and producers on one store, which must agree with the model after each step."""

    @invariant()
    def the_store_is_as_the_model_says(self):
        found = self.run(self.desk.store.read(look, self.clock()))
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
        self.check_balance(found["status"])
        for each in found["status"].endpoints:
            self.check_endpoint(each)
        self.check_counters(found["counters"])

    def teardown(self):
        """Statistics count everything that happened, including events that were purged since."""
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


def look(connection, now: float) -> dict[str, Any]:
    """Read all that the model knows of, in one snapshot."""

    def rows(table, *order):
        return connection.execute(select(table).order_by(*order)).mappings().all()

    histories: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows(schema.attempts, schema.attempts.c.id):
        histories.setdefault(row["delivery_id"], []).append(tuple(row[name] for name in ATTEMPT_COLUMNS))
    events = schema.events.c
    of_deliveries = select(schema.deliveries, events.id.label("event_id"), events.source).join(
        schema.events, events.key == schema.deliveries.c.event_key
    )
    causes = schema.causes.c
    of_dead_letters = select(
        *(
            schema.deliveries.c.id,
            causes.endpoint,
            causes.event_type,
            causes.reason,
            causes.category,
            causes.code,
        )
    ).where(causes.id == schema.deliveries.c.cause_id, schema.is_dead_letter)
    return {
        "deliveries": connection.execute(of_deliveries).mappings().all(),
        "histories": histories,
        "causes": {row[0]: tuple(row[1:]) for row in connection.execute(of_dead_letters)},
        "webhook_ids": {
            EventKey(row["source"], row["id"]): HASHED if row["webhook_id"] != row["id"] else row["id"]
            for row in rows(schema.events)
        },
        "endpoints": {name: tuple(ledger) for name, ledger in read_ledgers(connection).items()},
        "counters": read_ever(connection),
        "status": reads.status(connection, now=now),
    }


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
