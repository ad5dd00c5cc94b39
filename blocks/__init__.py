"""Prefect blocks: endpoints and notifications. Importing this package makes Prefect know their classes.

``prefect block register -m resonant.blocks`` registers them with a server; ``resonant up`` does so too.
"""

from .endpoint import EndpointBlock, SinkBlock
from .loading import load_endpoint
from .notification import ResonantNotification
from .webhook_endpoint import WebhookEndpoint

__all__ = ["EndpointBlock", "ResonantNotification", "SinkBlock", "WebhookEndpoint", "load_endpoint"]
