"""``erase`` asks, removes the content of events, and lists what it cannot reach."""

import contextlib
import sqlite3

import pytest


def test_events_are_erased_and_what_is_out_of_reach_is_listed(resonant, dead, tmp_path):
    resonant("purge", "--older-than", "30")
    (tmp_path / "home" / "serve.log").write_text("a line")
    dead.accept("evt_waiting", subject="customer 4711")
    answer = resonant("erase", "--subject", "customer 4711", "--id", "evt_waiting", "--yes")
    assert answer.out.splitlines() == [
        "1 event erased, with 1 delivery, 1 of them unfinished",
        "out of reach: the database: single values in unused parts of resonant.db: `VACUUM` removes them, while nothing runs",
        f"out of reach: 1 archive of purges: `zgrep -l VALUE {tmp_path}/home/archive/*` finds them; remove the file or its lines",
        f"out of reach: logs (serve.log): `grep -l VALUE {tmp_path}/home/*.log*` finds them; the next `resonant up` begins new ones",
        "out of reach: Prefect's database: parameters, names, logs and artifacts of its runs: `prefect flow-run delete ID` removes a run",
        "out of reach: subscriptions: filters that name a subject: `resonant subscription list` shows them",
        "out of reach: files of `resonant export`, backups, and the receivers: remove it there",
    ]
    assert answer.err == ""
    assert resonant.json("audit")[0]["action"] == "erase"
    assert "customer" not in resonant("audit").out  # a digest may contain 4711


def test_detail_the_list_and_the_export_say_that_the_content_is_gone(resonant, dead):
    resonant("erase", "--id", "evt_bad", "--yes")
    [row] = [row for row in resonant.json("dlq") if row["error_type"] == "Erased"]
    assert (row["code"], row["error"], row["answer"]) == ("http_400", None, None)
    shown = resonant("detail", row["event_id"]).out
    assert "data      erased, with all other content of the event" in shown
    document = resonant.json("detail", row["event_id"])
    assert document["data_gone"] == "erased"
    assert "data" not in document
    report = resonant("export", "--output", "-", "--with-data").out
    assert '"data_gone": "erased"' in report
    refused = resonant("retry", row["event_id"], "--yes", code=1)
    assert refused.err == f"resonant: {row['event_id']}: erased, so it cannot be sent: nothing was sent\n"


def test_the_files_that_commands_write_have_nothing_of_the_event(resonant, dead, tmp_path):
    secret = "Zoë Müller-4711"
    dead.accept("order-zoe-1", subject=secret, data={"buyer": secret})
    resonant("erase", "--subject", secret, "--yes")
    resonant("export", "--with-data", "--output", str(tmp_path / "report.json"))
    resonant("prometheus", "--output", str(tmp_path / "metrics.prom"))
    with contextlib.closing(sqlite3.connect(tmp_path / "resonant.db")) as database:
        [(key,)] = database.execute("SELECT erasure_key FROM resonant_schema")
        database.execute("VACUUM")  # unused parts of pages may keep single values
    shown = [resonant(*argv, "--json").out for argv in (("audit",), ("status",), ("dlq",), ("deliveries",))]
    assert not [text for text in (*shown, (tmp_path / "report.json").read_text()) if key in text]
    for path in tmp_path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"ller-4711" not in content, path  # a digest may contain 4711
        assert b"order-zoe-1" not in content, path


def test_a_dry_run_counts_and_changes_nothing(resonant, dead):
    dead.accept("evt_waiting")
    selected = ("erase", "--source", "/shop", "--type", "order.*")
    said = "5 events would be erased, with 5 deliveries, 1 of them unfinished\n"
    assert resonant(*selected, "--dry-run").out == said
    counts = {"events": 5, "deliveries": 5, "unfinished": 1, "being_sent": 0}
    assert resonant.json(*selected, "--dry-run") == counts | {"dry_run": True}
    assert resonant.json("status")["pending"] == 1


def test_a_terminal_asks_and_a_script_must_agree(resonant, dead):
    screen = resonant.on_a_terminal("erase", "--id", "evt_bad", typed="n\n", code=1)
    assert "1 event would be erased, with 1 delivery, irreversibly" in screen
    assert "Erase? [y/N]" in screen
    assert "nothing was changed" in screen
    refused = resonant("erase", "--id", "evt_bad", code=2)
    assert refused.err == ("resonant: 1 event would be erased, with 1 delivery, irreversibly: give --yes\n")
    assert resonant.json("detail", "evt_bad")["event_id"] == "evt_bad"


@pytest.mark.parametrize(
    "options",
    [
        "--subject jm@example.com --yes",
        "--source /shop --type user.* --dry-run",
        "--id evt_bad --subject jm --yes --json",
    ],
)
def test_conditions_that_no_event_meets_fail(resonant, dead, options):
    dead.accept("person-1", subject="jm@example.org")
    refused = resonant.refused("erase", *options.split())
    assert refused.startswith("no event meets these conditions: nothing was erased.")
    assert resonant.json("audit") == []


def test_the_same_erasure_again_erases_nothing_and_succeeds(resonant, dead):
    dead.accept("person-1", subject="jm@example.org")
    for selected in (("--subject", "jm@example.org"), ("--id", "evt_bad")):
        assert [resonant.json("erase", *selected, "--yes")["events"] for _ in range(2)] == [1, 0]


def test_a_repeated_line_is_counted_as_erased(resonant, worker, enqueue, tmp_path):
    line = '{"id": "evt_1", "type": "order.paid", "source": "/shop", "data": 1}\n'
    (tmp_path / "events.jsonl").write_text(line)
    enqueue("events.jsonl")
    resonant("erase", "--id", "evt_1", "--yes")
    assert enqueue("events.jsonl").out == "stored 0 events for billing, 1 erased before\n"
