"""Who changed what."""

import re

from resonant.gate import pausing
from resonant.store import schema
from resonant.store.audit import record_change
from resonant.store.shared.acknowledgements import acknowledge
from support.console import document_of


def record(pages, number, action="pause", who="Zoë", **selection):
    selection = {"endpoint": "orders"} | selection
    pages.desk.write(record_change, at=pages.desk.clock(), who=who, action=action, selection=selection)


def test_the_json_is_that_of_the_command(pages):
    pages.desk.enqueue("e1")
    pages.desk.run(pausing.pause(pages.desk.store, "orders", who="<i>Zoë</i>", reason="new disks"))
    pages.desk.cancel(endpoint="orders")
    assert pages.json("/audit") == document_of(["audit"], pages)
    shown = pages.html("/audit")
    assert "&lt;i&gt;Zoë&lt;/i&gt;" in shown
    assert "endpoint orders, reason new disks" in shown


def test_pages_go_on_by_key_and_keep_the_filters(pages):
    for number in range(60):
        record(pages, number, note=f"n{number}")
        record(pages, number, "resume", who="Max")
    [more] = re.findall(r'href="([^"]+)" rel="next"', pages.html("/audit?action=pause&who=Zoë"))
    listed = pages.json("/audit?action=pause&who=Zoë") + pages.json(more.replace("&amp;", "&"))
    assert [each["selection"]["note"] for each in listed] == [f"n{number}" for number in reversed(range(60))]


def test_unknown_filters_are_refused_with_a_suggestion(pages):
    assert "did you mean pause?" in pages.json("/audit?action=paus", code=422)["detail"]
    assert "no such filter" in pages.json("/audit?actor=x", code=422)["detail"]
    assert "not a number" in pages.json("/audit?before=x", code=422)["detail"]


def test_an_acknowledgement_links_its_cause(pages):
    pages.desk.bury("e1")
    [group] = pages.json("/dead-letters")
    cause = group["fingerprint"]
    pages.desk.write(acknowledge, cause, who="zoe", note="known", now=pages.desk.clock())
    assert f'<a href="/dead-letters/{cause}">' in pages.html("/audit")


def test_times_that_no_calendar_has_do_not_break_the_page(pages):
    record(pages, 1, "purge", since=-1e12, until=1e300)
    pages.desk.execute(schema.audit.update().values(at=-9e13))
    assert "since 0001-01-01" in pages.html("/audit")
    assert pages.json("/audit")[0]["at"].startswith("0001-01-01")
