"""``resonant endpoint pause`` and ``resume``."""

from resonant.delivery.retry import Park


def test_an_endpoint_is_paused_and_resumed(resonant, worker):
    worker.accept("evt_1")

    assert resonant("endpoint", "pause", "billing", "--reason", "maintenance").out == (
        "endpoint billing is paused: its deliveries wait until `resonant endpoint resume billing`\n"
    )
    again = resonant("endpoint", "pause", "webhook-endpoint/billing").out
    assert again.startswith("endpoint billing is already paused, since ")
    assert again.endswith(" on the command line: maintenance\n")
    document = resonant.json("endpoint", "pause", "billing")
    assert (document["endpoint"], document["changed"]) == ("billing", False)
    assert (document["gate"]["state"], document["gate"]["reason"]) == ("paused", "maintenance")
    document = resonant.json("endpoint", "resume", "billing")
    assert (document["changed"], document["gate"]["state"], document["made_due"]) == (True, "normal", None)
    assert [(entry["action"], entry["selection"]) for entry in resonant.json("audit")] == [
        ("resume", {"endpoint": "billing", "now": False}),
        ("pause", {"endpoint": "billing", "reason": "maintenance"}),
    ]


def test_parked_deliveries_are_due_at_once_if_asked_for(resonant, worker):
    worker.accept("evt_1", "evt_2")
    worker.attempt(Park(3_600.0, worker.clock() + 3_600))

    said = resonant("endpoint", "resume", "billing", "--now").out
    assert said == "endpoint billing was not paused: it is normal; 2 parked deliveries are due now\n"
    assert len(worker.claim_all()) == 2


def test_a_reason_cannot_control_the_terminal(resonant, worker):
    worker.accept("evt_1")
    resonant("endpoint", "pause", "billing", "--reason", "\x1b[31mred\nalert")
    assert resonant("endpoint", "pause", "billing").out.endswith(": [31mred alert\n")
