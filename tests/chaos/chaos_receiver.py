"""The receiver of the kill suite, by the end of the event's type; ``python -m resonant.testing --script``."""

from zlib import crc32

from resonant.testing import (
    Action,
    Request,
    never_answer,
    reset_before_response,
    reset_mid_response,
    respond,
)

# By the number of the try: the last one is for all that follow. None is a delivery.
_FATES: dict[str, list[Action | None]] = {
    "good": [None],
    "slow": [respond(200, delay=0.4)],
    "unavailable": [respond(503), None],
    "busy": [respond(429, {"retry-after": "1"}), None],
    "again": [respond(503, {"retry-after": "0"}), None],
    "exhausting": [*[respond(503, delay=0.02)] * 4, None],
    "rejected": [respond(400)],
    # Maybe processed: the body was read.
    "reset": [reset_before_response(), None],
    "halfway": [reset_mid_response(), None],
    "silent": [never_answer(), None],
}
# A type for each event; most are good.
TYPES = [
    *["chaos.good"] * 12,
    *["chaos.slow"] * 2,
    *["chaos.unavailable"] * 2,
    "chaos.again",
    "chaos.exhausting",
    "chaos.rejected",
    "chaos.reset",
    "chaos.halfway",
]
# By the number of the event. The endpoint's gate stops after a 429, so one of them slows down a whole round.
RARE_TYPES = {7: "chaos.silent", 200: "chaos.busy"}
# Why events of a type may be given up, beside a cancellation or crashes.
REASONS = {"rejected": "permanent", "exhausting": "exhausted"}


def by_type(request: Request) -> Action:
    """Answer according to the type; each answer takes 10 to 50 ms, so that some sends are always in flight."""
    fates = _FATES[request.event_type.rpartition(".")[2]]
    fate = fates[min(request.try_number, len(fates)) - 1]
    return fate or respond(200, delay=0.01 + crc32(request.webhook_id.encode()) % 40 / 1000)
