"""Subscribes endpoints in tests."""

from typing import Any

from resonant.routing import Subscription, new_subscription
from resonant.store.shared.subscriptions import add_subscription
from support.desk import Desk


def subscribe(desk: Desk, endpoint: str, *types: str, **terms: Any) -> Subscription:
    """Subscribe an endpoint to types, or to all events; return the subscription."""
    return desk.write(subscribe_in, endpoint, *types, **terms)


def subscribe_in(connection, endpoint: str, *types: str, **terms: Any) -> Subscription:
    """Do so in an open transaction."""
    new = new_subscription(endpoint, {"types": list(types), **terms})
    return add_subscription(connection, new, who="a test", now=0.0)[0]
