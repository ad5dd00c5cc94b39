"""Triage: dead letters with the same cause make one group."""

from resonant.dead_letters.advice import advise
from resonant.dead_letters.purge import Chosen
from resonant.dead_letters.triage import triage
from resonant.events import Event
from resonant.store.views.selection import Selection


def die(desk, *ids, event_type="order.paid", **options):
    """Give up events of this type, a second apart."""
    events = [desk.make(event_id, event_type=event_type) for event_id in ids]
    desk.bury(*events, apart=1, **{"maybe_processed": False, **options})


def test_errors_that_differ_only_by_ids_and_numbers_are_one_group(desk):
    start = desk.clock()
    for number, event_type in enumerate(["order.paid", "order.refunded", "order.paid"]):
        order = f"order 'o-{number}' (0198c0de-7000-7000-8000-00000000000{number})"
        answer = {"excerpt": f"answer {number}", "maybe_processed": number == 2}
        error = f"{order} not found after {number} ms"
        die(desk, f"evt_{number}", event_type=event_type, error=error, **answer)

    [group] = desk.read(triage)

    assert group.error == "order <text> (<uuid>) not found after <n> ms"
    assert (group.endpoint, group.code) == ("orders", "http_503")
    assert (group.reason, group.category) == ("exhausted", "transient")
    assert (group.count, group.first_at, group.last_at) == (3, start, start + 2)
    assert (group.example, group.answer, group.maybe_processed) == ("evt_2", "answer 2", True)
    cause = {"code": "http_503", "reason": "exhausted", "category": "transient"}
    assert group.advice == advise(**cause, endpoint="orders", maybe_processed=True)


def test_the_advice_names_the_source_of_an_example_only_if_another_one_has_its_id(desk):
    rejected = {"reason": "permanent", "category": "permanent", "code": "http_400"}
    desk.bury("evt_1", **rejected)
    assert "`resonant detail evt_1`" in desk.read(triage)[0].advice

    desk.enqueue(Event(id="evt_1", type="order.paid", source="/crm"))

    assert "`resonant detail evt_1 --source /shop`" in desk.read(triage)[0].advice


def test_another_endpoint_code_or_message_is_another_group_and_the_largest_is_first(desk):
    die(desk, "evt_1")
    die(desk, "evt_2", "evt_3", "evt_4", endpoint="crm")
    die(desk, "evt_5", "evt_6", code="http_500")
    die(desk, "evt_7", error="the endpoint is closed for 2 days")

    groups = desk.read(triage)

    assert [(group.count, group.endpoint, group.code) for group in groups] == [
        (3, "crm", "http_503"),
        (2, "orders", "http_500"),
        (1, "orders", "http_503"),
        (1, "orders", "http_503"),
    ]
    assert {group.example for group in groups} == {"evt_4", "evt_6", "evt_1", "evt_7"}
    assert groups[2].fingerprint < groups[3].fingerprint, "of equals, the order stays"


def test_only_the_selected_dead_letters_are_counted_shown_and_dated(desk):
    start = desk.clock()
    die(desk, "evt_1", error="no answer after 1 s")
    die(desk, "evt_2", error="no answer after 2 s")
    die(desk, "evt_3", endpoint="crm", event_type="user.created")
    for selection, groups in (
        ({"endpoint": "crm"}, {("evt_3", 1, 2, 2)}),
        ({"event_type": "order.*"}, {("evt_2", 2, 0, 1)}),
        ({"ids": ("evt_1", "evt_3")}, {("evt_1", 1, 0, 0), ("evt_3", 1, 2, 2)}),
        ({"since": start + 1}, {("evt_2", 1, 1, 1), ("evt_3", 1, 2, 2)}),
        ({"until": start + 1}, {("evt_1", 1, 0, 0)}),
        ({"text": "after 2 s"}, {("evt_2", 1, 1, 1)}),
        ({"code": "http_404"}, set()),
    ):
        found = desk.read(triage, Selection(**selection))
        shown = {(each.example, each.count, each.first_at - start, each.last_at - start) for each in found}
        assert shown == groups, selection


def test_a_group_of_several_reasons_shows_that_of_most_dead_letters_over_all_event_types(desk):
    # Four causes: one of two dead letters with one reason, and three of one dead letter each with the other.
    die(desk, "evt_1", "evt_2", reason="exhausted")
    for event_type in ("a", "b", "c"):
        die(desk, f"evt_{event_type}", event_type=event_type, reason="expired")

    [group] = desk.read(triage)

    assert (group.count, group.reason) == (5, "expired")
    assert group.advice == advise(code="http_503", reason="expired", category="transient", endpoint="orders")


def test_a_delivery_cancelled_after_an_attempt_is_in_the_group_of_its_failure(desk):
    die(desk, "evt_1", "evt_2")
    desk.enqueue("evt_3")
    desk.fail(desk.claim_one(), desk.park_for(100))
    desk.cancel(ids=("evt_3",))

    [group] = desk.read(triage)

    assert (group.count, group.reason) == (3, "exhausted")
    assert desk.read(triage, Selection(reason="cancelled"))[0].reason == "cancelled"


def test_replayed_and_purged_dead_letters_leave_their_group(desk):
    die(desk, "evt_1", "evt_2", "evt_3")
    [before] = desk.read(triage)
    desk.replay(Selection(ids=("evt_3",)))
    desk.purge(Chosen(Selection(ids=("evt_1",))))

    [after] = desk.read(triage)

    assert after.fingerprint == before.fingerprint
    assert (after.count, after.example) == (1, "evt_2")
    assert after.first_at == after.last_at
