import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from resonant.dispatch.bulk import PrefetchWindow, send_ahead
from resonant.events import Event, Lease
from support.waiting import until

EVENT = Event(type="t", source="/s", data=1)


def leases(count, first=1):
    return [Lease(number, 1, "worker", EVENT, "orders") for number in range(first, first + count)]


class Store:
    """Notes what begins; says of some that they are held no more."""

    def __init__(self, lost=()):
        self.begun = []
        self.lost = set(lost)

    async def begin(self, some):
        await asyncio.sleep(0)
        self.begun += [lease.delivery_id for lease in some]
        return {lease.key for lease in some if lease.delivery_id not in self.lost}


def places(width):
    """Return a function that waits for one of this many places, and allows every send."""
    limiter = asyncio.Semaphore(width)

    @asynccontextmanager
    async def place(_lease):
        async with limiter:
            yield True

    return place


async def sending(store, some, send, *, width=2, **options):
    """Send; return what was left."""
    left = []
    options = {"window": PrefetchWindow(width), "on_lost": lambda _lease: None} | options
    options.setdefault("place", places(options["window"].width))
    await send_ahead(
        some,
        begin=store.begin,
        send=lambda lease, _begun_at: send(lease),
        on_left=left.extend,
        clock=time.monotonic,
        **options,
    )
    return left


async def never(_lease):
    await asyncio.Event().wait()


async def test_each_is_begun_and_sent_once():
    store, sent = Store(), []

    async def send(lease):
        await asyncio.sleep(0)
        sent.append(lease.delivery_id)

    assert await sending(store, leases(25), send) == []
    assert sorted(sent) == store.begun == list(range(1, 26))


async def test_what_is_not_held_any_more_is_not_sent():
    sent, lost = [], []

    async def send(lease):
        sent.append(lease.delivery_id)

    await sending(Store(lost=[2, 5]), leases(6), send, on_lost=lambda lease: lost.append(lease.delivery_id))
    assert (sorted(sent), lost) == ([1, 3, 4, 6], [2, 5])


async def test_of_all_chunks_to_an_endpoint_little_more_has_begun_than_can_be_sent():
    store = Store()
    window, place = PrefetchWindow(2), places(2)
    chunks = [
        asyncio.create_task(sending(store, leases(50, first), never, window=window, place=place))
        for first in (1, 101, 201)
    ]
    for _ in range(200):
        await asyncio.sleep(0)
    for chunk in chunks:
        chunk.cancel()
    await asyncio.gather(*chunks, return_exceptions=True)
    assert len(store.begun) <= PrefetchWindow.MOST_BEGUN * 2


@pytest.mark.parametrize("chunk_size", [3, 7, 20])
async def test_nor_has_it_where_one_chunk_hands_over_to_the_next(chunk_size):
    store, sent, most_begun = Store(), [], []

    async def send(lease):
        for _ in range(lease.delivery_id % 5):
            await asyncio.sleep(0)
        most_begun.append(len(store.begun) - len(sent))
        sent.append(lease.delivery_id)

    window, place = PrefetchWindow(3), places(3)
    chunks = [leases(chunk_size, first) for first in range(1, 200, chunk_size)]
    await asyncio.gather(*(sending(store, chunk, send, window=window, place=place) for chunk in chunks))
    await asyncio.wait_for(window.wait_for_room(), 30)
    assert sorted(sent) == sorted(store.begun)
    assert 3 <= max(most_begun) <= PrefetchWindow.MOST_BEGUN * 3


async def test_each_send_is_given_the_time_before_its_begin():
    began_at = []
    clock = iter(range(100)).__next__

    async def send(_lease, begun_at):
        began_at.append(begun_at)

    await send_ahead(
        leases(5),
        begin=Store().begin,
        place=places(1),
        send=send,
        on_lost=print,
        on_left=list,
        window=PrefetchWindow(1),
        clock=clock,
    )
    assert began_at == [0, 0, 1, 1, 2]


async def test_a_begun_delivery_whose_place_is_refused_is_not_sent():
    sent = []

    @asynccontextmanager
    async def place(lease):
        yield lease.delivery_id != 2

    async def send(lease):
        sent.append(lease.delivery_id)

    left = await sending(Store(), leases(3), send, place=place)
    assert (sorted(sent), [lease.delivery_id for lease in left]) == ([1, 3], [2])


async def test_when_it_is_over_what_had_not_begun_is_returned():
    store, sent = Store(), []

    async def send(lease):
        sent.append(lease.delivery_id)

    left = await sending(store, leases(20), send, is_over=lambda: len(sent) >= 6)
    assert sent == store.begun
    assert [lease.delivery_id for lease in left] == list(range(len(sent) + 1, 21))
    assert 6 <= len(sent) < 20


async def test_what_had_not_begun_goes_back_before_the_slowest_send_ends():
    left, slow = [], asyncio.Event()

    async def send(_lease):
        await slow.wait()

    store = Store()
    chunk = asyncio.create_task(
        send_ahead(
            leases(20),
            begin=store.begin,
            place=places(2),
            send=lambda lease, _begun_at: send(lease),
            on_lost=print,
            on_left=left.extend,
            window=PrefetchWindow(2),
            clock=time.monotonic,
            is_over=lambda: bool(store.begun),
        )
    )
    await until(lambda: left)
    assert not chunk.done()
    slow.set()
    await chunk


@pytest.mark.parametrize("failure", [ValueError("broken"), asyncio.CancelledError()])
async def test_what_a_send_raises_ends_all(failure):
    before = asyncio.all_tasks()

    async def send(lease):
        if lease.delivery_id == 3:
            raise failure
        await never(lease)

    window = PrefetchWindow(4)
    with pytest.raises(type(failure)):
        await asyncio.wait_for(sending(Store(), leases(500), send, window=window), 10)
    assert asyncio.all_tasks() == before
    await asyncio.wait_for(window.wait_for_room(), 30)  # for the chunks that come after it


async def test_a_failing_store_ends_all():
    async def begin(_some):
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await send_ahead(
            leases(5),
            begin=begin,
            place=places(2),
            send=never,
            on_lost=print,
            on_left=print,
            window=PrefetchWindow(2),
            clock=time.monotonic,
        )
