"""Decides which endpoints want an event, by their subscriptions. Pure: it needs no store and no files."""

from resonant.routing.filters import parse_filters
from resonant.routing.globs import any_glob
from resonant.routing.router import Router
from resonant.routing.subscription import (
    MAX_SUBSCRIPTIONS,
    Subscription,
    new_subscription,
)

__all__ = [
    "MAX_SUBSCRIPTIONS",
    "Router",
    "Subscription",
    "any_glob",
    "new_subscription",
    "parse_filters",
]
