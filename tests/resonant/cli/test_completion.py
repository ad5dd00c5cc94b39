"""The shell completes endpoints, codes and policies from the store, without a server, and silently."""

import sqlite3
import subprocess
import sys

import pytest

from resonant.routing import new_subscription
from resonant.store.shared.subscriptions import add_subscription
from resonant.store.views.known_names import remember_endpoints
from support.waiting import PATIENCE_SECONDS


@pytest.fixture
def complete(resonant, monkeypatch):
    """Ask for completions as bash does; nothing may be written to standard error."""
    monkeypatch.setenv("_RESONANT_COMPLETE", "complete_bash")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # no server, and none is asked
    monkeypatch.setattr("resonant.cli.completion._MOST_SECONDS", PATIENCE_SECONDS)

    def ask(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        answer = resonant()
        assert answer.err == ""
        return answer.out.split()

    return ask


def test_endpoints_are_completed_in_options_and_arguments(complete, worker):
    worker.accept("evt_1")
    worker.do(lambda store: store.write(remember_endpoints, ["billing-eu", "spool-endpoint/local"]))

    assert complete("resonant status --endpoint b") == ["billing", "billing-eu"]
    assert complete("resonant endpoint test spool") == ["spool-endpoint/local"]


def test_ids_of_subscriptions_are_completed(complete, worker):
    wanted = new_subscription("billing", {})
    worker.do(lambda store: store.write(add_subscription, wanted, who="a test", now=1.0))

    assert complete("resonant subscription show sub_") == [wanted.id]
    assert complete("resonant subscription remove nothing") == []


def test_codes_of_dead_letters_are_completed_before_those_of_the_classifier(complete, worker):
    worker.bury("evt_1", code="http_404")

    assert complete("resonant dlq --code http_4") == ["http_404"]
    assert complete("resonant dlq --code connect_re")[0].startswith("connect_re")


def test_an_sqlite_store_is_read_without_sqlalchemy(worker):
    worker.do(lambda store: store.write(remember_endpoints, ["billing"]))
    program = "import sys; from resonant.cli import completion as c; print(c.endpoints('b'), 'sqlalchemy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "['billing'] False\n"


def test_postgresql_completes_the_same(complete, on_postgresql):
    on_postgresql.bury("evt_1", code="http_404")

    assert complete("resonant status --endpoint b") == ["billing"]
    assert complete("resonant dlq --code http_4") == ["http_404"]


def test_policies_are_completed(complete, monkeypatch):
    monkeypatch.setenv("RESONANT_POLICIES", '{"brief": {"max_attempts": 3}}')
    assert complete("resonant emit --policy ") == ["brief", "classic", "default", "standard-webhooks"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RESONANT_DATABASE_URL", "sqlite:///no-such-folder/resonant.db"),
        ("RESONANT_DATABASE_URL", "oracle://host/name"),
        ("RESONANT_DATABASE_URL", "postgresql://u:p@127.0.0.1:9/none"),
        ("RESONANT_POLICIES", "{oops"),
    ],
)
def test_completion_is_empty_and_silent_if_something_fails(complete, monkeypatch, tmp_path, name, value):
    monkeypatch.setenv(name, value)
    assert complete("resonant status --endpoint b") == []
    assert complete("resonant emit --policy x") == []


def test_completion_neither_creates_nor_migrates_a_store(complete, tmp_path, monkeypatch):
    monkeypatch.delenv("RESONANT_DATABASE_URL")
    assert complete("resonant status --endpoint b") == []
    assert not (tmp_path / "home").exists()
    store = tmp_path / "older.db"
    with sqlite3.connect(store) as connection:
        connection.execute("CREATE TABLE other (id INTEGER)")
    monkeypatch.setenv("RESONANT_DATABASE_URL", f"sqlite:///{store}")
    assert complete("resonant status --endpoint b") == []
    with sqlite3.connect(store) as connection:
        assert [*connection.execute("SELECT name FROM sqlite_schema")] == [("other",)]
