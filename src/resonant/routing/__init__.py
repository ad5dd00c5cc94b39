"""Decides which endpoints want an event, by their subscriptions. Pure: it needs no store and no files."""

from resonant.routing.router import Router
from resonant.routing.subscription import MAX_SUBSCRIPTIONS, Subscription, new_subscription

__all__ = ["MAX_SUBSCRIPTIONS", "Router", "Subscription", "new_subscription"]
