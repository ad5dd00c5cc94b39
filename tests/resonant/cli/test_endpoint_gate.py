"""``resonant endpoint pause`` and ``resume``."""

from __future__ import annotations

from resonant.delivery.retry import Park


def test_an_endpoint_is_paused_and_resumed(resonant, worker):
    worker.accept("evt_1")

    paused = resonant("endpoint", "pause", "billing", "--reason", "maintenance")
    assert paused.out == (
        "endpoint billing is paused: its deliveries wait until `resonant endpoint resume billing`\n"
    )
    again = resonant("endpoint", "pause", "webhook-endpoint/billing").out
    assert again.startswith("endpoint billing is already paused, since ")
    assert again.endswith(" on the command line: maintenance\n")
    resumed = resonant("endpoint", "resume", "billing")
    assert resumed.out == ("endpoint billing is resumed: its deliveries are sent again\n")
    shown = [(entry["action"], entry["selection"]) for entry in resonant.json("audit")]
    assert shown == [
        ("resume", {"endpoint": "billing", "now": False}),
        ("pause", {"endpoint": "billing", "reason": "maintenance"}),
    ]


def test_the_gate_after_a_pause_is_shown_as_json(resonant, worker):
    worker.accept("evt_1")

    first = resonant.json("endpoint", "pause", "billing", "--reason", "maintenance")
    again = resonant.json("endpoint", "pause", "billing")

    assert (first["endpoint"], first["changed"]) == ("billing", True)
    assert (first["gate"]["state"], first["gate"]["reason"]) == ("paused", "maintenance")
    assert again == {**first, "changed": False}
    assert resonant.json("endpoint", "resume", "billing")["gate"]["state"] == "normal"


def test_parked_deliveries_are_due_at_once_if_asked_for(resonant, worker):
    worker.accept("evt_1", "evt_2")
    worker.attempt(Park(3_600.0, worker.clock() + 3_600))

    assert "made_due" in resonant.json("endpoint", "resume", "billing")
    assert worker.claim_all() == []
    said = resonant("endpoint", "resume", "billing", "--now").out
    assert said == "endpoint billing was not paused: it is normal; 2 parked deliveries are due now\n"
    assert len(worker.claim_all()) == 2


def test_an_unknown_endpoint_is_refused_with_a_suggestion(resonant, worker):
    worker.accept("evt_1")
    for command in ("pause", "resume"):
        refused = resonant("endpoint", command, "biling", code=2)
        assert refused.err == "resonant: no endpoint is named 'biling': did you mean billing?\n"
    assert resonant.json("audit") == []


def test_a_reason_cannot_change_what_a_terminal_shows(resonant, worker):
    worker.accept("evt_1")
    resonant("endpoint", "pause", "billing", "--reason", "\x1b[31mred\nalert")
    assert resonant("endpoint", "pause", "billing").out.endswith(": [31mred alert\n")
