"""A window that is kept from one export to the next."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from resonant.store import schema
from support.examples import examples
from support.exports import BUSY, HOUR, MANIFEST, Shop, live

ENDPOINTS = st.sampled_from(["orders", "crm"])
RESULTS = st.tuples(
    st.sampled_from(["delivered", "delivered", "park", "exhausted", "permanent", "hang"]),
    st.sampled_from([0.0, 0.1, 0.25, 2.0, 14.0, 4_000.0]),
)
STEPS = st.one_of(
    st.tuples(st.just("enqueue"), st.integers(1, 5), ENDPOINTS),
    st.tuples(st.just("send"), st.lists(RESULTS, min_size=1, max_size=6), ENDPOINTS),
    st.tuples(st.just("send"), st.lists(RESULTS, min_size=1, max_size=6), ENDPOINTS),
    st.tuples(st.just("rescue")),
    st.tuples(st.just("replay"), st.integers(1, 3)),
    st.tuples(st.just("cancel"), st.integers(1, 2)),
    st.tuples(st.just("purge"), st.sampled_from([0.0, 1_800.0, 5 * HOUR])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 61.0, 1_500.0, HOUR, 2.5 * HOUR, -HOUR])),
    st.tuples(st.just("export")),
    st.tuples(st.just("export")),
)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=5, max_size=30))
async def test_exports_find_what_the_whole_window_read_anew_says(steps):
    with tempfile.TemporaryDirectory() as folder:
        await live(Shop(f"sqlite:///{folder}/store.db", Path(folder) / "window"), steps)


async def test_it_is_the_same_on_both_databases(store_url, tmp_path):
    await live(Shop(store_url, tmp_path / "window"), BUSY)


async def test_what_is_purged_within_the_window_is_gone_from_it(tmp_path):
    steps = [*BUSY, ("wait", 1.0), ("purge", 0.0), ("export",), ("send", [("delivered", 0.1)], "orders")]
    await live(Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window"), steps)


async def exported_after(shop, change):
    """Export, change what was kept, go on, and compare the next export."""
    await live(shop, BUSY)
    change(shop.folder)
    await live(shop, [("send", [("delivered", 0.1)], "orders")])


def remove(folder):
    (folder / MANIFEST).unlink()


def scribble(folder):
    (folder / MANIFEST).write_text('{"format": 1, "store"')


def of_another_format(folder):
    path = folder / MANIFEST
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"format": document["format"] - 1}))


def of_another_store(folder):
    path = folder / MANIFEST
    path.write_text(path.read_text().replace('"store": "sqlite', '"store": "other'))


def truncate(folder):
    for path in folder.glob("*.npy"):
        path.write_bytes(path.read_bytes()[:-8])


def remove_parts(folder):
    for path in folder.glob("*.npy"):
        path.unlink()


def empty_parts(folder):
    for path in folder.glob("*.npy"):
        path.write_bytes(b"")


def spoil(folder):
    document = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(document | {"since": None, "purged": "?"}))


@pytest.mark.parametrize(
    "change",
    [remove, scribble, of_another_format, of_another_store, truncate, remove_parts, empty_parts, spoil],
)
async def test_what_was_kept_and_cannot_be_used_is_read_anew(tmp_path, change):
    shop = Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window")
    await exported_after(shop, change)


async def test_a_store_that_was_made_anew_in_the_same_place_is_told_apart(tmp_path):
    url, folder = f"sqlite:///{tmp_path}/store.db", tmp_path / "window"
    await live(Shop(url, folder), BUSY)
    for path in tmp_path.glob("store.db*"):
        path.unlink()
    await live(Shop(url, folder), [("wait", 5.0), *BUSY])


async def test_where_nothing_can_be_kept_the_export_goes_on(tmp_path):
    (tmp_path / "file").write_text("no folder")
    await live(Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "file" / "window"), BUSY)


async def test_what_is_kept_is_for_its_owner_alone_and_nothing_is_left_behind(tmp_path):
    folder = tmp_path / "window"
    await live(Shop(f"sqlite:///{tmp_path}/store.db", folder), BUSY)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    text = (folder / MANIFEST).read_text()
    kept = {path.name for path in folder.glob("*.npy") if path.name in text}
    for path in folder.glob("*.npy"):
        os.utime(path, (1.0, 1.0))  # long ago: no other exporter is about to name it
    await live(Shop(f"sqlite:///{tmp_path}/store.db", folder), [])
    assert kept >= {path.name for path in folder.glob("*.npy") if path.stat().st_mtime < 2}


async def test_what_may_have_been_missed_is_read_again_after_a_day(tmp_path):
    shop = await Shop(f"sqlite:///{tmp_path}/store.db", tmp_path / "window").open()
    await shop.enqueue(3, "orders")
    await shop.send([("delivered", 0.1)] * 3, "orders")
    await shop.export()
    await shop.store.write(
        lambda connection: connection.execute(delete(schema.attempts).where(schema.attempts.c.id == 1))
    )
    (_, found), (_, expected) = await shop.export()
    assert (found.overall.attempts.total, expected.overall.attempts.total) == (3, 2)
    shop.clock.advance(86_400)
    (_, found), (_, expected) = await shop.export(hours=48)
    assert found.overall.attempts.total == expected.overall.attempts.total == 2
    await shop.store.close()
