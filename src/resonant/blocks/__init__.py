"""Prefect blocks: endpoints and notifications. Importing this package makes Prefect know their classes.

Prefect imports it in every process that looks up a block type (entry point group ``prefect.collections``), so that any server
or program with Resonant installed knows them. ``prefect block register -m resonant.blocks`` registers them with a server;
``resonant up`` does so too.
"""

from resonant.blocks.deployment_endpoint import DeploymentEndpoint
from resonant.blocks.endpoint import EndpointBlock, SinkBlock
from resonant.blocks.loading import load_endpoint
from resonant.blocks.notification import ResonantNotification
from resonant.blocks.prefect_event_endpoint import PrefectEventEndpoint
from resonant.blocks.webhook_endpoint import WebhookEndpoint

__all__ = [
    "DeploymentEndpoint",
    "EndpointBlock",
    "PrefectEventEndpoint",
    "ResonantNotification",
    "SinkBlock",
    "WebhookEndpoint",
    "load_endpoint",
]
