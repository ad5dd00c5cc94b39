"""Prefect blocks that configure endpoints. Importing this package registers their classes.

``python -m prefect block register -m blocks`` registers them with a server; ``resonant up`` does so too.
"""

from .endpoint import EndpointBlock, SinkBlock
from .loading import load_endpoint
from .webhook_endpoint import WebhookEndpoint

__all__ = ["EndpointBlock", "SinkBlock", "WebhookEndpoint", "load_endpoint"]
