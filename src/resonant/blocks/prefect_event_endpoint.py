"""Prefect events as an endpoint: creates one for each event, for automations."""

from resonant.blocks.prefect_endpoint import PrefectEndpoint, PrefectSink
from resonant.events import Clock


class PrefectEventEndpoint(PrefectEndpoint):
    """Creates one Prefect event for each event. Repeats create no second one.

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
    _description = "Prefect events: Resonant creates one for each event, for automations."

    def _sink(self, name: str, clock: Clock) -> PrefectSink:
        from resonant.blocks.prefect_events import PrefectEvents  # noqa: PLC0415

        return PrefectEvents(name, self, clock)
