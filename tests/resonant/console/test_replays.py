"""What cannot be undone is planned first, and changes only what existed then."""

import asyncio
import re
import socket

import pytest

from resonant import documents
from resonant.dead_letters import replay
from resonant.dead_letters.cancel import cancellable
from resonant.dead_letters.purge import Chosen, count_purge
from resonant.gate import pausing
from resonant.settings import Settings
from resonant.store import schema
from resonant.store.audit import begin_audit, read_audit
from resonant.store.views.selection import Selection
from resonant.testing import nobody_listening
from support.console import JSON, open_pages

PATHS = {"replay": "/dead-letters/replay", "purge": "/dead-letters/purge", "cancel": "/deliveries/cancel"}
ALL = "?everything=1"
PERMANENT = {"reason": "permanent", "category": "permanent", "code": "http_400"}
each_action = pytest.mark.parametrize("action", PATHS)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def pages(desk, settings):
    with open_pages(desk, settings=settings) as pages:
        yield pages


def settle(desk):
    """Wait for what runs in the background."""

    async def wait():
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.gather(*others, return_exceptions=True)

    desk.run(wait())


def planned(pages, action, query=ALL):
    return pages.json(PATHS[action] + query)["plan"]


def act(pages, action, plan, *, code=200):
    done = pages.post(PATHS[action], code=code, plan=plan)
    settle(pages.desk)
    return done


def fill(desk, action, *ids):
    """Store deliveries that the action selects."""
    desk.clock.advance(1)
    if action == "cancel":
        desk.enqueue(*ids, apart=1)
    else:
        desk.bury(*ids)
    desk.clock.advance(1)


def untouched(desk):
    """Return the events whose deliveries nothing has changed, and nothing has removed."""
    rows = desk.rows(schema.deliveries)
    return {row["event_id"] for row in rows if row["round"] == 1 and row["reason"] != "cancelled"}


@each_action
def test_an_action_changes_the_planned_deliveries(pages, desk, action):
    fill(desk, action, "evt_1", "evt_2")
    done = act(pages, action, planned(pages, action))
    assert not untouched(desk)
    [entry] = desk.read(read_audit)
    assert (entry.action, entry.count) == (action, 2)
    assert entry.who.endswith("in the console")
    assert entry.ended_at is not None
    shown = pages.json(f"/replays/{done['id']}")
    assert (shown["count"], shown["running"], shown["failure"]) == (2, False, None)
    assert "ended" in pages.html(f"/replays/{done['id']}")


@each_action
def test_deliveries_that_arrive_after_the_plan_are_unchanged(pages, desk, action):
    fill(desk, action, "evt_1")
    plan = planned(pages, action)
    fill(desk, action, "evt_2")
    act(pages, action, plan)
    assert untouched(desk) == {"evt_2"}


@each_action
def test_the_same_plan_does_not_act_twice(pages, desk, action):
    fill(desk, action, "evt_1")
    plan = planned(pages, action)
    first = act(pages, action, plan)
    fill(desk, action, "evt_2")
    assert act(pages, action, plan) == first
    assert untouched(desk) == {"evt_2"}


@pytest.mark.parametrize("action", ["replay", "purge"])
def test_a_plan_whose_counts_have_changed_is_refused_with_the_new_ones(pages, desk, action):
    fill(desk, action, "evt_1", "evt_2")
    plan = planned(pages, action)
    desk.replay(Selection(ids=("evt_1",)))
    problem = act(pages, action, plan, code=409)
    assert "nothing was done" in problem["detail"]
    assert " 1" in problem["detail"]
    assert untouched(desk) == {"evt_2"}
    assert desk.read(read_audit) == []


def test_a_cancellation_skips_deliveries_that_ended_since_its_plan(pages, desk):
    fill(desk, "cancel", "evt_1", "evt_2")
    plan = planned(pages, "cancel")
    desk.deliver(desk.claim_one())
    act(pages, "cancel", plan)
    assert [row["reason"] for row in desk.rows(schema.deliveries)] == [None, "cancelled"]


def test_a_cancellation_skips_deliveries_that_were_replayed_since_its_plan(pages, desk):
    desk.bury("evt_1")
    fill(desk, "cancel", "evt_2", "evt_3")
    plan = planned(pages, "cancel")
    desk.deliver(desk.claim_one())
    desk.clock.advance(1)
    desk.replay(Selection(ids=("evt_1",)))
    act(pages, "cancel", plan)
    assert [row["reason"] for row in desk.rows(schema.deliveries)] == [None, None, "cancelled"]


@each_action
def test_a_clock_that_was_set_back_ends_a_plan(pages, desk, action):
    fill(desk, action, "evt_1")
    plan = planned(pages, action)
    desk.clock.advance(-100)
    fill(desk, action, "evt_2")
    act(pages, action, plan, code=409)
    desk.clock.advance(200)
    assert untouched(desk) == {"evt_1", "evt_2"}


@each_action
def test_an_empty_selection_needs_everything_and_a_typo_is_refused(pages, desk, action):
    fill(desk, action, "evt_1")
    for query in ("", "?endpint=orders", "?endpoint=order", "?everything=no", "?code=http_999"):
        pages.json(PATHS[action] + query, code=422)


@each_action
def test_nothing_selected_has_no_plan_and_no_button(pages, desk, action):
    fill(desk, action, "evt_1")
    query = "?event_type=other.*"
    assert planned(pages, action, query) is None
    assert "<form" not in pages.html(PATHS[action] + query)
    act(pages, action, None, code=422)
    assert desk.read(read_audit) == []


@each_action
def test_a_form_posts_the_plan_and_leads_to_the_progress(pages, desk, action):
    fill(desk, action, "evt_1")
    answer = pages.submit(PATHS[action] + ALL, PATHS[action])
    settle(desk)
    assert answer.headers["location"].startswith("/replays/1?done=")
    assert not untouched(desk)


@each_action
def test_a_console_that_is_read_only_shows_no_button(desk, action):
    fill(desk, action, "evt_1")
    with open_pages(desk, read_only=True) as pages:
        assert "<button" not in pages.html(PATHS[action] + ALL)


def test_plans_are_the_dry_runs_of_the_commands(pages, desk):
    desk.bury("evt_1")
    desk.bury("evt_2", **PERMANENT)
    desk.enqueue("evt_3")
    request = replay.ReplayRequest(Selection(), everything=True)
    purge = desk.read(count_purge, Chosen(Selection()), now=desk.clock())
    commands = {
        "replay": documents.replay_plan(desk.run(replay.plan(desk.store, request))),
        "purge": documents.purged(purge),
        "cancel": documents.cancellable(desk.read(cancellable, Selection())),
    }
    for action, document in commands.items():
        shown = pages.json(PATHS[action] + ALL)
        assert shown.pop("plan")
        assert shown == document


def test_a_replay_puts_dead_letters_back_for_the_drains(pages, desk):
    fill(desk, "replay", "evt_1")
    fill(desk, "replay", "evt_2")
    done = act(pages, "replay", planned(pages, "replay"))
    assert (done["flow_run"], done["selected"]) == (None, 2)
    for row in desk.rows(schema.deliveries):
        assert (row["lease_owner"], row["sending"], row["available_at"]) == (None, False, desk.clock())
    assert [lease.round for lease in desk.claim()] == [2, 2]


def test_a_drain_may_send_released_deliveries_while_the_replay_continues(pages, desk, monkeypatch):
    monkeypatch.setattr("resonant.dead_letters.replay._UNPACED_BATCH", 1)
    fill(desk, "replay", "evt_1", "evt_2")
    write_leases, free = desk.store.write_leases, []

    async def look_and_write(*args, **options):
        claimed = await desk.store.claim("orders", owner="drain", limit=9)
        free.extend(lease.event.id for lease in claimed)
        return await write_leases(*args, **options)

    monkeypatch.setattr(desk.store, "write_leases", look_and_write)
    act(pages, "replay", planned(pages, "replay"))
    assert free == ["evt_1"], "before the second is taken"


def test_two_replays_at_once_take_each_dead_letter_once(pages, desk, monkeypatch):
    monkeypatch.setattr("resonant.dead_letters.replay._UNPACED_BATCH", 3)
    fill(desk, "replay", *(f"evt_{number}" for number in range(20)))
    plan = planned(pages, "replay")

    async def both():
        posts = [pages.http.post(PATHS["replay"], json={"plan": plan}, headers=JSON) for _ in range(2)]
        return await asyncio.gather(*posts)

    assert {each.status_code for each in desk.run(both())} <= {200, 409}
    settle(desk)
    assert {row["round"] for row in desk.rows(schema.deliveries)} == {2}
    assert sum(entry.count for entry in desk.read(read_audit)) == 20


def test_a_replay_never_takes_more_than_was_planned(pages, desk):
    fill(desk, "replay", "evt_1", "evt_2", "evt_3")
    act(pages, "replay", planned(pages, "replay", "?limit=2&endpoint=orders"))
    assert untouched(desk) == {"evt_3"}


def test_a_plan_that_is_posted_twice_at_once_acts_once(pages, desk):
    fill(desk, "replay", *(f"evt_{number}" for number in range(6)))
    plan = planned(pages, "replay", "?endpoint=orders&limit=2")

    async def both():
        posts = [pages.http.post(PATHS["replay"], json={"plan": plan}, headers=JSON) for _ in range(2)]
        return [answer.json() for answer in await asyncio.gather(*posts)]

    answers = desk.run(both())
    settle(desk)
    assert answers[0] == answers[1]
    assert len(untouched(desk)) == 4
    assert [entry.count for entry in desk.read(read_audit)] == [2]


def test_a_plan_names_permanent_failures_and_the_state_of_the_endpoint(pages, desk):
    fill(desk, "replay", "evt_1")
    desk.bury("evt_2", **PERMANENT)
    desk.run(pausing.pause(desk.store, "orders", who="Zoë"))
    page = pages.html(f"{PATHS['replay']}{ALL}&rate=5")
    for text in ("1 skipped because their failure was permanent", "orders is paused", "at most 5 per second"):
        assert text in page
    assert pages.json(f"{PATHS['replay']}{ALL}&include_permanent=1")["selected"] == 2


@pytest.mark.parametrize("rate", ["0", "fast", "nan", "20000"])
def test_an_impossible_rate_is_refused(pages, rate):
    pages.json(f"{PATHS['replay']}{ALL}&rate={rate}", code=422)


def test_one_event_is_replayed_or_sent_to_another_endpoint(pages, desk):
    desk.bury("evt_1", "evt_2", **PERMANENT)
    desk.enqueue("evt_3", endpoint="crm")
    desk.clock.advance(1)
    for query in ("?endpoint=orders&to=crm", "?endpoint=orders"):
        plan = pages.json(f"/events/%2Fshop/evt_1/replay{query}")["plan"]
        pages.post("/events/%2Fshop/evt_1/replay", plan=plan)
        settle(desk)
    assert untouched(desk) == {"evt_1", "evt_2", "evt_3"}  # evt_1 to crm is its first round there
    assert desk.delivery("evt_1").status == "retrying"
    assert desk.delivery("evt_1", "crm").status == "pending"
    pages.json("/events/%2Fshop/evt_9/replay", code=404)
    pages.json("/events/%2Fother/evt_1/replay", code=404)


def test_a_slow_replay_shows_its_progress_and_can_be_stopped(pages, desk):
    fill(desk, "replay", "evt_1", "evt_2")
    done = pages.post(PATHS["replay"], plan=planned(pages, "replay", f"{ALL}&rate=0.01"))
    progress = f"/replays/{done['id']}"
    assert pages.json(progress)["running"] is True
    assert "0 deliveries of 2, running" in pages.html(progress)
    pages.submit(progress, f"{progress}/cancel")
    shown = pages.json(progress)
    assert (shown["running"], shown["count"], bool(shown["ended_at"])) == (False, 0, True)
    assert untouched(desk) == {"evt_1", "evt_2"}
    assert [entry.action for entry in desk.read(read_audit)] == ["stop", "replay"]
    pages.post(f"{progress}/cancel", code=409)


def test_the_end_of_the_console_stops_running_operations(pages, desk):
    fill(desk, "replay", "evt_1")
    done = pages.post(PATHS["replay"], plan=planned(pages, "replay", f"{ALL}&rate=0.01"))
    desk.run(pages.console.plans.stop())
    assert pages.json(f"/replays/{done['id']}")["ended_at"]


def test_a_replay_that_was_killed_is_shown_as_not_ended(pages, desk):
    entry = {"at": desk.clock(), "who": "Zoë", "action": "replay", "selection": {}}
    audit_id = desk.write(begin_audit, **entry)
    assert "not ended" in pages.html(f"/replays/{audit_id}")
    for text in ("0", "99", "x", "9" * 30):
        pages.json(f"/replays/{text}", code=404)


def test_a_replay_is_put_back_if_prefect_does_not_answer(desk, settings, monkeypatch):
    fill(desk, "replay", "evt_1")
    with (
        nobody_listening() as url,
        open_pages(desk, settings=settings, find_ui=lambda: "http://127.0.0.1") as pages,
    ):
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        assert "A flow run of the deployment" in pages.html(PATHS["replay"] + ALL)
        answer = pages.submit(PATHS["replay"] + ALL, PATHS["replay"])
        settle(desk)
        said = pages.html(answer.headers["location"])
    assert re.search(r"put back, and drains send them, since the Prefect server at .* started no run", said)
    assert not untouched(desk)


@pytest.mark.parametrize(
    ("given", "is_put_back"), [("", True), ("&limit=2", True), ("&limit=1", False), ("&rate=5", False)]
)
def test_a_run_that_may_have_started_is_not_doubled(desk, settings, monkeypatch, given, is_put_back):
    monkeypatch.setattr("resonant.local.deployment_run._ANSWER_SECONDS", 0.2)
    fill(desk, "replay", "evt_1", "evt_2")
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        open_pages(desk, settings=settings, find_ui=lambda: "http://127.0.0.1") as pages,
    ):
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        plan = planned(pages, "replay", ALL + given)
        answer = pages.post(PATHS["replay"], plan=plan, code=200 if is_put_back else 503)
        settle(desk)
    assert ("a plan starts one run only" in str(answer)) != is_put_back
    assert bool(untouched(desk)) != is_put_back


def test_a_purge_writes_an_archive_unless_told_otherwise(pages, desk, settings):
    fill(desk, "purge", "evt_1")
    act(pages, "purge", planned(pages, "purge"))
    [archive] = settings.archive_folder.iterdir()
    assert desk.read(read_audit)[0].selection["archive"] == str(archive)
    fill(desk, "purge", "evt_2")
    act(pages, "purge", planned(pages, "purge", f"{ALL}&archive=0"))
    assert [*settings.archive_folder.iterdir()] == [archive]
    assert not desk.rows(schema.deliveries)


def test_an_archive_that_cannot_be_written_is_reported(pages, desk, settings):
    fill(desk, "purge", "evt_1")
    settings.archive_folder.write_text("a file")
    problem = act(pages, "purge", planned(pages, "purge"), code=422)
    assert "nothing was purged" in problem["detail"]
    assert untouched(desk) == {"evt_1"}
