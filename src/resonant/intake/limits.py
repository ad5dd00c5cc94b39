"""Limits of the HTTP intake. The documentation states them."""

from dataclasses import dataclass

from resonant.events import DEFAULT_MAX_EVENT_BYTES

_MIB = 1024 * 1024
TOKEN_BYTES = 8 * _MIB
# The key of an ASGI extension: a context manager for the time in which a request waits for its turn, not for the store.
TURN = "resonant.turn"


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """The limits of a request, of a connection, and of the process.

    Attributes:
        event_bytes: the data of an event.
        batch_events, batch_bytes: the events and the body of a request with several events.
        header_bytes: the request line and the headers.
        read_seconds: how long a client may take to send a request, headers and body.
        idle_seconds: how long a connection may wait for the next request; longer than proxies keep theirs.
        connections: open connections. Beyond it, the server closes the one that has been idle longest or, if more are sending than
            idle, the one whose request has taken longest to arrive.
        pipelined: requests on one connection that wait for the answer to an earlier one.
        held_bytes: the bodies of all requests, without the first ``free_bytes`` of each; beyond it, 503.
        free_bytes: the part of each body that is always accepted, so that large bodies cannot keep out small ones.
        large_bytes: larger bodies are parsed in a thread, one at a time; producers take turns.
        token_bytes: how many bytes of bodies a token may send per second; beyond it, 429.
        turn_seconds: how long a large body may wait for its turn and be parsed; beyond it, 503.
        turn_retry_after: the ``Retry-After`` of this 503, in seconds.
        waiting: requests that wait for the store; beyond it, 503.
        store_seconds: how long a request waits for the store; then 503, although its events may still be stored.
        retry_after: seconds that a refused client is asked to wait.
        stop_seconds: how long accepted requests may take once the server stops.
    """

    event_bytes: int = DEFAULT_MAX_EVENT_BYTES
    batch_events: int = 1_000
    batch_bytes: int = 8 * _MIB
    header_bytes: int = 32 * 1024
    read_seconds: float = 30.0
    idle_seconds: int = 75
    connections: int = 2_000
    pipelined: int = 16
    held_bytes: int = 32 * _MIB
    free_bytes: int = 16 * 1024
    large_bytes: int = 32 * 1024
    token_bytes: int = TOKEN_BYTES
    turn_seconds: float = 30.0
    turn_retry_after: int = 10
    waiting: int = 1_000
    store_seconds: float = 10.0
    retry_after: int = 1
    stop_seconds: int = 6
