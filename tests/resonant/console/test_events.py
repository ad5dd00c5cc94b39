"""The page of an event, with its deliveries and attempts."""

import html
import json
import re
import subprocess

import pytest

from resonant import documents
from resonant.console.asked import path
from resonant.events import Event
from support.console import open_pages

HOSTILE = "<script>alert(1)</script>\"'\u202e" + "x" * 90


def page_of(event_id: str, source: str = "/shop") -> str:
    return path("events", source, event_id)


def expected(desk, event_id, source="/shop"):
    found = desk.run(desk.store.detail(event_id, source))
    return json.loads(documents.with_data(documents.detail(found), found.event))


def test_the_json_is_the_document_of_detail(pages):
    pages.desk.bury(pages.desk.make("e1", {"a": 1}))
    assert pages.json(page_of("e1")) == expected(pages.desk, "e1")


def test_the_timeline_shows_verdict_and_decision(pages):
    pages.desk.enqueue("e1")
    pages.desk.fail(pages.desk.claim_one(), pages.desk.retry_in(9), excerpt="overloaded")
    shown = pages.html(page_of("e1"))
    assert "transient http_503" in shown
    assert "possibly processed" in shown
    assert "retry in 9.00 s" in shown
    assert "overloaded" in shown


def test_events_of_two_sources_with_one_id_have_their_own_pages(pages):
    pages.desk.enqueue(*(Event(id="e1", type="t", source=source, data=source) for source in ("/a", "/b")))
    assert pages.json(page_of("e1", "/a"))["data"] == "/a"
    assert pages.json(page_of("e1", "/b"))["data"] == "/b"


def test_an_unknown_event_is_refused_with_a_similar_id(pages):
    pages.desk.enqueue("evt_12345678")
    assert "did you mean evt_12345678?" in pages.json(page_of("evt_12345679"), code=404)["detail"]
    assert "known: evt_12345678" in pages.json(page_of("evt_12345678", "/other"), code=404)["detail"]
    pages.json("/events/%2Fshop/a%00b", code=404)


def test_no_bodies_hides_data_and_answers(sqlite_desk):
    sqlite_desk.bury(sqlite_desk.make("e1", {"name": "s3cret"}), excerpt="dear s3cret")
    with open_pages(sqlite_desk, shows_bodies=False) as pages:
        for address in (page_of("e1"), "/deliveries?status=dead_letter", "/dead-letters"):
            assert "s3cret" not in pages.html(address)
            assert "s3cret" not in json.dumps(pages.json(address))


def test_actions_are_absent_when_the_console_is_read_only(sqlite_desk):
    sqlite_desk.bury("e1")
    with open_pages(sqlite_desk) as pages:
        assert "Send again" in pages.html(page_of("e1"))
    with open_pages(sqlite_desk, read_only=True) as pages:
        assert "/replay" not in pages.html(page_of("e1"))


def test_hostile_text_is_escaped(pages):
    event = Event(
        id=HOSTILE, type=HOSTILE, source=HOSTILE, subject=HOSTILE, data=HOSTILE, extensions={"ext": HOSTILE}
    )
    pages.desk.bury(event, error=HOSTILE, excerpt=HOSTILE + "\x1b[0m", warning=HOSTILE)
    [cause] = pages.json("/dead-letters")
    for address in (
        page_of(HOSTILE, HOSTILE),
        "/deliveries?status=dead_letter",
        "/dead-letters",
        f"/dead-letters/{cause['fingerprint']}",
    ):
        shown = pages.html(address)
        assert "<script>alert" not in shown
        assert "\u202e" not in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ({"a": [1]}, {}, '  "a": ['),
        ("x\ny", {"datacontenttype": "text/plain"}, "x\ny"),
        (b"\x00\xff", {"datacontenttype": "application/octet-stream"}, "0000  00 ff"),
    ],
)
def test_the_body_is_laid_out_and_curl_sends_the_same_bytes(pages, tmp_path, given, options, words):
    event = Event(id="it's", type="t", source="/s", data=given, **options)
    pages.desk.enqueue(event)
    shown = html.unescape(pages.html(page_of("it's", "/s")))
    assert words in shown
    command = re.search(r"Copy as curl</summary>\s*<pre[^>]*>(.*?)</pre>", shown, re.DOTALL)[1]
    fake = tmp_path / "curl"
    fake.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > args\n'
        'for a; do last=$a; done\n[ "$last" = @- ] && cat > body || printf %s "$last" > body\n'
    )
    fake.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "body").read_bytes() == event.body
    assert "ce-id: it's" in (tmp_path / "args").read_text()


@pytest.mark.parametrize(("form", "words"), [("removed", "retention"), ("erased", "erased")])
def test_a_body_that_is_gone_is_said_plainly(pages, form, words):
    pages.desk.enqueue("e1")
    pages.desk.execute(f"UPDATE resonant_events SET body = x'', form = '{form}'")
    shown = pages.html(page_of("e1"))
    assert words in shown
    assert "curl" not in shown


def test_only_the_last_hundred_of_many_attempts_are_shown(pages):
    pages.desk.enqueue("e1")
    pages.desk.fail(pages.desk.claim_one(), pages.desk.retry_in(9))
    pages.desk.execute(
        "INSERT INTO resonant_attempts (delivery_id, number, round, started_at, duration, result) WITH RECURSIVE n(i) AS "
        "(SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 1000) SELECT 1, i, 1, 1.0, 0.1, 'failed' FROM n"
    )
    assert pages.html(page_of("e1")).count("<strong>Attempt ") == 100
    assert pages.html(page_of("e1") + "?attempts=all").count("<strong>Attempt ") == 1000
    pages.json(page_of("e1") + "?attempts=some", code=422)


def test_an_attempt_links_its_run(sqlite_desk):
    sqlite_desk.bury("e1", task_run_id="0198-ab")
    with open_pages(sqlite_desk, find_ui=lambda: "http://127.0.0.1:4200") as pages:
        assert 'href="http://127.0.0.1:4200/runs/task-run/0198-ab"' in pages.html(page_of("e1"))
