"""The list of deliveries."""

import json

import pytest

from resonant import documents
from resonant.store.shared.gates import read_holds
from resonant.store.views import search
from resonant.store.views.reads import each_dead_letter
from resonant.store.views.selection import Selection
from resonant.store.views.unfinished import each_unfinished
from support.console import JSON, open_pages


@pytest.fixture
def filled(pages):
    """Deliveries of three endpoints: parked, pending, delivered and given up."""
    desk = pages.desk
    for endpoint in ("orders", "crm", "mail"):
        desk.enqueue(*(f"{endpoint}-{number}" for number in range(4)), endpoint=endpoint)
        first, second, third, _ = desk.claim(4, endpoint=endpoint)
        desk.fail(first, desk.park_for(60), error="no room")
        desk.deliver(second)
        desk.clock.advance(1)
        desk.bury(f"{endpoint}-dead", endpoint=endpoint, code="http_500", excerpt="sorry")
        desk.clock.advance(1)
        desk.deliver(third)
    return pages


def unfinished(desk, now):
    def read(connection):
        holds = read_holds(connection, now)
        rows = list(each_unfinished(connection, Selection(), limit=50))
        return [documents.waiting(row, now=now, is_held=bool(row.why_held(holds, now))) for row in rows]

    return desk.read(read)


def ids(pages, query=""):
    return [each["event_id"] for each in pages.json(f"/deliveries?{query}")]


def test_the_unfinished_list_is_that_of_the_command(filled):
    assert filled.json("/deliveries") == unfinished(filled.desk, filled.desk.clock())
    assert len(filled.json("/deliveries")) == 6


def test_the_dead_letters_are_those_of_the_command(filled):
    found = filled.desk.read(lambda connection: list(each_dead_letter(connection)))
    assert filled.json("/deliveries?status=dead_letter") == [documents.dead_letter(each) for each in found]


def test_delivered_ones_are_listed_newest_first(filled):
    assert ids(filled, "status=delivered&endpoint=crm") == ["crm-2", "crm-1"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("text=NO+ROOM&endpoint=crm", ["crm-0"]),
        ("status=pending&endpoint=crm", ["crm-3"]),
        ("ids=crm-0&ids=mail-0", ["crm-0", "mail-0"]),
        ("event_type=order.*&source=/shop&code=http_503&endpoint=orders", ["orders-0"]),
        ("status=dead_letter&text=503&endpoint=mail", ["mail-dead"]),
        ("status=dead_letter&reason=crashed", []),
        ("source=/nowhere", []),
    ],
)
def test_filters_select(filled, query, expected):
    assert sorted(ids(filled, query)) == expected
    filled.html(f"/deliveries?{query}")


@pytest.mark.parametrize("status", ["", "pending", "dead_letter", "delivered"])
def test_pages_follow_each_other_by_key(pages, status, monkeypatch):
    monkeypatch.setattr("resonant.console.pages.deliveries.ROWS", 3)
    desk = pages.desk
    for endpoint in ("a", "b"):
        desk.enqueue(*(f"{endpoint}{number}" for number in range(4)), endpoint=endpoint)
        if status in ("dead_letter", "delivered"):
            leases = desk.claim(endpoint=endpoint)
            desk.deliver(*leases)
            desk.bury(*(f"{endpoint}{number}dead" for number in range(4)), endpoint=endpoint)
    seen, link = [], f"/deliveries?status={status}"
    while link:
        answer = pages.send("GET", link, headers=JSON)
        seen += [each["event_id"] for each in answer.json()]
        link = answer.headers.get("link", "").partition(">")[0].lstrip("<")
    assert len(seen) == len(set(seen)) == 8
    assert seen == ids_of_whole_list(pages, status, monkeypatch)


def ids_of_whole_list(pages, status, monkeypatch):
    monkeypatch.setattr("resonant.console.pages.deliveries.ROWS", 50)
    return ids(pages, f"status={status}")


@pytest.mark.parametrize("status", ["", "delivered", "dead_letter"])
def test_a_search_stops_and_goes_on(filled, status, monkeypatch):
    monkeypatch.setattr(search, "FIRST_ROWS", 1)
    monkeypatch.setattr("resonant.console.pages.deliveries._PAGE_SECONDS", 0)
    whole = {each["event_id"] for each in filled.json(f"/deliveries/export?status={status}&text=o")}
    assert "Searched until" in filled.html(f"/deliveries?status={status}&text=o")
    seen, parts, link = set(), 0, f"/deliveries?status={status}&text=o"
    while link:
        answer = filled.send("GET", link, headers=JSON)
        seen |= {each["event_id"] for each in answer.json()}
        link, parts = answer.headers.get("link", "").partition(">")[0].lstrip("<"), parts + 1
    assert seen == whole
    assert parts > 2


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("endpoint=crn", "did you mean crm?"),
        ("code=http_50x", "no failure has the code"),
        ("cause=0123", "/dead-letters lists the causes"),
        ("status=dead", "did you mean dead_letter?"),
        ("after=x", "not a place"),
        ("colour=red", "no such filter"),
        ("since=x", "not a time"),
    ],
)
def test_a_typo_is_an_error(filled, query, words):
    assert words in filled.json(f"/deliveries?{query}", code=422)["detail"]


def test_the_export_is_a_file_with_the_documents(filled):
    answer = filled.get("/deliveries/export?endpoint=crm")
    assert answer.headers["content-disposition"] == 'attachment; filename="deliveries.json"'
    assert json.loads(answer.text) == filled.json("/deliveries?endpoint=crm")


def test_the_filters_stay_in_the_links(filled):
    shown = filled.html("/deliveries?endpoint=crm&text=")
    assert 'href="/deliveries/cancel?endpoint=crm"' in shown
    assert 'name="endpoint" type="text" value="crm"' in shown
    assert 'data-refresh="5"' in shown
    assert "/deliveries/cancel" not in filled.html("/deliveries?status=delivered")


def test_a_read_only_console_offers_no_cancel(filled):
    with open_pages(filled.desk, read_only=True) as pages:
        assert "/deliveries/cancel" not in pages.html("/deliveries")
