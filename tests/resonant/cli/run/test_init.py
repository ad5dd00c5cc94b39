"""``resonant init`` copies the flows into a new folder, and the commands in that folder use them."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from resonant.cli.run.init import MANIFEST
from resonant.local.project import installed_project, is_project, project_directory

CHECKOUT = Path(__file__).parents[4]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ours"


def test_the_copy_is_a_project_and_the_next_steps_are_shown(resonant, folder, monkeypatch):
    said = resonant("init", "ours").out
    assert is_project(folder)
    assert "cd ours" in said
    assert "prefect worker start --pool resonant" in said
    copied = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"prefect.yaml", "flows/emit.py", "deployments/prometheus/alerts.yml"} <= copied
    assert not [name for name in copied if "__pycache__" in name]
    assert (folder / "prefect.yaml").read_bytes() == (CHECKOUT / "prefect.yaml").read_bytes()
    here = folder.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert "use these flows:\n  resonant up\n" in resonant("init", ".").out, "no step enters the folder"


def test_the_working_folder_takes_precedence_over_the_installed_project(resonant, folder, monkeypatch):
    assert project_directory() == installed_project() == CHECKOUT
    resonant("init", "ours")
    monkeypatch.chdir(folder)
    assert project_directory() == folder


def test_a_folder_with_another_prefect_project_is_not_used(folder):
    (folder / "flows").mkdir(parents=True)
    (folder / "prefect.yaml").write_text("name: theirs\n")
    (folder / "flows" / "emit.py").touch()
    assert not is_project(folder)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def older_copy(folder, changed="flows/emit.py", text="as an older version wrote it"):
    """Make a copy look as if an older version with another text in one file had made it."""
    (folder / changed).write_text(text)
    hashes = json.loads((folder / MANIFEST).read_bytes())
    hashes[changed] = hashlib.sha256(text.encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(hashes))


def test_overwriting_replaces_the_unchanged_files_of_a_copy_and_keeps_all_others(resonant, folder):
    resonant("init", "ours")
    older_copy(folder)
    (folder / "flows" / "theirs.py").write_text("kept")
    (folder / "flows" / "emit.py").chmod(0o644)
    resonant("init", "ours", "--overwrite")
    assert (folder / "flows" / "emit.py").read_bytes() == (CHECKOUT / "flows" / "emit.py").read_bytes()
    assert stat.S_IMODE((folder / "flows" / "emit.py").stat().st_mode) == 0o644
    assert (folder / "flows" / "theirs.py").read_text() == "kept"
    resonant("init", "ours", "--overwrite")


def test_a_changed_file_is_never_overwritten_and_nothing_else_is_written(resonant, folder):
    resonant("init", "ours")
    older_copy(folder, "tasks/emit.py")
    (folder / "flows" / "emit.py").write_text("changed by the team")
    (folder / "blocks" / "__init__.py").unlink()
    before = contents(folder)

    refused = resonant("init", "ours", "--overwrite", code=1)

    assert refused.err == (
        "resonant: nothing was written to ours: `resonant init` did not write these files, or they were changed since: "
        "flows/emit.py; choose another folder, such as `resonant init our-flows`, and compare\n"
    )
    assert contents(folder) == before


def test_a_prefect_project_of_others_stays_as_it_is(resonant, folder, monkeypatch):
    (folder / "flows").mkdir(parents=True)
    (folder / "flows" / "endpoints.py").mkdir()
    for name in ("prefect.yaml", "flows/emit.py", "flows/dead_letters.py"):
        (folder / name).write_text("theirs")
    before = contents(folder)
    monkeypatch.chdir(folder)

    refused = resonant.refused("init", ".", "--overwrite")

    changed = "flows/dead_letters.py, flows/emit.py, flows/endpoints.py, prefect.yaml"
    assert f"changed since: {changed}; choose another" in refused
    assert contents(folder) == before


def test_an_invalid_manifest_does_not_allow_files_to_be_replaced(resonant, folder):
    resonant("init", "ours")
    (folder / "flows" / "emit.py").write_text("changed by the team")
    for text in ("", "[]", '{"flows/emit.py": null}', "{oops"):
        (folder / MANIFEST).write_text(text)
        assert "flows/emit.py" in resonant("init", "ours", "--overwrite", code=1).err


def test_files_behind_a_link_are_not_replaced(resonant, folder, tmp_path):
    resonant("init", "ours")
    older_copy(folder)
    (folder / "flows").rename(tmp_path / "elsewhere")
    (folder / "flows").symlink_to(tmp_path / "elsewhere")

    assert "flows/emit.py" in resonant("init", "ours", "--overwrite", code=1).err
    assert (tmp_path / "elsewhere" / "emit.py").read_text() == "as an older version wrote it"


def test_an_interrupted_copy_can_be_completed(resonant, folder):
    resonant("init", "ours")
    (folder / MANIFEST).unlink()
    (folder / "tasks" / "emit.py").unlink()
    resonant("init", "ours", "--overwrite")
    assert (folder / "tasks" / "emit.py").read_bytes() == (CHECKOUT / "tasks" / "emit.py").read_bytes()


NOT_EMPTY = (
    "ours is not empty: choose another folder, or use --overwrite for a copy that `resonant init` made"
)
IN_USE = f"{CHECKOUT} is the project that this installation uses"


@pytest.mark.parametrize(
    ("existing", "argv", "said"),
    [
        ("ours/theirs.py", ["ours"], NOT_EMPTY),
        ("ours", ["ours"], "ours is not a folder"),
        ("ours", ["ours/below"], "cannot copy the flows to ours/below: Not a directory"),
        ("ours/theirs.py", [str(CHECKOUT), "--overwrite"], IN_USE),
    ],
)
def test_an_unsuitable_folder_is_refused_in_one_line(resonant, folder, existing, argv, said):
    (folder.parent / existing).parent.mkdir(exist_ok=True)
    (folder.parent / existing).touch()
    before = contents(folder.parent)

    assert resonant("init", *argv, code=1).err == f"resonant: {said}\n"

    assert contents(folder.parent).keys() == before.keys()
