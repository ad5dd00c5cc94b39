"""Prefect blocks: where an operator configures endpoints. Importing this package registers their classes.

Register them with a server by ``python -m prefect block register -m blocks``; ``resonant up`` does so too.
"""

from blocks.endpoint import EndpointBlock, SinkBlock, load_endpoint
from blocks.file_endpoint import FileEndpoint
from blocks.webhook_endpoint import WebhookEndpoint

__all__ = ["EndpointBlock", "FileEndpoint", "SinkBlock", "WebhookEndpoint", "load_endpoint"]
