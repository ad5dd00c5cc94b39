"""Unknown names, codes and ids, and repeated options, are refused with exit code 2."""

from __future__ import annotations

import asyncio

import pytest
import typer
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from blocks import WebhookEndpoint
from blocks.catalog import remove_endpoint
from resonant.cli import _Command, app
from resonant.delivery.classification import built_in_codes, classifier
from resonant.delivery.retry import GiveUp
from resonant.store.views import endpoint_names


@pytest.fixture
def stored(worker, monkeypatch, tmp_path):
    """Events for two endpoints, one of them given up with a code of the user's own; no Prefect server runs."""
    with worker.at_work():
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
        worker.accept("e1", endpoint="shop")
        worker.accept("e2", endpoint="billing")
        worker.attempt(GiveUp("permanent"), code="my_own_code", category="permanent")


@pytest.mark.parametrize(
    "command", ["status", "dlq", "failed", "retry-candidates", "replay", "cancel", "replay --dry-run"]
)
def test_an_unknown_endpoint_is_refused_with_suggestions(resonant, stored, command):
    said = resonant(*command.split(), "--endpoint", "shp", code=2).err
    assert said == "resonant: no endpoint is named 'shp': did you mean shop?\n"


@pytest.mark.parametrize("option", ["--code", "--type", "--text"])
def test_bytes_that_are_not_utf_8_are_refused(resonant, stored, option):
    said = resonant("dlq", option, "\udcff", code=2).err
    assert said.startswith("resonant: '\\udcff' contains text that databases cannot store")
    assert said.count("\n") == 1


def test_without_a_similar_name_all_names_are_listed(resonant, stored):
    said = resonant("dlq", "--endpoint", "zzz", code=2).err
    assert said == "resonant: no endpoint is named 'zzz'; known: billing, shop\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("htp://user:hunter2@a.example/", "its URL must begin with http:// or https://"),
        ("http://10.0.0.1/", "10.0.0.1 is a private or special address"),
    ],
)
def test_emit_refuses_an_unusable_url_before_it_looks_for_a_server(resonant, tmp_path, url, said):
    (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
    answer = resonant("emit", "e.jsonl", "--endpoint", url, code=2)
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert "hunter2" not in answer.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["add", "crm", "htp://user:hunter2@a.example/"], "its URL must begin with http:// or https://"),
        (["add", "crm", "http://10.0.0.1/"], "10.0.0.1 is a private or special address"),
        (["add", "crm", "https://a.example/", "--header", "Host: hunter2"], "header Host is set by Resonant"),
        (["add", "crm", "https://a.example/", "--policy", "odd"], "no retry policy is named 'odd'"),
        (
            ["update", "crm", "--url", "htp://user:hunter2@a.example/"],
            "its URL must begin with http:// or https://",
        ),
        (["update", "crm", "--policy", "odd"], "no retry policy is named 'odd'"),
    ],
    ids=str,
)
def test_endpoint_commands_refuse_unusable_values_before_they_look_for_a_server(
    resonant, monkeypatch, argv, said
):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("resonant.cli.running.on_prefect", None)  # a call would fail
    answer = resonant("endpoint", *argv, code=2)
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert "hunter2" not in answer.err


@pytest.mark.parametrize("command", ["dlq", "failed", "retry-candidates", "replay", "cancel"])
@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("connection_refused", "did you mean connect_refused"),
        ("http_40", "did you mean http_400, http_401 or http_402?"),
        ("http_429", "did you mean throttled?"),
        ("my_own_cod", "my_own_code"),
    ],
)
def test_an_unknown_code_is_refused_with_suggestions(resonant, stored, command, code, hint):
    said = resonant(command, "--code", code, code=2).err
    assert f"no failure has the code {code!r}" in said
    assert hint in said


@pytest.mark.parametrize(
    "code", ["my_own_code", "connect_refused", "http_503", "throttled", "worker_lost", "unknown"]
)
def test_codes_of_the_classifier_and_of_own_rules_are_accepted(resonant, stored, code):
    resonant("dlq", "--code", code)


def test_every_code_of_a_verdict_without_own_rules_is_known():
    failures = [TimeoutError(), ValueError(), OSError(), Exception(), ConnectionRefusedError()]
    assert {classifier.classify(each, now=0.0).code for each in failures} <= built_in_codes()


def test_unknown_ids_are_refused_and_nothing_is_cancelled(resonant, stored):
    said = resonant("cancel", "e1", "typo", code=2).err
    assert said == "resonant: no event has the id typo: nothing was done\n"
    assert resonant.json("status", "--endpoint", "shop")["pending"] == 1


def every_command(command, path=()):
    if subcommands := getattr(command, "commands", None):
        for name, each in subcommands.items():
            yield from every_command(each, (*path, name))
    else:
        yield " ".join(path), command


COMMANDS = dict(every_command(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_an_option_of_one_value_that_is_given_twice(resonant, name):
    command = COMMANDS[name]
    assert isinstance(command, _Command)
    single = [
        each
        for each in command.params
        if each.param_type_name == "option" and not each.multiple and not each.is_flag
    ]
    for option in single:
        for given in (
            [option.opts[0], "7", option.opts[0], "8"],
            [f"{option.opts[0]}=7", f"{option.opts[-1]}=8"],
        ):
            said = resonant(*name.split(), *given, code=2).err
            assert f"resonant: {option.opts[0]} takes one value, but was given 2 times\n" == said


def test_flags_and_options_of_several_values_may_be_given_again(resonant, stored):
    assert resonant("status", "--json", "--json").code == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("shp", "'shp': did you mean shop? `resonant endpoint add shp URL` adds it"),
        ("wholly-new", "'wholly-new'; known: billing, shop; `resonant endpoint add wholly-new URL` adds it"),
    ],
)
def test_enqueue_refuses_an_unknown_name_without_a_server(resonant, stored, tmp_path, name, said):
    (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')

    refused = resonant("enqueue", "e.jsonl", "--endpoint", name, code=2)

    assert refused.err == f"resonant: no endpoint is named {said}; --allow-unknown stores the events anyway\n"
    assert resonant.json("status")["accepted"] == 2


def test_enqueue_stores_for_an_unknown_name_with_the_option_and_knows_it_afterwards(
    resonant, stored, tmp_path
):
    (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
    for more in (["--allow-unknown"], []):
        answer = resonant("enqueue", "e.jsonl", "--endpoint", "wholly-new", *more)
        assert (answer.out, answer.err) == ("stored 1 event for wholly-new\n", "")


def test_an_endpoint_that_was_added_and_never_used_is_known_without_a_server(
    resonant, stored, worker, tmp_path
):
    (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
    worker.do(lambda store: store.write(endpoint_names.remember, ["crm"]))
    assert resonant.json("dlq", "--endpoint", "crm") == []
    assert resonant("enqueue", "e.jsonl", "--endpoint", "crm").err == ""


def test_a_removed_endpoint_is_known_only_if_events_were_stored_for_it(resonant, stored, worker):
    worker.do(lambda store: store.write(endpoint_names.remember, ["crm", "shop"]))
    for name in ("crm", "shop"):
        worker.do(lambda store, name=name: store.write(endpoint_names.forget, name))
    assert resonant("status", "--endpoint", "crm", code=2).err.startswith("resonant: no endpoint is named")
    assert resonant.json("status", "--endpoint", "shop")["accepted"] == 1


@pytest.mark.engine
class TestWithAServer:
    @pytest.fixture
    def configured(self, prefect_api, stored, monkeypatch):
        monkeypatch.setenv("PREFECT_API_URL", prefect_api)
        with temporary_settings({PREFECT_API_URL: prefect_api}):
            asyncio.run(
                WebhookEndpoint(url=SecretStr("https://a.example/")).asave("known-crm", overwrite=True)
            )
            yield
            asyncio.run(remove_endpoint("known-crm"))

    def test_enqueue_refuses_an_endpoint_that_is_not_configured(self, resonant, configured, tmp_path):
        (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
        said = resonant("enqueue", "e.jsonl", "--endpoint", "known-cmr", code=2).err
        assert said.startswith("resonant: no endpoint is named 'known-cmr': did you mean known-crm?")
        assert "`resonant endpoint add known-cmr URL` adds it" in said

    def test_enqueue_to_an_endpoint_of_the_store_that_is_not_configured_warns(
        self, resonant, configured, tmp_path
    ):
        (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
        answer = resonant("enqueue", "e.jsonl", "--endpoint", "shop")
        assert answer.out == "stored 1 event for shop\n"
        assert answer.err == (
            "endpoint 'shop' is not configured: its deliveries wait until it is added again\n"
        )

    def test_endpoint_commands_write_names_to_the_store(self, resonant, configured, monkeypatch):
        resonant.on_prefect("endpoint", "add", "known-erp", "https://a.example/")
        resonant.on_prefect("endpoint", "list")
        with monkeypatch.context() as without_a_server:
            without_a_server.delenv("PREFECT_API_URL")
            for name in ("known-erp", "known-crm"):
                assert resonant.json("status", "--endpoint", name)["accepted"] == 0
        resonant.on_prefect("endpoint", "remove", "known-erp", "--yes")
        assert "no endpoint is named" in resonant("status", "--endpoint", "known-erp", code=2).err

    def test_no_suggestion_to_add_an_endpoint_of_another_block_type(self, resonant, configured, tmp_path):
        (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
        said = resonant("enqueue", "e.jsonl", "--endpoint", "file-endpoint/known-crm", code=2).err
        assert "no endpoint is named 'file-endpoint/known-crm'" in said
        assert "endpoint add" not in said
        assert resonant.json("status")["accepted"] == 2
        resonant("enqueue", "e.jsonl", "--endpoint", "known-crm")

    def test_enqueue_checks_the_endpoint_without_prefect(self, resonant, configured, tmp_path):
        (tmp_path / "e.jsonl").write_text('{"type": "t", "source": "/s", "data": 1}\n')
        check = "import atexit, sys; atexit.register(lambda: 'prefect' in sys.modules and print('PREFECT'))"
        done = resonant.program("enqueue", "e.jsonl", "--endpoint", "known-crm", before=check)
        assert (done.returncode, done.stdout) == (0, "stored 1 event for known-crm\n"), done.stderr

    def test_a_configured_endpoint_without_deliveries_is_known_to_reading_commands(
        self, resonant, configured
    ):
        assert resonant.json("status", "--endpoint", "known-crm")["accepted"] == 0
        assert resonant.json("dlq", "--endpoint", "webhook-endpoint/known-crm") == []

    def test_endpoint_commands_suggest_similar_names(self, resonant, configured):
        for command in ("show", "test"):
            said = resonant.on_prefect("endpoint", command, "known-cmr", code=2).err
            assert "no endpoint is named 'known-cmr': did you mean known-crm?" in said
