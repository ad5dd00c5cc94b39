"""``resonant init`` copies the flows into a new folder, and the commands in that folder use them."""

from __future__ import annotations

from pathlib import Path

import pytest

from resonant.local.project import installed_project, is_project, project_directory

CHECKOUT = Path(__file__).parents[3]


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


def test_a_folder_that_is_not_empty_is_refused_in_one_line(resonant, folder):
    folder.mkdir()
    (folder / "theirs.py").touch()
    refused = resonant("init", "ours", code=1)
    assert refused.err == "resonant: ours is not empty: choose another folder, or use --overwrite\n"
    assert [path.name for path in folder.iterdir()] == ["theirs.py"]


def test_overwriting_replaces_the_files_of_a_copy_and_keeps_all_others(resonant, folder):
    resonant("init", "ours")
    (folder / "flows" / "emit.py").write_text("changed")
    (folder / "flows" / "theirs.py").write_text("kept")
    resonant("init", "ours", "--overwrite")
    assert (folder / "flows" / "emit.py").read_bytes() == (CHECKOUT / "flows" / "emit.py").read_bytes()
    assert (folder / "flows" / "theirs.py").read_text() == "kept"


def test_a_file_of_that_name_is_one_line(resonant, folder):
    folder.touch()
    assert resonant("init", "ours", code=1).err == "resonant: ours is not a folder\n"


def test_a_folder_that_cannot_be_made_is_one_line(resonant, folder):
    folder.touch()
    refused = resonant("init", "ours/below", code=1)
    assert refused.err == "resonant: cannot copy the flows to ours/below: Not a directory\n"


def test_a_file_that_cannot_be_replaced_is_one_line(resonant, folder):
    (folder / "flows" / "emit.py").mkdir(parents=True)
    refused = resonant("init", "ours", "--overwrite", code=1)
    assert refused.err == (
        "resonant: cannot copy the flows to ours: [Errno 21] Is a directory: 'ours/flows/emit.py'\n"
    )


def test_the_project_is_not_copied_onto_itself(resonant):
    refused = resonant("init", str(CHECKOUT), "--overwrite", code=1)
    assert refused.err.endswith("is the project that this installation uses\n")
