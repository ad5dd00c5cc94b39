"""The dead letters by cause."""

import re
from html import unescape
from urllib.parse import urlencode

import pytest

from resonant import documents
from resonant.dead_letters.triage import triage
from resonant.store.shared.acknowledgements import acknowledge
from support.console import JSON, open_pages

REFUSED = {
    "category": "permanent",
    "code": "http_400",
    "error": "the endpoint answered 400",
    "status_code": 400,
}


@pytest.fixture
def filled(pages):
    pages.desk.bury("e1", "e2", "e3", apart=1.0)
    pages.desk.bury("e4", "e5", endpoint="crm", reason="permanent", apart=1.0, **REFUSED)
    pages.desk.bury("e6", endpoint="mail", blame="local", code="proxy_error")
    return pages


def causes(pages):
    return {each["endpoint"]: each["fingerprint"] for each in pages.json("/dead-letters")}


def test_the_groups_are_those_of_the_command(filled):
    found = filled.desk.read(triage)
    assert filled.json("/dead-letters") == [documents.dead_letter_group(each) for each in found]
    assert [each.count for each in found] == [3, 2, 1]


def test_each_cause_has_fault_and_advice(filled):
    shown = filled.html("/dead-letters")
    assert "fault: the endpoint&#39;s" in shown
    assert "fault: ours (local)" in shown
    assert "the receiver rejects these events: inspect one (<code>resonant detail e5</code>)" in shown


def test_groups_follow_each_other_by_key(filled, monkeypatch):
    whole = [each["fingerprint"] for each in filled.json("/dead-letters")]
    monkeypatch.setattr("resonant.console.pages.dead_letters.ROWS", 1)
    seen, link = [], "/dead-letters"
    while link:
        answer = filled.send("GET", link, headers=JSON)
        seen += [each["fingerprint"] for each in answer.json()]
        link = answer.headers.get("link", "").partition(">")[0].lstrip("<")
    assert seen == whole


def test_the_letters_of_a_cause_are_those_of_the_command(filled):
    cause = causes(filled)["orders"]
    found = filled.json(f"/dead-letters/{cause}")
    assert [each["event_id"] for each in found] == ["e3", "e2", "e1"]
    assert found == filled.json(f"/deliveries?status=dead_letter&cause={cause}")


def test_replay_is_not_the_first_choice_for_permanent_failures(filled):
    known = causes(filled)
    assert '<button class="primary">Replay' in filled.html(f"/dead-letters/{known['orders']}")
    shown = filled.html(f"/dead-letters/{known['crm']}")
    assert '<button class="primary">Replay' not in shown
    assert "most likely fails again" in shown


def test_each_offered_action_leads_to_a_plan_that_can_act(filled):
    filled.desk.enqueue("e9")
    filled.desk.clock.advance(1)
    for page in (
        "/dead-letters",
        "/dead-letters?endpoint=orders",
        "/deliveries",
        "/deliveries?endpoint=orders",
    ):
        links = re.findall(r'href="(/[a-z-]+/(?:replay|purge|cancel)\?[^"]*)"', filled.html(page))
        assert links
        for link in links:
            assert filled.json(unescape(link))["plan"], link
    [link] = re.findall(
        r'href="([^"]*)">Include the permanent', filled.html("/dead-letters/replay?endpoint=crm&event_type=*")
    )
    assert filled.json(unescape(link))["selected"] == 2
    for cause in causes(filled).values():
        fields = re.findall(
            r'name="([^"]+)" value="([^"]*)"', filled.html(f"/dead-letters/{cause}").partition("</form>")[0]
        )
        assert filled.json(f"/dead-letters/replay?{urlencode(fields)}")["plan"], cause


def test_an_acknowledged_cause_is_last_and_can_be_reopened(filled):
    cause, now = causes(filled)["orders"], filled.desk.clock()
    filled.desk.write(acknowledge, cause, who="Zoë", note="known <b>", now=now)
    assert filled.json("/dead-letters")[-1]["fingerprint"] == cause
    assert "Acknowledged by Zoë" in filled.html("/dead-letters")
    shown = filled.html(f"/dead-letters/{cause}")
    assert 'name="undo" value="1"' in shown
    assert "known &lt;b&gt;" in shown


def test_an_unknown_cause_is_refused(filled):
    assert "lists the causes" in filled.json("/dead-letters/0123456789ab", code=404)["detail"]


def test_a_filter_selects_groups(filled):
    assert [each["endpoint"] for each in filled.json("/dead-letters?code=http_400")] == ["crm"]
    assert "No dead letters match" in filled.html("/dead-letters?reason=crashed")


def test_a_read_only_console_has_no_actions(filled):
    cause = causes(filled)["orders"]
    with open_pages(filled.desk, read_only=True) as pages:
        for address in ("/dead-letters", f"/dead-letters/{cause}"):
            assert "/replay" not in pages.html(address)
            assert "/purge" not in pages.html(address)
            assert 'method="post"' not in pages.html(address)
