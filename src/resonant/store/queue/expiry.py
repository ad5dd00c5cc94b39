"""Gives up the deliveries of expired events (``expirytime``, an extension of CloudEvents) without an attempt."""

from collections.abc import Sequence

from sqlalchemy import Connection

from resonant.delivery.failure_tables import EVENT_EXPIRED
from resonant.events import Lease, LeaseKey
from resonant.store.counts.counters import Tally, count_retries
from resonant.store.queue.attempts import without_polls
from resonant.store.queue.causes import Cause, point_at_causes
from resonant.store.queue.locked_rows import change_each, given_up, still_held
from resonant.store.queue.own_events import NewDeadLetter, report_dead_letters

# Without the time, so that all these dead letters have one cause.
_ERROR = "not sent: the event's expirytime has passed"


def expire(connection: Connection, leases: Sequence[Lease], *, now: float) -> set[LeaseKey]:
    """Make each delivery a dead letter with the reason ``expired``. Its attempts, and their history, do not change.

    Returns:
        The leases that were still held. The deliveries of the others did not change.
    """
    held = still_held(connection, leases)
    changes: list[dict[str, object]] = []
    causes: dict[object, Cause] = {}
    tally = Tally(now)
    failure = {
        "status_code": None,
        "category": EVENT_EXPIRED.category,
        "code": EVENT_EXPIRED.code,
        "error_type": None,
        "error": _ERROR,
    }
    tried = without_polls(connection, {each.delivery_id: each.attempts for each in leases})
    for lease in leases:
        if lease.key not in held:
            continue
        # A send may have begun, and ended before anything was sent.
        never_sent = {} if lease.attempts else {"first_attempt_at": None}
        changes.append(
            {
                "id": lease.delivery_id,
                **given_up("expired", now),
                "backoff_until": None,
                "sending": False,
                **failure,
                **never_sent,
            }
        )
        where = (lease.endpoint, lease.event.type)
        causes[lease.delivery_id] = Cause.of(*where, "expired", failure)
        labels = (*where, "dead_letter", EVENT_EXPIRED.category, EVENT_EXPIRED.code)
        tally.add("delivery", *labels, detail="expired", seconds=now - lease.accepted_at)
        count_retries(tally, where, tried[lease.delivery_id])
    point_at_causes(connection, changes, causes)
    change_each(connection, changes)
    tally.write(connection)
    dead_letters = [
        NewDeadLetter.of(each, "expired", each.attempts, failure) for each in leases if each.key in held
    ]
    report_dead_letters(connection, dead_letters, now=now)
    return held
