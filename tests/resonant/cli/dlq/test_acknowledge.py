"""``dlq ack``: an operator acknowledges causes of dead letters."""

import re

import pytest

from support.dlq_actions import PERMANENT


@pytest.fixture
def causes(resonant, worker):
    """Two causes, the larger one first."""
    worker.bury("evt_1", "evt_2")
    worker.bury("evt_bad", reason="permanent", **PERMANENT)
    return [group["fingerprint"] for group in resonant.json("dlq", "--group")]


def test_an_acknowledged_cause_is_listed_last_with_its_note_instead_of_the_advice(resonant, causes):
    busy, rejected = causes

    said = resonant("dlq", "ack", busy, "--note", "fixed in\x1b release 42").out
    assert said == f"acknowledged {busy}: 2 dead letters\n"

    first, last = resonant.json("dlq", "--group")
    assert (first["fingerprint"], first["acknowledged"]) == (rejected, None)
    known = last.pop("acknowledged")
    assert (last["fingerprint"], known["note"]) == (busy, "fixed in\x1b release 42")
    assert "on the command line" in known["by"]
    *_, card = resonant.on_a_terminal("dlq", "--group", columns=200).split("2 dead letters to")
    assert re.search(r"acknowledged by .* on the command line, \d+ s ago: fixed in\\x1b release 42", card)
    assert "next: " not in card
    assert resonant("dlq", "ack", rejected).out == f"acknowledged {rejected}: 1 dead letter\n"
    assert "dlq ack CAUSE" not in resonant.on_a_terminal("dlq", "--group")
    resonant("dlq", "ack", "--undo", rejected)
    table = resonant("dlq", "--group").out
    assert table.count("resonant replay") == 1
    *_, entry = resonant.json("audit")
    assert (entry["action"], entry["selection"]["cause"]) == ("acknowledge", busy)


def test_several_are_acknowledged_and_reopened_at_once(resonant, causes):
    assert resonant.json("dlq", "ack", *causes, causes[0]) == {
        "done": "acknowledged",
        "causes": [{"cause": causes[0], "dead_letters": 2}, {"cause": causes[1], "dead_letters": 1}],
    }
    reopened = resonant.json("dlq", "ack", "--undo", causes[0])["causes"]
    assert reopened == [{"cause": causes[0], "dead_letters": 2}]
    resonant("dlq", "ack", causes[0], "--note", "not UTF-8: \udcff")
    assert resonant("dlq", "ack", "--undo", causes[1]).out == f"reopened {causes[1]}: 1 dead letter\n"
    groups = resonant.json("dlq", "--group")
    assert [each["acknowledged"] and each["acknowledged"]["note"] for each in groups] == [
        None,
        "not UTF-8: ?",
    ]


def test_a_mistake_changes_nothing(resonant, worker, causes):
    refused = resonant("dlq", "ack", causes[0], "0123456789ab", code=2)
    assert "no dead letter has the cause '0123456789ab'" in refused.err
    answer = resonant("dlq", "ack", "--undo", *causes, code=1)
    assert answer.err == f"resonant: the cause {causes[0]} is not acknowledged: nothing was changed\n"
    assert "--note cannot be combined" in resonant("dlq", "ack", "--undo", "--note", "x", *causes, code=2).err
    misplaced = resonant.refused("dlq", "--endpoint", "billing", "ack", *causes, code=2)
    assert misplaced.startswith("--endpoint before ack has no effect: remove it, or put it after ack")
    assert "takes one value" in resonant("dlq", "--endpoint", "a", "--endpoint", "b", code=2).err
    assert resonant("dlq", "akc", causes[0], code=2).out == ""
    for note, length in ((" ", 0), ("x" * 501, 501)):
        refused = resonant("dlq", "ack", "--note", note, *causes, code=2)
        assert refused.err == f"resonant: --note has {length} characters: write 1 to 500\n"
    assert "no dead letter has the cause" in resonant("dlq", "ack", "\udcff", code=2).err
    resonant("purge", "--endpoint", "billing", "--code", "http_503", "--yes", "--no-archive")
    gone = resonant("dlq", "ack", causes[1], causes[0], code=2)
    assert f"no dead letter has the cause {causes[0]!r}" in gone.err, "a purge forgets causes"
    assert not any(group["acknowledged"] for group in resonant.json("dlq", "--group"))
