"""``enqueue``: JSONL files into the store, as a stream."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from resonant.cli.intake import BATCH_LINES, Summary, store_files
from resonant.errors import StoreUnavailable
from resonant.store import WorkerStore
from support.waiting import wait_until

KIB = 1024


def line(event_id: str | None = None, **fields) -> str:
    event = {"type": "order.paid", "source": "/shop", "data": {"n": 1}} | fields
    return json.dumps(event | ({} if event_id is None else {"id": event_id}))


def write(path: Path, *lines: str | bytes) -> str:
    path.write_bytes(b"".join((each if isinstance(each, bytes) else each.encode()) + b"\n" for each in lines))
    return path.name


def stored_ids(worker) -> list[str]:
    return sorted(lease.event.id for lease in worker.claim_all())


def test_each_line_is_a_delivery(enqueue, worker, tmp_path):
    first = write(tmp_path / "a.jsonl", line("evt_1", data={"z": 1, "a": "ü"}), line("evt_2"))
    second = write(tmp_path / "b.jsonl", line("evt_3"))
    assert enqueue(first, second).out == "stored 3 events for billing\n"
    leases = worker.claim_all()
    assert {lease.event.id for lease in leases} == {"evt_1", "evt_2", "evt_3"}
    assert '{"z":1,"a":"ü"}'.encode() in {lease.event.body for lease in leases}


def test_the_last_line_needs_no_end(enqueue, worker, tmp_path):
    (tmp_path / "a.jsonl").write_text(line("evt_1") + "\n" + line("evt_2"))
    enqueue("a.jsonl")
    assert stored_ids(worker) == ["evt_1", "evt_2"]


def test_windows_line_ends_and_blank_lines_are_no_events(enqueue, worker, tmp_path):
    enqueue(write(tmp_path / "a.jsonl", b"", line("evt_1") + "\r", "  \t\r", line("evt_2"), b""))
    assert stored_ids(worker) == ["evt_1", "evt_2"]


def test_policy_and_attempts_are_kept_with_the_deliveries(enqueue, worker, tmp_path):
    enqueue(write(tmp_path / "a.jsonl", line("evt_1")), "--policy", "classic", "--max-attempts", "7")
    (lease,) = worker.claim_all()
    assert (lease.policy, lease.max_attempts) == ("classic", 7)


def test_type_stands_in_for_a_missing_one(enqueue, worker, tmp_path):
    enqueue(write(tmp_path / "a.jsonl", line("evt_1", type=None), line("evt_2")), "--type", "stock.low")
    assert {lease.event.type for lease in worker.claim_all()} == {"stock.low", "order.paid"}


def test_the_same_event_again_is_one_delivery(enqueue, resonant, tmp_path):
    name = write(tmp_path / "a.jsonl", line("evt_1"), line("evt_1"), line("evt_2"))
    assert enqueue(name).out == "stored 2 events for billing, 1 already known\n"
    assert json.loads(enqueue(name, "--json").out) == {"stored": 0, "known": 3, "bad": 0}
    assert resonant.json("status")["accepted"] == 2


def test_bad_lines_are_reported_by_file_line_and_reason_and_the_good_ones_are_stored(
    enqueue, worker, tmp_path
):
    first = write(tmp_path / "a.jsonl", line("evt_1"), "{oops", "", line("evt_2", source=None))
    second = write(tmp_path / "b.jsonl", b"\xff\xfe", line("evt_3"), '["[red]not[/red]"]')
    answer = enqueue(first, second, code=1)
    assert answer.out == "stored 2 events for billing; 4 bad lines\n"
    reasons = answer.err.splitlines()
    assert [reason.split(": ")[0] for reason in reasons] == [
        "a.jsonl:2",
        "a.jsonl:4",
        "b.jsonl:1",
        "b.jsonl:3",
    ]
    assert "not JSON" in reasons[0]
    assert "source must be a string" in reasons[1]
    assert "not UTF-8" in reasons[2]
    assert "must be a JSON object" in reasons[3]
    assert stored_ids(worker) == ["evt_1", "evt_3"]


def test_what_a_line_holds_is_never_obeyed_by_the_terminal(enqueue, tmp_path):
    name = write(tmp_path / "a.jsonl", line("evt_1", **{"\x1b[2J[bold]\n": 1}))
    answer = enqueue(name, code=1)
    assert "\x1b" not in answer.err
    assert answer.err.count("\n") == 1
    assert "[bold]" in answer.err


def test_a_known_id_with_other_content_is_refused_and_both_are_shown(enqueue, worker, tmp_path):
    enqueue(write(tmp_path / "a.jsonl", line("evt_1", data={"price": 10})))
    name = write(tmp_path / "b.jsonl", line("evt_2"), line("evt_1", data={"price": 99}))
    answer = enqueue(name, code=1)
    assert answer.err.startswith("b.jsonl:2: id 'evt_1' already exists with different content")
    assert '{"price":99}' in answer.err
    assert '{"price":10}' in answer.err
    assert stored_ids(worker) == ["evt_1", "evt_2"]


def test_two_lines_with_one_id_and_different_content_in_one_file(enqueue, tmp_path):
    name = write(tmp_path / "a.jsonl", line("evt_1", data=1), line("evt_1", data=2), line("evt_2"))
    answer = enqueue(name, code=1)
    assert answer.out == "stored 2 events for billing; 1 bad line\n"
    assert answer.err.startswith("a.jsonl:2: id 'evt_1'")


@pytest.mark.parametrize("bad", ["{oops", line("evt_0", data="other")])
def test_strict_stores_nothing_if_any_line_is_bad(enqueue, resonant, worker, tmp_path, bad):
    worker.accept("evt_0")
    lines = [line(f"evt_{n}") for n in range(1, 2 * BATCH_LINES)]
    name = write(tmp_path / "a.jsonl", *lines, bad)
    answer = enqueue(name, "--strict", code=1)
    assert answer.err.startswith(f"a.jsonl:{2 * BATCH_LINES}: ")
    assert answer.out == "stored 0 events for billing; 1 bad line\n"
    assert resonant.json("status")["accepted"] == 1


def test_strict_stores_everything_if_no_line_is_bad(enqueue, resonant, tmp_path):
    name = write(tmp_path / "a.jsonl", *(line(f"evt_{n}") for n in range(2 * BATCH_LINES + 1)))
    enqueue(name, "--strict")
    assert resonant.json("status")["accepted"] == 2 * BATCH_LINES + 1


@pytest.mark.parametrize("bad", ["missing.jsonl", ".", "unreadable.jsonl"])
def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_stored(enqueue, resonant, tmp_path, bad):
    if bad == "unreadable.jsonl":
        (tmp_path / bad).symlink_to(bad)  # a ring: root can read every mode
    answer = enqueue(write(tmp_path / "a.jsonl", line("evt_1")), bad, code=1)
    assert answer.err.startswith(f"resonant: {bad}: ")
    assert answer.err.count("\n") == 1
    assert resonant.json("status")["accepted"] == 0


def test_an_event_may_be_as_large_as_the_setting_says(enqueue, worker, monkeypatch, tmp_path):
    monkeypatch.setenv("RESONANT_MAX_EVENT_BYTES", "100")
    # Escapes make the line six times as long as the body.
    fits, too_large = line("evt_1", data="ü" * 49), line("evt_2", data="x" * 99)
    answer = enqueue(write(tmp_path / "a.jsonl", fits, too_large), code=1)
    assert answer.err.startswith("a.jsonl:2: data is 101 bytes, the limit is 100")
    assert stored_ids(worker) == ["evt_1"]


def test_a_line_without_end_is_refused_and_the_next_ones_are_stored(enqueue, worker, monkeypatch, tmp_path):
    monkeypatch.setenv("RESONANT_MAX_EVENT_BYTES", str(KIB))
    endless = "x" * (1024 * KIB)
    answer = enqueue(write(tmp_path / "a.jsonl", line("evt_1"), endless, line("evt_2"), endless), code=1)
    assert answer.err.splitlines() == [
        f"a.jsonl:{n}: longer than 69,632 bytes (RESONANT_MAX_EVENT_BYTES raises the limit)" for n in (2, 4)
    ]
    assert stored_ids(worker) == ["evt_1", "evt_2"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--endpoint", "https://user:hunter2@example.com/x"], "`resonant endpoint add`"),
        (["--endpoint", "Billing"], "'Billing' is not a valid name"),
        (["--endpoint", "billing-"], "'billing-' is not a valid name"),
        (
            ["--endpoint", "billing", "--policy", "odd"],
            "no retry policy is named 'odd'; known policies: classic, default",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line_and_exit_code_2(resonant, tmp_path, argv, said):
    answer = resonant("enqueue", write(tmp_path / "a.jsonl", line()), *argv, code=2)
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert "hunter2" not in answer.err


@pytest.mark.parametrize("attempts", ["0", "1001", "many"])
def test_attempts_have_bounds(enqueue, tmp_path, attempts):
    enqueue(write(tmp_path / "a.jsonl", line()), "--max-attempts", attempts, code=2)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("billing", "billing"),
        ("webhook-endpoint/billing", "billing"),
        ("my-sink/billing-2", "my-sink/billing-2"),
    ],
)
def test_an_endpoint_is_known_by_its_name_alone(resonant, worker, tmp_path, given, name):
    resonant("enqueue", write(tmp_path / "a.jsonl", line()), "--endpoint", given, "--allow-unknown")
    assert [due.endpoint for due in worker.do(lambda store: store.due())] == [name]


def test_standard_input_is_a_file_too(resonant, worker, tmp_path):
    name = write(tmp_path / "a.jsonl", line("evt_2"))
    argv = ("enqueue", "-", name, "--endpoint", "billing", "--allow-unknown")
    done = resonant.program(*argv, input=line("evt_1") + "\n{oops")
    assert done.returncode == 1
    assert done.stderr.startswith("stdin:2: not JSON")
    assert stored_ids(worker) == ["evt_1", "evt_2"]


@pytest.mark.parametrize("source", ["/dev/null", "empty.jsonl"])
def test_an_empty_file_stores_nothing(enqueue, tmp_path, source):
    (tmp_path / "empty.jsonl").touch()
    assert enqueue(source).out == "stored 0 events for billing\n"


def test_a_closed_standard_input_is_one_line(resonant):
    done = resonant.program(
        "enqueue", "-", "--endpoint", "billing", "--allow-unknown", preexec_fn=lambda: os.close(0)
    )
    assert done.returncode == 1
    assert done.stderr == "resonant: standard input is closed\n"


def test_a_pipe_that_pauses_has_what_it_said_stored(resonant):
    tail = resonant.start("enqueue", "-", "--endpoint", "billing", "--allow-unknown")
    for accepted in (1, 2):
        tail.stdin.write(line(f"evt_{accepted}") + "\n")
        tail.stdin.flush()
        wait_until(lambda accepted=accepted: resonant.json("status")["accepted"] == accepted)
    tail.stdin.close()
    assert tail.wait(timeout=30) == 0
    assert tail.stdout.read() == "stored 2 events for billing\n"


def test_ctrl_c_keeps_what_was_stored_and_says_how_many(resonant, url):
    feed = resonant.start("enqueue", "-", "--endpoint", "billing", "--allow-unknown")
    feed.stdin.write("".join(line(f"evt_{n}") + "\n" for n in range(3 * BATCH_LINES)))
    feed.stdin.flush()
    wait_until(lambda: resonant.json("status")["accepted"] >= BATCH_LINES)
    feed.send_signal(signal.SIGINT)
    assert feed.wait(timeout=30) == 130
    stored = resonant.json("status")["accepted"]
    assert feed.stderr.read() == (
        f"resonant: interrupted; {stored:,} new events stored: "
        "running this again is safe for lines that have an id\n"
    )


async def store_on_a_small_disk(url: str, name: str, *, strict: bool = False) -> Summary:
    """Store with room for two thousand events, and not for three."""
    store = await WorkerStore.open(url)
    try:
        await store.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 900"))
        return await store_files(store, [name], "billing", max_event_bytes=KIB, strict=strict)
    finally:
        await store.close()


@pytest.fixture
def three_thousand(tmp_path) -> str:
    """A file of 3 MB."""
    return write(tmp_path / "a.jsonl", *(line(f"evt_{n}", data="x" * 1_000) for n in range(3_000)))


def test_a_disk_that_fills_up_says_how_many_were_stored_and_the_rest_can_follow(
    enqueue, worker, three_thousand, url
):
    with pytest.raises(StoreUnavailable, match=r"the disk is full.* 2,000 new events stored: "):
        asyncio.run(store_on_a_small_disk(url, three_thousand))
    assert len(worker.claim_all()) == 2_000
    assert enqueue(three_thousand).out == "stored 1,000 events for billing, 2,000 already known\n"


def test_a_disk_that_fills_up_under_strict_has_stored_nothing(worker, resonant, three_thousand, url):
    with pytest.raises(StoreUnavailable, match=r"the disk is full.*; nothing was stored \(--strict\)"):
        asyncio.run(store_on_a_small_disk(url, three_thousand, strict=True))
    assert resonant.json("status")["accepted"] == 0


async def test_only_a_caller_that_asks_for_the_keys_of_deliveries_keeps_them(tmp_path, url):
    name = write(tmp_path / "a.jsonl", line("evt_1"), line("evt_2"))
    keys = array("q")

    store = await WorkerStore.open(url)
    first = await store_files(store, [name], "billing", max_event_bytes=KIB)
    again = await store_files(store, [name], "billing", max_event_bytes=KIB, delivery_ids=keys)
    await store.close()
    assert (first, again) == (Summary(stored=2), Summary(known=2))
    assert len(set(keys)) == 2
    assert not hasattr(first, "delivery_ids")


def test_a_batch_that_ctrl_c_meets_in_the_store_is_counted(tmp_path, url):
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

    with pytest.raises(asyncio.CancelledError, match="interrupted; 2 new events stored: "):
        asyncio.run(run())


MIB = 1024 * KIB


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from /proc")
@pytest.mark.parametrize(
    ("piece", "answer"),
    [
        # One event over and over, so that the disk has no part in it.
        (line("evt_1", data="x" * (MIB - 2)) + "\n", {"stored": 1, "known": 199, "bad": 0}),
        # A line that never ends.
        ("x" * MIB, {"stored": 0, "known": 0, "bad": 1}),
    ],
)
def test_a_stream_larger_than_the_memory_it_may_take(piece, answer):
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
    argv = [sys.executable, "-c", code, "enqueue", "-", "--endpoint", "billing", "--allow-unknown", "--json"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(argv, **pipes) as feed:
        for _ in range(200):
            feed.stdin.write(piece.encode())
        feed.stdin.close()
        assert json.loads(feed.stdout.read()) == answer
        peak_kib = int(feed.stderr.read().splitlines()[-1])
    assert peak_kib < 150 * KIB
