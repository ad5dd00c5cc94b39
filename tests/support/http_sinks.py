"""HTTP sinks that deliver to a test receiver."""

import time

from resonant.events import Event
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.http import HttpSink
from resonant.testing import Receiver

# The test vector of the Standard Webhooks reference libraries (libraries/python/tests).
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENT = Event(type="com.example.order.paid", source="/orders", data={"order": 42}, id="evt_1")


def endpoint(url, **fields):
    return Endpoint("orders", url, **{"allow_private": True, "timeout": 60.0} | fields)


async def deliver(script, event=EVENT, *, path="", user="", times=1, clock=time.time, **fields):
    """Send to a scripted receiver; return the last outcome (a receipt or the exception) and the receiver."""
    async with Receiver(script) as receiver:
        url = receiver.url.replace("://", f"://{user}") + path
        async with HttpSink(endpoint(url, **fields), clock=clock) as sink:
            for _ in range(times):
                try:
                    outcome = await sink.send(event)
                except Exception as error:  # noqa: BLE001 - tests inspect the outcome
                    outcome = error
            return outcome, receiver
