"""``enqueue``: JSONL files into the store, as a stream, until its end or a signal."""

import asyncio
import fcntl
import gzip
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import termios
from array import array
from collections import Counter
from pathlib import Path

import pytest

from resonant import output
from resonant.cli.send.files import BATCH_LINES, Summary, store_files
from resonant.errors import StoreUnavailable
from resonant.store import WorkerStore
from support.waiting import wait_until

KIB = 1024
MIB = 1024 * KIB
ENQUEUE = ("enqueue", "--endpoint", "billing", "--allow-unknown")


def line(event_id: str | None = None, **fields) -> str:
    event = {"type": "order.paid", "source": "/shop", "data": {"n": 1}} | fields
    return json.dumps(event | ({} if event_id is None else {"id": event_id}))


def write(path: Path, *lines: str | bytes) -> str:
    path.write_bytes(b"".join((each if isinstance(each, bytes) else each.encode()) + b"\n" for each in lines))
    return path.name


def stored_ids(worker) -> list[str]:
    return sorted(lease.event.id for lease in worker.claim_all())


def test_each_line_is_a_delivery(enqueue, worker, tmp_path):
    first = write(tmp_path / "a.jsonl", line("evt_1", data={"z": 1, "a": "ü"}), line("evt_2", type=None))
    # Windows line ends, blank lines, and no line end at the end of the file.
    (tmp_path / "b.jsonl").write_text(f"\n{line('evt_3')}\r\n  \t\r\n{line('evt_4')}")
    how = ("--type", "stock.low", "--policy", "classic", "--max-attempts", "7")

    assert enqueue(first, "b.jsonl", "/dev/null", *how).out == "stored 4 events for billing\n"

    leases = {lease.event.id: lease for lease in worker.claim_all()}
    assert sorted(leases) == ["evt_1", "evt_2", "evt_3", "evt_4"]
    assert leases["evt_1"].event.body == '{"z":1,"a":"ü"}'.encode()
    types = {event_id: lease.event.type for event_id, lease in leases.items()}
    assert types == dict.fromkeys(leases, "order.paid") | {"evt_2": "stock.low"}
    assert {(lease.policy, lease.max_attempts) for lease in leases.values()} == {("classic", 7)}


def test_repeats_and_invalid_traces_are_counted(enqueue, resonant, worker, tmp_path):
    traced = line("evt_3", traceparent=7)
    name = write(tmp_path / "a.jsonl", line("evt_1"), line("evt_1"), line("evt_2"), traced)
    said = "stored 3 events for billing, 1 already known; invalid traces dropped: 1\n"
    assert enqueue(name).out == said
    counts = {"stored": 0, "known": 4, "erased": 0, "bad": 0, "dropped_traces": 1, "unrouted": 0}
    assert json.loads(enqueue(name, "--json").out) == counts | {"by_endpoint": {}}
    assert resonant.json("status")["accepted"] == 3
    for given in ("webhook-endpoint/billing", "my-sink/billing-2"):
        resonant("enqueue", name, "--endpoint", given, "--allow-unknown")
    assert [due.endpoint for due in worker.do(lambda store: store.look())[0]] == [
        "billing",
        "my-sink/billing-2",
    ]


@pytest.mark.parametrize("files", [1, 2])
def test_a_known_id_with_other_content_is_refused_and_both_are_shown(enqueue, worker, tmp_path, files):
    first, second = line("evt_1", data={"price": 10}), line("evt_1", data={"price": 99})
    if files == 1:
        answer = enqueue(write(tmp_path / "b.jsonl", first, second, line("evt_2")), code=1)
        assert answer.out == "stored 2 events for billing; 1 bad line\n"
    else:
        enqueue(write(tmp_path / "a.jsonl", first))
        answer = enqueue(write(tmp_path / "b.jsonl", line("evt_2"), second), code=1)
    assert answer.err.startswith("b.jsonl:2: id 'evt_1' of source '/shop' already exists with different ")
    assert '{"price":99}' in answer.err
    assert '{"price":10}' in answer.err
    assert stored_ids(worker) == ["evt_1", "evt_2"]


def test_bad_lines_are_reported_by_file_line_and_reason_and_the_good_ones_are_stored(
    enqueue, worker, tmp_path
):
    first = write(tmp_path / "a.jsonl", line("evt_1"), "{oops", "", line("evt_2", source=None))
    odd = line("evt_4", **{"\x1b[2J[bold]\n": 1})
    second = write(tmp_path / "b.jsonl", b"\xff\xfe", line("evt_3"), '["a"]', odd)
    answer = enqueue(first, second, code=1)
    assert answer.out == "stored 2 events for billing; 5 bad lines\n"
    expected = {
        "a.jsonl:2": "not JSON",
        "a.jsonl:4": "source is missing",
        "b.jsonl:1": "not UTF-8",
        "b.jsonl:3": "must be a JSON object",
        "b.jsonl:4": "[bold]",
    }
    reported = dict(each.split(": ", 1) for each in answer.err.splitlines())
    assert reported.keys() == expected.keys()
    assert [place for place, why in expected.items() if why not in reported[place]] == []
    assert "\x1b" not in answer.err
    assert stored_ids(worker) == ["evt_1", "evt_3"]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"data_base64": "AP8b"}, "data=… (3 bytes, sha256 "),
        ({"data": "a", "datacontenttype": "text/plain"}, "datacontenttype=text/plain data=a"),
        ({"data": 1, "dataschema": "https://a.example/"}, "dataschema=https://a.example/ data=1"),
        ({"data": 1, "sequence": "07"}, 'extensions={"sequence":"07"} data=1'),
        ({}, "given type=order.paid;"),
    ],
)
def test_a_conflict_shows_every_part_of_the_content(enqueue, worker, tmp_path, given, stored):
    worker.accept("evt_1", data={"n": 1})
    event = {"id": "evt_1", "type": "order.paid", "source": "/shop"} | given
    answer = enqueue(write(tmp_path / "a.jsonl", json.dumps(event)), code=1)
    assert stored in answer.err
    assert answer.err.endswith(' data={"n":1}\n')
    assert "\x1b" not in answer.err


@pytest.mark.parametrize("bad", ["{oops", line("evt_0", data="other")])
def test_strict_stores_everything_or_nothing_if_any_line_is_bad(enqueue, resonant, worker, tmp_path, bad):
    worker.accept("evt_0")
    lines = [line(f"evt_{n}") for n in range(1, 2 * BATCH_LINES)]
    answer = enqueue(write(tmp_path / "a.jsonl", *lines, bad), "--strict", code=1)
    assert answer.err.startswith(f"a.jsonl:{2 * BATCH_LINES}: ")
    assert answer.out == "stored 0 events for billing; 1 bad line\n"
    assert resonant.json("status")["accepted"] == 1
    enqueue(write(tmp_path / "a.jsonl", *lines), "--strict")
    assert resonant.json("status")["accepted"] == 2 * BATCH_LINES


@pytest.mark.parametrize("bad", ["missing.jsonl", ".", "unreadable.jsonl"])
def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_stored(enqueue, resonant, tmp_path, bad):
    if bad == "unreadable.jsonl":
        (tmp_path / bad).symlink_to(bad)  # a ring: root can read every mode
    answer = enqueue(write(tmp_path / "a.jsonl", line("evt_1")), bad, code=2)
    assert answer.err.startswith(f"resonant: {bad}: ")
    assert answer.err.count("\n") == 1
    assert resonant.json("status")["accepted"] == 0


def test_a_line_without_end_is_refused_and_the_next_ones_are_stored(enqueue, worker, monkeypatch, tmp_path):
    monkeypatch.setenv("RESONANT_MAX_EVENT_BYTES", str(KIB))
    endless = "x" * (1024 * KIB)
    answer = enqueue(write(tmp_path / "a.jsonl", line("evt_1"), endless, line("evt_2"), endless), code=1)
    assert answer.err.splitlines() == [
        f"a.jsonl:{n}: longer than 69,632 bytes (RESONANT_MAX_EVENT_BYTES raises the limit)" for n in (2, 4)
    ]
    assert stored_ids(worker) == ["evt_1", "evt_2"]


def test_a_closed_standard_input_is_one_line(resonant):
    done = resonant.program(*ENQUEUE, "-", preexec_fn=lambda: os.close(0))
    assert done.returncode == 1
    assert done.stderr == "resonant: standard input is closed\n"


async def store_on_a_small_disk(url: str, name: str, *, strict: bool = False) -> Summary:
    """Store with room for two thousand events, and not for three."""
    store = await WorkerStore.open(url)
    try:
        await store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 900"))
        return await store_files(store, [name], "billing", max_event_bytes=KIB, strict=strict)
    finally:
        await store.close()


def test_a_disk_that_fills_up_says_how_many_were_stored_and_the_rest_can_follow(
    enqueue, resonant, worker, tmp_path, url
):
    name = write(tmp_path / "a.jsonl", *(line(f"evt_{n}", data="x" * 1_000) for n in range(3_000)))
    with pytest.raises(StoreUnavailable, match=r"the disk is full.*; nothing was stored \(--strict\)"):
        asyncio.run(store_on_a_small_disk(url, name, strict=True))
    assert resonant.json("status")["accepted"] == 0
    with pytest.raises(StoreUnavailable, match=r"the disk is full.* 2,000 new events stored: "):
        asyncio.run(store_on_a_small_disk(url, name))
    assert len(worker.claim_all()) == 2_000
    assert enqueue(name).out == "stored 1,000 events for billing, 2,000 already known\n"


async def test_only_a_caller_that_asks_for_the_keys_of_deliveries_keeps_them(tmp_path, url):
    name = write(tmp_path / "a.jsonl", line("evt_1"), line("evt_2"))
    keys = array("q")

    store = await WorkerStore.open(url)
    first = await store_files(store, [name], "billing", max_event_bytes=KIB)
    again = await store_files(store, [name], "billing", max_event_bytes=KIB, delivery_ids=keys)
    await store.close()
    assert (first, again) == (Summary(stored=2, by_endpoint=Counter(billing=2)), Summary(known=2))
    assert len(set(keys)) == 2
    assert not hasattr(first, "delivery_ids")


def test_a_batch_in_progress_at_ctrl_c_is_counted(tmp_path, url):
    name = write(tmp_path / "a.jsonl", line("evt_1"), line("evt_2"))

    async def run() -> None:
        store = await WorkerStore.open(url)
        other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        at_the_store = asyncio.Event()
        enqueue = store.enqueue

        def announced(*args, **options):
            at_the_store.set()
            return enqueue(*args, **options)

        store.enqueue = announced
        storing = asyncio.create_task(store_files(store, [name], "billing", max_event_bytes=KIB))
        await at_the_store.wait()
        await asyncio.sleep(0)
        storing.cancel()
        await asyncio.sleep(0)
        other.execute("COMMIT")
        try:
            await storing
        finally:
            other.close()
            await store.close()

    with pytest.raises(output.Interrupted, match="interrupted; 2 new events stored: "):
        asyncio.run(run())


# --- streams and signals ------------------------------------------------------------------------------------------


def test_a_steady_slow_stream_is_stored_while_it_flows(resonant):
    """A line every 0.1 s, so the stream never pauses and a batch takes minutes to fill."""
    numbers = itertools.count()
    with resonant.start(*ENQUEUE, "-") as feed:

        def is_stored_after_another_line() -> bool:
            feed.stdin.write(line(f"evt_{next(numbers)}") + "\n")
            feed.stdin.flush()
            return resonant.json("status")["accepted"] >= 5

        wait_until(is_stored_after_another_line)
        feed.send_signal(signal.SIGTERM)
        assert feed.wait(timeout=60) == 143


def is_empty(pipe) -> bool:
    """Return whether all that was written to a pipe has been read."""
    return not any(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))


@pytest.mark.parametrize(
    ("options", "stop", "code"),
    [((), signal.SIGTERM, 143), ((), signal.SIGINT, 130), (("--strict",), signal.SIGTERM, 143)],
)
def test_a_signal_stores_the_complete_lines_that_were_read_or_none_under_strict(
    resonant, tmp_path, options, stop, code
):
    fifo = tmp_path / "lines"
    os.mkfifo(fifo)
    feed = resonant.start(*ENQUEUE, fifo.name, *options)
    with fifo.open("w") as pipe:
        # More than a pipe and a batch can hold: a batch is stored before the last line is written.
        pipe.write("".join(line(f"evt_{n}") + "\n" for n in range(2_500)) + line("evt_cut")[:-3])
        pipe.flush()
        wait_until(lambda: is_empty(pipe))
        feed.send_signal(stop)
        assert feed.wait(timeout=60) == code
    again = "running this again is safe for lines that have an id"
    said = "nothing was stored (--strict)" if options else f"2,500 new events stored: {again}"
    assert feed.stderr.read() == f"resonant: interrupted; {said}\n"
    assert feed.stdout.read() == ""
    assert resonant.json("status")["accepted"] == (0 if options else 2_500)


def test_many_bad_lines_are_counted_after_the_first_twenty(enqueue, worker, tmp_path):
    conflicts = (line("evt_1", data=number) for number in range(11))
    name = write(tmp_path / "a.jsonl", line("evt_1"), *conflicts, *["{oops"] * 7_700)
    answer = enqueue(name, code=1)
    assert answer.out == "stored 1 event for billing; 7,711 bad lines\n"
    *reported, last = answer.err.splitlines()
    assert [each.split(": ")[0] for each in reported] == [f"a.jsonl:{n}" for n in range(13, 33)]
    assert last == "and 7,691 more bad lines"
    assert stored_ids(worker) == ["evt_1"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            gzip.compress(line("evt_1").encode() * 100),
            "looks like a file compressed with gzip: decompress it",
        ),
        (line("evt_1").encode("utf-16"), "looks like UTF-16: convert it to UTF-8 first"),
        (b"\x7fELF\2\1\1" + b"\0" * 9 + b"\n\0" * 50, "looks like a binary file: JSON lines are UTF-8 text"),
    ],
    ids=["gzip", "UTF-16", "binary"],
)
def test_files_that_are_not_text_are_recognised(enqueue, tmp_path, data, said):
    (tmp_path / "a.bin").write_bytes(data)
    answer = enqueue("a.bin", code=1)
    assert f"\na.bin: {said}" in answer.err
    answer = enqueue(write(tmp_path / "a.jsonl", line("evt_1"), b"\0"), code=1)
    assert answer.err.count("\n") == 1, "one bad line does not make a file look binary"


def test_lines_are_stored_when_a_pipe_pauses_and_a_write_to_a_deleted_store_fails(resonant, url):
    path = Path(url.removeprefix("sqlite:///"))
    feed = resonant.start(*ENQUEUE, "-")
    feed.stdin.write(line("evt_1") + "\n{oops\n")
    feed.stdin.flush()
    wait_until(lambda: resonant.json("status")["accepted"] == 1)
    for each in path.parent.glob(f"{path.name}*"):
        each.unlink()
    said, errors = feed.communicate(line("evt_2") + "\n", timeout=60)
    assert (feed.returncode, said) == (1, "")
    bad, error = errors.splitlines()
    assert bad.startswith("stdin:2: not JSON")
    assert error.startswith(f"resonant: {url}: the file or its -wal was deleted or replaced")
    assert "which stay" not in error


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from /proc")
@pytest.mark.parametrize(
    ("piece", "answer"),
    [
        # One event over and over, so that the disk has no part in it.
        (
            line("evt_1", data="x" * (MIB - 2)) + "\n",
            {"stored": 1, "known": 199, "bad": 0, "by_endpoint": {"billing": 1}},
        ),
        # A line that never ends.
        ("x" * MIB, {"stored": 0, "known": 0, "bad": 1, "by_endpoint": {}}),
    ],
)
def test_a_stream_may_be_larger_than_the_memory(piece, answer):
    """200 MiB through a pipe in less than 150 MiB."""
    code = (
        "import re, sys\n"
        "from resonant.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]\n"
        "    sys.stderr.write(f'\\n{peak}')\n"
    )
    argv = [sys.executable, "-c", code, *ENQUEUE, "-", "--json"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(argv, **pipes) as feed:
        for _ in range(200):
            feed.stdin.write(piece.encode())
        feed.stdin.close()
        assert json.loads(feed.stdout.read()) == answer | {"erased": 0, "dropped_traces": 0, "unrouted": 0}
        peak_kib = int(feed.stderr.read().splitlines()[-1])
    assert peak_kib < 150 * KIB
