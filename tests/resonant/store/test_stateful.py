"""Whatever is done, in whatever order: the store agrees with a plain model of it, and what must always hold holds.

Hypothesis makes up the workers, the operators and the crashes. After each step everything in the store is compared with
the model; a failure is shown as the program that led to it.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import invariant, run_state_machine_as_test
from sqlalchemy import select

from resonant.metrics.statistics import read_statistics
from resonant.store import schema
from resonant.store.counts import counters
from resonant.store.views import reads
from support.examples import examples
from support.store_model import ATTEMPT_COLUMNS, COLUMNS
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
        assert set(found["events"]) == {each.event_id for each in model.all()}
        assert found["endpoints"] == {
            name: (model.accepted[name], model.purged[name]) for name in model.accepted
        }
        self.check_balance(found["status"])
        self.check_counters(found["rollups"])
        self.check_nothing_fell(found)

    def teardown(self):
        """Statistics count what happened, also what was purged since."""
        found = self.run(self.desk.store.read(read_statistics, now=self.clock(), since=0)).overall
        counted: Counter[tuple[str, str]] = Counter()
        for (measure, _endpoint, _type, result, *_), count in self.model.counted.items():
            counted[measure, result] += count
        kinds = Counter(each.status for each in self.model.all())
        assert asdict(found.attempts) == {
            "total": sum(counted["attempt", result] for result in ("delivered", "failed", "lost")),
            "failed": counted["attempt", "failed"] + counted["attempt", "lost"],
        }
        assert found.events.success == counted["delivery", "delivered"]
        assert found.events.dead_letter == counted["delivery", "dead_letter"] - counted["replay", "replayed"]
        assert found.events.unfinished == kinds["pending"] + kinds["retrying"]
        assert sum(found.reasons.values()) == found.events.dead_letter
        if not self.model.purged.total():
            tried = [each.attempts for each in self.model.all() if each.attempts]
            assert found.retries.total == sum(tried) - len(tried)
            assert found.retries.max == (max(tried) - 1 if tried else None)
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
        assert status.in_flight == sum(
            each.is_leased and each.available_at > self.clock() for each in self.model.all()
        )
        assert status.by_category == Counter(
            each.category or "unknown" for each in self.model.all(status="dead_letter")
        )

    def check_counters(self, rollups):
        counted: Counter[tuple[str, ...]] = Counter()
        for (measure, _minute, *labels, _le), (count, _total) in rollups.items():
            counted[measure, *labels] += count
        assert counted == self.model.counted

    def check_nothing_fell(self, found):
        """Tokens and counters only grow; a history goes on where it was, until a purge takes all of it."""
        seen = self.seen
        tokens = {row["id"]: row["lease_token"] for row in found["deliveries"]}
        histories = {delivery_id: found["histories"].get(delivery_id, []) for delivery_id in tokens}
        for delivery_id in tokens.keys() & seen["tokens"].keys():
            before = seen["histories"][delivery_id]
            assert tokens[delivery_id] >= seen["tokens"][delivery_id]
            assert histories[delivery_id][: len(before)] == before
        for key, (count, total) in seen["rollups"].items():
            assert found["rollups"][key][0] >= count
            assert found["rollups"][key][1] >= total
        self.seen = {"tokens": tokens, "histories": histories, "rollups": found["rollups"]}


def look(connection, now: float) -> dict[str, Any]:
    """Read all that the model knows of, in one snapshot."""

    def rows(table, *order):
        return connection.execute(select(table).order_by(*order)).mappings().all()

    histories: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows(schema.attempts, schema.attempts.c.id):
        histories.setdefault(row["delivery_id"], []).append(tuple(row[name] for name in ATTEMPT_COLUMNS))
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
    key = [column.name for column in schema.rollups.primary_key.columns]
    rollups = {tuple(row[name] for name in key): (row["count"], row["total"]) for row in rows(schema.rollups)}
    ledgers = {row["name"]: (row["accepted"], row["purged"]) for row in rows(schema.ledgers)}
    # What is not folded yet counts too.
    for row in counters.read_unfolded_rows(connection):
        labels = tuple(row[name] for name in key)
        count, total = rollups.get(labels, (0, 0.0))
        rollups[labels] = (count + row["count"], total + row["total"])
    for row in rows(schema.acceptances):
        endpoint, minute = row["endpoint"], int(row["accepted_at"] // 60) * 60
        accepted, purged = ledgers.get(endpoint, (0, 0))
        ledgers[endpoint] = (accepted + row["count"], purged)
        labels = ("accepted", minute, endpoint, row["event_type"], "accepted", "", "", math.inf)
        count, total = rollups.get(labels, (0, 0.0))
        rollups[labels] = (count + row["count"], total)
    return {
        "deliveries": rows(schema.deliveries),
        "histories": histories,
        "causes": {row[0]: tuple(row[1:]) for row in connection.execute(of_dead_letters)},
        "events": [row["id"] for row in rows(schema.events)],
        "endpoints": ledgers,
        "rollups": rollups,
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
