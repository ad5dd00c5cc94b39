"""A receiver that misbehaves on purpose, a fixed clock, and ``enqueued``, for Resonant's tests and for yours.

The receiver is a real HTTP/1.1 server on a real socket. A *script* chooses an action for each request::

    def script(request: Request) -> Action:
        return respond(500) if request.try_number == 1 else respond(200)

    async with Receiver(script) as receiver:
        ...  # send to receiver.url
        assert receiver.journal[-1].status == 200

``actions`` has all actions, ``FAULTS`` has named faults made of them, and ``named_fault`` is a script that performs the
fault named in the event's type. For faults before the request, use ``listeners`` (connections that are never accepted),
``Authority`` with one of ``FLAWS`` (certificates that do not verify) or the receiver's ``connection`` (connections that
end before anything is read).

The receiver can also run in its own process, so that its journal outlives a sender killed with ``kill -9``::

    python -m resonant.testing --port 0 --journal received.jsonl --script resonant.testing:eight_ways
    python -m resonant.testing --tls expired --ca-file ca.pem

Certificates need ``pip install 'resonant[testing]'``.

``enqueued(connection)`` returns the events that your code has enqueued.

``await store_conformance(url)`` checks that a database keeps the contract of the store.

For a seeded random generator, use ``random.Random(7)``.
"""

from resonant.testing.actions import (
    Action,
    End,
    Perform,
    bad_gzip,
    endless_answers,
    endless_body,
    endless_chunks,
    endless_headers,
    endless_interim,
    endless_status_line,
    endless_trailers,
    garbage,
    gzip_bomb,
    half_close,
    huge_header,
    interim_only,
    many_headers,
    never_answer,
    never_read,
    raw,
    redirect,
    reset_after_headers,
    reset_before_response,
    reset_mid_body,
    reset_mid_response,
    respond,
    retry_after,
    retry_after_date,
    slow_body,
    slow_headers,
    surplus_body,
    truncated_body,
)
from resonant.testing.certificates import FLAWS, Authority, Flaw
from resonant.testing.clock import FixedClock
from resonant.testing.dates import DateForm
from resonant.testing.journal import Received, Request, read_journal
from resonant.testing.listeners import full_accept_queue, nobody_listening
from resonant.testing.outbox import Enqueued, enqueued
from resonant.testing.receiver import ConnectionScript, Receiver
from resonant.testing.scripts import FAULTS, Script, always_ok, bad_day, eight_ways, flaky, named_fault
from resonant.testing.store_conformance import store_conformance

__all__ = [
    "FAULTS",
    "FLAWS",
    "Action",
    "Authority",
    "ConnectionScript",
    "DateForm",
    "End",
    "Enqueued",
    "FixedClock",
    "Flaw",
    "Perform",
    "Received",
    "Receiver",
    "Request",
    "Script",
    "always_ok",
    "bad_day",
    "bad_gzip",
    "eight_ways",
    "endless_answers",
    "endless_body",
    "endless_chunks",
    "endless_headers",
    "endless_interim",
    "endless_status_line",
    "endless_trailers",
    "enqueued",
    "flaky",
    "full_accept_queue",
    "garbage",
    "gzip_bomb",
    "half_close",
    "huge_header",
    "interim_only",
    "many_headers",
    "named_fault",
    "never_answer",
    "never_read",
    "nobody_listening",
    "raw",
    "read_journal",
    "redirect",
    "reset_after_headers",
    "reset_before_response",
    "reset_mid_body",
    "reset_mid_response",
    "respond",
    "retry_after",
    "retry_after_date",
    "slow_body",
    "slow_headers",
    "store_conformance",
    "surplus_body",
    "truncated_body",
]
