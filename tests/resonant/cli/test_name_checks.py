"""Names and codes that commands know; ``test_refusals`` has the unknown ones."""

import asyncio

import pytest

from resonant.blocks import WebhookEndpoint
from resonant.delivery.classification import built_in_codes, classifier
from resonant.errors import ServerError
from resonant.store.audit import record_change
from resonant.store.views.endpoint_problems import note_problems
from resonant.store.views.known_names import forget_endpoint, remember_endpoints


@pytest.mark.parametrize(
    "code", ["my_own_code", "connect_refused", "http_503", "throttled", "worker_lost", "unknown"]
)
def test_codes_of_the_classifier_and_of_own_rules_are_accepted(resonant, stored, code):
    resonant("dlq", "--code", code)


def test_every_code_of_a_verdict_without_own_rules_is_known():
    failures = [TimeoutError(), ValueError(), OSError(), Exception(), ConnectionRefusedError()]
    assert {classifier.classify(each, now=0.0).code for each in failures} <= built_in_codes()


def test_enqueue_stores_for_an_unknown_name_with_the_option_and_knows_it_afterwards(resonant, stored):
    for more in (["--allow-unknown"], []):
        answer = resonant("enqueue", "e.jsonl", "--endpoint", "wholly-new", *more)
        assert (answer.out, answer.err) == ("stored 1 event for wholly-new\n", "")


def test_an_endpoint_without_events_is_known_until_it_is_removed(resonant, stored, worker):
    worker.do(lambda store: store.write(remember_endpoints, ["crm", "erp", "shop"]))
    for name in ("crm", "shop"):
        worker.do(lambda store, name=name: store.write(forget_endpoint, name))
    assert resonant.json("dlq", "--endpoint", "erp") == []
    assert resonant("enqueue", "e.jsonl", "--endpoint", "erp").err == ""
    assert resonant("status", "--endpoint", "crm", code=2).err.startswith("resonant: no endpoint is named")
    assert resonant.json("status", "--endpoint", "shop")["accepted"] == 1


def test_enqueue_warns_if_the_last_run_could_not_open_the_endpoint(resonant, stored, worker):
    reason = "no endpoint is named 'shop'; `resonant endpoint add shop URL` adds it"
    worker.do(lambda store: store.write(note_problems, {"shop": reason}, now=1.0))
    answer = resonant("enqueue", "e.jsonl", "--endpoint", "shop")
    assert (answer.out, answer.err) == ("stored 1 event for shop\n", f"deliveries to shop wait: {reason}\n")


@pytest.fixture
def configured(stored, webhook):
    """An endpoint that Prefect knows, and the store does not."""
    webhook("known-crm")


@pytest.mark.engine
def test_commands_suggest_a_configured_endpoint(resonant, configured):
    for argv in (("enqueue", "e.jsonl", "--endpoint"), ("endpoint", "show"), ("endpoint", "test")):
        said = resonant.on_prefect(*argv, "known-cmr", code=2).err
        assert said.startswith("resonant: no endpoint is named 'known-cmr': did you mean known-crm?"), said
        assert "`resonant endpoint add known-cmr URL` adds it" in said


@pytest.mark.engine
def test_prefect_is_asked_only_for_a_name_that_the_store_does_not_know(resonant, configured, monkeypatch):
    argv = ("enqueue", "e.jsonl", "--endpoint", "known-crm")
    assert resonant.on_prefect(*argv).out == "stored 1 event for known-crm\n"
    monkeypatch.setattr("resonant.local.server.prefect_server", None)  # a call would fail
    assert resonant(*argv).out == "stored 1 event for known-crm\n"


@pytest.mark.engine
def test_commands_know_a_configured_endpoint_without_deliveries(resonant, configured):
    assert resonant.json_on_prefect("dlq", "--endpoint", "webhook-endpoint/known-crm") == []
    resonant.on_prefect("endpoint", "add", "known-erp", "https://a.example/")
    for name in ("known-erp", "known-crm"):
        assert resonant.json("status", "--endpoint", name)["accepted"] == 0
    resonant.on_prefect("endpoint", "remove", "known-erp", "--yes")
    assert "no endpoint is named" in resonant.on_prefect("status", "--endpoint", "known-erp", code=2).err


@pytest.fixture
def record(stored, monkeypatch):
    """A function that records commands on endpoints in the audit; a command that would start a server fails."""

    def start(*_args, **_options):
        raise ServerError("a server would start")

    monkeypatch.setattr("resonant.local.server.kept_server", start)

    def write(*changes):
        for action, selection in changes:
            entry = {"at": 1.0, "who": "a test", "action": f"endpoint {action}", "selection": selection}
            stored.do(lambda store, entry=entry: store.write(record_change, **entry))

    return write


CRM = {"endpoint": "crm"}
ADD_CRM = ("endpoint", "add", "crm", "https://a.example/")


def test_a_new_endpoint_that_exists_by_the_audit_is_refused_before_a_server_starts(resonant, url, record):
    record(("add", CRM))
    refused = resonant.on_prefect("endpoint", "add", "webhook-endpoint/crm", "https://a.example/", code=1)
    assert refused.err == (
        f"resonant: endpoint 'crm' exists according to the audit of {url}: `resonant endpoint update crm` changes it; if it "
        "is gone from Prefect, run `resonant endpoint remove crm` first, or add it with --overwrite\n"
    )


def test_prefect_is_asked_about_a_new_endpoint_if_the_audit_does_not_decide(resonant, record, tmp_path):
    path = tmp_path / "resonant.db"
    for prepare, *options in (
        [lambda: None],
        [lambda: record(("add", CRM), ("remove", CRM))],
        [lambda: record(("add", CRM)), "--overwrite"],
        [lambda: path.write_bytes(b"damaged" * 1_000)],
        [path.unlink],
    ):
        prepare()
        assert "a server would start" in resonant.on_prefect(*ADD_CRM, *options, code=1).err
    assert not path.exists()


@pytest.mark.engine
def test_a_running_server_decides_and_an_endpoint_that_it_lost_can_be_removed_from_the_audit(
    resonant, record, webhook, worker, monkeypatch
):
    name = "known-lost"
    add, remove = ("endpoint", "add", name, "https://a.example/"), ("endpoint", "remove", name, "--yes")
    record(("add", {"endpoint": name}))
    webhook(name)
    assert "exists: `resonant endpoint update known-lost`" in resonant.on_prefect(*add, code=1).err
    stays = "; its 1 subscription stays: see `resonant subscription list --endpoint known-lost`"
    for is_subscribed in (False, True):
        asyncio.run(WebhookEndpoint.adelete(name))
        worker.do(lambda store: store.write(remember_endpoints, [name]))
        if is_subscribed:
            resonant("subscription", "add", name, "order.*")
        removed = resonant.on_prefect(*remove)
        said = f"Prefect has no endpoint {name}; recorded its removal{stays if is_subscribed else ''}\n"
        assert (removed.out, removed.err) == (said, "")
        [newest] = resonant.json("audit", "--limit", "1")
        assert (newest["action"], newest["selection"]) == ("endpoint remove", {"endpoint": name})
        assert "no endpoint is named 'known-lost'" in resonant.on_prefect(*remove, code=2).err
        with monkeypatch.context() as patch:
            patch.delenv("PREFECT_API_URL")
            assert "a server would start" in resonant.on_prefect(*add, code=1).err
        resonant.on_prefect(*add)
    assert len(resonant.json("subscription", "list", "--endpoint", name)) == 1


@pytest.mark.engine
def test_a_removal_that_the_store_cannot_record_is_not_done(resonant, record, on_server, disk):
    record(("add", {"endpoint": "known-lost"}))
    disk.is_read_only = True
    failed = resonant.on_prefect("endpoint", "remove", "known-lost", "--yes", code=1)
    assert failed.out == ""
    assert failed.err.startswith("the store did not record the name: ")
    assert failed.err.count("\n") == 1
