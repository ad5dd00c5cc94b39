"""The store that a command uses and names."""

import re

import pytest

READING = """\
status
status --json
dlq
dlq --json
failed
retry-candidates
deliveries
detail evt_1
metrics
prometheus
prometheus --serve 9
export -o -
audit
subscription list
token list
automation list
advise billing
endpoint show billing
""".splitlines()
CHANGING = """\
retry evt_1
replay --all --dry-run
cancel --all --yes
purge --older-than 1 --yes
erase --id evt_1 --yes
""".splitlines()


@pytest.mark.parametrize("command", [*READING, *CHANGING])
def test_a_missing_file_is_an_error_and_not_an_empty_store(resonant, url, tmp_path, command):
    path = tmp_path / "resonant.db"
    path.unlink()

    assert resonant.refused(*command.split()).startswith(f"sqlite:///{path}: no such file: ")
    assert not path.exists()


@pytest.mark.engine
def test_the_list_of_endpoints_needs_no_store_and_creates_none(resonant, webhook, url, tmp_path):
    webhook("cli-listed")
    (path := tmp_path / "resonant.db").unlink()

    listed = resonant.on_prefect("endpoint", "list")

    assert re.search(r"^cli-listed +https://hooks.example.com +no +0 +ok$", listed.out, re.MULTILINE)
    assert (listed.err, listed.store, path.exists()) == ("", "", False)
    rows = {each["name"]: each for each in resonant.json_on_prefect("endpoint", "list")}
    assert (rows["cli-listed"]["subscriptions"], rows["cli-listed"]["held"]) == (0, 0)


@pytest.mark.parametrize(
    "command", ["dlq", "deliveries", "metrics", "audit", "subscription list", "token list"]
)
def test_a_reading_command_names_its_store_beside_its_result(resonant, url, command):
    assert resonant(*command.split()).store == url
    assert resonant(*command.split(), "--json").store == ""


def test_the_status_names_the_store_without_its_password(resonant, url, on_postgresql):
    assert resonant("status").out.splitlines()[0] == f"store: {resonant.json('status')['store']}"
    assert resonant.json("status")["store"].startswith("postgresql://")
