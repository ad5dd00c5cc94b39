"""An open endpoint follows changes to its configuration."""

import asyncio
import base64
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from resonant.errors import EndpointError, UnexpectedStatus
from resonant.sinks import reloading
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.reloading import ReloadingSink
from resonant.testing import FixedClock, Receiver, respond
from support.http_sinks import EVENT
from support.waiting import PATIENCE_SECONDS, until

OLD, NEW = ("whsec_" + base64.b64encode(letter * 32).decode() for letter in (b"o", b"n"))
NOW = int(time.time())


@dataclass
class Site:
    """A receiver, an endpoint for it that can be changed, and an open sink."""

    receiver: Receiver
    configured: Endpoint | Exception
    reads: int = 0

    def __post_init__(self) -> None:
        self.clock = FixedClock(NOW)
        self.sink = ReloadingSink(self.configured, self.read, clock=self.clock)

    async def read(self) -> Endpoint:
        self.reads += 1
        if isinstance(self.configured, Exception):
            raise self.configured
        return self.configured

    async def change(self, configured: Endpoint | Exception | None = None, **fields) -> None:
        """Change the configuration, and let the sink read it."""
        self.configured = configured or replace(self.configured, **fields)
        await self.sink.look()

    @property
    def tokens(self) -> list[str]:
        return [request.headers["x-token"] for request in self.receiver.journal]


BEFORE, AFTER = {"x-token": "t0ken-before"}, {"x-token": "t0ken-after"}


@asynccontextmanager
async def site(response=None, **fields):
    async with Receiver(response or respond(200)) as receiver:
        endpoint = Endpoint("orders", receiver.url, headers=BEFORE, allow_private=True, **fields)
        site = Site(receiver, endpoint)
        yield site
        await site.sink.aclose()


async def test_a_change_is_used_from_the_next_send_on_and_a_send_in_progress_ends_as_it_began():
    async with site(respond(200, delay=0.05)) as shop:
        in_progress = asyncio.create_task(shop.sink.send(EVENT))
        await until(lambda: shop.receiver.journal)
        await shop.change(headers=AFTER)
        await shop.sink.send(EVENT)
        assert (await in_progress).status_code == 200
        assert shop.tokens == ["t0ken-before", "t0ken-after"]


async def test_it_is_read_repeatedly_from_the_first_send_until_it_is_closed(monkeypatch):
    assert reloading.LOOK_AGAIN_SECONDS == 10
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.005)
    async with site() as shop:
        assert shop.reads == 0
        await shop.sink.send(EVENT)
        await until(lambda: shop.reads >= 3)
        await shop.sink.aclose()
        reads = shop.reads
        await asyncio.sleep(0.02)
        assert shop.reads == reads


async def test_an_idle_endpoint_is_not_read_until_its_next_sends_which_use_what_they_read(monkeypatch):
    assert reloading.IDLE_SECONDS == 30
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.005)
    monkeypatch.setattr(reloading, "IDLE_SECONDS", 0.01)
    monkeypatch.setattr(reloading, "_WAIT_SECONDS", PATIENCE_SECONDS)
    async with site() as shop:
        await shop.sink.send(EVENT)
        await until(lambda: not shop.sink._is_current.is_set())
        shop.configured, reads = replace(shop.configured, headers=AFTER), shop.reads
        await asyncio.sleep(0.03)
        assert shop.reads == reads
        await asyncio.gather(shop.sink.send(EVENT), shop.sink.send(EVENT))
        assert shop.tokens == ["t0ken-before", "t0ken-after", "t0ken-after"]


async def test_an_idle_endpoint_is_used_as_it_was_if_its_configuration_cannot_be_read_in_time(monkeypatch):
    monkeypatch.setattr(reloading, "_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.005)
    monkeypatch.setattr(reloading, "IDLE_SECONDS", 0.01)
    async with site() as shop:
        await shop.sink.send(EVENT)
        await until(lambda: not shop.sink._is_current.is_set())
        shop.sink._read = asyncio.Event().wait
        await shop.sink.send(EVENT)
        await shop.sink.send(EVENT)
        assert shop.tokens == ["t0ken-before"] * 3


async def test_the_old_secret_signs_along_until_the_clock_reaches_its_end():
    async with site(signing_secrets=(OLD,)) as shop:
        await shop.sink.send(EVENT)
        await shop.change(signing_secrets=(NEW, OLD), signing_ends={OLD: NOW + 120})
        await shop.sink.send(EVENT)
        shop.clock.advance(119.0)
        await shop.sink.send(EVENT)
        shop.clock.advance(1.0)
        await shop.sink.send(EVENT)
        signatures = [request.headers["webhook-signature"].split() for request in shop.receiver.journal]
    assert [len(each) for each in signatures] == [1, 2, 2, 1]
    assert signatures[0][0] == signatures[1][1], "the old secret signs second"


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (ConnectionError("https://x/s3cret"), "ConnectionError"),
        (EndpointError("no endpoint is named 'orders'"), "no endpoint is named 'orders'"),
    ],
)
async def test_an_unreadable_endpoint_keeps_its_configuration_and_the_log_has_no_secret(
    caplog, problem, said
):
    async with site() as shop:
        await shop.change(problem)
        await shop.sink.send(EVENT)
        assert shop.tokens == ["t0ken-before"]
    [record] = [record for record in caplog.records if record.name == "resonant.sinks.reloading"]
    assert record.getMessage() == f"endpoint orders keeps its previous configuration: {said}"


async def test_timeout_and_overrides_stay_as_they_were_when_it_was_opened():
    async with site(respond(404), timeout=30.0, overrides={404: "transient"}) as shop:
        await shop.change(timeout=300.0, overrides={}, headers=AFTER)
        with pytest.raises(UnexpectedStatus):
            await shop.sink.send(EVENT)
        assert shop.tokens == ["t0ken-after"]
        used = shop.sink._sinks[-1].endpoint
        assert (used.timeout, used.overrides) == (30.0, {404: "transient"})


async def test_no_present_or_former_secret_shows_in_an_error():
    async with site() as shop:
        await shop.change(headers=AFTER)
        assert shop.sink.describe(ValueError("t0ken-before, t0ken-after")) == "ValueError: ***, ***"
