"""Prefect's events as an endpoint: each event becomes one Prefect event, which automations can act on."""

from resonant.blocks.prefect_endpoint import PrefectEndpoint, PrefectSink
from resonant.events import Clock


class PrefectEventEndpoint(PrefectEndpoint):
    """Makes one Prefect event of each event, however often the event is sent.

    Example:
        ```python
        from resonant.blocks import PrefectEventEndpoint

        endpoint = PrefectEventEndpoint.load("BLOCK_NAME")
        event = {"type": "com.example.model.stale", "source": "/shop", "data": {"model": 17}}
        endpoint.emit(event)
        ```
    """

    _block_type_name = "Resonant Prefect Event"
    _block_type_slug = "resonant-prefect-event"
    _description = "The events of a Prefect server: automations can act on each event."

    def _sink(self, name: str, clock: Clock) -> PrefectSink:
        from resonant.blocks.prefect_events import PrefectEvents  # noqa: PLC0415

        return PrefectEvents(name, self, clock)
