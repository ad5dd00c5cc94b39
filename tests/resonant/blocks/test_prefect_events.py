"""An endpoint that is Prefect's events makes one Prefect event of each event, on a real Prefect server."""

import asyncio
import json
from uuid import uuid4

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from resonant.blocks import PrefectEventEndpoint
from resonant.blocks.prefect_events import event_id
from resonant.dead_letters.advice import advise
from resonant.events import Event
from resonant.testing import Receiver, nobody_listening, redirect, respond, retry_after
from support import block_attempts
from support.block_attempts import verdict
from support.deployments import Deployments
from support.prefect import patient_client
from support.waiting import wait_until

pytestmark = pytest.mark.engine

NAME = "resonant-prefect-event/automations"
HOSTILE = {
    "jinja": {"__prefect_kind": "jinja", "template": "{{ 6 * 7 }}"},
    "variable": {"__prefect_kind": "workspace_variable", "variable_name": "x"},
    "json": {"__prefect_kind": "json", "value": '{"a": 1}'},
    "text": "{{ prefect.variables.x }}",
    "$ref": {"block_document_id": str(uuid4())},
    "large": 10**400,
}


@pytest.fixture
def api(prefect_api):
    with patient_client(prefect_api) as client, temporary_settings({PREFECT_API_URL: prefect_api}):
        yield client


def event(data=None, **fields) -> Event:
    given = {"type": "order.paid", "source": f"/shop/{uuid4().hex}", "data": data} | fields
    return Event(**given)


async def attempt(given: Event, **fields):
    return await block_attempts.attempt(PrefectEventEndpoint(**fields), given, NAME)


def stored(api, given: Event) -> list[dict]:
    """Return the Prefect events of an event's source, once there is one; Prefect writes each after some seconds."""
    wanted = {"filter": {"resource": {"id": [f"resonant.source.{given.source}"]}}}
    return wait_until(lambda: api.post("/events/filter", json=wanted).json()["events"])


async def test_three_equal_events_are_one_prefect_event(api):
    """Also if Prefect has forgotten the first: it remembers the ids of the last 1,000 events."""
    given = event({"n": 1}, id="order-17", subject="shoes")
    first, second = [await attempt(given) for _ in range(2)]
    assert (first.result, first.status_code, second.result) == ("delivered", 204, "delivered")
    assert first.excerpt == second.excerpt == f"Prefect event {event_id(given)}"
    [found] = stored(api, given)
    others = [
        found | {"id": str(uuid4()), "resource": {"prefect.resource.id": "others"}} for _ in range(1_001)
    ]
    api.post("/events", json=others)
    await attempt(given)
    await attempt(event(source=given.source, id="later"))
    both = wait_until(lambda: len(found := stored(api, given)) > 1 and found)
    assert sorted(each["resource"]["resonant.event.id"] for each in both) == ["later", "order-17"]
    assert found["id"] == str(event_id(given))
    assert found["event"] == "order.paid"
    assert found["resource"] == {
        "prefect.resource.id": f"resonant.source.{given.source}",
        "resonant.event.id": "order-17",
        "resonant.event.source": given.source,
        "resonant.event.subject": "shoes",
        "resonant.event.type": "order.paid",
    }
    assert found["payload"]["data"] == {"n": 1}
    assert found["payload"]["source"] == given.source


def test_events_with_the_same_id_of_different_sources_are_different():
    same = event_id(event(source="/a", id="1"))
    assert same == event_id(event({"n": 2}, source="/a", id="1"))
    assert same not in {event_id(event(source="/b", id="1")), event_id(event(source="/a", id="2"))}


async def test_a_body_arrives_as_it_is(api):
    given = event(HOSTILE)
    assert (await attempt(given)).result == "delivered"
    [found] = stored(api, given)
    assert found["payload"]["data"] == HOSTILE


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("levels", [180, 189])
async def test_an_event_within_the_depth_that_prefect_keeps_is_stored(api, levels):
    given = event(json.loads(nested(levels)))
    assert (await attempt(given)).result == "delivered"
    assert len(stored(api, given)) == 1


async def test_the_largest_event_is_stored(api):
    given = Event.from_stored("1", "t", f"/shop/{uuid4().hex}", f'"{"é" * 749_000}"'.encode())
    assert (await attempt(given)).result == "delivered"
    assert len(stored(api, given)) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (nested(190), "more than 190 levels"),
        (nested(100_000), "recursion"),
        (json.dumps("x" * 1_500_000).encode(), "it keeps 1,499,000"),
        # Each number has 5 bytes here, and 18 in Prefect's text.
        (b"[" + b",".join([b"1e15"] * 100_000) + b"]", "it keeps 1,499,000"),
        (b'{"a\\u0000": 1}', "U+0000"),
        (b'["\\u0000"]', "U+0000"),
        (b'"\\ud800"', "cannot be a Prefect event"),
        (b"1e999", "cannot be a Prefect event"),
        (b"NaN", "cannot be a Prefect event"),
    ],
    ids=[
        "deep",
        "very deep",
        "large",
        "large numbers",
        "NUL in a key",
        "NUL",
        "surrogate",
        "infinite",
        "NaN",
    ],
)
async def test_an_event_that_prefect_would_acknowledge_and_lose_is_refused(body, said):
    refused = await attempt(Event.from_stored("1", "t", "/s", body), api_url="http://127.0.0.1:9/api")
    assert verdict(refused) == "permanent event_refused"
    assert refused.status_code is None
    assert said in refused.error


async def test_a_producer_cannot_forge_prefects_own_events(api):
    refused = await attempt(event(type="prefect.flow-run.Failed"))
    assert verdict(refused) == "permanent event_refused"
    given = event(source=f"prefect.flow-run.{uuid4()}")
    await attempt(given)
    [found] = stored(api, given)
    assert found["resource"]["prefect.resource.id"].startswith("resonant.source.prefect.flow-run.")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (respond(400), "permanent event_refused"),
        (respond(401), "permanent prefect_denied local"),
        (respond(404), "permanent event_refused"),
        (respond(200, body=b"<html>"), "permanent event_refused"),
        (redirect("/"), "permanent http_302"),
        (retry_after("40"), "transient throttled 40"),
        (respond(500), "transient http_500 sent"),
        (retry_after("7", 503), "transient http_503 7"),
    ],
)
async def test_each_failure_is_one_request_with_its_verdict(answer, expected):
    async with Receiver(answer) as server:
        made = await attempt(event(), api_url=f"{server.url}/api")
    assert len([each for each in server.journal if each.path == "/api/events"]) <= 1
    assert verdict(made) == expected


async def test_no_connection_is_transient():
    with nobody_listening() as url:
        made = await attempt(event(), api_url=f"{url}/api")
    assert verdict(made) == "transient connect_refused"


def test_the_dead_letter_names_the_next_step():
    line = advise(
        code="event_refused", reason="permanent", category="permanent", endpoint=NAME, event_id="e-1"
    )
    assert "`resonant detail e-1`" in line
    assert f"resonant replay --endpoint {NAME} --code event_refused --include-permanent" in line


async def test_an_automation_acts_once_on_three_equal_events(api, prefect_api):
    deployments = Deployments(prefect_api)
    deployment = deployments.make({"properties": {"ref": {}}})
    source = f"/shop/{uuid4().hex}"
    template = {"__prefect_kind": "jinja", "template": "{{ event.payload.data.ref }}"}
    run = {
        "type": "run-deployment",
        "source": "selected",
        "deployment_id": deployments.read(deployment)["id"],
        "parameters": {"ref": template},
    }
    trigger = {
        "type": "event",
        "posture": "Reactive",
        "expect": ["order.paid"],
        "match": {"prefect.resource.id": f"resonant.source.{source}"},
        "threshold": 1,
        "within": 0,
    }
    api.post("/automations/", json={"name": source, "trigger": trigger, "actions": [run]})

    def refs() -> list[str]:
        return [each["parameters"]["ref"] for each in deployments.runs(deployment)]

    # Prefect loads an automation after its answer, and can lose a run while its SQLite is busy.
    sent: list[str] = []
    while not set(sent) & set(refs()):
        sent.append(f"{{{{ {len(sent)} * 7 }}}}")
        given = event({"ref": sent[-1]}, source=source)
        for _ in range(3):
            assert (await attempt(given)).result == "delivered"
        await asyncio.sleep(0.5)
    while "last" not in refs():
        await attempt(event({"ref": "last"}, source=source))
        await asyncio.sleep(0.5)
    assert max(map(refs().count, sent)) == 1
