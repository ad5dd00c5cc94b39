"""Events for the demo. The receiver accepts most of them and misbehaves in eight ways for the rest."""

import random
from collections.abc import Iterator

from resonant.events import Event

ORDINARY, WEBHOOK = "well", "webhook"
# The last part of an event's type selects the receiver's behaviour: see `eight_ways` in resonant.testing.
WAYS = {
    ORDINARY: "200",
    "slow": "200, after 2 s",
    "500-then-200": "500, then 200",
    "503-retry-after": "503, Retry-After, 200",
    "429": "429, then 200",
    "400": "400",
    "reset": "a connection reset",
    "silent": "nothing",
    "redirect": "a redirect",
    WEBHOOK: "a flow run starts",
}
# A rate-limiting receiver slows its whole endpoint, so these events go to an endpoint of their own.
LIMITED = frozenset({"503-retry-after", "429"})
_MISBEHAVED = [way for way in WAYS if way not in {ORDINARY, WEBHOOK}]
_ORDINARY_TYPES = ("demo.order.placed", "demo.order.paid", "demo.order.shipped", "demo.invoice.sent")
_CUSTOMERS = ("Ada", "Barbara", "Edsger", "Grace", "Katherine", "Leslie", "Margaret", "Tony")


def way_of(event_type: str) -> str:
    """Return the key of ``WAYS`` for an event type."""
    way = event_type.rpartition(".")[2]
    return way if way in WAYS else ORDINARY


def demo_events(count: int, rng: random.Random) -> Iterator[Event]:
    """Generate events: 70 % have ordinary types, and the rest are spread over the eight ways.

    Args:
        count: the number of events.
        rng: the source of their random contents.
    """
    misbehaved = 0
    for number in range(count):
        if number % 10 in {2, 5, 8}:
            event_type = f"demo.{_MISBEHAVED[misbehaved % len(_MISBEHAVED)]}"
            misbehaved += 1
        else:
            event_type = rng.choice(_ORDINARY_TYPES)
        order = 10_000 + number
        yield Event(
            type=event_type,
            source="/resonant/demo/shop",
            subject=f"order/{order}",
            data={
                "order": order,
                "customer": rng.choice(_CUSTOMERS),
                "items": [
                    {"sku": f"A-{rng.randrange(100, 1000)}", "quantity": rng.randint(1, 4)}
                    for _ in range(rng.randint(1, 3))
                ],
                "total": {"amount": f"{rng.randint(500, 50_000) / 100:.2f}", "currency": "EUR"},
            },
        )
