"""An operator pauses and resumes an endpoint while a run sends to it."""

import pytest

from support.machine import STOP_SECONDS
from support.waiting import wait_until

pytestmark = pytest.mark.engine

# The receiver takes one event per second, so that a pause is in time on a slow machine too.
COUNT = 60


@pytest.fixture
def receiver(machine, start_receiver):
    """A slow receiver."""
    repaired = str(machine.home / "repaired")
    receiver = start_receiver("support.receiver_scripts:slow_until_repaired", REPAIRED=repaired)
    machine.save_endpoint("hooks", receiver.url, concurrency=1)
    return receiver


@pytest.mark.slow
@pytest.mark.parametrize("lane", [("--lane", "task"), ("--lane", "bulk")], ids=["task", "bulk"])
def test_a_pause_holds_the_rest_of_a_running_emission_until_the_endpoint_is_resumed(machine, receiver, lane):
    events = [{"id": f"e-{n}", "type": "t", "source": "/s", "data": n} for n in range(COUNT)]
    file = machine.write_events("e.jsonl", events)
    emission = machine.start("emit", file, "--endpoint", "hooks", *lane)
    wait_until(lambda: receiver.journal, 120)

    machine.do("endpoint", "pause", "hooks", "--reason", "maintenance")
    (machine.home / "repaired").touch()
    output, errors = emission.communicate(timeout=STOP_SECONDS)

    assert emission.returncode == 1, errors
    sent = len(receiver.journal)
    assert 0 < sent < COUNT
    counts = f"{sent} delivered, 0 retried, 0 parked, 0 dead-lettered, {COUNT - sent} held"
    assert output == f"{counts}\n"
    held = f"{COUNT - sent} deliveries wait: hooks is paused; `resonant endpoint resume hooks` sends again"
    assert f"resonant: {held}\n" in errors
    status = machine.read("status")
    assert (status["held"], status["in_flight"], status["retrying"]) == (COUNT - sent, 0, 0)

    machine.do("endpoint", "resume", "hooks")
    machine.do("emit", *lane)

    assert len(receiver.journal) == COUNT
    assert {row["attempts"] for row in machine.query("SELECT attempts FROM resonant_deliveries")} == {1}
    assert machine.read("status")["delivered"] == COUNT
    assert [entry["action"] for entry in machine.read("audit")] == ["resume", "pause"]
