"""``export``: the error report."""

import json
import os
import signal

import pytest

from resonant.delivery.retry import GiveUp, Retry
from resonant.events import ABSENT
from resonant.store.views import reads


@pytest.fixture
def dead(worker):
    with worker.at_work():
        worker.accept("evt_1", "evt_2")
        worker.attempt(Retry(0.0, worker.clock()))
        worker.attempt(GiveUp("exhausted"), excerpt="upstream timeout", maybe_processed=True)
        worker.bury("evt_3", endpoint="crm", reason="permanent", category="permanent", code="http_400")
        worker.accept("evt_4")
    return worker


def test_the_report_holds_totals_groups_and_every_dead_letter_with_its_attempts(resonant, dead, tmp_path):
    path = tmp_path / "error_report.json"
    path.write_text("old")
    path.chmod(0o644)
    answer = resonant("export")
    assert answer.out == "wrote 3 dead letters to error_report.json\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [*tmp_path.glob("*report*"), *tmp_path.glob(".*")] == [path]
    report = json.loads(path.read_text())
    assert list(report) == ["generated_at", "totals", "groups", "dead_letters"]
    status = resonant.json("status")
    for each in (
        "retention",
        "alerts",
        "store",
        "deployment_warnings",
        "durability_problem",
    ):  # none is a total
        del status[each]
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


def test_only_the_report_with_data_has_whole_events(resonant, worker):
    worker.accept("evt_json", subject="order/1", extensions={"sequence": "07"}, data={"n": "secret"})
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
    without = resonant("export", "--output", "-").out
    assert "secret" not in without
    for row in json.loads(without)["dead_letters"]:
        assert row["source"] == "/shop"
        assert not {"extensions", "data", "data_base64"} & row.keys()


@pytest.mark.parametrize("output", ["missing/report.json", ".", "device"])
def test_an_unsuitable_file_is_refused_in_one_line_with_exit_code_1(resonant, dead, tmp_path, output):
    os.mkfifo(tmp_path / "device")
    resonant.refused("export", "--output", output)
    assert (tmp_path / "device").is_fifo()


def test_ctrl_c_leaves_no_half_report(resonant, worker, tmp_path, monkeypatch):
    worker.bury(*(f"evt_{n:02}" for n in range(20)))
    every = reads.each_history

    def interrupted(*args, **options):
        for number, row in enumerate(every(*args, **options)):
            if number == 10:
                os.kill(os.getpid(), signal.SIGINT)
            yield row

    monkeypatch.setattr(reads, "each_history", interrupted)
    stopped = resonant("export", code=130)
    assert (stopped.out, stopped.err) == ("", "resonant: interrupted\n")
    assert not list(tmp_path.glob("*report*")) + list(tmp_path.glob(".error*"))
