"""A chunk begins its deliveries a little ahead of their sends."""

import asyncio
import time
from collections import deque

import pytest

from resonant.dispatch.limiting.ahead import PrefetchWindow
from resonant.dispatch.send.ahead import send_ahead
from resonant.events import Event, Lease
from support.waiting import until

EVENT = Event(type="t", source="/s", data=1)


def leases(count, first=1):
    return [Lease(number, 1, "worker", EVENT, "orders") for number in range(first, first + count)]


def ids(some):
    return [lease.delivery_id for lease in some]


class Sending:
    """Sends chunks; records the deliveries that have begun, were sent, lost and left, and loses the leases in ``to_lose``."""

    def __init__(self, *, width=2, to_lose=()):
        self.begun, self.sent, self.lost, self.left, self.begun_at = [], [], [], [], []
        self.window = PrefetchWindow(width)
        self._places = asyncio.Semaphore(width)
        self._to_lose = set(to_lose)

    async def begin(self, some):
        await asyncio.sleep(0)
        self.begun += ids(some)
        return {lease.key for lease in some if lease.delivery_id not in self._to_lose}

    async def admit(self, _lease):
        return await self._places.acquire()

    async def answer(self, lease):
        """Replaced by tests whose sends take time, or fail."""

    async def _send(self, lease, begun_at):
        await self.answer(lease)
        self._places.release()
        self.sent.append(lease.delivery_id)
        self.begun_at.append(begun_at)

    async def chunk(self, some, *, is_over=lambda: False, clock=time.monotonic):
        await send_ahead(
            deque(some),
            begin=self.begin,
            admit=self.admit,
            send=self._send,
            on_lost=lambda lease: self.lost.append(lease.delivery_id),
            on_left=lambda some: self.left.extend(ids(some)),
            window=self.window,
            clock=clock,
            is_over=is_over,
        )


async def never(_lease):
    await asyncio.Event().wait()


async def test_each_delivery_is_begun_and_sent_once():
    sending = Sending()
    await sending.chunk(leases(25))
    assert sorted(sending.sent) == sending.begun == list(range(1, 26))
    assert not sending.left


async def test_deliveries_with_lost_leases_are_not_sent():
    sending = Sending(to_lose=[2, 5])
    await sending.chunk(leases(6))
    assert (sorted(sending.sent), sending.lost) == ([1, 3, 4, 6], [2, 5])


async def test_all_chunks_to_an_endpoint_share_the_window():
    sending = Sending()
    sending.answer = never
    chunks = [asyncio.create_task(sending.chunk(leases(50, first))) for first in (1, 101, 201)]
    for _ in range(200):
        await asyncio.sleep(0)
    for chunk in chunks:
        chunk.cancel()
    await asyncio.gather(*chunks, return_exceptions=True)
    assert len(sending.begun) <= PrefetchWindow.MOST_BEGUN * 2


@pytest.mark.parametrize("chunk_size", [3, 7, 20])
async def test_the_window_holds_where_one_chunk_follows_another(chunk_size):
    async def answer(lease):
        for _ in range(lease.delivery_id % 5):
            await asyncio.sleep(0)
        most_begun.append(len(sending.begun) - len(sending.sent))

    most_begun = []
    sending = Sending(width=3)
    sending.answer = answer
    await asyncio.gather(*(sending.chunk(leases(chunk_size, first)) for first in range(1, 200, chunk_size)))
    await asyncio.wait_for(sending.window.wait_for_room(), 30)
    assert sorted(sending.sent) == sorted(sending.begun)
    assert 3 <= max(most_begun) <= PrefetchWindow.MOST_BEGUN * 3


async def test_each_send_gets_the_time_before_its_begin():
    sending = Sending(width=1)
    await sending.chunk(leases(5), clock=iter(range(100)).__next__)
    assert sending.begun_at == [0, 0, 1, 1, 2]


async def test_begun_deliveries_that_the_gate_holds_make_room_for_others():
    async def admit(lease):
        return lease.delivery_id % 5 == 0

    sending = Sending()
    sending.admit = admit
    await asyncio.wait_for(sending.chunk(leases(20)), 10)
    assert sorted(sending.sent) == [5, 10, 15, 20]
    assert (sending.begun, sending.left) == (list(range(1, 21)), [])


async def test_deliveries_not_begun_at_the_end_of_the_run_are_left():
    sending = Sending()
    await sending.chunk(leases(20), is_over=lambda: len(sending.sent) >= 6)
    assert sending.sent == sending.begun
    assert sending.left == list(range(len(sending.sent) + 1, 21))
    assert 6 <= len(sending.sent) < 20


async def test_deliveries_not_begun_are_left_before_the_slowest_send_ends():
    async def answer(_lease):
        await slow.wait()

    slow = asyncio.Event()
    sending = Sending()
    sending.answer = answer
    chunk = asyncio.create_task(sending.chunk(leases(20), is_over=lambda: bool(sending.begun)))
    await until(lambda: sending.left)
    assert not chunk.done()
    slow.set()
    await chunk


@pytest.mark.parametrize("failure", [ValueError("broken"), asyncio.CancelledError()])
async def test_an_error_of_a_send_ends_all(failure):
    before = asyncio.all_tasks()

    async def answer(lease):
        if lease.delivery_id == 3:
            raise failure
        await never(lease)

    sending = Sending(width=4)
    sending.answer = answer
    with pytest.raises(type(failure)):
        await asyncio.wait_for(sending.chunk(leases(500)), 10)
    assert asyncio.all_tasks() == before
    await asyncio.wait_for(sending.window.wait_for_room(), 30)  # for the chunks that come after it


async def test_an_error_of_the_store_ends_all():
    async def begin(_some):
        raise OSError("away")

    sending = Sending()
    sending.begin = begin
    with pytest.raises(OSError, match="away"):
        await sending.chunk(leases(5))
