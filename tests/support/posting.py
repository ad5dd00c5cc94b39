"""A client of ``POST /events``, with the application in the same process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from resonant.intake.access.tokens import Access, OpenAccess
from resonant.intake.app import create_app
from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters
from resonant.store.views.known_names import remember_endpoints
from support.desk import Desk

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
LINES = "application/jsonl"


class Client:
    """Sends requests to the application on the store of a desk, which knows the endpoint ``orders``."""

    def __init__(self, desk: Desk, http: httpx.AsyncClient, meters: Meters) -> None:
        self.desk = desk
        self.http = http
        self.meters = meters

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.desk.run(self.http.request(method, path, **options))

    def post(
        self, content: Any, kind: str | None = STRUCTURED, *, query: str = "?endpoint=orders", **headers: str
    ) -> httpx.Response:
        """Send events; in the names of headers, an underscore stands for a dash."""
        given = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if kind is not None:
            given.append(("content-type", kind))
        return self.send("POST", f"/events{query}", content=content, headers=given)

    def stored(self) -> list[Any]:
        """Return the events of the endpoint ``orders``, in the order of their acceptance."""
        return [lease.event for lease in self.desk.claim(10_000)]


@contextmanager
def posting(
    desk: Desk, *, access: Access | None = None, limits: IntakeLimits | None = None, **options: Any
) -> Iterator[Client]:
    desk.write(remember_endpoints, ["orders", "billing"])
    meters = Meters()
    layer = options.pop("layer", lambda app: app)
    app = create_app(
        desk.store, access=access or OpenAccess(), limits=limits or IntakeLimits(), meters=meters, **options
    )
    http = httpx.AsyncClient(transport=httpx.ASGITransport(layer(app)), base_url="http://intake.test")
    yield Client(desk, http, meters)
    desk.run(http.aclose())
