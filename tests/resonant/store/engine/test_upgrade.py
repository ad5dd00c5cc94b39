"""A store of 0.1.0 with 1,000 rows in each table is upgraded, and no count changes.

``RESONANT_CHAOS=long`` makes it 100,000.
"""

import asyncio
import importlib
import math
import os
import struct
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import Boolean, Double, Integer, LargeBinary, MetaData, text
from sqlalchemy.schema import CreateIndex, CreateTable

from benches.old_store import in_database, make_tables
from resonant.metrics.alerts import read_raised
from resonant.metrics.statistics import read_statistics
from resonant.metrics.totals import read_totals
from resonant.store import WorkerStore, open_store
from resonant.store.counts.sketches import BOUNDS, NANOSECONDS, Labels, Sketch, pack
from resonant.store.engine.migrate import VERSION_TABLE
from resonant.store.shared.run_watches import RunWatch, read_watches
from resonant.testing import FixedClock
from support.dispatching import opened
from support.postgresql import number_waiting
from support.upgraded_rows import drop_all
from support.waiting import until

ENDPOINTS = 1_000 if os.environ.get("RESONANT_CHAOS") == "long" else 10
ROWS = 100 * ENDPOINTS
NOW = 1_700_000_000
NUMBERS = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})"
ENDPOINT = f"'endpoint-' || CAST(i % {ENDPOINTS} AS TEXT)"
# Every measured set of labels has one row for each bound; the others have a code for each.
PLACE = f"i / {5 * ENDPOINTS} % 20"
CODE = f"CASE WHEN i / {ENDPOINTS} % 5 > 2 THEN 'c' || CAST({PLACE} AS TEXT) ELSE 'http_503' END"
LE = f"CASE {PLACE} {' '.join(f'WHEN {n} THEN {le}' for n, le in enumerate(BOUNDS[:-1]))} ELSE :infinity END"
COUNTED = {
    "measure": f"CASE i / {ENDPOINTS} % 5 WHEN 0 THEN 'attempt' WHEN 1 THEN 'delivery' WHEN 2 THEN 'retry_delay' "
    "WHEN 3 THEN 'replay' ELSE 'accepted' END",
    "endpoint": ENDPOINT,
    "event_type": "'t'",
    "result": f"CASE i / {ENDPOINTS} % 5 WHEN 1 THEN 'delivered' ELSE 'failed' END",
    "category": "'transient'",
    "code": CODE,
    "le": f"CASE WHEN i / {ENDPOINTS} % 5 > 2 THEN :infinity ELSE {LE} END",
    "count": "3",
    "total": f"CASE WHEN i / {ENDPOINTS} % 5 > 2 THEN 0 ELSE 0.75 END",
}
COLUMNS = {
    "events": {"id": "'evt_' || CAST(i AS TEXT)"},
    "deliveries": {
        "event_id": "'evt_' || CAST(i AS TEXT)",
        "endpoint": ENDPOINT,
        "status": "CASE i % 2 WHEN 0 THEN 'delivered' ELSE 'pending' END",
        "available_at": "CASE i % 2 WHEN 1 THEN 1.0 END",
        "attempts": "1",
    },
    "endpoints": {
        "name": "'endpoint-' || CAST(i AS TEXT)",
        "accepted": f"CASE WHEN i <= {ENDPOINTS} THEN {ROWS // ENDPOINTS} ELSE 0 END",
        "purged": f"CASE WHEN i <= {ENDPOINTS} THEN {ROWS // ENDPOINTS} ELSE 0 END",
    },
    "gates": {"state": "'normal'"},
    "acceptances": {"endpoint": ENDPOINT, "count": "1"},
    "rollups": {**COUNTED, "minute": f"{NOW // 60 * 60} - i % 100 * 60"},
    "rollup_totals": COUNTED,
    "rollup_history": {**COUNTED, "minute": f"{NOW // 60 * 60} - i * 60"},
    "tallies": {"minute": f"{NOW // 60 * 60} - i % 100 * 60", "entries": ":entries", "seconds": ":seconds"},
    "sketches": {
        "minute": f"{NOW // 3600 * 3600} - i % 24 * 3600",
        "entries": ":sketch_entries",
        "buckets": ":sketch_buckets",
    },
}
UNFOLDED = 0.1  # seconds; 0.1.0 rounded them up
SKETCH = pack(0, [(Labels("attempt", "orders", "t", "delivered"), Sketch.of([0.25, 0.5]))])
UP_TO_0012 = ("v0009_one_ladder_of_counts", "v0010_no_signers", "v0011_plain_gates", "v0012_sources_apart")
VALUES = {
    "infinity": math.inf,
    "entries": '[["attempt","orders","t","delivered","","","",0,1],["retry_delay","orders","t","","","","",1,0]]',
    "seconds": struct.pack("<d", UNFOLDED),
    "sketch_entries": SKETCH.entries,
    "sketch_buckets": SKETCH.buckets,
}


def make_tables_of_0012(connection):
    """Create the tables of version 0012 from those of 0.1.0, with an event that is still in the old tables."""
    make_tables(connection)
    connection.exec_driver_sql(
        "INSERT INTO resonant_events (id, type, source, time, digest, accepted_at, body) "
        "VALUES ('evt_1', 't', '/s', 'x', 'd', 1.0, 'b')"
    )
    for name in UP_TO_0012:
        importlib.import_module(f"resonant.store.migrations.{name}").upgrade(connection)
    connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '0012'")


def definitions(connection):
    """Return the definition of each table and index, as sorted lines, since columns that were added later are the last."""
    tables = MetaData()
    tables.reflect(connection)
    found = [table for table in tables.sorted_tables if table.name != VERSION_TABLE]
    indexes = [CreateIndex(index) for table in found for index in table.indexes]
    made = [str(each.compile(connection)) for each in (*map(CreateTable, found), *indexes)]
    return sorted(sorted(line.strip(", \t") for line in each.splitlines()) for each in made)


def fill(connection):
    """Create the tables of 0.1.0, and fill each of them."""
    make_tables(connection)
    tables = MetaData()
    tables.reflect(connection)
    for table in tables.sorted_tables:
        if table.name != VERSION_TABLE:
            columns = COLUMNS.get(table.name.removeprefix("resonant_"), {})
            # Databases number the rows themselves, except those of texts.
            used = [each for each in table.c if each.name != "id" or not isinstance(each.type, Integer)]
            values = [columns.get(column.name) or value_of(column) for column in used]
            names = ", ".join(column.name for column in used)
            insert = f"{NUMBERS} INSERT INTO {table.name} ({names}) SELECT {', '.join(values)} FROM n"
            connection.execute(text(insert), {name: VALUES[name] for name in VALUES if f":{name}" in insert})


def value_of(column):
    if column.nullable:
        return "NULL"
    match column.type:
        case Boolean():
            return "false"
        case Integer():
            return "i"
        case Double():
            return "1.0"
        case LargeBinary():
            return ":seconds"
    return f"'{column.name}-' || CAST(i AS TEXT)"


def counts_of_rollups(connection):
    """Return the counters of 0.1.0, by measure and endpoint: the number, and the sum of seconds."""
    rows = connection.execute(
        text(
            """SELECT measure, endpoint, sum(count), sum(total) FROM (
            SELECT measure, endpoint, count, total FROM resonant_rollups
            UNION ALL SELECT measure, endpoint, count, total FROM resonant_rollup_totals) counted
            GROUP BY measure, endpoint"""
        )
    )
    return {(measure, endpoint): (int(number), float(total)) for measure, endpoint, number, total in rows}


@pytest.mark.parametrize("make", [make_tables, make_tables_of_0012], ids=["0.1.0", "0012"])
async def test_an_upgraded_store_has_the_tables_of_a_new_one(url, make):
    async with open_store(url):
        new = await in_database(url, definitions)
    await in_database(url, drop_all)
    await in_database(url, make)
    async with open_store(url):
        assert await in_database(url, definitions) == new


async def test_a_store_of_0012_whose_rows_are_moving_is_upgraded(url):
    await in_database(url, make_tables_of_0012)
    async with open_store(url) as store:
        assert (await store.detail("evt_1")).event.type == "t"


async def test_a_full_store_of_the_first_release_is_upgraded(url):
    await in_database(url, fill)
    renamed = {"retry_delay": "delay"}
    before = {
        (renamed.get(measure, measure), endpoint): counted
        for (measure, endpoint), counted in (await in_database(url, counts_of_rollups)).items()
        if measure != "accepted"
    }
    async with opened(url, clock=FixedClock(NOW + 1.0)) as store:
        totals = await store.read(read_totals, now=store.clock())
        status = await store.status()
        assert (status.accepted, status.purged, status.balanced) == (2 * ROWS, ROWS, True)
        assert sum(totals.accepted.values()) == 2 * ROWS
        await store.fold()  # which also removes gates that have long been normal
        totals = replace(totals, gates={})
        assert await store.read(read_totals, now=store.clock()) == totals
        found = Counter()
        sums = Counter()
        for labels, sketch in totals.counted.items():
            found[labels.measure, labels.endpoint] += sketch.count
            sums[labels.measure, labels.endpoint] += sketch.total
        unfolded = ("attempt", "orders")
        assert found.pop(unfolded) == ROWS
        of_unfolded = ROWS * round(UNFOLDED * 2**16) / 2**16
        # A sum that falls would look like a restart.
        assert of_unfolded <= sums.pop(unfolded) / NANOSECONDS < 1.001 * of_unfolded
        assert {key: (found[key], sums[key] / NANOSECONDS) for key in found} == before
        [statistics] = (
            await store.read(read_statistics, now=store.clock(), since=NOW - 86_400)
        ).overall.itertuples()
        assert statistics.attempts == 3 * ROWS
        await store.compact()
        assert await store.read(read_totals, now=store.clock()) == totals


async def test_a_fold_of_the_first_release_during_the_upgrade_is_counted(postgresql, postgresql_url):
    await in_database(postgresql_url, make_tables)
    async with postgresql.connected("test") as old:
        folding = old.transaction()
        await folding.start()
        await old.execute(
            "INSERT INTO resonant_rollups VALUES ('attempt', 0, 'orders', 't', 'delivered', '', '', 0.25, 3, 0.5)"
        )
        opening = asyncio.create_task(WorkerStore.open(postgresql_url))
        await until(lambda: in_database(postgresql_url, number_waiting))
        await folding.commit()
        store = await opening
    totals = await store.read(read_totals, now=store.clock())
    await store.close()
    assert [sketch.count for sketch in totals.counted.values()] == [3]


async def test_a_decision_about_an_alert_that_was_not_announced_is_undone_and_so_made_again(url):
    def decide(connection):
        make_tables(connection)
        rows = [
            ("announced", 5.0, None),
            ("raised", 7.0, '{"what": "raised", "since": 1.0}'),
            ("recovered", None, '{"what": "recovered", "since": 2.0}'),
        ]
        insert = text("INSERT INTO resonant_alerts VALUES ('gone', :endpoint, :raised_at, :unannounced)")
        for row in rows:
            connection.execute(insert, dict(zip(("endpoint", "raised_at", "unannounced"), row, strict=True)))

    await in_database(url, decide)
    async with open_store(url) as store:
        raised = await store.read(read_raised)
    assert {key.endpoint: at for key, at in raised.items()} == {"announced": 5.0, "recovered": 2.0}


async def test_a_watch_of_flow_runs_has_no_server_until_one_claims_it(url):
    def watch(connection):
        make_tables_of_0012(connection)
        for name in ("v0013_ways_in", "v0014_prefect_projects"):
            importlib.import_module(f"resonant.store.migrations.{name}").upgrade(connection)
        connection.exec_driver_sql(
            "INSERT INTO resonant_run_watches VALUES ('ops', 'import-*', '', 7.0, 5.0)"
        )
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '0014'")

    await in_database(url, watch)
    async with open_store(url) as store:
        found = await store.read(read_watches)
    assert found == [RunWatch("ops", "import-*", server="", watermark=7.0, created_at=5.0)]
