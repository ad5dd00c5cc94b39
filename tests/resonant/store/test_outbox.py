"""The transactional outbox of the examples, run as a reader would."""

import runpy
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture
def example():
    return runpy.run_path(str(Path(__file__).parents[3] / "examples" / "outbox.py"))


def test_the_example_stores_an_order_with_its_event_or_neither_and_can_run_again(
    tmp_path, open_desk, example, capsys
):
    path = tmp_path / "shop.db"
    for _ in range(2):
        example["main"](path)
    assert capsys.readouterr().out.splitlines()[:3] == [
        "placed: order 1",
        "refused: order 2: not enough in stock: lamp",
        "placed: order 3",
    ]
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        numbers = connection.execute(text("SELECT number FROM orders ORDER BY number")).scalars().all()
        assert numbers == [1, 3, 4, 6]
    engine.dispose()
    desk = open_desk(f"sqlite:///{path}")
    assert (desk.status().pending, desk.status().balanced) == (4, True)
    assert desk.detail("order-1-placed").event.body == b'{"number":1,"article":"lamp","quantity":1}'
    assert desk.detail("order-2-placed") is None
    desk.clock.advance(1e9)  # the example reads the wall clock
    assert len(desk.claim(endpoint="warehouse")) == 4


def test_the_examples_order_is_placed_through_an_asynchronous_engine_too(open_desk, postgresql_url, example):
    desk = open_desk(postgresql_url)

    async def place_orders() -> None:
        engine = create_async_engine(make_url(postgresql_url).set(drivername="postgresql+asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(example["shop"].create_all)
        async with engine.begin() as connection:
            await connection.run_sync(example["place_order"], 1, "lamp", 1)
        with pytest.raises(example["OutOfStock"]):
            async with engine.begin() as connection:
                await connection.run_sync(example["place_order"], 2, "lamp", 1_000)
        await engine.dispose()

    desk.run(place_orders())
    assert desk.status().accepted == 1
    assert desk.detail("order-2-placed") is None
