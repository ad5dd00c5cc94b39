"""``resonant purge`` asks on a terminal, archives by default, and removes the dead letters that its filters select."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import time

import pytest

from resonant.cli import asking
from resonant.delivery.retry import GiveUp
from support.dlq_actions import PERMANENT, reasons

ASKED = "3 dead letters would be removed permanently, and archived in "


@pytest.fixture
def rejected(dead):
    """Adds two dead letters of another endpoint, with one code and two causes."""
    for event_id, error in (("evt_crm_1", "the name is missing"), ("evt_crm_2", "the date is wrong")):
        dead.accept(event_id, endpoint="crm")
        dead.attempt(GiveUp("permanent"), endpoint="crm", **{**PERMANENT, "error": error})
    return dead


def archived(tmp_path) -> list[str]:
    [archive] = (tmp_path / "home" / "archive").iterdir()
    assert re.fullmatch(r"purged-\d{4}-\d\d-\d\d\.jsonl\.gz", archive.name)
    lines = gzip.decompress(archive.read_bytes()).splitlines()
    return [json.loads(line)["event"]["id"] for line in lines]


@pytest.mark.parametrize("answer", ["n\n", "\n", "\x04"], ids=["no", "return", "ctrl-d"])
def test_a_purge_asks_on_a_terminal_and_removes_nothing_without_a_yes(resonant, dead, tmp_path, answer):
    shown = resonant.on_a_terminal("purge", "--older-than", "0", typed=answer, code=1)

    assert ASKED in " ".join(shown.split())
    assert "nothing was changed" in shown
    assert resonant.json("status")["dead_letter"] == 3
    assert resonant.json("audit") == []
    assert not (tmp_path / "home" / "archive").exists()


def test_a_yes_on_a_terminal_archives_and_removes_and_leaves_no_bar(resonant, dead, tmp_path):
    shown = resonant.on_a_terminal("purge", "--older-than", "0", typed="y\n")

    question, _, result = " ".join(shown.split()).partition(" Remove? [y/N]: ")
    assert ASKED in question
    assert re.fullmatch(r"3 purged, 1 kept; archived in \S+/home/archive/purged-[\d-]{10}\.jsonl\.gz", result)
    assert archived(tmp_path) == ["evt_old", "evt_bad", "evt_new"]


def test_the_question_counts_delivered_history_and_says_when_there_is_no_archive(resonant, dead):
    argv = ("purge", "--older-than", "0", "--delivered-older-than", "1", "--no-archive")
    shown = " ".join(resonant.on_a_terminal(*argv, typed="n\n", code=1).split())
    assert "3 dead letters and 1 delivered would be removed permanently, without an archive Remove?" in shown


def test_an_archive_may_have_the_name_none(resonant, dead, tmp_path):
    said = resonant("purge", "--older-than", "30", "--archive", "none").out
    assert said == "1 purged, 3 kept; archived in none\n"
    assert json.loads((tmp_path / "none").read_bytes())["event"]["id"] == "evt_old"


def test_a_dead_letter_that_comes_after_the_question_stays(resonant, dead, monkeypatch):
    def confirm(fact, _question):
        assert fact.startswith("3 dead letters would be removed")
        dead.clock.advance(time.time() - dead.clock())
        dead.accept("evt_later")
        dead.attempt(GiveUp("permanent"), **PERMANENT)

    monkeypatch.setattr(asking, "can_ask", lambda: True)
    monkeypatch.setattr(asking, "confirm", confirm)

    assert resonant.json("purge", "--older-than", "0")["purged"] == 3
    assert reasons(resonant).keys() == {"evt_later"}


def test_nothing_to_remove_is_not_asked_about(resonant, dead):
    assert resonant.on_a_terminal("purge", "--older-than", "90").strip() == "0 purged, 4 kept"


@pytest.mark.parametrize("argv", [("--older-than", "0"), ("--code", "http_400"), ("--reason", "exhausted")])
def test_without_a_terminal_dead_letters_of_any_age_need_a_yes(resonant, dead, argv):
    refused = resonant("purge", *argv, code=2)

    assert refused.err == (
        "resonant: this removes dead letters of any age: give --yes, or only a minimum age with --older-than\n"
    )
    assert resonant.json("status")["dead_letter"] == 3
    assert resonant.json("purge", *argv, "--yes")["purged"] > 0


def test_without_a_terminal_delivered_history_of_any_age_needs_a_yes(resonant, dead):
    argv = ("purge", "--older-than", "30", "--delivered-older-than", "0")
    refused = resonant(*argv, code=2)

    assert refused.err == (
        "resonant: this removes delivered history of any age: give --yes, or only a minimum age with "
        "--delivered-older-than\n"
    )
    assert resonant.json("status")["delivered"] == 1
    assert resonant.json(*argv, "--yes")["purged"] == 2


def test_a_scheduled_purge_by_age_runs_without_a_yes_and_archives(resonant, dead, tmp_path):
    done = resonant.json("purge", "--older-than", "30")

    assert (done["purged"], done["kept"]) == (1, 3)
    assert archived(tmp_path) == ["evt_old"]
    assert done["archive"] == str(next((tmp_path / "home" / "archive").iterdir()))


def test_an_archive_folder_that_cannot_be_made_is_one_line_and_nothing_is_removed(resonant, dead, tmp_path):
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home" / "archive").touch()

    refused = resonant("purge", "--older-than", "30", code=1)

    assert refused.err.endswith("; nothing was purged\n")
    assert refused.err.count("\n") == 1
    assert resonant.json("status")["dead_letter"] == 3


@pytest.mark.parametrize(
    ("argv", "left"),
    [
        (("--endpoint", "crm"), {"evt_old", "evt_bad", "evt_new"}),
        (("--endpoint", "crm", "--text", "date"), {"evt_old", "evt_bad", "evt_new", "evt_crm_1"}),
        (("--code", "http_400"), {"evt_old", "evt_new"}),
        (("--code", "http_400", "--older-than", "1"), {"evt_old", "evt_new", "evt_crm_1", "evt_crm_2"}),
        (("--reason", "exhausted", "--since", "1d"), {"evt_old", "evt_bad", "evt_crm_1", "evt_crm_2"}),
        (
            ("--category", "permanent", "--endpoint", "billing"),
            {"evt_old", "evt_new", "evt_crm_1", "evt_crm_2"},
        ),
    ],
)
def test_filters_select_the_dead_letters_to_remove(resonant, rejected, argv, left):
    selected = {"evt_old", "evt_bad", "evt_new", "evt_crm_1", "evt_crm_2"} - left
    dry = resonant.json("purge", *argv, "--dry-run")
    assert dry == {"purged": len(selected), "kept": 6 - len(selected), "dry_run": True, "archive": None}

    assert resonant.json("purge", *argv, "--yes")["purged"] == len(selected)

    assert reasons(resonant).keys() == left
    status = resonant.json("status")
    assert (status["delivered"], status["balanced"]) == (1, True)


def test_the_command_in_the_advice_on_a_group_removes_that_group(resonant, rejected):
    group = next(each for each in resonant.json("dlq", "--group") if each["example"] == "evt_crm_1")
    command = re.search(r"or `(resonant purge [^`]+)`", group["advice"])[1]
    assert command == f"resonant purge --endpoint crm --cause {group['fingerprint']}"
    assert [row["event_id"] for row in resonant.json("dlq", "--cause", group["fingerprint"])] == ["evt_crm_1"]

    assert resonant.json(*shlex.split(command)[1:], "--yes")["purged"] == 1

    assert reasons(resonant).keys() == {"evt_old", "evt_bad", "evt_new", "evt_crm_2"}


def test_the_configured_retention_does_not_keep_selected_dead_letters(resonant, rejected, monkeypatch):
    monkeypatch.setenv("RESONANT_RETENTION_BY_ENDPOINT", '{"crm": 365}')
    assert resonant.json("purge", "--endpoint", "crm", "--yes")["purged"] == 2


def test_the_audit_has_the_selection_and_the_archive(resonant, rejected):
    resonant("purge", "--endpoint", "crm", "--code", "http_400", "--archive", "crm.jsonl", "--yes")

    [entry] = resonant.json("audit")
    assert (entry["action"], entry["count"]) == ("purge", 2)
    assert entry["selection"] == {
        "endpoint": "crm",
        "code": "http_400",
        "dead_letters": 0.0,
        "archive": "crm.jsonl",
    }
    assert "last purge" in resonant("status").out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "nothing selected: give --older-than DAYS, or a filter such as --endpoint and --code"),
        (("--code", "http_400", "--delivered-older-than", "1"), "--delivered-older-than cannot be combined"),
        (
            ("--older-than", "1", "--archive", "a", "--no-archive"),
            "--archive cannot be combined with --no-archive",
        ),
        (("--cause", "0123456789ab"), "no dead letter has the cause '0123456789ab': `resonant dlq --group`"),
        (("--cause", ""), "--cause is empty"),
        (("--endpoint", "bilings"), "no endpoint is named 'bilings': did you mean billing?"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_with_exit_code_2(resonant, dead, argv, said):
    refused = resonant("purge", *argv, "--yes", code=2)
    assert said in refused.err
    assert refused.err.count("\n") == 1
    assert resonant.json("status")["dead_letter"] == 3


def test_postgresql_selects_the_same(resonant, worker, postgresql_url, monkeypatch):
    monkeypatch.setenv("RESONANT_DATABASE_URL", postgresql_url)
    there = type(worker)(postgresql_url)
    for number in range(4):
        there.accept(f"evt_{number}")
        there.attempt(GiveUp("permanent"), **{**PERMANENT, "error": "even" if number % 2 else "odd"})
    cause = resonant.json("dlq", "--group")[0]["fingerprint"]

    assert resonant.json("purge", "--endpoint", "billing", "--cause", cause, "--yes")["purged"] == 2
    assert resonant.json("purge", "--text", "e", "--older-than", "1", "--yes")["purged"] == 0
    assert resonant.json("status")["dead_letter"] == 2
