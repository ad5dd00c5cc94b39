"""Watches of failed flow runs in the store."""

from dataclasses import replace

import pytest

from resonant.store.audit import read_audit
from resonant.store.shared.run_watches import (
    RunWatch,
    add_watch,
    advance_watch,
    claim_watches,
    read_watches,
    remove_watch,
    remove_watches_of,
)

ALL = RunWatch("ops")
IMPORTS = RunWatch("ops", flow="import-*", tag="prod")


def add(desk, watch: RunWatch, now: float = 5.0) -> bool:
    return desk.write(add_watch, watch, who="me", now=now)


def test_a_watch_begins_when_it_is_added_first_and_its_watermark_moves_only_forward(desk):
    assert [add(desk, each) for each in (IMPORTS, ALL)] == [True, True]
    begun = {"watermark": 5.0, "created_at": 5.0}
    assert desk.read(read_watches) == [replace(ALL, **begun), replace(IMPORTS, **begun)]

    for watermark in (7.0, 6.0):
        desk.write(advance_watch, ALL, watermark)
    assert not add(desk, ALL, now=9.0)

    assert desk.read(read_watches) == [
        replace(ALL, watermark=7.0, created_at=5.0),
        replace(IMPORTS, **begun),
    ]


def test_removing_a_watch_leaves_the_others_and_removing_an_endpoint_removes_its_own(desk):
    for each in (ALL, IMPORTS, RunWatch("shop")):
        add(desk, each)

    assert desk.write(remove_watch, ALL, who="me", now=6.0)
    assert not desk.write(remove_watch, ALL, who="me", now=6.0)
    assert [each.selection for each in desk.read(read_watches)] == [
        IMPORTS.selection,
        RunWatch("shop").selection,
    ]

    assert desk.write(remove_watches_of, "ops", "a", who="me", now=7.0) == 1
    assert [each.endpoint for each in desk.read(read_watches)] == ["shop"]


def test_each_server_has_its_own_watches_with_their_own_watermarks(desk):
    a, b = (replace(ALL, server=server) for server in "ab")
    assert [add(desk, each) for each in (b, a)] == [True, True]
    desk.write(advance_watch, a, 7.0)
    assert [(each.server, each.watermark) for each in desk.read(read_watches)] == [("a", 7.0), ("b", 5.0)]
    assert desk.write(remove_watches_of, "ops", "a", who="me", now=8.0) == 1
    assert desk.read(read_watches) == desk.read(read_watches, "b")
    assert [each.server for each in desk.read(read_watches)] == ["b"]


def test_the_first_server_that_reports_or_adds_a_watch_claims_it(desk):
    add(desk, ALL)
    add(desk, replace(IMPORTS, server="b"))
    desk.write(advance_watch, ALL, 7.0)
    assert len(desk.read(read_watches, "b")) == 2, "both servers may claim it"

    begun = replace(ALL, server="a", watermark=7.0, created_at=5.0)
    assert desk.write(claim_watches, "a", now=9.0) == [begun]
    assert [each.selection for each in desk.write(claim_watches, "b", now=9.0)] == [IMPORTS.selection]

    add(desk, RunWatch("shop"))
    assert not add(desk, RunWatch("shop", server="a"), now=9.0)
    assert [each.created_at for each in desk.read(read_watches, "a") if each.endpoint == "shop"] == [5.0]


def test_the_audit_has_each_change_and_no_repeat(desk):
    watch = replace(IMPORTS, server="a")
    add(desk, watch)
    add(desk, watch)
    desk.write(remove_watch, watch, who="you", now=6.0)

    selection = {"endpoint": "ops", "flow": "import-*", "tag": "prod", "server": "a"}
    assert [(each.action, each.who, each.selection) for each in desk.read(read_audit)] == [
        ("automation disable", "you", selection),
        ("automation enable", "me", selection),
    ]


@pytest.mark.parametrize(
    ("flow", "name", "matches"),
    [
        ("", "any name", True),
        ("import-*", "import-orders", True),
        ("import-*", "export-orders", False),
        ("a[b]?", "a[b]c", True),
        ("a[b]?", "abc", False),
    ],
)
def test_a_flow_is_watched_if_its_name_matches_the_glob(flow, name, matches):
    assert RunWatch("ops", flow=flow).matches_flow(name) == matches


def test_a_watermark_that_is_slightly_ahead_since_the_servers_clock_was_set_back_hides_no_runs(desk):
    add(desk, ALL, now=1_000.0)
    desk.write(advance_watch, ALL, 200_000.0)
    now = 200_000.0 - 30
    [watched] = desk.write(claim_watches, "a", now=now)
    assert (watched.created_at, watched.watermark) == (1_000.0, now - 86_400)


@pytest.mark.parametrize(("ahead", "begins_at"), [(2.0, 1_002.0), (60.0, 1_000.0)])
def test_the_beginning_of_a_watch_moves_only_if_it_is_far_ahead(desk, ahead, begins_at):
    add(desk, ALL, now=1_000.0 + ahead)
    [watched] = desk.write(claim_watches, "a", now=1_000.0)
    assert (watched.created_at, watched.watermark) == (begins_at, begins_at)
