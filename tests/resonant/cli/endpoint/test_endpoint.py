"""``endpoint list`` and ``endpoint remove``, on a real Prefect server."""

import asyncio
import contextlib
import json
import os
import re
import signal
from datetime import UTC, datetime

import httpx
import pytest
import trustme
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate, BlockSchemaCreate
from pydantic import SecretStr

from blocks import WebhookEndpoint
from blocks.catalog import remove_endpoint, save_endpoints
from blocks.loading import endpoint_documents
from resonant.errors import EndpointError, UnknownEndpoint
from resonant.events import rfc3339
from resonant.store.shared.gates import Gate, GateChange, change_gate
from resonant.store.shared.run_watches import RunWatch, add_watch
from resonant.store.views.endpoint_problems import note_problems
from support.file_endpoint import FileEndpoint

pytestmark = pytest.mark.engine

NAMES = ("cli-broken", "cli-hooks", "file-endpoint/cli-log")
IMPORTED = "cli-new"
PROBLEM = "endpoint 'cli-broken' is not configured completely: save it again"


@pytest.fixture
def endpoints(on_server, tmp_path):
    """An endpoint of each block type, and one that lost its URL; other tests have theirs on the same server."""

    async def save():
        url = SecretStr("https://hooks.example.com/in?key=t0ken")
        await WebhookEndpoint(url=url).asave("cli-hooks")
        await FileEndpoint(path=tmp_path / "log").asave("cli-log")
        broken = await WebhookEndpoint(url=url).asave("cli-broken")
        async with get_client() as client:
            update = BlockDocumentUpdate(data={}, merge_existing_data=False)
            await client.update_block_document(broken, update)

    async def remove():
        for name in (*NAMES, IMPORTED):
            with contextlib.suppress(UnknownEndpoint):  # the test has removed it
                await remove_endpoint(name)

    asyncio.run(save())
    yield
    asyncio.run(remove())


@pytest.fixture
def only_endpoints(endpoints, resonant):
    """The endpoints alone: those of other tests may have a policy or a secret that is not set here."""
    for name in {row["name"] for row in json.loads(resonant.on_prefect("endpoint", "list", "--json").out)}:
        if name not in NAMES:
            asyncio.run(remove_endpoint(name))


def rows(answer) -> list[str]:
    return [line for line in answer.splitlines() if "cli-" in line]


def test_the_list_shows_endpoints_of_every_type_and_the_problem_of_a_broken_one(resonant, endpoints):
    done = resonant.on_prefect("endpoint", "list")

    header, *_ = done.out.splitlines()
    assert header.split() == ["NAME", "TO", "SIGNED", "SUBSCRIPTIONS", "STATE"]
    broken, hooks, log = rows(done.out)
    assert log.split()[:2] == ["file-endpoint/cli-log", "file-endpoint"]
    assert hooks.split() == ["cli-hooks", "https://hooks.example.com", "no", "0", "ok"]
    assert broken.split()[-3:] == ["cannot", "be", "used"]
    assert f"endpoint cli-broken cannot be used: {PROBLEM}\n" in done.err
    assert "t0ken" not in done.out + done.err


def test_the_list_as_json_says_the_problem_in_its_place(resonant, endpoints):
    done = resonant.on_prefect("endpoint", "list", "--json")

    found = {row["name"]: row for row in json.loads(done.out)}
    assert found["cli-broken"] == {"name": "cli-broken", "problem": PROBLEM}
    assert (found["cli-hooks"]["type"], found["cli-hooks"]["url"]) == ("webhook-endpoint", "set")
    assert found["file-endpoint/cli-log"]["type"] == "file-endpoint"


def test_the_gate_of_an_endpoint_is_shown_in_text_and_as_json(resonant, endpoints, worker):
    worker.accept("evt_1", "evt_2", endpoint="cli-hooks")
    shown = resonant.on_prefect("endpoint", "show", "cli-hooks").out
    assert "\ngate: normal\n" in shown
    assert "next:" not in shown

    gate = resonant.json("endpoint", "pause", "cli-hooks", "--reason", "maintenance")["gate"]

    [line, *_] = [each for each in rows(resonant.on_prefect("endpoint", "list").out) if "paused" in each]
    assert line.split() == ["cli-hooks", "https://hooks.example.com", "no", "0", "paused"]
    shown = resonant.on_prefect("endpoint", "show", "cli-hooks").out
    assert re.search(r"\ngate: paused for [^:]+ by .+: maintenance; 2 held\n", shown)
    assert shown.endswith("\nnext: `resonant endpoint resume cli-hooks` sends again\n")
    found = json.loads(resonant.on_prefect("endpoint", "show", "cli-hooks", "--json").out)
    assert (found["gate"], found["held"], found["gone_since"]) == (gate, 2, None)
    listed = {row["name"]: row for row in json.loads(resonant.on_prefect("endpoint", "list", "--json").out)}
    assert listed["cli-hooks"] == found
    assert listed["file-endpoint/cli-log"]["gate"]["state"] == "normal"


def test_an_endpoint_without_a_token_says_why_its_deliveries_wait(resonant, endpoints, worker):
    worker.accept("evt_1", endpoint="cli-hooks")
    reason = "no OAuth token: the server https://auth.example.com answered 503"
    worker.do(lambda store: store.write(note_problems, {"cli-hooks": reason}, now=worker.clock() - 120))
    shown = resonant.on_prefect("endpoint", "show", "cli-hooks").out
    assert f"deliveries wait: {reason} (first seen 2 min ago)" in " ".join(shown.split())
    found = json.loads(resonant.on_prefect("endpoint", "show", "cli-hooks", "--json").out)
    assert (found["problem"], found["oauth_authentication"]) == (reason, None)


def test_an_endpoint_that_answered_410_is_paused_since_then(resonant, endpoints, worker):
    worker.accept("evt_1", endpoint="cli-hooks")
    now = worker.clock()
    gone = Gate("cli-hooks", "paused", since=now, reason="it answered 410")
    worker.do(lambda store: store.write(change_gate, GateChange(Gate("cli-hooks"), gone)))

    shown = resonant.on_prefect("endpoint", "show", "cli-hooks").out
    assert re.search(r"\ngate: paused for [^:]+: it answered 410; 1 held\n", shown)
    assert "gone_since" not in shown
    found = json.loads(resonant.on_prefect("endpoint", "show", "cli-hooks", "--json").out)
    assert found["gone_since"] == rfc3339(now)


def test_a_short_signing_secret_is_refused_for_a_new_endpoint_and_shown_for_an_existing_one(
    resonant, endpoints
):
    short, url = "whsec_c2hvcnQ=", "https://hooks.example.com/in"
    refused = resonant.on_prefect("endpoint", "add", "cli-new", url, "--secret-stdin", typed=short, code=1)
    assert refused.err == (
        "resonant: endpoint 'cli-new': its signing secret has 5 bytes, not 24 to 64: "
        "`(printf whsec_; openssl rand -base64 32)` makes a new one\n"
    )
    block = WebhookEndpoint(url=SecretStr(url), signing_secret=SecretStr(short))
    asyncio.run(block.asave("cli-hooks", overwrite=True))
    shown = resonant.on_prefect("endpoint", "show", "cli-hooks")
    assert "endpoint cli-hooks: its signing secret has 5 bytes, not 24 to 64: " in shown.err


def test_the_mode_of_an_endpoint_is_binary_unless_it_is_set(resonant, endpoints):
    def mode():
        return json.loads(resonant.on_prefect("endpoint", "show", IMPORTED, "--json").out)["mode"]

    resonant.on_prefect("endpoint", "add", IMPORTED, "https://hooks.example.com/in")
    assert mode() == "binary"
    resonant.on_prefect("endpoint", "update", IMPORTED, "--mode", "structured")
    assert mode() == "structured"
    assert "\nmode: structured\n" in resonant.on_prefect("endpoint", "show", IMPORTED).out
    refused = resonant.on_prefect("endpoint", "update", IMPORTED, "--mode", "batch", code=2)
    assert "'batch'" in refused.err


def test_a_proxy_and_a_client_certificate_are_shown_without_their_secrets(resonant, endpoints, tmp_path):
    def shown(*options):
        return resonant.on_prefect("endpoint", "show", IMPORTED, *options).out

    end = datetime(2040, 1, 1, tzinfo=UTC)
    issued = trustme.CA().issue_cert("shop.example", common_name="shop\x1b[31m", not_after=end)
    key, chain, proxy = (tmp_path / name for name in ("key", "chain", "proxy"))
    key.write_bytes(issued.private_key_pem.bytes())
    chain.write_bytes(issued.cert_chain_pems[0].bytes())
    proxy.write_text("http://me:s3cret@proxy.example:3128\n")
    url = "https://hooks.example.com/in"
    certificate = ("--client-cert", str(chain), "--client-key", str(key))
    resonant.on_prefect("endpoint", "add", IMPORTED, url, "--proxy", f"@{proxy}", *certificate)

    text = shown()
    assert "\nproxy: http://proxy.example:3128\n" in text
    assert "\nclient_certificate: CN=shop\\x1b[31m,OU=" in text
    assert "\nclient_certificate_until: 2040-01-01T00:00:00.000Z\n" in text
    assert "\nclient_key: set\n" in text
    assert "s3cret" not in text + shown("--json")

    done = resonant.on_prefect("endpoint", "update", IMPORTED, "--timeout", "3").out
    assert "its proxy, its client certificate" in done
    options = ("--proxy", "none", "--clear", "client-cert")
    resonant.on_prefect("endpoint", "update", IMPORTED, *options)
    found = json.loads(shown("--json"))
    assert (found["proxy"], found["client_certificate"], found["client_key"]) == ("none", None, None)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (("--proxy", "proxy.example:3128"), "its proxy must be http:// or https://, a host and a port"),
        (("--client-cert", "/absent", "--client-key", "/absent"), "--client-cert /absent: No such file"),
        (("--proxy", ""), "--proxy is empty"),
        (("--proxy", "@/dev/null"), "--proxy @/dev/null is empty"),
        (("--client-cert", "/dev/null"), "--client-cert /dev/null is empty"),
        (("--oauth-client-secret-file", "/dev/null"), "--oauth-client-secret-file /dev/null is empty"),
        (("--client-cert", __file__), "its client certificate is not PEM"),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_refused_without_a_server(resonant, option, problem):
    assert problem in resonant("endpoint", "add", IMPORTED, "https://hooks.example.com/", *option, code=2).err


def test_a_test_event_has_its_outcome_as_json(resonant, endpoints, tmp_path):
    done = resonant.on_prefect("endpoint", "test", "file-endpoint/cli-log", "--json")

    said = json.loads(done.out)
    assert (said["endpoint"], said["result"]) == ("file-endpoint/cli-log", "delivered")


def test_the_audit_has_each_change_of_an_endpoint_without_its_values(resonant, endpoints, tmp_path):
    url = "https://hooks.example.com/in?key=t0ken"
    file = tmp_path / "f.yaml"
    file.write_text(f"- {{name: {IMPORTED}, url: {url!r}, timeout: 7}}\n")
    resonant.on_prefect("endpoint", "add", IMPORTED, url)
    resonant.on_prefect("endpoint", "update", IMPORTED, "--timeout", "5", "--header", "x-key: t0ken")
    for _ in range(2):
        resonant.on_prefect("endpoint", "import", str(file))
    resonant.on_prefect("endpoint", "remove", IMPORTED, "--yes")

    rows = resonant.json("audit")

    assert [(row["action"], row["selection"]) for row in reversed(rows)] == [
        ("endpoint add", {"endpoint": IMPORTED}),
        ("endpoint update", {"endpoint": IMPORTED, "settings": ["headers", "timeout"]}),
        ("endpoint import", {"added": [], "changed": [IMPORTED], "removed": []}),
        ("endpoint remove", {"endpoint": IMPORTED}),
    ]
    assert all(row["who"].endswith("on the command line") for row in rows)


def test_the_removal_of_an_unknown_endpoint_is_refused_before_it_asks(resonant, endpoints, monkeypatch):
    monkeypatch.setattr("resonant.cli.asking.can_ask", lambda: True)
    refused = resonant.on_prefect("endpoint", "remove", "cli-hoks", code=2)
    assert refused.err.startswith("resonant: no endpoint is named 'cli-hoks': did you mean cli-hooks")


def test_removing_a_broken_endpoint_keeps_the_others(resonant, endpoints):
    done = resonant.on_prefect("endpoint", "remove", "cli-broken", "--yes")

    assert done.out == "removed endpoint cli-broken\n"
    again = resonant.on_prefect("endpoint", "remove", "cli-broken", "--yes", code=2)
    assert "no endpoint is named 'cli-broken'" in again.err
    left = {row["name"] for row in json.loads(resonant.on_prefect("endpoint", "list", "--json").out)}
    assert left & set(NAMES) == {"cli-hooks", "file-endpoint/cli-log"}


def test_an_exported_list_is_imported_without_a_change_and_edited_with_one(
    resonant, only_endpoints, tmp_path
):
    file = tmp_path / "endpoints.yaml"
    listed = resonant.on_prefect("endpoint", "list", "--export", "--with-urls")
    assert "endpoint cli-broken is not exported" in listed.err
    file.write_text(listed.out)
    same = json.loads(resonant.on_prefect("endpoint", "import", str(file), "--dry-run", "--json").out)
    assert "cli-hooks" in same["unchanged"]
    assert (same["added"], same["removed"], same["changed"]) == ([], [], {})


def test_an_import_saves_the_differences_and_a_second_import_saves_nothing(
    resonant, only_endpoints, tmp_path
):
    file, url = tmp_path / "endpoints.yaml", "https://hooks.example.com/new"
    hooks, shop = (f"- {{name: {name}, url: {url!r}, timeout: 30}}\n" for name in ("cli-hooks", "cli-broken"))
    file.write_text(hooks + shop)
    counts = "0 added, 2 changed, 0 removed, 0 unchanged\n"
    foreseen = resonant.on_prefect("endpoint", "import", str(file), "--dry-run").out
    assert foreseen.endswith(f"would be: {counts}")
    done = resonant.on_prefect("endpoint", "import", str(file)).out
    assert done == f"~ cli-hooks  timeout 15.0 → 30.0; url changed\n~ cli-broken\n{counts}"
    again = resonant.on_prefect("endpoint", "import", str(file)).out
    assert again == "0 added, 0 changed, 0 removed, 2 unchanged\n"

    every = resonant.on_prefect("endpoint", "list", "--export", "--with-urls").out
    file.write_text(every.replace("- name: cli-broken", f"- name: {IMPORTED}"))
    refused = resonant.on_prefect("endpoint", "import", str(file), "--prune", code=2)
    assert "--prune would remove 1 endpoint (cli-broken): give --yes" in refused.err
    pruned = resonant.on_prefect("endpoint", "import", str(file), "--prune", "--yes").out
    assert pruned.startswith(f"+ {IMPORTED}\n- cli-broken\n1 added, 0 changed, 1 removed, ")
    names = {row["name"] for row in json.loads(resonant.on_prefect("endpoint", "list", "--json").out)}
    assert names & {*NAMES, IMPORTED} == {"cli-hooks", IMPORTED, "file-endpoint/cli-log"}


def test_a_dry_run_shows_the_url_and_each_reference_but_no_value(
    resonant, only_endpoints, tmp_path, monkeypatch
):
    monkeypatch.setenv("NEW_URL", "https://hooks.example.com/t0ken")
    (tmp_path / "key").write_text("t0ken")
    headers = "headers: {authorization: file:key, x-team: shop}"
    file = tmp_path / "endpoints.yaml"
    file.write_text(f"- {{name: {IMPORTED}, url: env:NEW_URL, {headers}, proxy: none}}\n")

    foreseen = resonant.on_prefect("endpoint", "import", str(file), "--dry-run")
    document = json.loads(resonant.on_prefect("endpoint", "import", str(file), "--dry-run", "--json").out)

    assert foreseen.out.splitlines()[:4] == [
        f"+ {IMPORTED}",
        "    header authorization: file:key",
        "    url: env:NEW_URL",
        "    proxy: none",
    ]
    shown = {"header authorization": "file:key", "url": "env:NEW_URL", "proxy": "none"}
    assert document["references"] == {IMPORTED: shown}
    assert "t0ken" not in foreseen.out + str(document)


@pytest.mark.parametrize("problem", ["name: shop", "name: shop, url: file:/etc/hostname"])
def test_a_mistake_in_a_file_is_reported_without_a_server(resonant, tmp_path, monkeypatch, problem):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (tmp_path / "f.yaml").write_text(f"- {{{problem}}}\n")
    assert "'shop': " in resonant("endpoint", "import", "f.yaml", code=2).err


def test_an_import_that_was_killed_is_completed_by_the_next(
    resonant, only_endpoints, worker, tmp_path, monkeypatch
):
    resonant.on_prefect("endpoint", "list")
    resonant("subscription", "add", "cli-broken", "order.*")
    worker.do(lambda store: store.write(add_watch, RunWatch("cli-broken"), who="a test", now=worker.clock()))
    file = tmp_path / "endpoints.yaml"
    file.write_text(f"- {{name: {IMPORTED}, url: 'https://hooks.example.com/'}}\n")
    command = ("endpoint", "import", str(file), "--prune", "--yes")

    async def remove_then_die(_blocks, _on_saved):
        await remove_endpoint("cli-broken")
        raise EndpointError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("blocks.catalog.save_endpoints", remove_then_die)
        resonant.on_prefect(*command, code=1)
    assert resonant.on_prefect(*command).out.startswith(f"+ {IMPORTED}\n- cli-hooks\n1 added, ")
    assert subscriptions(resonant) == resonant.json("automation", "list", "--all-servers") == []


def test_an_import_saves_one_endpoint_after_another_and_ends_with_the_first_failure(on_server, monkeypatch):
    """Prefect's server refuses simultaneous writes to SQLite, and its client then waits for seconds."""
    saved, sending, most = [], [], []
    send = httpx.AsyncHTTPTransport.handle_async_request
    url = SecretStr("https://hooks.example.com")
    blocks = {f"cli-many-{number}": WebhookEndpoint(url=url) for number in range(20)}

    async def record(transport, request):
        sending.append(request)
        most.append(len(sending))
        try:
            return await send(transport, request)
        finally:
            sending.remove(request)

    async def save_twice():
        await save_endpoints(blocks, saved.append)
        assert saved == list(blocks)
        gone, saved[:] = dict.fromkeys(blocks), []

        def remove_the_rest(name):
            saved.append(name)
            raise EndpointError("the first failure")

        with pytest.raises(EndpointError, match="the first failure"):
            await save_endpoints(gone, remove_the_rest)
        assert blocks.keys() - (await endpoint_documents()).keys() == set(saved) == {"cli-many-0"}
        await save_endpoints(gone, saved.append)
        return await endpoint_documents()

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", record)
    assert not asyncio.run(save_twice()).keys() & blocks.keys()
    assert max(most) == 1


def test_an_import_reads_and_writes_only_the_endpoints_that_change(
    resonant, endpoints, tmp_path, monkeypatch
):
    file = tmp_path / "endpoints.yaml"
    url = "https://hooks.example.com/in?key=t0ken"
    row = "- {{name: {}, url: {!r}, timeout: {}}}\n"
    file.write_text("".join(row.format(name, url, 15) for name in ("cli-hooks", "cli-broken", IMPORTED)))
    resonant.on_prefect("endpoint", "import", str(file))
    read, written, send = [], [], httpx.AsyncHTTPTransport.handle_async_request

    async def record(transport, request):
        if request.url.path.endswith("/block_documents/filter"):
            read.append(json.loads(request.content).get("block_documents"))
        elif request.method != "GET" and "/block_documents/" in request.url.path:
            written.append(request.method)
        return await send(transport, request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", record)

    def imported():
        read.clear()
        written.clear()
        said = resonant.on_prefect("endpoint", "import", str(file)).out.splitlines()[-1]
        return said, [names for names in read if names], written

    assert imported() == ("0 added, 0 changed, 0 removed, 3 unchanged", [], [])
    file.write_text(file.read_text().replace("timeout: 15", "timeout: 16", 1))
    assert imported() == (
        "0 added, 1 changed, 0 removed, 2 unchanged",
        [{"name": {"any_": ["cli-hooks"]}}],
        ["PATCH"],
    )


def test_ctrl_c_says_how_many_endpoints_an_import_saved_and_the_next_saves_the_others(
    resonant, only_endpoints, tmp_path, monkeypatch
):
    file = tmp_path / "endpoints.yaml"
    row = "- {{name: {}, url: 'https://hooks.example.com/new'}}\n"
    file.write_text("".join(map(row.format, ("cli-hooks", "cli-broken", IMPORTED))))

    async def stop_after_two(blocks, on_saved):
        def count(name):
            on_saved(name)
            if name == "cli-broken":
                os.kill(os.getpid(), signal.SIGINT)

        await save_endpoints(blocks, count)

    with monkeypatch.context() as patch:
        patch.setattr("blocks.catalog.save_endpoints", stop_after_two)
        stopped = resonant.on_prefect("endpoint", "import", str(file), code=130)
    assert "interrupted after 2 of 3 endpoints; run the same import again for the others" in stopped.err
    recorded = {"added": [], "changed": ["cli-hooks", "cli-broken"], "removed": []}
    assert resonant.json("audit")[0]["selection"] == recorded
    again = resonant.on_prefect("endpoint", "import", str(file)).out
    assert again.endswith("1 added, 0 changed, 0 removed, 2 unchanged\n")


@pytest.mark.parametrize("text", ["- {name: cli-a, url: 'https://a.example'}\n- {name: cli-b}\n", ""])
def test_a_file_with_a_mistake_or_without_endpoints_saves_nothing(resonant, on_server, tmp_path, text):
    file = tmp_path / "endpoints.yaml"
    file.write_text(text)
    refused = resonant.on_prefect("endpoint", "import", str(file), "--prune", code=2)
    assert ("its url" if text else "--prune would remove every endpoint") in refused.err
    assert "cli-a" not in resonant.on_prefect("endpoint", "list", "--json").out


def test_a_saved_endpoint_has_no_recorded_problem_so_that_drains_try_it_at_once(
    resonant, endpoints, worker, tmp_path
):
    url, file = "https://hooks.example.com/in", tmp_path / "endpoints.yaml"
    file.write_text(f"- {{name: {IMPORTED}, url: {url!r}, timeout: 9}}\n")
    worker.accept("evt_1", endpoint=IMPORTED)
    for command in (("add", IMPORTED, url), ("update", IMPORTED, "--timeout", "5"), ("import", str(file))):
        worker.do(lambda store: store.write(note_problems, {IMPORTED: "no such block"}, now=1.0))
        assert len(resonant.json("status")["endpoint_problems"]) == 1
        resonant.on_prefect("endpoint", *command)
        assert resonant.json("status")["endpoint_problems"] == []


def subscriptions(resonant):
    return [
        (each["endpoint"], each["types"], each["source"], each["filters"])
        for each in resonant.json("subscription", "list")
    ]


def test_types_subscribe_a_new_or_an_existing_endpoint(resonant, endpoints):
    url = "https://hooks.example.com/in"
    added = resonant.on_prefect("endpoint", "add", IMPORTED, url, "--types", "order.*, a.b", "--types", "c")
    assert added.out.splitlines() == [
        f"saved endpoint {IMPORTED}; `resonant endpoint test {IMPORTED}` sends it a test event",
        f"{IMPORTED} gets events of type a.b or c or order.*",
    ]
    again = resonant.on_prefect("endpoint", "add", IMPORTED, url, "--overwrite", "--types", "order.*,a.b,c")
    assert again.out.endswith(f"{IMPORTED} gets events of type a.b or c or order.*\n")
    assert subscriptions(resonant) == [(IMPORTED, ["a.b", "c", "order.*"], None, [])]
    refused = resonant.on_prefect("endpoint", "add", "cli-new", url, "--types", "a,,b", code=2)
    assert refused.err == "resonant: --types: a glob of types must have 1 to 255 characters, not 0\n"


def test_the_subscriptions_of_an_endpoint_are_counted_and_go_with_it(resonant, endpoints):
    resonant.on_prefect("endpoint", "list")  # the store gets their names
    for argv in (("cli-hooks", "order.*"), ("cli-hooks", "invoice.*"), ("file-endpoint/cli-log", "*")):
        resonant("subscription", "add", *argv)
    [hooks] = [each for each in rows(resonant.on_prefect("endpoint", "list").out) if "hooks." in each]
    assert hooks.split() == ["cli-hooks", "https://hooks.example.com", "no", "2", "ok"]
    shown = resonant.on_prefect("endpoint", "show", "cli-hooks")
    assert "\nsubscriptions: 2\n" in shown.out
    assert (
        json.loads(resonant.on_prefect("endpoint", "show", "cli-hooks", "--json").out)["subscriptions"] == 2
    )

    removed = resonant.on_prefect("endpoint", "remove", "cli-hooks", "--yes")
    assert removed.out == "removed endpoint cli-hooks and 2 subscriptions\n"
    assert subscriptions(resonant) == [("file-endpoint/cli-log", ["*"], None, [])]


def test_an_import_replaces_the_subscriptions_of_endpoints_that_declare_some(
    resonant, only_endpoints, tmp_path
):
    resonant.on_prefect("endpoint", "list")
    resonant("subscription", "add", "cli-hooks", "order.*")
    kept = ("subscription", "add", "cli-broken", "order.*")
    resonant(*kept)
    file, url = tmp_path / "endpoints.yaml", "https://hooks.example.com/in"
    file.write_text(
        f"- {{name: cli-broken, url: {url!r}}}\n"
        f"- name: cli-hooks\n  url: {url!r}\n  subscriptions:\n"
        "  - {types: [invoice.*], source: /eu/*, filters: [{exact: {vip: 'true'}}]}\n  - {types: a}\n  - {types: [a]}\n"
    )
    foreseen = resonant.on_prefect("endpoint", "import", str(file), "--dry-run").out
    assert "~ cli-hooks  url changed; subscriptions 2 added, 1 removed\n" in foreseen
    resonant.on_prefect("endpoint", "import", str(file))
    declared = [
        ("cli-broken", ["order.*"], None, []),
        ("cli-hooks", ["a"], None, []),
        ("cli-hooks", ["invoice.*"], "/eu/*", [{"exact": {"vip": "true"}}]),
    ]
    assert sorted(subscriptions(resonant), key=lambda each: each[:2]) == declared

    listed = resonant.on_prefect("endpoint", "list", "--export", "--with-urls").out
    file.write_text(listed)
    again = resonant.on_prefect("endpoint", "import", str(file)).out
    assert again == "0 added, 0 changed, 0 removed, 2 unchanged\n"
    file.write_text(f"- {{name: cli-hooks, url: {url!r}, subscriptions: []}}\n")
    emptied = resonant.on_prefect("endpoint", "import", str(file), "--prune", "--yes").out
    assert emptied.startswith("~ cli-hooks  subscriptions 2 removed\n- cli-broken\n")
    assert subscriptions(resonant) == []


def test_oauth_settings_are_saved_shown_without_the_secret_and_cleared(resonant, endpoints, tmp_path):
    (tmp_path / "secret").write_text("oauth s3cret\n")
    url = "https://hooks.example.com/in"
    options = {
        "--oauth-token-url": "https://auth.example.com/token",
        "--oauth-client-id": "me",
        "--oauth-client-secret-file": str(tmp_path / "secret"),
        "--oauth-scope": "a b",
    }
    given = [each for option in options.items() for each in option]
    incomplete = resonant.on_prefect("endpoint", "add", IMPORTED, url, *given[:4], code=1)
    assert "its OAuth settings need a token URL, a client id and a client secret" in incomplete.err
    both = resonant.on_prefect(
        "endpoint", "add", IMPORTED, url, *given, "--header", "Authorization:x", code=2
    )
    assert "it has OAuth settings, and also an Authorization header" in both.err
    resonant.on_prefect("endpoint", "add", IMPORTED, url, *given)
    shown = resonant.on_prefect("endpoint", "show", IMPORTED, "--json").out
    assert "s3cret" not in shown
    found = {key: value for key, value in json.loads(shown).items() if key.startswith("oauth_")}
    assert found == {
        "oauth_token_url": "https://auth.example.com/token",
        "oauth_client_id": "me",
        "oauth_client_secret": "set",
        "oauth_scope": "a b",
        "oauth_audience": None,
        "oauth_authentication": "basic",
    }
    assert "oauth_client_secret: env:ENDPOINT_CLI_NEW__OAUTH_CLIENT_SECRET" in (
        resonant.on_prefect("endpoint", "list", "--export").out
    )
    changed = resonant.on_prefect("endpoint", "update", IMPORTED, "--oauth-authentication", "body").out
    assert "its OAuth settings" in changed
    resonant.on_prefect("endpoint", "update", IMPORTED, "--clear", "oauth")
    assert (
        json.loads(resonant.on_prefect("endpoint", "show", IMPORTED, "--json").out)["oauth_token_url"] is None
    )


def test_the_query_of_a_token_url_is_stored_as_a_secret_and_not_shown(resonant, endpoints, tmp_path):
    (tmp_path / "secret").write_text("oauth s3cret\n")
    (tmp_path / "url").write_text("https://auth.example.com/token?key=qu3ry\n")
    options = f"--oauth-client-id me --oauth-client-secret-file {tmp_path / 'secret'}".split()
    add = ("endpoint", "add", IMPORTED, "https://hooks.example.com/in", *options)
    said = [resonant.on_prefect(*add, "--oauth-token-url", f"@{tmp_path / 'url'}")]
    said += [resonant.on_prefect("endpoint", "show", IMPORTED, *options) for options in ([], ["--json"])]
    said.append(resonant.on_prefect("endpoint", "list", "--export"))
    assert json.loads(said[2].out)["oauth_token_url"] == "https://auth.example.com/token?***"
    assert "oauth_token_url: env:ENDPOINT_CLI_NEW__OAUTH_TOKEN_URL" in said[3].out
    assert "qu3ry" not in str(said)

    async def read_without_secrets():
        async with get_client() as client:
            return await client.read_block_document_by_name(
                IMPORTED, "webhook-endpoint", include_secrets=False
            )

    saved = asyncio.run(read_without_secrets()).data
    assert saved["oauth_client_id"] == "me"
    assert "qu3ry" not in str(saved)


def test_an_update_hides_the_token_url_that_was_saved_before_such_urls_were_secrets(
    resonant, endpoints, tmp_path
):
    url = "https://auth.example.com/token?key=qu3ry"
    (tmp_path / "url").write_text(url)
    secrets = {"url": "https://hooks.example.com/in", "oauth_client_secret": "s3cret"}

    async def save_as_before():
        fields = WebhookEndpoint.model_json_schema()
        fields["properties"]["oauth_token_url"] = {"type": "string", "title": "Token URL"}
        fields["secret_fields"] = [each for each in fields["secret_fields"] if each != "oauth_token_url"]
        async with get_client() as client:
            block_type = await client.read_block_type_by_slug("webhook-endpoint")
            old = BlockSchemaCreate(fields=fields, block_type_id=block_type.id, capabilities=[])
            data = secrets | {"oauth_token_url": url, "oauth_client_id": "me"}
            new = BlockDocumentCreate(
                name=IMPORTED,
                data=data,
                block_schema_id=(await client.create_block_schema(old)).id,
                block_type_id=block_type.id,
            )
            await client.create_block_document(new)

    async def shown():
        async with get_client() as client:
            read = client.read_block_document_by_name(IMPORTED, "webhook-endpoint", include_secrets=False)
            return (await read).data

    asyncio.run(save_as_before())
    assert asyncio.run(shown())["oauth_token_url"] == url

    resonant.on_prefect("endpoint", "update", IMPORTED, "--oauth-token-url", f"@{tmp_path / 'url'}")

    assert "qu3ry" not in str(asyncio.run(shown()))


def test_a_test_event_without_a_token_says_why_on_one_line(resonant, endpoints, tmp_path, monkeypatch):
    monkeypatch.setattr("resonant.sinks.tokens._FIRST_PAUSE", 60.0)  # one request
    (tmp_path / "secret").write_text("oauth s3cret\n")
    url, token_url = "http://127.0.0.1:1/in", "http://127.0.0.1:1/token"
    options = f"--allow-private --oauth-token-url {token_url} --oauth-client-id me --oauth-client-secret-file {tmp_path / 'secret'}"
    resonant.on_prefect("endpoint", "add", IMPORTED, url, *options.split())
    failed = resonant.on_prefect("endpoint", "test", IMPORTED, code=1).out
    assert "transient, oauth token: no OAuth token: no answer from the server http://127.0.0.1:1" in failed
