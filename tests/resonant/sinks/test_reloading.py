"""An endpoint that a run holds open is sent to as an operator configures it meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from resonant.errors import EndpointError, UnexpectedStatus
from resonant.events import Event
from resonant.sinks import reloading
from resonant.sinks.endpoint import Endpoint
from resonant.sinks.reloading import CurrentSink
from resonant.testing import Receiver, respond
from support.waiting import until

EVENT = Event(type="order.paid", source="/shop", data={"order": 42})


class Configured:
    """An operator's configuration: an endpoint, or the reason why it cannot be used."""

    def __init__(self, endpoint: Endpoint | Exception) -> None:
        self.now = endpoint
        self.reads = 0

    async def read(self) -> Endpoint:
        self.reads += 1
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


def endpoint(receiver: Receiver, token: str = "t0ken-before", **fields) -> Endpoint:
    return Endpoint("orders", receiver.url, headers={"x-token": token}, allow_private=True, **fields)


def tokens(receiver: Receiver) -> list[str]:
    return [request.headers["x-token"] for request in receiver.journal]


async def test_a_change_applies_to_the_next_send_and_not_to_one_in_progress():
    async with Receiver(respond(200, delay=0.05)) as receiver:
        configured = Configured(endpoint(receiver))
        sink = CurrentSink(configured.now, configured.read)
        under_way = asyncio.create_task(sink.send(EVENT))
        await until(lambda: receiver.journal)
        configured.now = endpoint(receiver, "t0ken-after")
        await sink.look()
        await sink.send(EVENT)
        assert (await under_way).status_code == 200
        await sink.aclose()
        assert tokens(receiver) == ["t0ken-before", "t0ken-after"]


async def test_it_is_read_again_and_again_from_the_first_send_until_it_is_closed(monkeypatch):
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.005)

    async with Receiver() as receiver:
        configured = Configured(endpoint(receiver))
        sink = CurrentSink(configured.now, configured.read)
        assert configured.reads == 0
        await sink.send(EVENT)
        await until(lambda: configured.reads >= 3)
        await sink.aclose()
        reads = configured.reads
        await asyncio.sleep(0.02)
        assert configured.reads - reads == 0


def test_a_run_uses_a_change_after_ten_seconds():
    assert reloading.LOOK_AGAIN_SECONDS == 10


async def test_a_new_rotation_counts_as_used_when_all_earlier_sends_have_ended():
    async with Receiver(respond(200, delay=0.05)) as receiver:
        configured = Configured(endpoint(receiver, rotation=1.0))
        sink = CurrentSink(configured.now, configured.read)
        under_way = asyncio.create_task(sink.send(EVENT))
        await until(lambda: receiver.journal)
        configured.now = endpoint(receiver, rotation=2.0)
        await sink.look()
        meanwhile = sink.rotation()
        await under_way
        after = sink.rotation()
        await sink.aclose()
        assert (meanwhile, after) == (1.0, 2.0)


async def test_an_idle_open_endpoint_is_read_again_too(monkeypatch):
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.005)

    async with Receiver() as receiver:
        configured = Configured(endpoint(receiver, rotation=1.0))
        sink = CurrentSink(configured.now, configured.read)
        assert sink.rotation() == 1.0
        configured.now = endpoint(receiver, rotation=2.0)
        await until(lambda: sink.rotation() == 2.0)
        await sink.aclose()


async def test_while_it_cannot_be_read_it_stays_as_it_was_and_the_log_tells_no_secret(caplog):
    async with Receiver() as receiver:
        configured = Configured(endpoint(receiver))
        sink = CurrentSink(configured.now, configured.read)
        for problem in (
            ConnectionError("https://x/s3cret"),
            EndpointError("no endpoint is named 'orders'"),
        ):
            configured.now = problem
            await sink.look()
            await sink.send(EVENT)
        await sink.aclose()
        assert tokens(receiver) == ["t0ken-before", "t0ken-before"]
    assert [
        record.getMessage() for record in caplog.records if record.name == "resonant.sinks.reloading"
    ] == [
        "endpoint orders keeps its previous configuration: ConnectionError",
        "endpoint orders keeps its previous configuration: no endpoint is named 'orders'",
    ]


async def test_timeout_and_overrides_do_not_change():
    async def run():
        async with Receiver(respond(404)) as receiver:
            opened = endpoint(receiver, timeout=5.0, overrides={404: "transient"})
            configured = Configured(
                replace(opened, timeout=300.0, overrides={}, headers={"x-token": "t0ken-after"})
            )
            sink = CurrentSink(opened, configured.read)
            await sink.look()
            try:
                await sink.send(EVENT)
            except UnexpectedStatus:
                return sink._versions[-1].endpoint, tokens(receiver)
            finally:
                await sink.aclose()

    used, sent = await run()
    assert (used.timeout, used.overrides) == (5.0, {404: "transient"})
    assert sent == ["t0ken-after"]


async def test_an_error_shows_neither_the_current_nor_a_former_secret():
    async with Receiver() as receiver:
        configured = Configured(endpoint(receiver))
        sink = CurrentSink(configured.now, configured.read)
        configured.now = endpoint(receiver, "t0ken-after")
        await sink.look()
        assert sink.describe(ValueError("t0ken-before, t0ken-after")) == "ValueError: ***, ***"
