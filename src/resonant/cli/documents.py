"""Rows of the store as JSON objects. The keys are a public contract; times are RFC 3339 in UTC."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from resonant.events import rfc3339

if TYPE_CHECKING:
    from resonant.dead_letters.triage import DeadLetterGroup
    from resonant.events import Attempt, DeadLetter, Delivery
    from resonant.output import Document
    from resonant.store.shared.gates import Gate
    from resonant.store.views.reads import StoreStatus

_TIMES = frozenset(
    {
        "accepted_at",
        "backoff_until",
        "dead_at",
        "finished_at",
        "first_attempt_at",
        "lease_until",
        "next_attempt_at",
        "started_at",
    }
)


def status_document(status: StoreStatus) -> Document:
    """Return the object of ``resonant status --json``."""
    return {
        "accepted": status.accepted,
        "pending": status.pending,
        "retrying": status.retrying,
        "in_flight": status.in_flight,
        "delivered": status.delivered,
        "dead_letter": status.dead_letter,
        "purged": status.purged,
        "balanced": status.balanced,
        "by_category": status.by_category,
        "endpoint_problems": [
            {"endpoint": each.endpoint, "reason": each.reason, "since": rfc3339(each.since)}
            for each in status.endpoint_problems
        ],
        "held": status.held,
        "oldest_due": _moment(status.oldest_due_at),
        "oldest_dead_letter": _moment(status.oldest_dead_at),
        "endpoints": [
            {
                "endpoint": each.name,
                "pending": each.pending,
                "retrying": each.retrying,
                "in_flight": each.in_flight,
                "due": each.due,
                "parked": each.parked,
                "delivered": each.delivered,
                "dead_letter": each.dead_letter,
                "delivered_last_hour": each.delivered_last_hour,
                "failed_last_hour": each.failed_last_hour,
                "oldest_due": _moment(each.oldest_due_at),
                "held": each.held,
                "gate": gate_document(each.gate),
            }
            for each in status.endpoints
        ],
    }


def group_document(group: DeadLetterGroup) -> Document:
    """Return a group of dead letters as an object."""
    return {
        "fingerprint": group.fingerprint,
        "endpoint": group.endpoint,
        "code": group.code,
        "reason": group.reason,
        "category": group.category,
        "error": group.error,
        "count": group.count,
        "first_dead_at": rfc3339(group.first_at),
        "last_dead_at": rfc3339(group.last_at),
        "example": group.example,
        "advice": group.advice,
        "answer": group.answer,
        "maybe_processed": group.maybe_processed,
    }


def gate_document(gate: Gate) -> Document:
    """Return an endpoint's gate as an object."""
    return {
        "state": gate.state,
        # 0 if the gate has always been normal.
        "since": _moment(gate.since or None),
        "reason": gate.reason,
        "paused_by": gate.paused_by,
        "pace": gate.pace if gate.state == "paced" else None,
        "failing_since": _moment(gate.failing_since),
        "next_probe": _moment(gate.probe_at),
        "not_before": _moment(gate.not_before),
    }


def _moment(moment: float | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def document(row: DeadLetter | Delivery | Attempt) -> Document:
    """Return a row as an object, keyed by field name."""
    return {
        name: rfc3339(value) if name in _TIMES and value is not None else value
        for name, value in asdict(row).items()
    }
