"""A replay takes the requested dead letters, oldest first; the simulation checks the new round of each."""

import pytest

from resonant.dead_letters.replay import ReplayRequest, plan
from resonant.delivery.retry import GiveUp
from resonant.errors import EmptySelection, StoreUnavailable
from resonant.store.audit import read_audit
from resonant.store.queue.rescue import LOST_LEASES_BEFORE_GIVING_UP
from resonant.store.views.selection import Selection
from support.desk import take

EVERYTHING = {"selection": Selection(), "everything": True}
PERMANENT = {"reason": "permanent", "category": "permanent", "code": "http_400"}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """A replay takes few dead letters at once."""
    monkeypatch.setattr("resonant.dead_letters.replay._UNPACED_BATCH", 20)


def ids(replayed):
    return [lease.event.id for lease in replayed.leases]


def test_the_oldest_are_taken_first_and_no_more_than_the_limit(desk):
    desk.bury("evt_c", "evt_a", apart=1)
    desk.enqueue("evt_0")
    desk.bury("evt_b", endpoint="audit", apart=1)
    desk.fail(desk.claim_one(), GiveUp("exhausted"))
    desk.clock.advance(1)
    first = desk.replay(limit=2)
    assert ids(first) == ["evt_c", "evt_a"]
    rest = desk.replay(after=first.last)
    assert ids(rest) == ["evt_b", "evt_0"], "by the time of death, and not by acceptance"
    assert desk.replay(after=rest.last) == ([], None)


def test_crashes_of_the_last_round_do_not_count(desk):
    desk.enqueue("evt_1")
    for _ in range(LOST_LEASES_BEFORE_GIVING_UP):
        desk.begin(desk.claim_one())
        desk.clock.advance(61)
        desk.rescue()
    assert desk.row("evt_1")["reason"] == "crashed"
    desk.clock.advance(1)
    [lease] = desk.replay().leases
    assert lease.crashes == 0
    assert lease.round_started_at == desk.clock()


def test_a_store_that_is_away_for_a_moment_is_waited_for(desk):
    desk.bury("evt_1", apart=1)
    write_leases, failures = desk.store.write_leases, [StoreUnavailable("away")]

    async def write_leases_later(*args, **options):
        if failures:
            raise failures.pop()
        return await write_leases(*args, **options)

    desk.store.write_leases = write_leases_later
    assert desk.run(take(desk, ReplayRequest(**EVERYTHING))) == ["evt_1"]


@pytest.mark.parametrize("to", [None, "crm"])
def test_a_limit_holds_if_the_answer_to_a_commit_is_lost(desk, to):
    desk.bury("evt_1", "evt_2", apart=1)
    write_leases, failures = desk.store.write_leases, [StoreUnavailable("lost")]

    async def write_leases_and_lose_the_answer(*args, **options):
        written = await write_leases(*args, **options)
        if failures:
            raise failures.pop()
        return written

    desk.store.write_leases = write_leases_and_lose_the_answer
    assert desk.run(take(desk, ReplayRequest(**EVERYTHING, limit=1, to=to))) == ["evt_1"]
    assert desk.status().in_flight == desk.read(read_audit)[0].count == 1


def test_dead_letters_with_later_times_are_counted_and_taken_once(desk):
    async def fail(leases):
        await desk.store.begin(leases)
        await desk.store.record([desk.failed(lease, GiveUp("exhausted")) for lease in leases])
        desk.clock.advance(1)

    desk.bury(*(f"evt_{number:02}" for number in range(30)), apart=100)
    desk.clock.advance(-2_000)
    assert desk.run(plan(desk.store, ReplayRequest(**EVERYTHING))).selected == 30
    taken = desk.run(take(desk, ReplayRequest(**EVERYTHING), then=fail))
    assert taken == [f"evt_{number:02}" for number in range(30)]


@pytest.mark.parametrize("seconds", [50, 2_000])
def test_dead_letters_that_fail_again_after_a_set_back_during_a_replay_are_taken_once(
    desk, monkeypatch, seconds
):
    batches = []

    async def fail(leases):
        if not batches:
            desk.clock.advance(-seconds)
        batches.append(leases)
        await desk.store.begin(leases)
        await desk.store.record([desk.failed(lease, GiveUp("exhausted")) for lease in leases])
        desk.clock.advance(1)

    monkeypatch.setattr("resonant.dead_letters.replay._UNPACED_BATCH", 10)
    desk.bury(*(f"evt_{number:02}" for number in range(30)), apart=1)
    desk.clock.advance(100)
    taken = desk.run(take(desk, ReplayRequest(**EVERYTHING), then=fail))
    assert taken == [f"evt_{number:02}" for number in range(30)]


def test_an_empty_selection_is_refused_unless_everything_is_asked_for():
    assert ReplayRequest(**EVERYTHING).selection.is_empty
    with pytest.raises(EmptySelection, match="selection is empty"):
        ReplayRequest(Selection())


def test_a_plan_counts_the_dead_letters_to_take_and_to_skip_and_changes_nothing(desk):
    desk.bury("evt_1", "evt_2", "evt_3")
    desk.bury("evt_bad", **PERMANENT, apart=1)
    before = desk.status()
    found = desk.run(plan(desk.store, ReplayRequest(**EVERYTHING, limit=2)))
    assert (found.selected, found.permanent, found.beyond_limit) == (2, 1, 1)
    found = desk.run(plan(desk.store, ReplayRequest(**EVERYTHING, include_permanent=True)))
    assert (found.selected, found.permanent, found.beyond_limit) == (4, 0, 0)
    assert desk.status() == before


@pytest.mark.parametrize("include_permanent", [True, False])
def test_a_dead_letter_of_many_rounds_is_skipped_and_counted_unless_its_id_is_selected(
    desk, include_permanent
):
    desk.bury("evt_often", apart=1)
    for _ in range(2):
        [lease] = desk.replay().leases
        desk.fail(lease, GiveUp("exhausted"))
        desk.clock.advance(1)
    desk.bury("evt_once", apart=1)
    limited = {"max_rounds": 3, "include_permanent": include_permanent}
    found = desk.run(plan(desk.store, ReplayRequest(**EVERYTHING, **limited)))
    assert (found.selected, found.permanent, found.too_often) == (1, 0, 1)
    assert str(found) == "1 would be sent again; 1 skipped: 3 rounds or more"
    of_id = ReplayRequest(Selection(ids=("evt_often",)), **limited)
    assert desk.run(plan(desk.store, of_id)).selected == 1
    assert desk.run(plan(desk.store, ReplayRequest(**EVERYTHING, max_rounds=4))).selected == 2
    assert desk.run(plan(desk.store, ReplayRequest(**EVERYTHING, max_rounds=10**20))).selected == 2
    assert ids(desk.replay(**limited)) == ["evt_once"]
    assert ids(desk.replay(Selection(ids=("evt_often",)), **limited)) == ["evt_often"]


def test_every_selected_dead_letter_is_taken_once_up_to_the_limit(desk):
    desk.bury(*(f"evt_{number:03}" for number in range(50)))
    desk.clock.advance(1)
    taken = desk.run(take(desk, ReplayRequest(**EVERYTHING, limit=24)))
    assert taken == [f"evt_{number:03}" for number in range(24)]
    taken += desk.run(take(desk, ReplayRequest(**EVERYTHING)))
    assert taken == [f"evt_{number:03}" for number in range(50)]


def test_a_dead_letter_that_dies_again_is_not_taken_again(desk):
    batches = []

    async def fail(leases):
        batches.append(leases)
        await desk.store.begin(leases)
        await desk.store.record([desk.failed(lease, GiveUp("exhausted")) for lease in leases])
        desk.clock.advance(1)

    desk.bury(*(f"evt_{number}" for number in range(30)))
    desk.clock.advance(1)
    desk.run(take(desk, ReplayRequest(**EVERYTHING), then=fail))
    [entry] = desk.read(read_audit)
    assert entry.count == 30
    assert entry.ended_at is not None
    assert len(batches) == 2
    assert {dead_letter.replays for dead_letter in desk.run(desk.store.dead_letters())} == {1}
