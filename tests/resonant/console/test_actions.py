"""Actions do what the commands do, and leave their operator in the audit."""

import pytest

from resonant import documents
from resonant.store import schema
from resonant.store.audit import read_audit
from resonant.store.shared.gates import read_gate


@pytest.fixture
def desk(pages):
    return pages.desk


def audit(desk):
    return [(each.action, each.selection) for each in reversed(desk.read(read_audit))]


def cause_of(desk):
    return desk.rows(schema.causes)[0]["fingerprint"]


def test_an_endpoint_is_paused_and_resumed(pages, desk):
    desk.enqueue("evt_1")
    done = pages.post("/endpoints/orders/pause", reason="maintenance")
    assert (done["changed"], done["gate"]["state"], done["gate"]["reason"]) == (True, "paused", "maintenance")
    assert done["gate"] == documents.gate(desk.read(read_gate, "orders"), now=desk.clock())
    assert done["gate"]["paused_by"].endswith("in the console")
    done = pages.post("/endpoints/orders/resume", now=True)
    assert (done["gate"]["state"], done["made_due"]) == ("normal", 0)
    assert [action for action, _ in audit(desk)] == ["pause", "resume"]


@pytest.mark.parametrize("action", ["pause", "resume", "test"])
def test_an_unknown_endpoint_is_refused_with_a_suggestion(pages, desk, action):
    desk.enqueue("evt_1")
    problem = pages.post(f"/endpoints/order/{action}", code=404)
    assert "did you mean orders?" in problem["detail"]
    assert audit(desk) == []


@pytest.mark.parametrize(
    ("path", "given"),
    [
        ("/endpoints/orders/pause", {"reasn": "x"}),
        ("/endpoints/orders/pause", {"reason": "x" * 501}),
        ("/endpoints/orders/resume", {"now": "maybe"}),
        ("/dead-letters/acknowledge", {"cause": "0000"}),
        ("/dead-letters/acknowledge", {"causes": "0000"}),
    ],
)
def test_a_typo_is_refused(pages, desk, path, given):
    desk.bury("evt_1")
    pages.post(path, code=422, **given)
    assert audit(desk) == []


def test_a_test_event_is_stored_for_the_drains_and_tried_once(pages, desk):
    desk.enqueue("evt_1", endpoint="crm")
    done = pages.post("/endpoints/crm/test")
    [lease] = [each for each in desk.claim(endpoint="crm") if each.event.id == done["event_id"]]
    assert (lease.event.type, lease.event.source, lease.max_attempts) == ("resonant.test", done["source"], 1)
    assert audit(desk) == [("test", {"endpoint": "crm", "event_id": done["event_id"]})]


def test_a_cause_is_acknowledged_and_reopened(pages, desk):
    desk.bury("evt_1", "evt_2")
    cause = cause_of(desk)
    done = pages.post("/dead-letters/acknowledge", cause=cause, note="known")
    assert done == {"done": "acknowledged", "causes": [{"cause": cause, "dead_letters": 2}]}
    done = pages.post("/dead-letters/acknowledge", cause=cause, undo="1")
    assert done == {"done": "reopened", "causes": [{"cause": cause, "dead_letters": 2}]}
    assert audit(desk) == [
        ("acknowledge", {"cause": cause, "note": "known"}),
        ("reopen", {"cause": cause}),
    ]


@pytest.mark.parametrize("given", [{"note": "x" * 501}, {"undo": "1", "note": "x"}, {"undo": "1"}])
def test_an_acknowledgement_has_the_checks_of_the_command(pages, desk, given):
    desk.bury("evt_1")
    pages.post("/dead-letters/acknowledge", code=422, cause=cause_of(desk), **given)
    assert audit(desk) == []
