"""``resonant init`` copies the flows into a new folder, and the commands in that folder use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resonant.local.project import installed_project, is_project, project_directory

CHECKOUT = Path(__file__).parents[4]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ours"


def test_the_copy_is_a_project_and_the_next_steps_are_shown(resonant, folder):
    said = resonant("init", "ours").out
    assert is_project(folder)
    assert "cd ours" in said
    assert "prefect worker start --pool resonant" in said
    copied = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"prefect.yaml", "flows/emit.py", "deployments/prometheus/alerts.yml"} <= copied
    assert not [name for name in copied if "__pycache__" in name]
    assert (folder / "prefect.yaml").read_bytes() == (CHECKOUT / "prefect.yaml").read_bytes()


def test_in_the_working_folder_no_step_enters_it(resonant, folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    said = resonant("init", ".").out
    assert "use these flows:\n  resonant up\n" in said


def test_the_working_folder_goes_before_the_installed_project(resonant, folder, monkeypatch):
    assert project_directory() == installed_project() == CHECKOUT
    resonant("init", "ours")
    monkeypatch.chdir(folder)
    assert project_directory() == folder


def test_a_folder_with_some_prefect_project_is_not_ours(folder):
    (folder / "flows").mkdir(parents=True)
    (folder / "prefect.yaml").write_text("name: theirs\n")
    (folder / "flows" / "emit.py").touch()
    assert not is_project(folder)


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("existing", "to", "said"),
    [
        (
            "ours/prefect.yaml",
            "ours",
            "ours is not empty: choose a new folder, such as `resonant init our-flows`",
        ),
        ("ours", "ours", "ours is not a folder"),
        ("ours", "ours/below", "cannot copy the flows to ours/below: Not a directory"),
    ],
)
def test_a_place_that_takes_no_copy_is_one_line_and_stays_as_it_is(resonant, folder, existing, to, said):
    (folder.parent / existing).parent.mkdir(exist_ok=True)
    (folder.parent / existing).write_text("theirs")
    before = contents(folder.parent)

    assert resonant("init", to, code=1).err == f"resonant: {said}\n"

    assert contents(folder.parent) == before
