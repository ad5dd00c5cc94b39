"""``purge`` asks on a terminal, archives by default, and removes the deliveries that its age or its filters select."""

import gzip
import json
import re
import shlex
import time

import pytest

from resonant.cli import asking
from support.dlq_actions import PERMANENT, reasons

ASKED = "3 dead letters would be removed permanently, and archived in "
ALL = {"evt_old", "evt_bad", "evt_new"}


@pytest.fixture
def rejected(dead):
    """Adds two dead letters of another endpoint, with one code and two causes."""
    for event_id, error in (("evt_crm_1", "the name is missing"), ("evt_crm_2", "the date is wrong")):
        dead.bury(event_id, endpoint="crm", reason="permanent", **PERMANENT, error=error)
    return dead


def archived(path) -> list[dict]:
    read = gzip.decompress if path.name.endswith(".gz") else bytes
    return [json.loads(line) for line in read(path.read_bytes()).splitlines()]


def archived_ids(tmp_path) -> list[str]:
    [path] = (tmp_path / "home" / "archive").iterdir()
    assert re.fullmatch(r"purged-\d{4}-\d\d-\d\d\.jsonl\.gz", path.name)
    return [row["event"]["id"] for row in archived(path)]


def test_a_scheduled_purge_by_age_archives_and_says_how_many_it_kept(resonant, dead, tmp_path):
    answer = resonant("purge", "--older-than", "30")

    assert re.fullmatch(r"1 purged, 3 kept; archived in .*/archive/purged-[\d-]{10}\.jsonl\.gz\n", answer.out)
    assert answer.err == ""
    assert archived_ids(tmp_path) == ["evt_old"]
    assert reasons(resonant).keys() == {"evt_new", "evt_bad"}
    status = resonant.json("status")
    assert (status["purged"], status["delivered"], status["balanced"]) == (1, 1, True)


def test_dead_letters_and_delivered_events_are_purged_by_separate_ages(resonant, dead):
    dead.accept("evt_pending")
    by_age = ("purge", "--older-than", "30", "--no-archive", "--delivered-older-than")
    assert resonant(*by_age, "4").out == "1 purged, 3 kept\n"
    done = resonant.json("purge", "--older-than", "0", "--yes", "--no-archive")
    assert done == {"purged": 2, "kept": 1, "bodies": 0, "dry_run": False, "archive": None}
    assert resonant.json("status")["delivered"] == 1
    assert resonant(*by_age, "0", "--yes").out == "1 purged, 0 kept\n"

    status = resonant.json("status")
    assert (status["dead_letter"], status["pending"], status["delivered"]) == (0, 1, 0)
    assert status["balanced"]
    assert "evt_delivered" in resonant("detail", "evt_delivered", code=1).err


def test_a_dry_run_counts_and_changes_nothing(resonant, dead, tmp_path):
    before = resonant.json("status")
    argv = ("purge", "--older-than", "0", "--delivered-older-than", "1", "--archive", "a.jsonl", "--dry-run")

    assert resonant(*argv).out == "4 would be purged, 0 kept\n"
    assert resonant.json(*argv) == {"purged": 4, "kept": 0, "bodies": 0, "dry_run": True, "archive": None}

    assert resonant.json("status") == before
    assert resonant.json("audit") == []
    assert not (tmp_path / "a.jsonl").exists()


def test_each_purge_writes_a_new_archive_and_names_it(resonant, dead, tmp_path):
    refused = resonant("purge", "--older-than", "0", "--yes", "--archive", "missing/a.jsonl", code=1)
    why = "missing/a.jsonl: No such file or directory; nothing was purged\n"
    assert (refused.out, refused.err) == ("", f"resonant: {why}")
    to_file = ("--archive", "a.jsonl", "--yes")
    said = resonant("purge", "--older-than", "30", *to_file).out
    assert said == "1 purged, 3 kept; archived in a.jsonl\n"
    assert resonant.json("purge", "--older-than", "0", *to_file)["archive"] == "a-2.jsonl"

    rows = archived(tmp_path / "a.jsonl") + archived(tmp_path / "a-2.jsonl")
    assert [row["event"]["id"] for row in rows] == ["evt_old", "evt_bad", "evt_new"]
    assert [row["delivery"]["reason"] for row in rows] == ["exhausted", "permanent", "exhausted"]


def test_retention_by_reason_and_by_endpoint_overrides_the_age_but_not_filters(resonant, dead, monkeypatch):
    dead.bury("evt_crm", endpoint="crm", reason="permanent", **PERMANENT)
    monkeypatch.setenv("RESONANT_RETENTION_BY_REASON", '{"permanent": 1, "exhausted": 90}')
    monkeypatch.setenv("RESONANT_RETENTION_BY_ENDPOINT", '{"crm": 365}')

    assert resonant.json("purge", "--older-than", "0", "--yes")["purged"] == 1
    assert reasons(resonant).keys() == {"evt_old", "evt_new", "evt_crm"}
    assert resonant.json("purge", "--endpoint", "crm", "--yes")["purged"] == 1


# --- questions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["n\n", "\n", ""], ids=["no", "return", "ctrl-d"])
def test_a_purge_asks_on_a_terminal_and_removes_nothing_without_a_yes(resonant, dead, tmp_path, answer):
    shown = resonant.on_a_terminal("purge", "--older-than", "0", typed=answer, code=1)

    assert ASKED in " ".join(shown.split())
    assert "nothing was changed" in shown
    assert resonant.json("status")["dead_letter"] == 3
    assert resonant.json("audit") == []
    assert not (tmp_path / "home" / "archive").exists()


def test_a_yes_on_a_terminal_archives_and_removes_and_leaves_no_bar(resonant, dead, tmp_path):
    shown = resonant.on_a_real_terminal("purge", "--older-than", "0", typed="y\n")

    question, _, result = " ".join(shown.split()).partition(" Remove? [y/N]: ")
    assert ASKED in question
    assert re.fullmatch(r"3 purged, 1 kept; archived in \S+/home/archive/purged-[\d-]{10}\.jsonl\.gz", result)
    assert archived_ids(tmp_path) == ["evt_old", "evt_bad", "evt_new"]


def test_the_question_counts_delivered_history_and_says_when_there_is_no_archive(resonant, dead):
    argv = ("purge", "--older-than", "0", "--delivered-older-than", "1", "--no-archive")
    shown = " ".join(resonant.on_a_terminal(*argv, typed="n\n", code=1).split())
    assert "3 dead letters and 1 delivered would be removed permanently, without an archive Remove?" in shown
    nothing = resonant.on_a_terminal("purge", "--older-than", "90").strip()
    assert nothing == "0 purged, 4 kept", "nothing to remove is not asked about"


def test_a_dead_letter_that_comes_after_the_question_stays(resonant, dead, monkeypatch):
    def confirm(fact, _question):
        assert fact.startswith("3 dead letters would be removed")
        dead.clock.advance(time.time() - dead.clock())
        dead.bury("evt_later", reason="permanent", **PERMANENT)

    monkeypatch.setattr(asking, "can_ask", lambda: True)
    monkeypatch.setattr(asking, "confirm", confirm)

    assert resonant.json("purge", "--older-than", "0")["purged"] == 3
    assert reasons(resonant).keys() == {"evt_later"}


# --- filters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "left"),
    [
        ("--endpoint crm", ALL),
        ("--endpoint crm --text date", ALL | {"evt_crm_1"}),
        ("--code http_400 --older-than 1", ALL - {"evt_bad"} | {"evt_crm_1", "evt_crm_2"}),
        ("--reason exhausted --since 1d", ALL - {"evt_new"} | {"evt_crm_1", "evt_crm_2"}),
        ("--category permanent --endpoint billing", ALL - {"evt_bad"} | {"evt_crm_1", "evt_crm_2"}),
    ],
)
def test_filters_select_the_dead_letters_to_remove(resonant, rejected, filters, left):
    argv, number = ("purge", *filters.split()), 5 - len(left)
    dry = resonant.json(*argv, "--dry-run")
    assert dry == {"purged": number, "kept": 6 - number, "bodies": 0, "dry_run": True, "archive": None}

    assert resonant.json(*argv, "--yes")["purged"] == number

    assert reasons(resonant).keys() == left
    status = resonant.json("status")
    assert (status["delivered"], status["balanced"]) == (1, True)


def test_the_command_in_the_advice_on_a_group_removes_that_group(resonant, rejected):
    group = next(each for each in resonant.json("dlq", "--group") if each["example"] == "evt_crm_1")
    command = re.search(r"or `(resonant purge [^`]+)`", group["advice"])[1]
    assert command == f"resonant purge --endpoint crm --cause {group['fingerprint']}"
    assert [row["event_id"] for row in resonant.json("dlq", "--cause", group["fingerprint"])] == ["evt_crm_1"]

    assert resonant.json(*shlex.split(command)[1:], "--yes")["purged"] == 1

    assert reasons(resonant).keys() == ALL | {"evt_crm_2"}
