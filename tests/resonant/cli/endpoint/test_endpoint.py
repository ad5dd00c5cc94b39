"""``resonant endpoint``, on a real Prefect server."""

import asyncio
import json
import os
import re
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import trustme
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate, BlockSchemaCreate
from pydantic import SecretStr

from resonant.blocks import WebhookEndpoint
from resonant.blocks.catalog import remove_endpoint, save_endpoints
from resonant.blocks.documents import endpoint_documents
from resonant.errors import EndpointError
from resonant.events import rfc3339
from resonant.store.shared.gates import KEPT_SECONDS, FailingType, Gate, GateChange, change_gate
from resonant.store.shared.run_watches import RunWatch, add_watch
from resonant.store.views.endpoint_problems import note_problems
from support.file_endpoint import FileEndpoint

pytestmark = pytest.mark.engine

NAMES = ("cli-broken", "cli-hooks", "file-endpoint/cli-log")
NEW = "cli-new"
MANY = ("cli-many-1", "cli-many-2", "cli-many-3")
URL = "https://hooks.example.com/in"
SECRET_URL = f"{URL}?key=t0ken"
PROBLEM = "endpoint 'cli-broken' is not configured completely: save it again"
IMPORT = ("import", "f.yaml")
UNCHANGED = "0 added, 0 changed, 0 removed, 2 unchanged\n"


@pytest.fixture
def endpoints(on_server, tmp_path):
    """An endpoint of each block type, and one that lost its URL; other tests have theirs on the same server."""

    async def save():
        webhook = WebhookEndpoint(url=SecretStr(SECRET_URL))
        await save_endpoints(dict.fromkeys(("cli-hooks", "cli-broken"), webhook), lambda _name: None)
        await FileEndpoint(path=tmp_path / "log").asave("cli-log")
        broken = (await endpoint_documents())["cli-broken"]
        async with get_client() as client:
            update = BlockDocumentUpdate(data={}, merge_existing_data=False)
            await client.update_block_document(broken.id, update)

    async def remove():
        documents = await endpoint_documents()
        async with get_client() as client:
            for name in documents.keys() & {*NAMES, NEW, *MANY}:
                await client.delete_block_document(documents[name].id)

    asyncio.run(save())
    yield
    asyncio.run(remove())


@pytest.fixture
def only_endpoints(endpoints, endpoint):
    """The endpoints alone: those of other tests may have a policy or a secret that is not set here."""
    for name in endpoint.listed():
        if name not in NAMES:
            asyncio.run(remove_endpoint(name))


@pytest.fixture
def oauth(tmp_path) -> tuple[str, ...]:
    """Options with a client's id and secret."""
    (tmp_path / "secret").write_text("oauth s3cret\n")
    return ("--oauth-client-id", "me", "--oauth-client-secret-file", "secret")


def rows(answer) -> list[str]:
    return [line for line in answer.out.splitlines() if "cli-" in line]


def declare(*names: str, **fields) -> None:
    """Write a file that declares these endpoints, with the same fields."""
    Path("f.yaml").write_text(json.dumps([{"name": name, "url": URL} | fields for name in names]))


def subscriptions(resonant):
    return [
        (each["endpoint"], each["types"], each["source"], each["filters"])
        for each in resonant.json("subscription", "list")
    ]


def test_the_list_has_endpoints_of_every_type_and_the_problem_of_a_broken_one(endpoint, endpoints):
    done = endpoint("list")

    header, *_ = done.out.splitlines()
    assert header.split() == ["NAME", "TO", "SIGNED", "SUBSCRIPTIONS", "STATE"]
    broken, hooks, log = rows(done)
    assert log.split()[:2] == ["file-endpoint/cli-log", "file-endpoint"]
    assert hooks.split() == ["cli-hooks", "https://hooks.example.com", "no", "0", "ok"]
    assert broken.split()[-3:] == ["cannot", "be", "used"]
    assert f"endpoint cli-broken cannot be used: {PROBLEM}\n" in done.err
    assert "t0ken" not in done.out + done.err
    found = endpoint.listed()
    assert found["cli-broken"] == {"name": "cli-broken", "problem": PROBLEM}
    assert (found["cli-hooks"]["type"], found["cli-hooks"]["url"]) == ("webhook-endpoint", "set")
    assert found["file-endpoint/cli-log"]["type"] == "file-endpoint"


def test_the_gate_of_an_endpoint_is_shown_in_text_and_as_json(resonant, endpoint, endpoints, worker):
    worker.accept("evt_1", "evt_2", endpoint="cli-hooks")
    shown = endpoint("show", "cli-hooks").out
    assert "\ngate: normal\n" in shown
    assert "next:" not in shown

    gate = resonant.json("endpoint", "pause", "cli-hooks", "--reason", "maintenance")["gate"]

    [line, *_] = [each for each in rows(endpoint("list")) if "paused" in each]
    assert line.split() == ["cli-hooks", "https://hooks.example.com", "no", "0", "paused"]
    shown = endpoint("show", "cli-hooks").out
    assert re.search(r"\ngate: paused for [^:]+ by .+: maintenance; 2 held\n", shown)
    assert shown.endswith("\nnext: `resonant endpoint resume cli-hooks` sends again\n")
    found = endpoint.show("cli-hooks")
    assert (found["gate"], found["held"], found["gone_since"]) == (gate, 2, None)
    listed = endpoint.listed()
    assert listed["cli-hooks"] | {"warnings": []} == found
    assert listed["file-endpoint/cli-log"]["gate"]["state"] == "normal"


def test_a_type_that_was_not_probed_for_an_hour_is_not_shown_as_failing(endpoint, endpoints, worker):
    now = worker.clock()
    bad = FailingType("bad", now - 60, "http 500", now + 60, now)
    forgotten = replace(bad, event_type="forgotten", tried_at=now - KEPT_SECONDS)
    change = GateChange(Gate("cli-hooks"), Gate("cli-hooks", failing=(forgotten, bad)))
    worker.do(lambda store: store.write(change_gate, change))

    for found in (endpoint.show("cli-hooks"), endpoint.listed()["cli-hooks"]):
        [shown] = found["gate"]["failing_types"]
        assert (shown["type"], shown["failure"]) == ("bad", "http 500")
    assert [each.endswith("  1 type fails") for each in rows(endpoint("list"))].count(True) == 1


def test_an_endpoint_says_why_its_deliveries_wait(endpoint, endpoints, worker):
    worker.accept("evt_1", endpoint="cli-hooks")
    reason = "no OAuth token: the server https://auth.example.com answered 503"
    worker.do(lambda store: store.write(note_problems, {"cli-hooks": reason}, now=worker.clock() - 6_000))
    gone = Gate("cli-hooks", "paused", since=worker.clock(), reason="it answered 410")
    worker.do(lambda store: store.write(change_gate, GateChange(Gate("cli-hooks"), gone)))

    shown = endpoint("show", "cli-hooks").out
    assert f"deliveries wait: {reason} (first seen 2 h ago)" in " ".join(shown.split())
    assert re.search(r"\ngate: paused for [^:]+: it answered 410; 1 held\n", shown)
    assert "gone_since" not in shown
    found = endpoint.show("cli-hooks")
    assert (found["problem"], found["oauth_authentication"]) == (reason, None)
    assert found["gone_since"] == rfc3339(worker.clock())


def test_a_short_signing_secret_is_refused_for_a_new_endpoint_and_shown_for_an_existing_one(
    endpoint, endpoints
):
    short = "whsec_c2hvcnQ="
    problem = "its signing secret has 5 bytes, not 24 to 64: "
    refused = endpoint("add", NEW, URL, "--secret-stdin", typed=short, code=1)
    remedy = "`(printf whsec_; openssl rand -base64 32)` makes a new one\n"
    assert refused.err == f"resonant: endpoint 'cli-new': {problem}{remedy}"
    block = WebhookEndpoint(url=SecretStr(URL), signing_secret=SecretStr(short))
    asyncio.run(block.asave("cli-hooks", overwrite=True))
    assert f"endpoint cli-hooks: {problem}" in endpoint("show", "cli-hooks").err


def test_a_proxy_and_a_client_certificate_are_shown_without_their_secrets(endpoint, endpoints, tmp_path):
    end = datetime(2040, 1, 1, tzinfo=UTC)
    issued = trustme.CA().issue_cert("shop.example", common_name="shop\x1b[31m", not_after=end)
    (tmp_path / "key").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "chain").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "proxy").write_text("http://me:s3cret@proxy.example:3128\n")
    endpoint("add", NEW, URL, "--proxy", "@proxy", "--client-cert", "chain", "--client-key", "key")

    text = endpoint("show", NEW).out
    assert "\nproxy: http://proxy.example:3128\n" in text
    assert "\nclient_certificate: CN=shop\\x1b[31m,OU=" in text
    assert "\nclient_certificate_until: 2040-01-01T00:00:00.000Z\n" in text
    assert "\nclient_key: set\n" in text
    assert "s3cret" not in text + str(endpoint.show(NEW))

    assert "its proxy, its client certificate" in endpoint("update", NEW, "--timeout", "3").out
    endpoint("update", NEW, "--proxy", "none", "--clear", "client-cert")
    found = endpoint.show(NEW)
    assert (found["proxy"], found["client_certificate"], found["client_key"]) == ("none", None, None)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("--proxy proxy.example:3128", "its proxy must be http:// or https://, a host and a port"),
        ("--client-cert /absent --client-key /absent", "--client-cert /absent: No such file"),
        ("--proxy=", "--proxy is empty"),
        ("--proxy @/dev/null", "--proxy @/dev/null is empty"),
        ("--client-cert /dev/null", "--client-cert /dev/null is empty"),
        ("--oauth-client-secret-file /dev/null", "--oauth-client-secret-file /dev/null is empty"),
        (f"--client-cert {__file__}", "its client certificate is not PEM"),
        ("--ca-file /absent", "--ca-file /absent: No such file or directory\n"),
        ("--ca-file /", "--ca-file /: Is a directory\n"),
        ("--ca-file /dev/null", "--ca-file /dev/null: no certificates in PEM\n"),
        (f"--ca-file {__file__}", f"--ca-file {__file__}: no certificates in PEM\n"),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_refused_without_a_server(resonant, option, problem):
    assert problem in resonant("endpoint", "add", NEW, URL, *option.split(), code=2).err


def test_the_path_of_certificates_is_saved_so_that_processes_in_other_folders_find_them(
    endpoint, endpoints, tmp_path, monkeypatch
):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.chdir(tmp_path)
    endpoint("add", NEW, URL, "--ca-file", "ca.pem")
    assert endpoint.show(NEW)["ca_file"] == str(tmp_path / "ca.pem")

    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert "--ca-file ca.pem: No such file" in endpoint("update", NEW, "--ca-file", "ca.pem", code=2).err
    assert endpoint.show(NEW)["ca_file"] == str(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path("other.pem")
    endpoint("update", NEW, "--ca-file", "other.pem")
    assert endpoint.show(NEW)["ca_file"] == str(tmp_path / "below" / "other.pem")


def test_the_mode_can_be_changed_and_the_audit_names_settings_without_values(resonant, endpoint, endpoints):
    declare(NEW, url=SECRET_URL, timeout=7)
    endpoint("add", NEW, SECRET_URL)
    assert endpoint.show(NEW)["mode"] == "binary"
    endpoint("update", NEW, "--timeout", "5", "--header", "x-key: t0ken", "--mode", "structured")
    assert endpoint.show(NEW)["mode"] == "structured"
    assert "'batch'" in endpoint("update", NEW, "--mode", "batch", code=2).err
    for _ in range(2):
        endpoint(*IMPORT)
    endpoint("remove", NEW, "--yes")

    entries = resonant.json("audit")

    assert [(each["action"], each["selection"]) for each in reversed(entries)] == [
        ("endpoint add", {"endpoint": NEW}),
        ("endpoint update", {"endpoint": NEW, "settings": ["headers", "mode", "timeout"]}),
        ("endpoint import", {"added": [], "changed": [NEW], "removed": []}),
        ("endpoint remove", {"endpoint": NEW}),
    ]
    assert all(each["who"].endswith("on the command line") for each in entries)


def test_removing_a_broken_endpoint_keeps_the_others(endpoint, endpoints, monkeypatch):
    assert endpoint("remove", "cli-broken", "--yes").out == "removed endpoint cli-broken\n"
    again = endpoint("remove", "cli-broken", "--yes", code=2)
    assert "no endpoint is named 'cli-broken'" in again.err
    monkeypatch.setattr("resonant.cli.asking.can_ask", lambda: True)
    unknown = endpoint("remove", "cli-hoks", code=2).err
    assert unknown.startswith("resonant: no endpoint is named 'cli-hoks': did you mean cli-hooks")
    assert endpoint.listed().keys() & set(NAMES) == {"cli-hooks", "file-endpoint/cli-log"}


def test_an_import_saves_the_differences_and_a_second_import_saves_nothing(endpoint, only_endpoints):
    listed = endpoint("list", "--export", "--with-urls")
    assert "endpoint cli-broken is not exported" in listed.err
    Path("f.yaml").write_text(listed.out)
    same = endpoint.json(*IMPORT, "--dry-run")
    assert same["unchanged"] == ["cli-hooks"]
    assert (same["added"], same["removed"], same["changed"]) == ([], [], {})

    declare("cli-hooks", "cli-broken", timeout=30)
    counts = "0 added, 2 changed, 0 removed, 0 unchanged\n"
    assert endpoint(*IMPORT, "--dry-run").out.endswith(f"would be: {counts}")
    changes = f"~ cli-hooks  timeout 15.0 → 30.0; url changed\n~ cli-broken\n{counts}"
    assert [endpoint(*IMPORT).out for _ in range(2)] == [changes, UNCHANGED]

    every = endpoint("list", "--export", "--with-urls").out
    Path("f.yaml").write_text(every.replace("- name: cli-broken", f"- name: {NEW}"))
    refused = endpoint(*IMPORT, "--prune", code=2)
    assert "--prune would remove 1 endpoint (cli-broken): give --yes" in refused.err
    pruned = endpoint(*IMPORT, "--prune", "--yes").out
    assert pruned.startswith(f"+ {NEW}\n- cli-broken\n1 added, 0 changed, 1 removed, ")
    assert endpoint.listed().keys() == {"cli-hooks", NEW, "file-endpoint/cli-log"}


def test_a_dry_run_shows_the_url_and_each_reference_but_no_value(
    endpoint, only_endpoints, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEW_URL", "https://hooks.example.com/t0ken")
    (tmp_path / "key").write_text("t0ken")
    declare(NEW, url="env:NEW_URL", headers={"authorization": "file:key", "x-team": "shop"}, proxy="none")

    foreseen = endpoint(*IMPORT, "--dry-run").out
    document = endpoint.json(*IMPORT, "--dry-run")

    shown = {"header authorization": "file:key", "url": "env:NEW_URL", "proxy": "none"}
    assert foreseen.splitlines()[:4] == [f"+ {NEW}", *(f"    {key}: {value}" for key, value in shown.items())]
    assert document["references"] == {NEW: shown}
    assert "t0ken" not in foreseen + str(document)


@pytest.mark.parametrize("fields", [{"url": None}, {"url": "file:/etc/hostname"}], ids=["no URL", "a file"])
def test_a_mistake_in_a_file_is_reported_without_a_server(resonant, monkeypatch, fields):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    declare("shop", **fields)
    assert "'shop': " in resonant("endpoint", *IMPORT, code=2).err


def test_an_import_that_was_killed_is_completed_by_the_next(
    resonant, endpoint, only_endpoints, worker, monkeypatch
):
    endpoint("list")  # the store gets their names
    resonant("subscription", "add", "cli-broken", "order.*")
    worker.do(lambda store: store.write(add_watch, RunWatch("cli-broken"), who="a test", now=worker.clock()))
    declare(NEW)

    async def remove_then_die(_blocks, _on_saved):
        await remove_endpoint("cli-broken")
        raise EndpointError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("resonant.blocks.catalog.save_endpoints", remove_then_die)
        endpoint(*IMPORT, "--prune", "--yes", code=1)
    assert endpoint(*IMPORT, "--prune", "--yes").out.startswith(f"+ {NEW}\n- cli-hooks\n1 added, ")
    assert subscriptions(resonant) == resonant.json("automation", "list", "--all-servers") == []


def test_an_import_reads_and_writes_only_the_endpoints_that_change_one_after_another(
    endpoint, only_endpoints, monkeypatch
):
    """Prefect's server refuses simultaneous writes to SQLite, and its client then waits for seconds."""
    read, written, sending, most = [], set(), [], []
    send = httpx.AsyncHTTPTransport.handle_async_request

    async def record(transport, request):
        if request.url.path.endswith("/filter"):
            read.append(json.loads(request.content).get("block_documents"))
        if request.method == "GET" or request.url.path.endswith("/filter"):
            return await send(transport, request)
        if "/block_documents/" in request.url.path:
            written.add((request.method, request.url.path))  # Prefect's client may repeat it
        sending.append(request)
        most.append(len(sending))
        try:
            return await send(transport, request)
        finally:
            sending.remove(request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", record)
    declare("cli-hooks", "cli-broken", *MANY, timeout=15)
    endpoint(*IMPORT)
    assert max(most) == 1
    read.clear()
    written.clear()

    assert endpoint(*IMPORT).out == "0 added, 0 changed, 0 removed, 5 unchanged\n"
    assert [names for names in read if names] == []
    assert written == set()
    file = Path("f.yaml")
    file.write_text(file.read_text().replace('"timeout": 15', '"timeout": 16', 1))
    assert endpoint(*IMPORT).out.endswith("\n0 added, 1 changed, 0 removed, 4 unchanged\n")
    assert [names for names in read if names] == [{"name": {"any_": ["cli-hooks"]}}]
    assert [method for method, _ in written] == ["PATCH"]

    declare("cli-hooks", timeout=16)
    pruned = endpoint(*IMPORT, "--prune", "--yes").out
    assert pruned.endswith("\n0 added, 0 changed, 4 removed, 1 unchanged\n")
    assert max(most) == 1
    assert endpoint.listed().keys() == {"cli-hooks", "file-endpoint/cli-log"}


def test_ctrl_c_says_how_many_endpoints_an_import_saved_and_the_next_saves_the_others(
    resonant, endpoint, only_endpoints, monkeypatch
):
    declare("cli-hooks", "cli-broken", NEW)

    async def stop_after_two(blocks, on_saved):
        def count(name):
            on_saved(name)
            if name == "cli-broken":
                os.kill(os.getpid(), signal.SIGINT)

        await save_endpoints(blocks, count)

    with monkeypatch.context() as patch:
        patch.setattr("resonant.blocks.catalog.save_endpoints", stop_after_two)
        stopped = endpoint(*IMPORT, code=130)
    assert "interrupted after 2 of 3 endpoints; run the same import again for the others" in stopped.err
    recorded = {"added": [], "changed": ["cli-hooks", "cli-broken"], "removed": []}
    assert resonant.json("audit")[0]["selection"] == recorded
    assert endpoint(*IMPORT).out.endswith("1 added, 0 changed, 0 removed, 2 unchanged\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {name: cli-a, url: 'https://a.example'}\n- {name: cli-b}\n", "its url"),
        ("", "--prune would remove every endpoint"),
    ],
    ids=["a mistake", "no endpoints"],
)
def test_a_file_with_a_mistake_or_without_endpoints_saves_nothing(endpoint, tmp_path, text, said):
    (tmp_path / "f.yaml").write_text(text)
    assert said in endpoint(*IMPORT, "--prune", code=2).err
    assert "cli-a" not in endpoint.listed()


def test_a_saved_endpoint_has_no_recorded_problem_so_that_drains_try_it_at_once(
    resonant, endpoint, endpoints, worker
):
    declare(NEW, timeout=9)
    worker.accept("evt_1", endpoint=NEW)
    for command in (("add", NEW, URL), ("update", NEW, "--timeout", "5"), IMPORT):
        worker.do(lambda store: store.write(note_problems, {NEW: "no such block"}, now=1.0))
        assert len(resonant.json("status")["endpoint_problems"]) == 1
        endpoint(*command)
        assert resonant.json("status")["endpoint_problems"] == []


def test_types_subscribe_a_new_or_an_existing_endpoint(resonant, endpoint, endpoints):
    subscribed = f"{NEW} gets events of type a.b or c or order.*\n"
    added = endpoint("add", NEW, URL, "--types", "order.*, a.b", "--types", "c").out
    saved = f"saved endpoint {NEW}; `resonant endpoint test {NEW}` sends it a test event\n"
    assert added == saved + subscribed
    again = endpoint("add", NEW, URL, "--overwrite", "--types", "order.*,a.b,c")
    assert again.out.endswith(subscribed)
    assert subscriptions(resonant) == [(NEW, ["a.b", "c", "order.*"], None, [])]
    refused = endpoint("add", NEW, URL, "--types", "a,,b", code=2)
    assert refused.err == "resonant: --types: a glob of types must have 1 to 255 characters, not 0\n"


def test_the_subscriptions_of_an_endpoint_are_counted_and_go_with_it(resonant, endpoint, endpoints):
    endpoint("list")  # the store gets their names
    for argv in (("cli-hooks", "order.*"), ("cli-hooks", "invoice.*"), ("file-endpoint/cli-log", "*")):
        resonant("subscription", "add", *argv)
    [hooks] = [each for each in rows(endpoint("list")) if "hooks." in each]
    assert hooks.split() == ["cli-hooks", "https://hooks.example.com", "no", "2", "ok"]
    assert "\nsubscriptions: 2\n" in endpoint("show", "cli-hooks").out
    assert endpoint.show("cli-hooks")["subscriptions"] == 2

    removed = endpoint("remove", "cli-hooks", "--yes").out
    assert removed == "removed endpoint cli-hooks and 2 subscriptions\n"
    assert subscriptions(resonant) == [("file-endpoint/cli-log", ["*"], None, [])]


def test_an_import_replaces_the_subscriptions_of_endpoints_that_declare_some(
    resonant, endpoint, only_endpoints, tmp_path
):
    endpoint("list")
    for name in ("cli-hooks", "cli-broken"):
        resonant("subscription", "add", name, "order.*")
    file = tmp_path / "f.yaml"
    file.write_text(
        f"- {{name: cli-broken, url: {URL!r}}}\n"
        f"- name: cli-hooks\n  url: {URL!r}\n  subscriptions:\n"
        "  - {types: [invoice.*], source: /eu/*, filters: [{exact: {vip: 'true'}}]}\n  - {types: a}\n  - {types: [a]}\n"
    )
    foreseen = endpoint(*IMPORT, "--dry-run").out
    assert "~ cli-hooks  url changed; subscriptions 2 added, 1 removed\n" in foreseen
    endpoint(*IMPORT)
    declared = [
        ("cli-broken", ["order.*"], None, []),
        ("cli-hooks", ["a"], None, []),
        ("cli-hooks", ["invoice.*"], "/eu/*", [{"exact": {"vip": "true"}}]),
    ]
    assert sorted(subscriptions(resonant), key=lambda each: each[:2]) == declared

    file.write_text(endpoint("list", "--export", "--with-urls").out)
    assert endpoint(*IMPORT).out == UNCHANGED
    declare("cli-hooks", subscriptions=[])
    emptied = endpoint(*IMPORT, "--prune", "--yes").out
    assert emptied.startswith("~ cli-hooks  subscriptions 2 removed\n- cli-broken\n")
    assert subscriptions(resonant) == []


def test_oauth_settings_are_saved_shown_without_the_secret_and_cleared(endpoint, endpoints, oauth):
    token_url = ("--oauth-token-url", "https://auth.example.com/token")
    options = (*token_url, *oauth, "--oauth-scope", "a b")
    incomplete = endpoint("add", NEW, URL, *token_url, *oauth[:2], code=1)
    assert "its OAuth settings need a token URL, a client id and a client secret" in incomplete.err
    both = endpoint("add", NEW, URL, *options, "--header", "Authorization:x", code=2)
    assert "it has OAuth settings, and also an Authorization header" in both.err
    endpoint("add", NEW, URL, *options)
    shown = endpoint.show(NEW)
    assert "s3cret" not in str(shown)
    assert {key: value for key, value in shown.items() if key.startswith("oauth_")} == {
        "oauth_token_url": "https://auth.example.com/token",
        "oauth_client_id": "me",
        "oauth_client_secret": "set",
        "oauth_scope": "a b",
        "oauth_audience": None,
        "oauth_authentication": "basic",
    }
    secret = "oauth_client_secret: env:ENDPOINT_CLI_NEW__OAUTH_CLIENT_SECRET"
    assert secret in endpoint("list", "--export").out
    assert "its OAuth settings" in endpoint("update", NEW, "--oauth-authentication", "body").out
    endpoint("update", NEW, "--clear", "oauth")
    assert endpoint.show(NEW)["oauth_token_url"] is None


async def read_without_secrets():
    async with get_client() as client:
        read = client.read_block_document_by_name(NEW, "webhook-endpoint", include_secrets=False)
        return (await read).data


def test_the_query_of_a_token_url_is_stored_as_a_secret_and_not_shown(endpoint, endpoints, oauth, tmp_path):
    (tmp_path / "url").write_text("https://auth.example.com/token?key=qu3ry\n")
    said = [endpoint("add", NEW, URL, *oauth, "--oauth-token-url", "@url"), endpoint("show", NEW)]
    shown, exported = endpoint.show(NEW), endpoint("list", "--export").out
    assert shown["oauth_token_url"] == "https://auth.example.com/token?***"
    assert "oauth_token_url: env:ENDPOINT_CLI_NEW__OAUTH_TOKEN_URL" in exported
    assert "qu3ry" not in f"{said} {shown} {exported}"
    saved = asyncio.run(read_without_secrets())
    assert saved["oauth_client_id"] == "me"
    assert "qu3ry" not in str(saved)


@pytest.fixture
def old_schema(endpoints):
    """The block schema of before, when token URLs were not secret; imports use the newest, so it is removed."""
    fields = WebhookEndpoint.model_json_schema()
    fields["properties"]["oauth_token_url"] = {"type": "string", "title": "Token URL"}
    fields["secret_fields"] = [each for each in fields["secret_fields"] if each != "oauth_token_url"]

    async def create():
        async with get_client() as client:
            block_type = await client.read_block_type_by_slug("webhook-endpoint")
            new = BlockSchemaCreate(fields=fields, block_type_id=block_type.id, capabilities=[])
            return await client.create_block_schema(new)

    async def remove():
        async with get_client() as client:
            await client.request("DELETE", f"/block_schemas/{schema.id}")

    schema = asyncio.run(create())
    yield schema
    asyncio.run(remove())


def test_an_update_hides_the_token_url_that_was_saved_before_such_urls_were_secrets(
    endpoint, old_schema, tmp_path
):
    url = "https://auth.example.com/token?key=qu3ry"
    (tmp_path / "url").write_text(url)
    data = {"url": URL, "oauth_client_secret": "s3cret", "oauth_token_url": url, "oauth_client_id": "me"}
    of_schema = {"block_schema_id": old_schema.id, "block_type_id": old_schema.block_type_id}

    async def save_as_before():
        async with get_client() as client:
            await client.create_block_document(BlockDocumentCreate(name=NEW, data=data, **of_schema))

    asyncio.run(save_as_before())
    assert asyncio.run(read_without_secrets())["oauth_token_url"] == url

    endpoint("update", NEW, "--oauth-token-url", "@url")

    assert "qu3ry" not in str(asyncio.run(read_without_secrets()))


def test_a_test_event_has_its_outcome_and_without_a_token_says_why_on_one_line(
    endpoint, endpoints, oauth, monkeypatch
):
    monkeypatch.setattr("resonant.sinks.tokens._FIRST_PAUSE", 60.0)  # one request
    options = ("--allow-private", "--oauth-token-url", "http://127.0.0.1:1/token", *oauth)
    endpoint("add", NEW, "http://127.0.0.1:1/in", *options)
    sent = endpoint.json("test", "file-endpoint/cli-log")
    assert (sent["endpoint"], sent["result"]) == ("file-endpoint/cli-log", "delivered")
    failed = endpoint("test", NEW, code=1).out
    assert "transient, oauth token: no OAuth token: no answer from the server http://127.0.0.1:1" in failed
