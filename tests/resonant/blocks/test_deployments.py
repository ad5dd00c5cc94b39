"""An endpoint that is a deployment starts one flow run for each event, on a real Prefect server."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from uuid import uuid4

import pytest
from prefect.settings import (
    PREFECT_API_KEY,
    PREFECT_API_URL,
    PREFECT_CLIENT_CUSTOM_HEADERS,
    temporary_settings,
)
from pydantic import SecretStr, ValidationError

from resonant.blocks import DeploymentEndpoint, load_endpoint
from resonant.blocks.catalog import remove_endpoint
from resonant.dead_letters.advice import advise
from resonant.errors import EndpointError
from resonant.events import Event
from resonant.sinks.base import TraceHeaders, attempt_trace
from resonant.testing import (
    Receiver,
    never_answer,
    nobody_listening,
    redirect,
    reset_before_response,
    respond,
    retry_after,
)
from support import block_attempts
from support.block_attempts import verdict
from support.deployments import Deployments, LossyRelay, endpoint_of

pytestmark = pytest.mark.engine

NAME = "resonant-deployment/retrain"
NUMBER = {"properties": {"number": {"type": "integer"}, "by": {"default": "us"}}, "required": ["number"]}
HOSTILE = [
    {"__prefect_kind": "jinja", "template": "{{ 6 * 7 }}"},
    {"__prefect_kind": "workspace_variable", "variable_name": "inert_secret"},
    {"__prefect_kind": "json", "value": '{"__prefect_kind": "jinja", "template": "{{ 6 * 7 }}"}'},
    {"__prefect_kind": "json"},
    {"__prefect_kind": "workspace_variable"},
    {"__prefect_kind": "none", "value": {"__prefect_kind": "jinja", "template": "{{ 6 * 7 }}"}},
    {"__prefect_kind": None, "value": 1},
    {"__prefect_kind": "unheard-of", "value": {"__prefect_kind": "none"}},
    "{{ 6 * 7 }}",
    "{{ prefect.variables.inert_secret }}",
    "{{ prefect.blocks.secret.inert }}",
]


@pytest.fixture
def deployments(prefect_api):
    made = Deployments(prefect_api)
    with made.api, temporary_settings({PREFECT_API_URL: prefect_api}):
        yield made


def event(data=None, **fields) -> Event:
    given = {"type": "order.paid", "source": "/shop", "data": data} | fields
    return Event(**given)


async def attempt(block, given: Event, name: str = NAME, *, destination=None):
    return await block_attempts.attempt(block, given, name, destination=destination)


async def test_an_event_sent_again_starts_no_second_run(deployments):
    """A process killed between Prefect's answer and the record of it sends again, from a new connection."""
    name = deployments.make()
    given = replace_webhook_id(event({"n": 1}), "evt-1")
    first, second = [await attempt(endpoint_of(name), given) for _ in range(2)]
    assert (first.result, first.status_code, second.result, second.status_code) == (
        "delivered",
        201,
        "delivered",
        200,
    )
    assert first.excerpt == second.excerpt
    [run] = deployments.runs(name)
    assert run["idempotency_key"] == f"{NAME}/evt-1"


def replace_webhook_id(given: Event, identity: str) -> Event:
    fields = {name: getattr(given, name) for name in Event.__dataclass_fields__}
    return Event.from_stored(**fields | {"webhook_id": identity})


async def test_a_lost_answer_is_retried_and_finds_the_run(deployments, prefect_api):
    name, given, relay = deployments.make(), event(), LossyRelay(prefect_api)
    async with Receiver(relay) as server:
        block = endpoint_of(name, api_url=f"{server.url}/api")
        first = await attempt(block, given)
        assert verdict(first) == "transient connection_reset sent"
        second = await attempt(block, given)
    assert (second.result, second.status_code) == ("delivered", 200)
    assert second.excerpt.startswith(f"flow run {relay.lost[0]}")
    assert [run["id"] for run in deployments.runs(name)] == relay.lost


async def test_repeats_at_the_same_time_start_one_run(deployments):
    name, given = deployments.make(), event()
    opened = endpoint_of(name).open(NAME)
    made = await asyncio.gather(*(attempt(None, given, destination=opened) for _ in range(10)))
    await opened.close()
    for each in made:  # SQLite allows one writer at a time
        assert each.result == "delivered" or verdict(each).startswith("transient http_5")
    assert len(deployments.runs(name)) == 1


def test_a_process_asks_for_one_run_at_a_time_by_default():
    """Prefect on SQLite refuses most of several at the same time, and creates fewer in all."""
    assert endpoint_of("flow/main").open(NAME).concurrency == 1
    assert endpoint_of("flow/main", concurrency=8).open(NAME).concurrency == 8


async def test_two_endpoints_of_one_flow_start_a_run_each(deployments):
    name, given = deployments.make(), event()
    await attempt(endpoint_of(name), given)
    await attempt(endpoint_of(name), given, "resonant-deployment/other")
    assert len(deployments.runs(name)) == 2


async def test_the_run_shows_the_event_and_continues_its_trace(deployments, prefect_api):
    name = deployments.make(tags=["of-deployment"])
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    given = event({"n": 1}, id="order-17", subject="shoes", extensions={"region": "eu"})
    token = attempt_trace.set(TraceHeaders(trace, None))
    try:
        made = await attempt(endpoint_of(name, tags=["webhook"]), given)
    finally:
        attempt_trace.reset(token)
    [run] = deployments.runs(name)
    assert (
        made.excerpt == f"flow run {run['id']}: {prefect_api.removesuffix('/api')}/runs/flow-run/{run['id']}"
    )
    assert run["name"] == "order-17"
    assert run["state"]["type"] == "SCHEDULED"
    assert run["next_scheduled_start_time"]  # otherwise no worker would start it
    assert set(run["tags"]) == {"of-deployment", "webhook"}
    wanted = {
        "resonant.endpoint": NAME,
        "resonant.event.id": "order-17",
        "resonant.event.source": "/shop",
        "resonant.event.type": "order.paid",
        "__OTEL_TRACEPARENT": trace,
    }
    assert wanted.items() <= run["labels"].items()
    [parameter] = run["parameters"].values()
    assert parameter == {
        "specversion": "1.0",
        "type": "order.paid",
        "source": "/shop",
        "id": "order-17",
        "subject": "shoes",
        "region": "eu",
        "datacontenttype": "application/json",
        "data": {"n": 1},
        **({"time": parameter["time"]} if "time" in parameter else {}),
    }


@pytest.mark.parametrize(
    ("data", "pointer", "found"),
    [
        ({"a": {"b": [1, {"c~/d": None}]}}, "/data/a/b/1/c~0~1d", None),
        ({"a": [10, 11]}, "/data/a/1", 11),
        ({"": {"é": 1.5}}, "/data//é", 1.5),
        ({"a": True}, "/data/a", True),
        ({"a": "text"}, "/data/a", "text"),
        ({}, "/type", "order.paid"),
    ],
)
async def test_a_parameter_is_the_value_that_its_pointer_points_to(deployments, data, pointer, found):
    name = deployments.make({"properties": {"value": {}}})
    assert (
        await attempt(endpoint_of(name, parameters={"value": pointer}), event(data))
    ).result == "delivered"
    [run] = deployments.runs(name)
    assert run["parameters"] == {"value": found}


async def test_a_missing_value_leaves_the_default_and_a_required_one_is_refused(deployments):
    name = deployments.make(NUMBER, parameters={"by": "default"})
    block = endpoint_of(name, parameters={"number": "/data/number", "by": "/data/by"})
    assert (await attempt(block, event({"number": 7}))).result == "delivered"
    assert deployments.runs(name)[0]["parameters"] == {"number": 7, "by": "default"}
    refused = await attempt(block, event({"by": "x"}))
    assert verdict(refused) == "permanent run_refused"
    assert refused.status_code == 409
    form = f"{deployments.api_url.removesuffix('/api')}/deployments/deployment/{deployments.read(name)['id']}/run"
    assert refused.error.endswith(f"'number' is a required property; start it by hand: {form}")


def nested(value: object, depth: int) -> object:
    for level in range(depth):
        value = {"deeper": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize("depth", [0, 1, 2, 7, 40])
async def test_nothing_in_a_body_is_rendered_or_read(deployments, depth):
    with contextlib.suppress(Exception):  # it exists after the first case
        deployments.api.post("/variables/", json={"name": "inert_secret", "value": "s3cret"})
    name = deployments.make({"properties": {"event": {}, "data": {}}})
    block = endpoint_of(name, parameters={"event": "", "data": "/data"})
    sent = {str(number): nested(hostile, depth) for number, hostile in enumerate(HOSTILE)}
    for number, data in sent.items():
        assert (await attempt(block, event(data, id=number))).result == "delivered"
    given = {run["name"]: run["parameters"] for run in deployments.runs(name)}
    assert {number: each["data"] for number, each in given.items()} == sent
    assert {number: each["event"]["data"] for number, each in given.items()} == sent


FLOW = """
import json
from prefect import flow

@flow
def record(event, text: str = ""):
    with open(r"{path}", "w") as file:
        json.dump([event, text], file)
"""


async def test_a_flow_gets_the_hostile_body_as_it_is(deployments, prefect_api, tmp_path):
    """Prefect's engine, too, renders and loads nothing."""
    (tmp_path / "flow_file.py").write_text(FLOW.format(path=tmp_path / "seen"))
    name = deployments.make(
        {"properties": {"event": {}, "text": {}}}, path=str(tmp_path), entrypoint="flow_file.py:record"
    )
    block = endpoint_of(name, parameters={"event": "/data", "text": "/id"})
    assert (await attempt(block, event(HOSTILE, id="e-1"))).result == "delivered"
    [run] = deployments.runs(name)
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", run["id"]]
    environment = os.environ | {"PREFECT_API_URL": prefect_api}
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (tmp_path / "seen").exists(), done.stdout + done.stderr
    assert json.loads((tmp_path / "seen").read_text()) == [HOSTILE, "e-1"]


@pytest.mark.parametrize("depth", [0, 1, 5])
async def test_a_reference_to_a_block_is_refused_unless_it_is_text(deployments, depth):
    """Prefect's engine loads the block that ``$ref`` names, from any depth of plain data."""
    data = nested({"$ref": {"block_document_id": str(uuid4())}}, depth)
    name = deployments.make()
    refused = await attempt(endpoint_of(name), event(data))
    assert verdict(refused) == "permanent run_refused"
    assert "$ref" in refused.error
    assert deployments.runs(name) == []
    assert (await attempt(endpoint_of(name, as_text=True), event(data))).result == "delivered"
    [run] = deployments.runs(name)
    assert json.loads(run["parameters"]["event"])["data"] == data


async def test_values_that_json_cannot_have_are_refused(deployments):
    given = Event.from_stored("1", "t", "/s", b"1e999")
    refused = await attempt(endpoint_of(deployments.make()), given)
    assert verdict(refused) == "permanent run_refused"
    assert refused.status_code is None


async def test_a_pointer_into_a_form_is_the_first_field_of_that_name(deployments):
    form = "command=%2Fdeploy&text=caf%C3%A9+now&text=again&empty="
    given = event(form, datacontenttype="application/x-www-form-urlencoded; charset=utf-8")
    pointers = {
        "text": "/data/text",
        "empty": "/data/empty",
        "no": "/data/none",
        "of": "/source",
        "all": "/data",
    }
    name = deployments.make({"properties": {each: {} for each in pointers}})
    await attempt(endpoint_of(name, parameters=pointers), given)
    [run] = deployments.runs(name)
    assert run["parameters"] == {"text": "caf\u00e9 now", "empty": "", "of": "/shop", "all": form}


async def test_an_event_with_a_form_that_cannot_be_parsed_is_refused(deployments):
    given = event("text=%FF", datacontenttype="application/x-www-form-urlencoded")
    made = await attempt(endpoint_of(deployments.make(), parameters={"event": "/data/text"}), given)
    assert verdict(made) == "permanent run_refused"
    assert "the body must be a form" in made.error
    # The whole event needs no parsing.
    assert (await attempt(endpoint_of(deployments.make()), given)).result == "delivered"


async def test_parameters_that_are_too_large_are_refused_with_prefects_reason(deployments):
    name = deployments.make()
    refused = await attempt(endpoint_of(name), event("x" * 600_000))
    assert verdict(refused) == "permanent run_refused"
    assert refused.error.endswith(f"/{deployments.read(name)['id']}/run")
    assert refused.status_code == 422
    assert "must be less than 524,288 bytes" in refused.error

    mapped = endpoint_of(name, parameters={"event": "/data/number"})
    assert (await attempt(mapped, event({"number": 7, "rest": "x" * 600_000}))).result == "delivered"


async def test_an_unknown_deployment_is_permanent_and_a_new_one_of_that_name_is_found(deployments):
    name = deployments.make()
    opened = endpoint_of(name).open(NAME)
    await attempt(None, event(), destination=opened)
    deployments.remove(name)
    missing = await attempt(None, event(), destination=opened)
    assert verdict(missing) == "permanent deployment_missing"
    assert missing.status_code == 404
    assert missing.error.endswith(f"has no deployment {name}: `prefect deployment ls` lists them")
    deployments.make(flow=name.partition("/")[0])
    assert (await attempt(None, event(), destination=opened)).result == "delivered"
    await opened.close()


@pytest.mark.parametrize("how", ["other schema", "no deployment"])
async def test_a_repeat_that_prefect_refuses_is_a_delivery_if_the_run_exists(deployments, how):
    name, given = deployments.make(), event()
    first = await attempt(endpoint_of(name), given)
    if how == "other schema":
        deployments.make(NUMBER, flow=name.partition("/")[0])
    else:
        deployments.start(name)  # Prefect removes waiting runs with their deployment
        deployments.remove(name)
    again = await attempt(endpoint_of(name), given)
    assert again.result == "delivered"
    assert again.excerpt == first.excerpt
    assert again.warning.startswith("the run existed; its repeat was refused: ")
    assert (await attempt(endpoint_of(name), event())).category == "permanent"


def script_of(answer):
    """Answer the look for the deployment, and the request for a run by this action; no run exists."""

    def script(request):
        if request.path.endswith("/create_flow_run"):
            return answer
        if request.path.endswith("/flow_runs/filter"):
            return respond(200, body=b"[]")
        named = "/deployments/name/" in request.path
        return respond(200, body=b'{"id": "4ba3e7bb-3b0e-4ac4-a6b8-3c7f3cc0d8a1"}') if named else respond(404)

    return script


@pytest.mark.parametrize(
    "all_requests", [True, False], ids=["looking for the deployment", "creating the run"]
)
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (respond(400, body=b'{"detail": "why"}'), "permanent run_refused"),
        (respond(401), "permanent prefect_denied local"),
        (respond(403), "permanent prefect_denied local"),
        (respond(404), "permanent deployment_missing"),
        (respond(200, body=b"<html>"), "permanent deployment_missing"),
        (redirect("/"), "permanent http_302"),
        (retry_after("40"), "transient throttled 40"),
        (respond(408), "transient http_408"),
        (respond(500), "transient http_500 sent"),
        (respond(502), "transient http_502 sent"),
        (respond(503, body=b"no backend"), "transient http_503"),
        (retry_after("70", 503), "transient http_503 70"),
        (reset_before_response(), "transient connection_reset sent"),
        (never_answer(), "transient read_timeout sent"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_each_failure_is_one_request_with_its_verdict(answer, expected, all_requests):
    brief = {"timeout": 1.5} if "read_timeout" in expected else {}
    async with Receiver(answer if all_requests else script_of(answer)) as server:
        made = await attempt(endpoint_of("flow/main", api_url=f"{server.url}/api", **brief), event())
    wanted = "/deployments/name/" if all_requests else "/create_flow_run"
    assert len([each for each in server.journal if wanted in each.path]) == 1
    assert verdict(made).replace(" timeout", " read_timeout") == expected
    assert made.duration < 40


async def test_a_request_is_repeated_while_the_database_of_prefect_is_locked():
    locked = respond(503, body=b'{"exception_message":"Service Unavailable"}')
    answers = iter([locked, locked, respond(201, body=b'{"id": "4ba3e7bb-3b0e-4ac4-a6b8-3c7f3cc0d8a1"}')])
    script = script_of(None)
    async with Receiver(lambda each: script(each) or next(answers)) as server:
        made = await attempt(endpoint_of("flow/main", api_url=f"{server.url}/api"), event())
    assert (made.result, made.status_code) == ("delivered", 201)
    keys = [json.loads(each.body)["idempotency_key"] for each in server.journal if "create" in each.path]
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_two_drains_at_once_start_each_run(deployments):
    name, events = deployments.make(), [Event(id=f"e-{n}", type="t", source="/s", data=n) for n in range(24)]

    async def drain(share: list[Event]) -> None:
        destination = endpoint_of(name).open(NAME)
        for each in share:
            await destination.sink.send(each)
        await destination.close()

    await asyncio.gather(drain(events[::2]), drain(events[1::2]))
    assert {each["name"] for each in deployments.runs(name)} == {each.id for each in events}


async def test_no_connection_is_transient():
    with nobody_listening() as url:
        made = await attempt(endpoint_of("flow/main", api_url=f"{url}/api"), event())
    assert verdict(made) == "transient connect_refused"


async def test_a_server_of_its_own_gets_only_the_secrets_of_the_block():
    settings = {
        PREFECT_API_KEY: "process-key",
        PREFECT_CLIENT_CUSTOM_HEADERS: {"x-access": "process-token"},
        PREFECT_API_URL: "http://127.0.0.1:9/api",
    }
    seen = []
    with temporary_settings(settings):
        for fields in ({}, {"api_key": SecretStr("own-key")}, {"auth_string": SecretStr("me:own")}):
            async with Receiver(respond(401, body=b"own-key me:own")) as server:
                made = await attempt(endpoint_of("flow/main", api_url=f"{server.url}/api", **fields), event())
                secret = next((each.get_secret_value() for each in fields.values()), "process")
                assert secret not in made.error
                seen.append({each.headers.get("authorization") for each in server.journal})
                assert "process" not in str([each.headers for each in server.journal])
    assert seen == [{None}, {"Bearer own-key"}, {"Basic bWU6b3du"}]


@pytest.mark.parametrize(
    "fields",
    [
        {"api_key": SecretStr("k")},
        {"api_url": "http://me:pass@host/api"},
        {"api_url": "host/api"},
        {"api_url": "ftp://host/api"},
    ],
)
def test_a_key_without_a_url_and_a_malformed_url_are_refused(fields):
    with pytest.raises(EndpointError) as error:
        endpoint_of("flow/main", **fields).open(NAME)
    assert "pass@" not in str(error.value)


@pytest.mark.parametrize(
    "fields", [{"deployment": "main"}, {"deployment": "a/b/c"}, {"parameters": {"a": "data"}}]
)
def test_malformed_names_and_pointers_are_refused(fields):
    with pytest.raises(ValidationError):
        DeploymentEndpoint(**{"deployment": "flow/main"} | fields)


async def test_a_saved_endpoint_delivers_without_the_store(deployments):
    name = deployments.make()
    await endpoint_of(name).asave("by-hand", overwrite=True)
    try:
        block = await load_endpoint("resonant-deployment/by-hand")
        receipt = await block.deliver(event())
        [run] = deployments.runs(name)
        assert run["id"] in receipt.excerpt
        assert run["idempotency_key"].startswith("resonant-deployment/by-hand/")
    finally:
        await remove_endpoint("resonant-deployment/by-hand")


@pytest.mark.parametrize("code", ["deployment_missing", "run_refused", "prefect_denied"])
def test_the_dead_letter_says_what_to_do(code):
    line = advise(code=code, reason="permanent", category="permanent", endpoint=NAME, event_id="e-1")
    assert "\n" not in line
    assert f"resonant replay --endpoint {NAME} --code {code} --include-permanent" in line


def test_a_process_without_such_an_endpoint_imports_nothing_for_it():
    code = "import sys, resonant.blocks; sys.exit('resonant.blocks.deployment_runs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
