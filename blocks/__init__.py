"""Names the block classes of ``resonant.blocks``, so that this folder shows which blocks the flows use."""

from resonant.blocks import (
    DeploymentEndpoint,
    EndpointBlock,
    PrefectEventEndpoint,
    ResonantNotification,
    SinkBlock,
    WebhookEndpoint,
    load_endpoint,
)

__all__ = [
    "DeploymentEndpoint",
    "EndpointBlock",
    "PrefectEventEndpoint",
    "ResonantNotification",
    "SinkBlock",
    "WebhookEndpoint",
    "load_endpoint",
]
