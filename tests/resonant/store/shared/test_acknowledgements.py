"""An acknowledged cause of dead letters: the operator, the note, and the end of the acknowledgement."""

import pytest

from resonant.dead_letters.triage import triage
from resonant.delivery.retry import GiveUp
from resonant.store import schema
from resonant.store.audit import read_audit
from resonant.store.shared.acknowledgements import Acknowledgement, acknowledge, read_acknowledged, reopen
from resonant.store.views.selection import Selection

BUSY = Selection(code="http_503")


@pytest.fixture
def cause(desk):
    """A cause with two dead letters, besides another cause."""
    desk.bury("evt_1", "evt_2", apart=1)
    desk.bury("evt_bad", code="http_400")
    return desk.read(triage, BUSY)[0].fingerprint


def ack(desk, cause, note=None):
    return desk.write(acknowledge, cause, who="ann", note=note, now=desk.clock())


def test_an_acknowledgement_keeps_its_operator_and_its_last_note(desk, cause):
    assert desk.read(read_acknowledged) == {}
    assert ack(desk, cause, "release 42") == 2

    known = {cause: Acknowledgement(desk.clock(), "ann", "release 42")}
    assert desk.read(read_acknowledged) == known
    desk.clock.advance(60)
    desk.bury("evt_3")
    assert desk.read(read_acknowledged) == known

    ack(desk, cause)
    assert desk.read(read_acknowledged) == {cause: Acknowledgement(desk.clock(), "ann", "release 42")}
    ack(desk, cause, "release 43")
    assert desk.read(read_acknowledged)[cause].note == "release 43"


def test_it_lasts_until_the_last_of_its_dead_letters_is_replayed(desk, cause):
    ack(desk, cause)
    desk.clock.advance(1)
    desk.bury("evt_3")
    [first] = desk.replay(BUSY, limit=1).leases
    assert cause in desk.read(read_acknowledged)

    desk.clock.advance(1)
    [second] = desk.replay(BUSY, limit=1).leases

    assert desk.read(read_acknowledged) == {}, "the third one is a new failure"
    desk.deliver(first, second)


def test_a_replayed_dead_letter_that_fails_again_opens_the_cause(desk, cause):
    ack(desk, cause)
    desk.clock.advance(1)
    for lease in desk.replay(BUSY).leases:
        desk.fail(lease, GiveUp("exhausted"))

    [group] = desk.read(triage, BUSY)
    assert (group.count, group.fingerprint, group.acknowledged) == (2, cause, None)
    assert ack(desk, cause) == 2
    assert cause in desk.read(read_acknowledged)


def test_an_acknowledgement_ends_with_a_purge_and_the_next_one_removes_it(desk, cause):
    ack(desk, cause)
    desk.purge()
    desk.clock.advance(1)
    desk.bury("evt_3")
    assert desk.read(read_acknowledged) == {}
    [again] = desk.read(triage)
    desk.bury("evt_4", code="http_404")
    [other] = [each for each in desk.read(triage) if each.fingerprint != again.fingerprint]
    ack(desk, other.fingerprint)
    assert [row["cause"] for row in desk.rows(schema.acknowledged_causes)] == [other.fingerprint]


def test_dead_letters_of_a_worker_whose_clock_is_ahead_are_acknowledged_too(desk, cause):
    assert desk.write(acknowledge, cause, who="ann", note=None, now=desk.clock() - 60) == 2
    assert cause in desk.read(read_acknowledged)


def test_a_cause_without_dead_letters_is_not_acknowledged(desk, cause):
    desk.purge()
    assert ack(desk, cause) == ack(desk, "none") == 0
    assert desk.rows(schema.acknowledged_causes) == []
    assert [entry.action for entry in desk.read(read_audit)] == ["purge"]


def test_a_reopened_cause_is_no_longer_acknowledged_and_the_audit_has_both(desk, cause):
    assert not desk.write(reopen, cause, who="ben", now=desk.clock())
    ack(desk, cause, "later")

    assert desk.write(reopen, cause, who="ben", now=desk.clock() + 1)

    assert desk.read(read_acknowledged) == {}
    assert [(entry.who, entry.action, entry.selection) for entry in desk.read(read_audit)] == [
        ("ben", "reopen", {"cause": cause}),
        ("ann", "acknowledge", {"cause": cause, "note": "later"}),
    ]
