"""Send slots: the times at which a process may send to a rate-limited endpoint, shared by all processes.

One row per endpoint stores the time until which slots are reserved. A process reserves the next slots, evenly spaced, in one
short transaction, and drops slots that it misses. So a crash or a stall lowers the rate and never raises it.
"""

from dataclasses import dataclass

from sqlalchemy import Connection, func, select, update

from resonant.events import Clock
from resonant.store import schema
from resonant.store.engine.sql import insert_into

# Slots are reserved only if the last one is at most this far ahead, and for at most this long at once. So all processes
# together reserve slots for about a second, and a killed process loses no more than that.
AHEAD_SECONDS = 0.5
# The maximum `notice` of a reservation.
MOST_NOTICE_SECONDS = 1.0

_s = schema.send_slots


@dataclass(frozen=True, slots=True)
class Reservation:
    """The result of a request for slots. Times are seconds since the epoch, from one clock for all processes.

    Attributes:
        number: the number of reserved slots; 0 if enough slots are already reserved.
        first: the time of the first slot, or without a slot, the time to ask again.
        now: the time of the reservation.
    """

    number: int
    first: float
    now: float


def reserve(
    connection: Connection, endpoint: str, *, rate: float, number: int, notice: float, clock: Clock
) -> Reservation:
    """Reserve up to ``number`` of the next slots.

    Args:
        connection: in a transaction.
        rate: slots per second.
        number: how many slots to reserve, at least 1.
        notice: the first slot is at least this many seconds ahead; at most ``MOST_NOTICE_SECONDS``.
        clock: used on SQLite; on PostgreSQL, processes on several machines share the server's clock.
    """
    query = select(_s.c.reserved_until).where(_s.c.endpoint == endpoint).with_for_update()
    reserved_until = connection.execute(query).scalar()
    if reserved_until is None:
        new = insert_into(connection.dialect.name, _s).values(endpoint=endpoint, reserved_until=0.0)
        connection.execute(new.on_conflict_do_nothing())
        reserved_until = connection.execute(query).scalar_one()
    now = _now(connection, clock)
    if reserved_until > now + MOST_NOTICE_SECONDS + AHEAD_SECONDS + max(AHEAD_SECONDS, 1 / rate):
        reserved_until = now  # the clock was set back, or the rate was lower
    if reserved_until > now + AHEAD_SECONDS:
        return Reservation(0, reserved_until - AHEAD_SECONDS, now)
    first = max(reserved_until, now + notice)
    number = min(number, max(1, int(rate * AHEAD_SECONDS)))
    connection.execute(
        update(_s).where(_s.c.endpoint == endpoint).values(reserved_until=first + number / rate)
    )
    return Reservation(number, first, now)


def _now(connection: Connection, clock: Clock) -> float:
    if connection.dialect.name == "postgresql":
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    return clock()
