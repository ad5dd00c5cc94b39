"""Properties of every command: help, exit codes, errors of one line, streams that end."""

import importlib.metadata
import json
import re
import signal
from itertools import takewhile
from pathlib import Path

import pytest

from resonant.cli import app, main

LOOK = ("status", "dlq", "failed", "retry-candidates", "deliveries", "detail", "export", "metrics")
WORK = ("retry", "replay", "cancel", "purge", "audit")
OF_ENDPOINT = ("add", "update", "list", "show", "test", "rotate-secret", "remove")
LONG = "x" * 200
COMMANDS = ("emit", "enqueue", *LOOK, "prometheus", *WORK, "up", "demo", "endpoint")


def test_the_entry_point_is_main():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="resonant")
    assert entry.load() is main


def test_help_lists_the_commands_in_the_order_of_the_work(resonant):
    text = resonant("--help").out
    positions = [text.index(f"│ {command} ") for command in ("emit", "enqueue", *LOOK, *WORK)]
    assert positions == sorted(positions)
    assert all(f"│ {command} " in text for command in COMMANDS)
    assert all(command.rich_help_panel for command in app.registered_commands)
    assert text.index("─ Send") < text.index("─ Inspect")


@pytest.mark.parametrize("command", [*COMMANDS, *(f"endpoint {each}" for each in OF_ENDPOINT)])
def test_help_fits_80_columns_and_shows_an_example_but_no_type_of_python(resonant, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = resonant(*command.split(), "--help").out
    assert f"Example: resonant {command}" in text
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<(bool|str|list)|<\w+\|", text)
    assert "--json" in text or command not in (*LOOK, "audit")


def test_paragraphs_of_help_fill_the_width(resonant, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = [line.strip() for line in resonant("emit", "--help").out.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("The command waits until"))
    paragraph = list(takewhile(bool, lines[first:]))
    assert len(paragraph) > 3
    assert min(map(len, paragraph[:-1])) > 65


def test_version_shows_the_version_of_the_package(resonant):
    assert resonant("--version").out == f"resonant {importlib.metadata.version('resonant')}\n"


SLOW = {"prefect", "pandas", "alembic", "numpy", "aiohttp", "cryptography", "sqlalchemy.dialects.postgresql"}
NOT_FOR_HELP = {"sqlalchemy", "pydantic", "httpx", "asyncio", "prometheus_client"}


@pytest.mark.parametrize(("argv", "unwanted"), [("--help", SLOW | NOT_FOR_HELP), ("status", SLOW)])
def test_a_command_imports_only_the_packages_it_needs(resonant, worker, argv, unwanted):
    worker.accept("evt_1")
    check = f"import atexit, sys; atexit.register(lambda: print(sys.modules.keys() & {unwanted}, file=sys.stderr))"
    assert resonant.program(argv, before=check).stderr == "set()\n"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RESONANT_MAX_EVENT_BYTES", "-1", "RESONANT_MAX_EVENT_BYTES"),
        ("RESONANT_DATABASE_URL", "mysql://root:hunter2@db/x", "RESONANT_DATABASE_URL"),
        ("RESONANT_DATABASE_URL", "sqlite:////proc/no/such/x.db", "/proc/no"),
        ("RESONANT_DATABASE_URL", f"sqlite:///{LONG}/y.db", LONG),
    ],
)
def test_an_error_that_a_user_can_fix_is_one_line_and_exit_code_1(
    resonant, monkeypatch, tmp_path, variable, value, said
):
    monkeypatch.setenv(variable, value)
    (tmp_path / LONG).write_text("no folder")
    refused = resonant.refused("status")
    assert said in refused
    assert "hunter2" not in refused


def test_a_bug_keeps_its_traceback_without_the_values_of_variables(resonant):
    bug = """
import resonant.documents
def status(found, *, now):
    secret = "hunter2" + "-and-more"
    raise RuntimeError("a bug")
resonant.documents.status = status
"""
    done = resonant.program("status", "--json", before=bug)
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert "resonant/cli/inspect/status.py" in done.stderr.replace("\n", "")
    assert "hunter2-and-more" not in done.stderr


def test_a_closed_pipe_ends_a_command_silently(resonant, worker):
    worker.bury(*(f"evt_{n:04}" for n in range(1_000)), error="x" * 200)
    listing = resonant.start("dlq", "--limit", "0")
    assert listing.stdout.readline().startswith("EVENT")
    listing.stdout.close()
    assert listing.wait(timeout=60) == 141
    assert listing.stderr.read() == ""


@pytest.mark.parametrize("argv", [["status"], ["export", "--output", "-"]])
def test_a_full_disk_behind_stdout_is_one_line(resonant, worker, argv):
    worker.accept("evt_1")
    with Path("/dev/full").open("w") as full:
        running = resonant.start(*argv, stdout=full)
        said = running.stderr.read()
    assert running.wait() == 1
    assert said == "resonant: standard output: No space left on device\n"


def test_ctrl_c_ends_a_long_listing(resonant, worker):
    worker.bury(*(f"evt_{n:04}" for n in range(1_000)), error="x" * 300)
    # A page fills the pipe, so the listing stands still until it is read; then it must not go on to its end.
    listing = resonant.start("dlq", "--limit", "0", "--json")
    begun = listing.stdout.read(10)
    listing.send_signal(signal.SIGINT)
    rest = listing.stdout.read()
    assert listing.wait(timeout=60) == 130
    assert listing.stderr.read() == "resonant: interrupted\n"
    with pytest.raises(json.JSONDecodeError):
        json.loads(begun + rest)


def test_on_a_terminal_a_long_message_is_wrapped_at_spaces_and_elsewhere_it_is_one_line(resonant):
    message = "resonant: nothing selected: give --older-than DAYS, or a filter such as --endpoint and --code"

    screen = resonant.on_a_terminal("purge", code=2)

    assert max(map(len, screen.splitlines())) <= 80
    assert " ".join(screen.split()) == message
    assert resonant("purge", code=2).err == f"{message}\n"


@pytest.mark.parametrize(
    "command",
    """\
status --endpoint billing
dlq --endpoint billing --code my_own_code
dlq --group --endpoint shop
deliveries --endpoint shop --code http_503
detail e1
metrics
prometheus
audit
export -o -
replay --endpoint billing --code my_own_code --dry-run
cancel e1 --endpoint shop
cancel --all
purge --endpoint billing --code my_own_code --yes
endpoint pause shop
endpoint resume shop
enqueue e.jsonl --endpoint shop
""".splitlines(),
)
def test_a_command_opens_the_store_once(resonant, stored, opened, url, command):
    resonant(*command.split())
    assert opened == [url]
