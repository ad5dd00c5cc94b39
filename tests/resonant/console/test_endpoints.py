"""The list of endpoints, and the page of one."""

import re

import pytest

from resonant import documents
from resonant.gate import pausing
from resonant.store.queue.gate_changes import change_and_report
from resonant.store.shared.gates import Gate, GateChange
from resonant.store.views.endpoint_status import Governed
from resonant.store.views.known_names import remember_endpoints
from support.console import open_pages
from support.subscriptions import subscribe

from .incidents import drain, fail_type, set_gate


def buttons(pages, name="orders"):
    return re.findall(r"<button[^>]*>([^<]+)</button>", pages.html(f"/endpoints/{name}"))


def test_the_list_is_filtered_by_name_and_paged_by_key(pages):
    pages.desk.write(remember_endpoints, [f"shop-{number:02}" for number in range(60)] + ["crm"])
    listed = [each["name"] for each in pages.json("/endpoints?name=SHOP")]
    assert listed == [f"shop-{number:02}" for number in range(50)]
    [more] = re.findall(r'href="([^"]+)" rel="next"', pages.html("/endpoints?name=SHOP"))
    rest = [each["name"] for each in pages.json(more.replace("&amp;", "&"))]
    assert rest == [f"shop-{number:02}" for number in range(50, 60)]
    assert "no such filter" in pages.json("/endpoints?nam=x", code=422)["detail"]


def test_the_json_has_the_part_of_the_commands_document_that_the_store_knows(pages):
    pages.desk.enqueue("e1")
    subscribe(pages.desk, "orders", "order.*")
    set_gate(pages.desk)
    found, now = pages.json("/endpoints/orders"), pages.desk.clock()
    gate = pages.desk.status().endpoints[0].gate
    expected = documents.endpoint_state(None, Governed(gate, 1), 1, now=now)
    assert found == {"name": "orders", **expected}
    assert pages.json("/endpoints") == [found]


def test_an_unknown_endpoint_is_refused_with_a_suggestion(pages):
    pages.desk.enqueue("e1")
    assert "did you mean orders?" in pages.json("/endpoints/order", code=404)["detail"]


@pytest.mark.parametrize(
    ("state", "values", "expected"),
    [
        ("normal", {"reason": None, "failing_since": None}, ["Pause", "Send a test event"]),
        ("paused", {"paused_by": "zoe"}, ["Resume", "Send a test event"]),
        ("paused", {}, ["Pause", "Resume", "Send a test event"]),
        ("probing", {}, ["Pause", "Probe now", "Send a test event"]),
        ("paced", {"pace": 2.0}, ["Pause", "Send a test event"]),
    ],
)
def test_the_forms_fit_the_state(pages, state, values, expected):
    drain(pages.desk)
    pages.desk.enqueue("e1")
    set_gate(pages.desk, state=state, **values)
    assert buttons(pages) == expected


def test_a_failing_type_can_be_probed_and_a_read_only_console_has_no_forms(pages):
    pages.desk.enqueue("e1")
    fail_type(pages.desk, "invoice.made")
    assert "Probe now" in buttons(pages)
    assert "invoice.made has failed for 60 min" in pages.html("/endpoints/orders").replace("1 h", "60 min")
    with open_pages(pages.desk, read_only=True) as reading:
        assert buttons(reading) == []


def test_the_history_joins_the_audit_and_the_events_about_the_gate(pages):
    desk = pages.desk
    subscribe(desk, "chat", "resonant.endpoint.*")
    desk.enqueue("e1")
    now = desk.clock()
    after = Gate("orders", "probing", since=now, failing_since=now, reason="5 failures in a row: http 503")
    desk.write(change_and_report, GateChange(Gate("orders"), after, at=now), now=now)
    desk.clock.advance(60)
    desk.run(pausing.pause(desk.store, "orders", who="Zoë", reason="<b>works</b>"))
    desk.run(pausing.pause(desk.store, "orders-2", who="Max"))
    shown = pages.html("/endpoints/orders")
    listed = [re.sub("<[^>]+>", "", each) for each in re.findall(r"<li>.*?</li>", shown)]
    assert "1 min ago: failing: 5 failures in a row: http 503" in listed
    assert "0 s ago: paused by Zoë: &lt;b&gt;works&lt;/b&gt;" in listed
    assert "Max" not in shown


def test_attempts_are_shown_by_hour_and_codes_link_only_lists_that_have_rows(pages):
    desk = pages.desk
    desk.enqueue("e1", "e2", "e3")
    waiting, recovering, fine = desk.claim()
    desk.fail(waiting, desk.park_for(60), code="timeout", duration=2.0)
    desk.fail(recovering, desk.park_for(1), code="http_502")
    desk.deliver(fine)
    desk.clock.advance(2)
    desk.deliver(*desk.claim())
    desk.bury("e4", code="http_503")
    shown = pages.html("/endpoints/orders")
    assert "2 delivered (up), 3 failed (down)" in shown
    assert '<td class="n">2.0 s</td>' in shown
    assert 'href="/deliveries?endpoint=orders&amp;code=timeout"' in shown
    assert 'href="/dead-letters?endpoint=orders&amp;code=http_503"' in shown
    assert "1 attempt: <code>http_502</code>" in shown
    for place in re.findall(r'href="(/de[^"]+code=[^"]+)"', shown):
        assert len(pages.json(place.replace("&amp;", "&"))) == 1


def test_hostile_names_are_links_that_lead_to_their_page(pages):
    name = "spool-endpoint/a b%2F"
    pages.desk.write(remember_endpoints, [name])
    [href] = re.findall(r'<td><a href="(/endpoints/[^"]+)"', pages.html("/endpoints"))
    assert pages.json(href)["name"] == name
