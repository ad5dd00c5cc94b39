"""Finds the policy that a worker would use for a delivery: its producer's choice, its endpoint's, or the default."""

from resonant.blocks.loading import load_endpoint
from resonant.errors import EndpointError, UnknownPolicy
from resonant.settings import Settings


def known_policy(name: str | None, settings: Settings) -> str:
    """Return a policy's name, or the default policy's name if it is unknown, as a worker does."""
    try:
        settings.policy(name)
    except UnknownPolicy:
        return settings.default_policy
    return name or settings.default_policy


async def policy_of(endpoint: str) -> str | None:
    """Return the name of an endpoint's policy; None if it has none, was removed, or cannot be read."""
    try:
        return (await load_endpoint(endpoint)).policy
    except EndpointError:
        return None
