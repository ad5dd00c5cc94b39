"""``export``: the error report."""

import json
import os
from pathlib import Path

import pytest

from resonant.cli.inspect import export
from resonant.delivery.retry import GiveUp, Retry
from resonant.events import ABSENT
from support.sqlite import connected, is_snapshot_held


@pytest.fixture
def dead(worker):
    with worker.at_work():
        worker.accept("evt_1", "evt_2", data={"secret": "of the customer"})
        worker.attempt(Retry(0.0, worker.clock()))
        worker.attempt(GiveUp("exhausted"), excerpt="upstream timeout", maybe_processed=True)
        worker.accept("evt_3", endpoint="crm")
        worker.attempt(GiveUp("permanent"), endpoint="crm", category="permanent", code="http_400")
        worker.accept("evt_4")
    return worker


def test_the_report_holds_totals_groups_and_every_dead_letter_with_its_attempts(resonant, dead, tmp_path):
    answer = resonant("export")
    assert answer.out == "wrote 3 dead letters to error_report.json\n"
    report = json.loads((tmp_path / "error_report.json").read_text())
    assert list(report) == ["generated_at", "totals", "groups", "dead_letters"]
    status = resonant.json("status")
    del status["retention"], status["alerts"], status["store"]  # none is a total
    assert report["totals"] == status
    assert [(g["endpoint"], g["reason"], g["code"], g["count"]) for g in report["groups"]] == [
        ("billing", "exhausted", "http_503", 2),
        ("crm", "permanent", "http_400", 1),
    ]
    rows = {row["event_id"]: row for row in report["dead_letters"]}
    for found in (report["groups"][0], rows["evt_1"]):
        assert (found["answer"], found["maybe_processed"]) == ("upstream timeout", True)
    assert rows.keys() == {"evt_1", "evt_2", "evt_3"}
    assert [attempt["number"] for attempt in rows["evt_1"]["history"]] == [1, 2]
    assert [attempt["decision"] for attempt in rows["evt_1"]["history"]] == ["retry", "give_up"]
    history = rows["evt_3"].pop("history")
    assert len(history) == 1
    [listed] = [row for row in resonant.json("dlq") if row["event_id"] == "evt_3"]
    del listed["endpoint_state"]  # of now, as the report's totals say it
    assert rows["evt_3"] == listed


def test_the_report_goes_to_a_file_or_to_standard_output(resonant, tmp_path):
    assert json.loads(resonant("export", "--output", "-").out)["dead_letters"] == []
    assert not list(tmp_path.glob("*.json"))
    assert resonant.json("export", "-o", "x.json") == {"path": "x.json", "dead_letters": 0}
    assert json.loads((tmp_path / "x.json").read_text())["dead_letters"] == []


def test_the_report_has_data_only_with_the_option(resonant, dead, tmp_path):
    resonant("export")
    assert "of the customer" not in (tmp_path / "error_report.json").read_text()
    resonant("export", "--with-data", "--output", "with.json")
    rows = json.loads((tmp_path / "with.json").read_text())["dead_letters"]
    assert {row["event_id"]: row["data"] for row in rows} == {
        "evt_1": {"secret": "of the customer"},
        "evt_2": {"secret": "of the customer"},
        "evt_3": None,
    }


def test_the_report_with_data_has_whole_events(resonant, worker):
    worker.accept("evt_json", subject="order/1", extensions={"sequence": "07"}, data={"n": 1})
    worker.accept("evt_text", datacontenttype="text/plain", data="plain", dataschema="https://a.example/text")
    worker.accept("evt_bytes", data=b"\x00\xff")
    worker.accept("evt_none", data=ABSENT)
    worker.attempt(GiveUp("permanent"))

    rows = json.loads(resonant("export", "--with-data", "--output", "-").out)["dead_letters"]

    for row in rows:
        event = resonant.json("detail", row["event_id"])
        whole = {name: value for name, value in event.items() if name not in ("accepted_at", "deliveries")}
        assert whole.items() <= row.items()
        assert "data" in whole or row["event_id"] in ("evt_bytes", "evt_none")
    without = json.loads(resonant("export", "--output", "-").out)["dead_letters"]
    assert {row["source"] for row in without} == {"/shop"}
    assert not {"extensions", "data", "data_base64"} & without[0].keys()


def test_only_its_owner_may_read_the_report_even_if_it_replaces_another_file(resonant, dead, tmp_path):
    path = tmp_path / "error_report.json"
    path.write_text("old")
    path.chmod(0o644)
    resonant("export")
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.glob("*report*")] + list(tmp_path.glob(".*")) == [
        "error_report.json"
    ]


@pytest.mark.parametrize("output", ["missing/report.json", ".", "device"])
def test_an_unsuitable_file_is_refused_in_one_line_with_exit_code_1(resonant, dead, tmp_path, output):
    os.mkfifo(tmp_path / "device")
    answer = resonant("export", "--output", output, code=1)
    assert answer.err.startswith("resonant: ")
    assert answer.err.count("\n") == 1
    assert (tmp_path / "device").is_fifo()


def test_a_long_export_holds_no_snapshot_while_it_writes(resonant, worker, url, monkeypatch):
    """Another process can write its changes back to the database, which SQLite refuses while a snapshot is in use."""
    worker.accept(*(f"evt_{n}" for n in range(6)))
    worker.attempt(GiveUp("permanent"))
    monkeypatch.setattr("resonant.store.views.reads._PAGE", 2)
    with connected(Path(url.removeprefix("sqlite:///"))) as other:
        held = []

        def row(history):
            held.append(is_snapshot_held(other))
            return written(history)

        written = export._row
        monkeypatch.setattr(export, "_row", row)
        rows = json.loads(resonant("export", "--with-data", "--output", "-").out)["dead_letters"]
    assert sorted(row["event_id"] for row in rows) == [f"evt_{n}" for n in range(6)]
    assert held == [False] * 6


def test_ctrl_c_leaves_no_half_report(resonant, worker, tmp_path):
    worker.accept(*(f"evt_{n:04}" for n in range(1_000)))
    worker.attempt(GiveUp("permanent"), error="x" * 300)
    interrupt = """
import os, signal, resonant.store.views.reads as reading
every = reading.each_history
def each_history(*args, **options):
    for n, row in enumerate(every(*args, **options)):
        if n == 600:
            os.kill(os.getpid(), signal.SIGINT)
        yield row
reading.each_history = each_history
"""
    done = resonant.program("export", before=interrupt)
    assert done.returncode == 130
    assert done.stderr == "resonant: interrupted\n"
    assert not list(tmp_path.glob("*report*")) + list(tmp_path.glob(".error*"))
