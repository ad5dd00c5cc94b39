"""``subscription test``: who would get an event, and why the others would not."""

from __future__ import annotations

import json

import pytest

EVENT = {"type": "order.paid", "source": "/eu/shop", "id": "evt_1", "subject": "42", "data": {}}


@pytest.fixture
def subscribed(resonant, worker):
    """Endpoints with one subscription each, and their ids."""
    from resonant.store.views.known_names import remember_endpoints

    terms = {
        "audit": (),
        "crm": ("user.*",),
        "eu": ("order.*", "--source", "/eu/*", "--filter", '{"exact": {"subject": "42"}}'),
        "us": ("order.*", "--source", "/us/*"),
    }
    worker.do(lambda store: store.write(remember_endpoints, list(terms)))
    return {name: resonant.json("subscription", "add", name, *argv)["id"] for name, argv in terms.items()}


def test_it_names_the_endpoints_and_the_first_condition_that_is_false(resonant, subscribed, tmp_path):
    (tmp_path / "event.json").write_text(json.dumps(EVENT, indent=2))
    assert resonant("subscription", "test", "event.json").out.splitlines() == [
        "order.paid of /eu/shop goes to audit, eu",
        f"  audit  {subscribed['audit']}  matches",
        f"  crm  {subscribed['crm']}  no: type 'order.paid' does not match 'user.*'",
        f"  eu  {subscribed['eu']}  matches",
        f"  us  {subscribed['us']}  no: source '/eu/shop' does not match '/us/*'",
    ]
    assert resonant.json("status")["accepted"] == 0


def test_an_event_of_resonant_itself_can_be_tried(resonant, subscribed, tmp_path):
    (tmp_path / "event.json").write_text('{"type": "resonant.endpoint.paused", "source": "/resonant"}')
    found = resonant("subscription", "test", "event.json").out
    assert found.startswith("resonant.endpoint.paused of /resonant goes to audit\n")


def test_its_document_has_every_subscription(resonant, subscribed, tmp_path):
    (tmp_path / "event.json").write_text(json.dumps(EVENT | {"subject": "43"}))
    found = resonant.json("subscription", "test", "event.json")
    assert found["event"] == {"id": "evt_1", "source": "/eu/shop", "type": "order.paid"}
    assert found["endpoints"] == ["audit"]
    assert [each["matches"] for each in found["subscriptions"]] == [True, False, False, False]
    assert found["subscriptions"][2] == {
        "id": subscribed["eu"],
        "endpoint": "eu",
        "matches": False,
        "why_not": "subject '43' is not '42'",
    }


def test_without_a_match_it_says_how_to_subscribe_and_fails(resonant, tmp_path):
    (tmp_path / "event.json").write_text('{"source": "/s"}')
    assert resonant(
        "subscription", "test", "event.json", "--type", "order.paid", code=1
    ).out.splitlines() == [
        "order.paid of /s goes to no endpoint",
        "`resonant subscription add ENDPOINT order.paid` adds a subscription",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
        ('{"type": "t"}', "source is missing"),
        (
            '{"type": "t", "source": "/s"}\n{"type": "t", "source": "/s"}',
            "not JSON: Extra data at line 2, column 1",
        ),
    ],
)
def test_an_invalid_event_is_refused_in_the_words_of_enqueue(resonant, tmp_path, text, said):
    (tmp_path / "event.json").write_text(text)
    answer = resonant("subscription", "test", "event.json", code=1)
    assert (answer.out, answer.err) == ("", f"resonant: event.json: {said}\n")


def test_it_reads_standard_input(subscribed, resonant):
    done = resonant.program("subscription", "test", "-", "--json", input=json.dumps(EVENT))
    assert json.loads(done.stdout)["endpoints"] == ["audit", "eu"]
