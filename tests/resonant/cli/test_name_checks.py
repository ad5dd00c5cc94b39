"""Names and codes that commands know; ``test_refusals`` has the unknown ones."""

import asyncio
import json

import pytest

from blocks import WebhookEndpoint
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


def test_enqueue_stores_for_an_unknown_name_with_the_option_and_knows_it_afterwards(
    resonant, stored, tmp_path
):
    for more in (["--allow-unknown"], []):
        answer = resonant("enqueue", "e.jsonl", "--endpoint", "wholly-new", *more)
        assert (answer.out, answer.err) == ("stored 1 event for wholly-new\n", "")


def test_an_endpoint_that_was_added_and_never_used_is_known_without_a_server(
    resonant, stored, worker, tmp_path
):
    worker.do(lambda store: store.write(remember_endpoints, ["crm"]))
    assert resonant.json("dlq", "--endpoint", "crm") == []
    assert resonant("enqueue", "e.jsonl", "--endpoint", "crm").err == ""


def test_a_removed_endpoint_is_known_only_if_events_were_stored_for_it(resonant, stored, worker):
    worker.do(lambda store: store.write(remember_endpoints, ["crm", "shop"]))
    for name in ("crm", "shop"):
        worker.do(lambda store, name=name: store.write(forget_endpoint, name))
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
def test_a_configured_endpoint_without_deliveries_is_known_to_reading_commands(resonant, configured):
    shown = resonant.on_prefect("dlq", "--endpoint", "webhook-endpoint/known-crm", "--json")
    assert json.loads(shown.out) == []
    assert resonant.json("status", "--endpoint", "known-crm")["accepted"] == 0


@pytest.mark.engine
def test_endpoint_commands_write_names_to_the_store(resonant, configured):
    resonant.on_prefect("endpoint", "add", "known-erp", "https://a.example/")
    resonant.on_prefect("endpoint", "list")
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


def test_prefect_is_asked_about_a_new_endpoint_that_is_not_in_the_audit_or_was_removed(resonant, record):
    assert "a server would start" in resonant.on_prefect(*ADD_CRM, code=1).err
    record(("add", CRM), ("remove", CRM))
    assert "a server would start" in resonant.on_prefect(*ADD_CRM, code=1).err


def test_overwriting_and_an_unreadable_store_skip_the_check_of_the_audit(resonant, record, tmp_path):
    record(("add", CRM))
    assert "a server would start" in resonant.on_prefect(*ADD_CRM, "--overwrite", code=1).err
    (path := tmp_path / "resonant.db").write_bytes(b"damaged" * 1_000)
    assert "a server would start" in resonant.on_prefect(*ADD_CRM, code=1).err
    path.unlink()
    assert "a server would start" in resonant.on_prefect(*ADD_CRM, code=1).err
    assert not path.exists()


@pytest.mark.engine
def test_a_running_server_decides_and_an_endpoint_that_it_lost_can_be_removed_from_the_audit(
    resonant, record, webhook, worker, monkeypatch
):
    name, add = "known-lost", ("endpoint", "add", "known-lost", "https://a.example/")
    remove = ("endpoint", "remove", name, "--yes")
    record(("add", {"endpoint": name}))
    webhook(name)
    assert "exists: `resonant endpoint update known-lost`" in resonant.on_prefect(*add, code=1).err
    for subscription, stays in (
        ((), ""),
        (
            ("subscription", "add", name, "order.*"),
            "; its 1 subscription stays: see `resonant subscription list --endpoint known-lost`",
        ),
    ):
        asyncio.run(WebhookEndpoint.adelete(name))
        worker.do(lambda store: store.write(remember_endpoints, [name]))
        if subscription:
            resonant(*subscription)
        removed = resonant.on_prefect(*remove)
        assert (removed.out, removed.err) == (
            f"Prefect has no endpoint {name}; recorded its removal{stays}\n",
            "",
        )
        [newest, *_] = resonant.json("audit", "--limit", "1")
        assert (newest["action"], newest["selection"]) == ("endpoint remove", {"endpoint": name})
        again = resonant.on_prefect(*remove, code=2)
        assert "no endpoint is named 'known-lost'" in again.err
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
