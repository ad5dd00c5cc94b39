"""The first page: one card for each incident, then the balance and each endpoint."""

import html
import re
import subprocess
import sys

import pytest

from resonant.delivery.retry import Retry
from resonant.events import rfc3339
from resonant.store.shared.acknowledgements import acknowledge
from resonant.store.views.endpoint_problems import note_problems
from support.console import document_of

from .incidents import drain, fail_type, raise_alert, set_gate


def titles(pages):
    return [each["title"] for each in pages.json("/")["urgent"]]


def bury(desk, event_id, endpoint="orders", code="http_400", **attempt):
    values = {
        "category": "permanent",
        "code": code,
        "status_code": 400,
        "error": f"the endpoint answered {code}",
    }
    desk.bury(event_id, endpoint=endpoint, reason="permanent", **values | attempt)


def test_nothing_needs_a_person_while_all_is_delivered(pages):
    drain(pages.desk)
    pages.desk.enqueue("e1")
    pages.desk.deliver(pages.desk.claim_one())
    shown = pages.html("/")
    assert "Nothing needs you." in shown
    assert "accepted 1 = pending 0 + retrying 0 + delivered 1" in shown
    assert '<span class="state ok">normal</span>' in shown
    assert "1 delivered (up), 0 failed (down)" in shown
    assert "20 ms" in shown


def test_without_a_drain_the_card_names_the_endpoints_and_they_are_not_normal(pages):
    drain(pages.desk, "crm")
    pages.desk.enqueue("e1")
    pages.desk.enqueue("e1", endpoint="crm")
    pages.desk.clock.advance(5)
    raise_alert(pages.desk, "drain_silent")
    [card] = pages.json("/")["urgent"]
    assert card["title"] == "Nothing has been sent for 5 s: 1 due, for orders"
    assert "resonant up" in card["steps"][0]
    assert card["alerts"][0].startswith("drain_silent: a delivery is")
    assert '<span class="state bad">no drain</span>' in pages.html("/")


def test_an_endpoint_that_cannot_be_opened_is_one_card_with_the_reason(pages):
    pages.desk.enqueue("e1")
    pages.desk.write(note_problems, {"orders": "no endpoint is named 'orders'"}, now=pages.desk.clock())
    [card] = pages.json("/")["urgent"]
    assert card["title"] == "orders cannot be opened: 1 delivery waits"
    assert (card["why"], card["fault"]) == ("no endpoint is named 'orders'", "ours (local)")


@pytest.mark.parametrize(
    ("state", "values", "said"),
    [
        ("probing", {}, "orders has not worked for 2 h: 1 held"),
        ("paused", {"paused_by": "zoe"}, "orders has been paused for 2 h: 1 held"),
        ("paused", {"reason": "it answered 410"}, "orders has been gone (410) for 2 h: 1 held"),
        ("paced", {"pace": 3.0}, "orders has limited the rate for 2 h: 1 held"),
    ],
)
def test_a_gate_that_holds_deliveries_is_a_card(pages, state, values, said):
    drain(pages.desk)
    pages.desk.enqueue("e1")
    set_gate(pages.desk, state=state, **values)
    assert titles(pages) == [said]
    assert 'href="/endpoints/orders"' in pages.html("/")


def test_an_outage_is_one_card_with_its_dead_letters_and_alerts(pages):
    drain(pages.desk)
    pages.desk.bury("e1", "e2")
    pages.desk.enqueue("e3")
    set_gate(pages.desk)
    for condition in ("probing", "dead_letters", "error_rate"):
        raise_alert(pages.desk, condition)
    [card] = pages.json("/")["urgent"]
    assert card["title"] == "orders has not worked for 2 h: 1 held"
    assert "2 dead letters with http_503" in card["steps"][1]
    assert {each.split(":")[0] for each in card["alerts"]} == {"dead_letters", "error_rate", "probing"}


def test_a_failing_type_is_a_card_apart_from_another_cause_of_its_endpoint(pages):
    drain(pages.desk)
    fail_type(pages.desk, "invoice.made")
    bury(pages.desk, "e1")
    assert titles(pages) == [
        "invoice.made has failed at orders for 1 h: 0 held",
        "1 dead letter to orders: http_400",
    ]


def test_a_failing_type_and_dead_letters_with_the_code_of_its_failure_are_one_card(pages):
    drain(pages.desk)
    fail_type(pages.desk, "invoice.made", failure="no answer within 15 s", code="read_timeout")
    bury(pages.desk, "e1", code="read_timeout", category="transient", status_code=None)
    [card] = pages.json("/")["urgent"]
    assert card["title"] == "invoice.made has failed at orders for 1 h: 0 held"
    assert "1 dead letter with read_timeout" in card["steps"][1]


@pytest.mark.parametrize(("since", "cards"), [(0, 1), (1, 2)])
def test_permanent_failures_during_an_outage_are_on_its_card(pages, since, cards):
    drain(pages.desk)
    bury(pages.desk, "e1", code="tls_certificate", status_code=None)
    set_gate(pages.desk, reason="20 failures in a row", failing_since=pages.desk.clock() + since)
    assert len(titles(pages)) == cards


def test_the_words_of_operators_and_of_event_types_decide_nothing(pages):
    drain(pages.desk)
    bury(pages.desk, "e1")
    set_gate(pages.desk, state="paused", paused_by="zoe", reason="until http 400 is mended")
    assert titles(pages) == [
        "orders has been paused for 2 h: 0 held",
        "1 dead letter to orders: http_400",
    ]
    bury(pages.desk, "e2", endpoint="crm")
    fail_type(pages.desk, "none of 0 attempts made", endpoint="crm")
    raise_alert(pages.desk, "failing_types", "crm")
    [card] = [each for each in pages.json("/")["urgent"] if each["alerts"]]
    assert card["title"] == "none of 0 attempts made has failed at crm for 1 h: 0 held"


def test_causes_with_one_code_are_one_card_and_acknowledged_ones_none(pages):
    drain(pages.desk)
    began = rfc3339(pages.desk.clock())
    bury(pages.desk, "e1", error="no field a")
    pages.desk.clock.advance(30)
    bury(pages.desk, "e2", error="no field b")
    bury(pages.desk, "e3", endpoint="crm")
    [both, _] = pages.json("/")["urgent"]
    assert (both["title"], both["fault"]) == ("2 dead letters to orders: http_400", "the endpoint's")
    assert both["since"] == began, "not the last failure"
    assert both["links"]["2 causes"] == "/dead-letters?endpoint=orders&code=http_400"
    for cause in {row["fingerprint"] for row in pages.json("/dead-letters") if row["endpoint"] == "orders"}:
        pages.desk.write(acknowledge, cause, who="zoe", note=None, now=pages.desk.clock())
    assert titles(pages) == ["1 dead letter to crm: http_400"]


def test_late_deliveries_are_a_card_although_a_drain_sends(pages):
    pages.desk.enqueue("e1")
    pages.desk.clock.advance(61)
    drain(pages.desk)
    assert titles(pages) == ["Deliveries to orders are late by 1 min: 1 due"]


def test_an_alert_alone_links_the_runbook_and_one_about_nothing_is_left_out(pages):
    drain(pages.desk)
    pages.desk.enqueue("e1")
    pages.desk.deliver(pages.desk.claim_one())
    raise_alert(pages.desk, "latency")
    raise_alert(pages.desk, "retries", "")
    pages.desk.clock.advance(7200)
    drain(pages.desk)
    [card] = pages.json("/")["urgent"]
    assert card["title"] == "Alert latency for orders"
    assert card["links"]["runbook: An endpoint is slow"].endswith("docs/runbook.md#an-endpoint-is-slow")


def test_each_problem_of_the_database_has_its_own_links(pages):
    drain(pages.desk)
    pages.desk.enqueue("e1")
    pages.desk.execute("UPDATE resonant_acceptances SET count = 2")
    pages.console.store.durability_problem = "fsync is off"
    unsafe, balance = pages.json("/")["urgent"]
    assert (unsafe["title"], unsafe["links"]) == ("The database may lose commits", {})
    assert balance["title"] == "The balance is wrong"
    assert balance["links"]["runbook: The balance is wrong"].endswith("#the-balance-is-wrong")


def test_the_status_is_that_of_the_command(pages):
    pages.desk.bury("e1")
    pages.desk.enqueue("e2", endpoint="crm")
    set_gate(pages.desk)
    raise_alert(pages.desk, "error_rate")
    expected = document_of(["status"], pages)
    assert pages.json("/status") == expected
    first = pages.json("/")
    assert first.pop("urgent")
    assert first == expected


def test_hostile_text_stays_text(pages):
    name = 'webhook-endpoint/<script>alert(1)</script>"\u202e'
    pages.desk.bury("e1", error=name)
    shown = pages.html("/")
    assert "<script>alert" not in shown
    assert html.escape("<script>alert(") in shown
    assert "\u202e" not in shown


def test_a_hundred_endpoints_are_shown_and_the_others_counted(pages):
    drain(pages.desk)
    for number in range(102):
        pages.desk.enqueue("e1", endpoint=f"e{number:03}")
    fail = pages.desk.claim(endpoint="e101")
    pages.desk.fail(fail[0], Retry(9.0, pages.desk.clock() + 9))
    shown = pages.html("/")
    assert len(re.findall(r'<td><a href="/endpoints/', shown)) == 100
    assert '<td><a href="/endpoints/e101">' in shown
    assert "2 more endpoints" in shown


def test_the_console_does_not_load_pandas():
    code = "import sys, resonant.console.app; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
