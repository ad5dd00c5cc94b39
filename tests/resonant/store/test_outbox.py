"""The transactional outbox of the examples, run as a reader would."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

OUTBOX = Path(__file__).parents[3] / "examples" / "outbox.py"


def test_the_example_stores_an_order_with_its_event_or_neither(tmp_path, open_desk):
    path = tmp_path / "shop.db"
    done = subprocess.run(
        [sys.executable, OUTBOX, path], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == [
        "placed: order 1",
        "refused: order 2: not enough in stock: lamp",
        "placed: order 3",
    ]
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT number FROM orders")).scalars().all() == [1, 3]
    engine.dispose()
    desk = open_desk(f"sqlite:///{path}")
    assert desk.status().pending == 2
    assert desk.status().balanced
    assert desk.detail("order-1-placed").event.body == b'{"number":1,"article":"lamp","quantity":1}'
    assert desk.detail("order-2-placed") is None
    desk.clock.advance(1e9)  # the example reads the wall clock
    assert {lease.event.id for lease in desk.claim(endpoint="warehouse")} == {
        "order-1-placed",
        "order-3-placed",
    }


def test_the_example_can_be_run_again(tmp_path, open_desk):
    for _ in range(2):
        subprocess.run(
            [sys.executable, OUTBOX, tmp_path / "shop.db"], check=True, capture_output=True, timeout=60
        )
    assert open_desk(f"sqlite:///{tmp_path}/shop.db").status().accepted == 4


def test_the_examples_order_is_placed_through_an_asynchronous_engine_too(open_desk, postgresql_url):
    desk = open_desk(postgresql_url)
    example = runpy.run_path(str(OUTBOX))

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
