"""What must hold between a delivery's row, its attempts and its cause, at every moment, in SQL."""

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import Connection, text

from resonant.store.views.reads import StoreStatus
from simulation.broken import Broken
from simulation.database import Server

_OF_ROUND = "FROM resonant_attempts a WHERE a.delivery_id = d.id AND NOT a.late AND a.round = d.round"
_IS_FINAL = "(d.status IN ('delivered', 'dead_letter'))"
# By the name of what is wrong otherwise. Attempts before the end of a backoff (early) are not charged.
_RULES = {
    "attempts": "d.attempts = (SELECT count(*) FROM resonant_attempts a WHERE a.delivery_id = d.id AND NOT a.late)",
    "round_attempts": f"d.round_attempts = (SELECT count(*) {_OF_ROUND} AND a.result != 'lost' AND NOT a.early)",
    "crashes": f"d.crashes = (SELECT count(*) {_OF_ROUND} AND a.result = 'lost')",
    "the fifth crash": "(d.crashes = 5) = (coalesce(d.reason, '') = 'crashed')",
    "first_attempt_at": "(d.first_attempt_at IS NULL) = (d.attempts = 0 AND NOT d.sending)",
    "last_delay": f"""(d.last_delay IS NULL) = NOT EXISTS
        (SELECT 1 {_OF_ROUND} AND a.result = 'failed' AND a.decision != 'give_up' AND NOT a.early)""",
    "a due time": "d.lease_owner IS NOT NULL OR d.available_at IS NOT DISTINCT FROM d.next_attempt_at",
    "a lease": "d.lease_owner IS NOT NULL OR NOT d.sending",
    "the status": "d.status NOT IN ('pending', 'retrying') OR (d.status = 'pending') = (d.attempts = 0)",
    "delivered": "(d.status = 'delivered') = (coalesce(l.result, '') = 'delivered')",
    "the end": f"{_IS_FINAL} = (d.available_at IS NULL) AND {_IS_FINAL} = (d.finished_at IS NOT NULL)",
    "an ended lease": f"""NOT {_IS_FINAL}
        OR coalesce(d.lease_owner, '') = '' AND d.next_attempt_at IS NULL AND d.backoff_until IS NULL""",
    "the body": f"""{_IS_FINAL}
        OR NOT EXISTS (SELECT 1 FROM resonant_events e WHERE e.key = d.event_key AND e.form = 'removed')""",
    "the reason": """(d.status = 'dead_letter') = (d.reason IS NOT NULL)
        AND (d.reason IS NULL OR d.reason = 'cancelled' OR coalesce(l.decision, '') = 'give_up')""",
    "the last failure": """l.result IS NULL OR l.result = 'delivered' OR (d.category IS NOT DISTINCT FROM l.category
        AND d.code IS NOT DISTINCT FROM l.code AND d.status_code IS NOT DISTINCT FROM l.status_code)""",
    "the cause": """d.status != 'dead_letter' OR (c.endpoint = d.endpoint AND c.event_type = d.event_type
        AND c.reason = d.reason AND c.category = coalesce(d.category, '') AND c.code = coalesce(d.code, ''))""",
}
_WRONG = f"""
    SELECT * FROM (
        SELECT d.*, CASE {" ".join(f"WHEN NOT coalesce({rule}, false) THEN '{name}'" for name, rule in _RULES.items())}
            END AS wrong
        FROM resonant_deliveries d LEFT JOIN resonant_causes c ON c.id = d.cause_id
        LEFT JOIN resonant_attempts l ON l.delivery_id = d.id AND l.number = d.attempts AND NOT l.late
    ) AS each_row WHERE wrong IS NOT NULL LIMIT 1"""
# What no purge may leave. An event that no subscription matches is not stored.
_ORPHANS = {
    "an event": """SELECT key FROM resonant_events e
        WHERE NOT EXISTS (SELECT 1 FROM resonant_deliveries d WHERE d.event_key = e.key) LIMIT 1""",
    "an attempt": """SELECT delivery_id, number FROM resonant_attempts a
        WHERE NOT EXISTS (SELECT 1 FROM resonant_deliveries d WHERE d.id = a.delivery_id) LIMIT 1""",
}
_STATUS = """
    SELECT endpoint, status, lease_owner IS NOT NULL, available_at, next_attempt_at, finished_at,
        CASE WHEN status = 'dead_letter' THEN CASE reason WHEN 'cancelled' THEN reason ELSE coalesce(category, 'unknown') END END
    FROM resonant_deliveries"""


def check_status(connection: Connection, status: StoreStatus, now: float) -> None:
    """Check the status that operators see against each row of the same snapshot.

    Raises:
        Broken: a number is wrong.
    """
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    categories: Counter[str] = Counter()
    due: defaultdict[str, list[float]] = defaultdict(list)
    dead: list[float] = []
    for endpoint, name, is_leased, available_at, due_at, ended_at, category in connection.execute(
        text(_STATUS)
    ):
        seen[endpoint][name] += 1
        if available_at is not None:
            kind = "due" if available_at <= now else "in_flight" if is_leased else "parked"
            seen[endpoint][kind] += 1
            due[endpoint].append(due_at if is_leased else available_at)
        if category is not None:
            categories[category] += 1
            dead.append(ended_at)
    names = ("pending", "retrying", "delivered", "dead_letter", "in_flight", "parked", "due")
    shown = {each.name: Counter({name: getattr(each, name) for name in names}) for each in status.endpoints}
    wrong = [each for each in shown | seen if shown.get(each, Counter()) != seen[each]]
    if wrong or status.by_category != categories:
        raise Broken("status", f"{wrong} {seen} {categories}, but shown: {status}")
    oldest = {endpoint: min(times) for endpoint, times in due.items()}
    shown_oldest = {
        each.name: each.oldest_due_at for each in status.endpoints if each.oldest_due_at is not None
    }
    first, first_dead = min(oldest.values(), default=None), min(dead, default=None)
    if shown_oldest != oldest or (status.oldest_due_at, status.oldest_dead_at) != (first, first_dead):
        raise Broken(
            "status", f"the oldest are due at {oldest}, and dead at {first_dead}, but shown: {status}"
        )


def check_rows(server: Server) -> None:
    """Check every delivery, and that each event and attempt has one.

    Raises:
        Broken: a row is wrong.
    """
    found: list[Any] = server.query(_WRONG)
    if found:
        row = found[0]._asdict()
        raise Broken("rows", f"{row['wrong']} of a delivery is wrong: {row}")
    for what, query in _ORPHANS.items():
        if orphans := server.query(query):
            raise Broken("rows", f"{what} has no delivery: {orphans[0]._asdict()}")
