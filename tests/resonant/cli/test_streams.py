"""``enqueue`` on endless streams, on signals, and on files that contain only bad lines."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import os
import signal
import sys
import threading

import pytest

from resonant.cli.intake import store_files
from resonant.store import WorkerStore
from support.waiting import wait_until

KIB = 1024


def line(event_id: str, data: object = None) -> str:
    return json.dumps({"id": event_id, "type": "order.paid", "source": "/shop", "data": data})


def write(path, *lines: str | bytes) -> str:
    path.write_bytes(b"".join((each if isinstance(each, bytes) else each.encode()) + b"\n" for each in lines))
    return path.name


@pytest.fixture
def follow(resonant):
    """``resonant enqueue -`` fed with a line every so many seconds; ends with the process."""
    stopped = threading.Event()
    feeders: list[threading.Thread] = []
    processes = []

    def start(*argv: str, every: float):
        feed = resonant.start("enqueue", "-", "--endpoint", "billing", "--allow-unknown", *argv)

        def write_lines() -> None:
            with contextlib.suppress(BrokenPipeError):
                for number in itertools.count():
                    feed.stdin.write(line(f"evt_{number}") + "\n")
                    feed.stdin.flush()
                    if stopped.wait(every):
                        return

        feeders.append(threading.Thread(target=write_lines))
        feeders[-1].start()
        processes.append(feed)
        return feed

    yield start
    stopped.set()
    for feeder in feeders:
        feeder.join()
    for process in processes:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def test_a_steady_slow_stream_is_stored_while_it_flows(follow, resonant):
    """A line every 0.1 s, so the stream never pauses and a batch takes minutes to fill."""
    feed = follow(every=0.1)
    wait_until(lambda: resonant.json("status")["accepted"] >= 5)
    feed.send_signal(signal.SIGTERM)
    assert feed.wait(timeout=30) == 143


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stores_the_complete_lines_that_were_read(resonant, tmp_path, stop, code):
    fifo = tmp_path / "lines"
    os.mkfifo(fifo)
    feed = resonant.start("enqueue", fifo.name, "--endpoint", "billing", "--allow-unknown")
    with fifo.open("w") as pipe:
        pipe.write("".join(line(f"evt_{n}") + "\n" for n in range(1_500)) + line("evt_cut")[:-3])
        pipe.flush()
        wait_until(lambda: resonant.json("status")["accepted"])
        feed.send_signal(stop)
        assert feed.wait(timeout=30) == code
    assert feed.stderr.read() == (
        "resonant: interrupted; 1,500 new events stored: running this again is safe for lines that have an id\n"
    )
    assert feed.stdout.read() == ""
    assert resonant.json("status")["accepted"] == 1_500


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_under_strict_stores_nothing_and_says_so(resonant, monkeypatch, url, stop, code):
    """Run in this process, to send the signal while the first batch is in the transaction."""
    from resonant import output
    from resonant.cli import intake

    first = threading.Event()
    store_batch = intake._store_batch

    async def announced(*arguments) -> None:
        await store_batch(*arguments)
        first.set()

    monkeypatch.setattr(intake, "_store_batch", announced)
    reading, writing = os.pipe()
    stdin = os.fdopen(reading)
    monkeypatch.setattr(sys, "stdin", stdin)

    def feed() -> None:
        os.write(writing, (line("evt_1") + "\n").encode())
        first.wait(30)
        os.kill(os.getpid(), stop)

    async def run() -> None:
        store = await WorkerStore.open(url)
        try:
            await store_files(store, ["-"], "billing", max_event_bytes=KIB, strict=True)
        finally:
            await store.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    with pytest.raises(output.Interrupted, match=r"interrupted; nothing was stored \(--strict\)") as stopped:
        asyncio.run(run())
    feeder.join()
    os.close(writing)
    stdin.close()
    assert stopped.value.exit_code == code
    assert resonant.json("status")["accepted"] == 0


def test_many_bad_lines_are_counted_after_the_first_twenty(enqueue, worker, tmp_path):
    name = write(tmp_path / "a.jsonl", line("evt_1"), *["{oops"] * 7_711)
    answer = enqueue(name, code=1)
    assert answer.out == "stored 1 event for billing; 7,711 bad lines\n"
    *reported, last = answer.err.splitlines()
    assert [each.split(": ")[0] for each in reported] == [f"a.jsonl:{n}" for n in range(2, 22)]
    assert last == "and 7,691 more bad lines"
    assert sorted(lease.event.id for lease in worker.claim_all()) == ["evt_1"]


def test_conflicts_are_among_the_bad_lines_that_are_counted(enqueue, tmp_path):
    enqueue(write(tmp_path / "a.jsonl", *(line(f"evt_{n}", data=1) for n in range(21))))
    answer = enqueue(write(tmp_path / "b.jsonl", *(line(f"evt_{n}", data=2) for n in range(21))), code=1)
    assert answer.err.splitlines()[20:] == ["and 1 more bad line"]


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


def test_one_bad_line_does_not_make_a_file_look_binary(enqueue, tmp_path):
    answer = enqueue(write(tmp_path / "a.jsonl", line("evt_1"), b"\0"), code=1)
    assert answer.err.count("\n") == 1
