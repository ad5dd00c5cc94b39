"""``resonant endpoint add --deployment`` and ``--prefect-event``, on a real Prefect server."""

import asyncio
import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from resonant.blocks import DeploymentEndpoint, PrefectEventEndpoint
from resonant.blocks.catalog import remove_endpoint, save_endpoints
from resonant.errors import UnknownEndpoint
from resonant.testing import full_accept_queue, nobody_listening
from support.deployments import Deployments
from support.waiting import wait_until

pytestmark = pytest.mark.engine

NUMBER = {"properties": {"number": {"type": "integer"}, "by": {"default": "us"}}, "required": ["number"]}


@pytest.fixture
def deployments(prefect_api, on_server):
    made = Deployments(prefect_api)
    with made.api:
        yield made


@pytest.fixture
def name(on_server):
    """The name of a new endpoint, without its block type."""
    name = f"cli-{uuid4().hex[:8]}"
    yield name
    for kind in ("deployment", "prefect-event"):
        with contextlib.suppress(UnknownEndpoint):
            asyncio.run(remove_endpoint(f"resonant-{kind}/{name}"))


def refusal(answer) -> str:
    [line] = answer.err.splitlines()
    return line.removeprefix("resonant: ")


def test_an_added_endpoint_is_listed_shown_tested_and_removed(endpoint, resonant, deployments, name):
    deployment, full = deployments.make(), f"resonant-deployment/{name}"
    answer = endpoint(
        "add", name, "--deployment", deployment, "--tag", "webhook", "--types", "com.github.*", "--rate", "5"
    )
    assert f"saved endpoint {full}" in answer.out.replace("\n", " ")
    shown = endpoint.show(full)
    assert (shown["deployment"], shown["tags"], shown["rate"]) == (deployment, ["webhook"], 5.0)
    assert (shown["problem"], shown["subscriptions"]) == (None, 1)
    assert f"deployment: {deployment}" in endpoint("show", full).out
    assert endpoint.listed()[full]["deployment"] == deployment
    tested = json.loads(endpoint.tested(full, "--json").out)
    assert (tested["result"], tested["status_code"]) == ("delivered", 201)
    [run] = deployments.runs(deployment)
    assert run["parameters"]["event"]["data"] == {"test": True}
    assert run["id"] in tested["excerpt"]
    assert "/runs/flow-run/" in endpoint.tested(full).out
    exported = endpoint("list", "--export").out
    assert f"- name: {name}\n  rate: 5.0\n  deployment: {deployment}\n" in exported
    assert f"removed endpoint {full} and 1 subscription" in endpoint("remove", full, "--yes").out


def test_an_event_that_is_emitted_twice_starts_a_run_that_detail_links_to(
    endpoint, resonant, deployments, name, prefect_api, tmp_path
):
    deployment, full = deployments.make(), f"resonant-deployment/{name}"
    endpoint("add", name, "--deployment", deployment)
    line = {"id": "push-1", "type": "com.github.push", "source": "/github", "data": {"ref": "main"}}
    (tmp_path / "events.jsonl").write_text(json.dumps(line))
    for _ in range(2):
        resonant.on_prefect("emit", str(tmp_path / "events.jsonl"), "--endpoint", full)
    [run] = deployments.runs(deployment)
    assert run["parameters"]["event"]["data"] == {"ref": "main"}
    shown = resonant.on_prefect("detail", "push-1").out
    assert f"{prefect_api.removesuffix('/api')}/runs/flow-run/{run['id']}" in "".join(shown.split())


def test_an_event_of_an_endpoint_that_waits_is_delivered_when_its_run_has_completed(
    endpoint, resonant, deployments, name, tmp_path
):
    deployment, full = deployments.make(), f"resonant-deployment/{name}"
    endpoint("add", name, "--deployment", deployment, "--wait", "--wait-at-most", "3600")
    shown = endpoint.show(full)
    assert (shown["wait"], shown["wait_at_most"]) == (True, 3600)
    endpoint.tested(full)
    deployment = deployments.make()
    endpoint("add", name, "--deployment", deployment, "--wait", "--overwrite")
    line = {"id": f"push-{name}", "type": "com.github.push", "source": "/github", "data": {}}
    (tmp_path / "events.jsonl").write_text(json.dumps(line))
    done: list[str] = []

    def complete() -> None:
        """Complete the run once the event has been looked at."""
        [run] = wait_until(lambda: deployments.runs(deployment))
        given = {"state": {"type": "COMPLETED"}, "force": True}
        done.append(run["id"])
        deployments.api.post(f"/flow_runs/{run['id']}/set_state", json=given)

    with ThreadPoolExecutor() as pool:
        completing = pool.submit(complete)
        resonant.on_prefect("emit", str(tmp_path / "events.jsonl"), "--endpoint", full)
        completing.result()
    detail = " ".join(resonant.on_prefect("detail", f"push-{name}").out.split())
    assert "transient run_unfinished, possibly processed, not counted in max_attempts" in detail
    assert detail.count(done[0]) >= 2
    assert "delivered, status 200" in detail


def test_an_endpoint_is_changed_by_adding_it_again(endpoint, deployments, name):
    deployment, other = deployments.make(), deployments.make(NUMBER)
    add = ("add", name, "--deployment")
    endpoint(*add, deployment)
    assert "exists" in refusal(endpoint(*add, other, code=1))
    endpoint(*add, other, "--parameter", "number=/data/number", "--overwrite")
    shown = endpoint.show(f"resonant-deployment/{name}")
    assert (shown["deployment"], shown["parameters"]) == (other, {"number": "/data/number"})
    for command in ("update", "rotate-secret"):
        options = ("--timeout", "3") if command == "update" else ()
        answer = endpoint(command, f"resonant-deployment/{name}", *options, code=2 if options else 1)
        assert ("--overwrite" if options else "is not a webhook endpoint") in refusal(answer)


@pytest.mark.parametrize("options", [("--deployment",), ("--prefect-event",)])
def test_adding_an_endpoint_again_keeps_its_own_server_and_key(
    endpoint, deployments, name, prefect_api, options
):
    if options == ("--deployment",):
        options, kind = (*options, deployments.make()), DeploymentEndpoint
        block = kind(deployment=options[1], api_url=prefect_api, api_key="a secret key", tags=["old"])
    else:
        kind = PrefectEventEndpoint
        block = kind(api_url=prefect_api, auth_string="user:a password")
    block.save(name)
    endpoint("add", name, *options, "--rate", "4", "--overwrite")
    changed = kind.load(name)
    assert (changed.api_url, changed.api_key, changed.auth_string) == (
        block.api_url,
        block.api_key,
        block.auth_string,
    )
    assert (changed.rate, getattr(changed, "tags", [])) == (4.0, [])


@pytest.mark.parametrize(
    ("schema", "options", "said"),
    [
        (NUMBER, (), "has no parameter 'event'"),
        (NUMBER, ("--parameter", "numbr=/data/n"), "has no parameter 'numbr': did you mean number?"),
        (NUMBER, ("--parameter", "by=/type"), "needs the parameter 'number'"),
        ({"properties": {"event": {}}}, ("--work-queue", "fast"), "has no work queue 'fast'"),
    ],
)
def test_what_does_not_fit_the_deployment_is_refused(endpoint, deployments, name, schema, options, said):
    deployment = deployments.make(schema)
    answer = endpoint("add", name, "--deployment", deployment, *options, code=1)
    assert said in refusal(answer)
    assert f"resonant-deployment/{name}" not in endpoint.listed()
    pool = deployments.read(deployment)["work_pool_name"]
    queues = deployments.api.post(f"/work_pools/{pool}/queues/filter", json={}).json()
    assert [each["name"] for each in queues] == ["default"]


def test_an_import_adds_changes_and_removes_an_endpoint(endpoint, deployments, name, tmp_path):
    deployment, full = deployments.make(), f"resonant-deployment/{name}"
    file = tmp_path / "f.yaml"

    def import_(text: str, *options: str, code: int = 0):
        file.write_text(text)
        return endpoint("import", str(file), *options, code=code)

    row = f"- {{name: {name}, deployment: {deployment}, subscriptions: [{{types: [com.github.*]}}]"
    assert f"deployment: {deployment}" in import_(f"{row}}}", "--dry-run").out.replace("\n", " ")
    assert full not in endpoint.listed()
    assert "1 added" in import_(f"{row}}}").out
    assert "1 unchanged" in import_(f"{row}}}").out
    assert "1 changed" in import_(f"{row}, tags: [webhook]}}").out
    shown = endpoint.show(full)
    assert (shown["deployment"], shown["tags"], shown["subscriptions"]) == (deployment, ["webhook"], 1)
    other = f"- {{name: {name}, deployment: {deployments.make(NUMBER)}}}"
    assert "has no parameter 'event'" in refusal(import_(other, code=1))
    assert endpoint.show(full)["deployment"] == deployment
    for _ in range(2):  # as --prune does, and after another command
        asyncio.run(save_endpoints({full: None}, lambda _: None))
    assert full not in endpoint.listed()


def test_an_unknown_deployment_is_refused(endpoint, name):
    answer = endpoint("add", name, "--deployment", "no-such-flow/main", code=1)
    assert "has no deployment no-such-flow/main" in refusal(answer)


def test_a_required_parameter_may_have_a_value_of_the_deployment(endpoint, deployments, name):
    deployment = deployments.make(NUMBER, parameters={"number": 3})
    endpoint("add", name, "--deployment", deployment, "--parameter", "by=/type")


def test_pauses_and_a_strategy_that_cancels_runs_are_warnings(endpoint, resonant, deployments, name):
    deployment = deployments.make(
        paused=True, concurrency_limit=1, concurrency_options={"collision_strategy": "CANCEL_NEW"}
    )
    pool = deployments.read(deployment)["work_pool_name"]
    deployments.api.patch(f"/work_pools/{pool}", json={"is_paused": True})
    deployments.api.patch(f"/work_pools/{pool}/queues/default", json={"is_paused": True})
    warnings = [
        f"deployment {deployment} is paused",
        f"deployment {deployment} cancels new runs",
        f"work pool {pool} is paused",
        "work queue default is paused",
    ]
    full = f"resonant-deployment/{name}"
    added = endpoint("add", name, "--deployment", deployment)
    for answer in (added, endpoint.tested(full), endpoint("show", full)):
        said = " ".join(answer.err.split())
        assert [each for each in warnings if each not in said] == []
    shown = endpoint.show(full)["warnings"]
    assert len(shown) == len(warnings)
    paused = [each for each in shown if "is paused" in each]
    assert resonant.json("status")["deployment_warnings"] == {full: paused}
    said = " ".join(resonant("status", "--endpoint", full).out.split())
    assert [each for each in paused if f"{full}: {each}" not in said] == []


@pytest.mark.parametrize(
    ("options", "warns"), [("--wait", True), ("--wait --wait-at-most 7200", False), ("", False)]
)
def test_a_wait_that_the_policy_ends_is_a_warning(endpoint, deployments, name, monkeypatch, options, warns):
    monkeypatch.setenv("RESONANT_POLICIES", '{"brief": {"max_age": "2h"}}')
    given = ["--deployment", deployments.make(), "--policy", "brief", *options.split()]
    said = " ".join(endpoint("add", name, *given).err.split())
    assert ("wait_at_most is 86400 s, but the max_age of its policy is 7200 s" in said) is warns


def test_a_work_queue_of_the_endpoint_is_the_one_that_status_looks_at(endpoint, resonant, deployments, name):
    deployment = deployments.make()
    queues = f"/work_pools/{deployments.read(deployment)['work_pool_name']}/queues"
    deployments.api.post(queues, json={"name": "fast", "is_paused": True})
    endpoint("add", name, "--deployment", deployment, "--work-queue", "fast")
    [[warning]] = resonant.json("status")["deployment_warnings"].values()
    assert warning.startswith("work queue fast is paused: runs wait until `prefect work-queue resume fast")


def test_status_and_show_say_that_the_deployment_is_gone(endpoint, resonant, deployments, name):
    deployment, full = deployments.make(), f"resonant-deployment/{name}"
    endpoint("add", name, "--deployment", deployment)
    assert resonant.json("status")["deployment_warnings"] == {}
    deployments.remove(deployment)
    assert f"has no deployment {deployment}" in resonant("status").out
    assert f"has no deployment {deployment}" in endpoint("show", full).err
    endpoint("remove", full, "--yes")
    assert resonant.json("status")["deployment_warnings"] == {}


@pytest.mark.parametrize("server", [nobody_listening, full_accept_queue])
def test_status_says_soon_and_in_one_line_that_prefect_does_not_answer(
    endpoint, resonant, deployments, name, monkeypatch, server
):
    endpoint("add", name, "--deployment", deployments.make())
    with server() as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        answer = resonant("status")
        assert resonant.json("status")["deployment_warnings"] is None
    assert answer.err == ""
    [line] = [each for each in answer.out.splitlines() if "Prefect" in each]
    assert line.startswith(f"cannot ask Prefect which deployments are paused: {url}: ")


def test_testing_an_endpoint_whose_deployment_is_gone_says_so(endpoint, deployments, name):
    deployment = deployments.make()
    endpoint("add", name, "--deployment", deployment)
    deployments.remove(deployment)
    answer = endpoint("test", f"resonant-deployment/{name}", code=1)
    assert f"has no deployment {deployment}" in refusal(answer)


def test_an_endpoint_of_prefect_events_makes_one_of_three_equal_events(
    endpoint, resonant, deployments, name, tmp_path
):
    full, source = f"resonant-prefect-event/{name}", f"/github/{name}"
    answer = endpoint("add", name, "--prefect-event", "--rate", "50", "--types", "com.github.*")
    assert f"saved endpoint {full}" in answer.out.replace("\n", " ")
    assert (endpoint.show(full)["rate"], endpoint.listed()[full]["type"]) == (50.0, "resonant-prefect-event")
    assert json.loads(endpoint.tested(full, "--json").out)["excerpt"].startswith("Prefect event ")
    line = {"id": "push-1", "type": "com.github.push", "source": source, "data": {"ref": "main"}}
    (tmp_path / "events.jsonl").write_text(json.dumps(line))
    for _ in range(3):
        resonant.on_prefect("emit", str(tmp_path / "events.jsonl"), "--endpoint", full)
    wanted = {"filter": {"resource": {"id": [f"resonant.source.{source}"]}}}
    [found] = wait_until(lambda: deployments.api.post("/events/filter", json=wanted).json()["events"])
    assert found["payload"]["data"] == {"ref": "main"}
    assert f"Prefect event {found['id']}" in resonant.on_prefect("detail", "push-1").out
    endpoint("add", name, "--prefect-event", "--timeout", "4", "--overwrite")
    assert endpoint.show(full)["timeout"] == 4
    refused = refusal(endpoint("update", full, "--timeout", "3", code=2))
    assert f"`resonant endpoint add {full} --prefect-event --overwrite`" in refused
    assert f"removed endpoint {full} and 1 subscription" in endpoint("remove", full, "--yes").out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("x", "https://a.example", "--prefect-event"), "--prefect-event cannot be combined with URL"),
        (("x", "--prefect-event", "--header", "A:b"), "--prefect-event cannot be combined with --header"),
        (("x", "--deployment", "a/b", "--wait-at-most", "5"), "--wait-at-most needs --wait"),
        (("x", "--deployment", "a/b", "--wait", "--wait-at-most", "0"), "--wait-at-most"),
        (("x", "--prefect-event", "--wait"), "--wait needs --deployment FLOW/DEPLOYMENT"),
        (("x", "--prefect-event", "--tag", "t"), "--tag needs --deployment FLOW/DEPLOYMENT"),
        (("x", "--prefect-event", "--deployment", "a/b"), "--deployment cannot be combined with"),
        (("resonant-deployment/x", "--prefect-event"), "without a block type"),
        (("x", "https://a.example", "--deployment", "a/b"), "--deployment cannot be combined with URL"),
        (("x", "--deployment", "a/b", "--header", "A:b"), "--deployment cannot be combined with --header"),
        (("x", "--deployment", "a/b", "--parameter", "n"), "--parameter 'n' must be NAME=POINTER"),
        (("x", "--deployment", "a/b", "--parameter", "n=data"), "--parameter 'n=data' must be NAME=POINTER"),
        (("x", "--deployment", "a/b", "--policy", "no"), "no"),
        (("x", "https://a.example", "--tag", "t"), "--tag needs --deployment FLOW/DEPLOYMENT"),
        (("file-endpoint/x", "--deployment", "a/b"), "file-endpoint/x"),
        (("x",), "give a URL, --deployment FLOW/DEPLOYMENT, or --prefect-event"),
        (("x", "--deployment", "b"), "--deployment: must be FLOW/DEPLOYMENT"),
    ],
)
def test_options_that_do_not_belong_together_are_misuse(endpoint, argv, said):
    assert said in refusal(endpoint("add", *argv, code=2))
