"""The distributions contain the whole product: every tracked file that belongs in them, and no other file."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from importlib.metadata import version

import pytest

from support.pages import PROJECT, pages
from support.wheel import build, clone, new_environment, tracked_files

PROJECT_PARTS = ("flows/", "tasks/", "blocks/", "deployments/", "prefect.yaml")
STRAY = [
    ".env",
    "scratch.py",
    "dist/old.whl",
    "flows/.env",
    "flows/scratch.py",
    "flows/__pycache__/emit.cpython-313.pyc",
    "tasks/notes [old]!.txt",
    "blocks/attic/secret.py",
    "deployments/server.key",
    "src/resonant/scratch.py",
    "src/resonant/store/resonant.db",
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A clone in which somebody worked."""
    folder = clone(tmp_path_factory.mktemp("wheel") / "checkout")
    for name in STRAY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a secret")
    return folder


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    return build(checkout, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment with the wheel."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    binaries = new_environment(folder, "--without-pip")
    [packages] = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(packages)
    return binaries / "python"


def of_package() -> set[str]:
    """The files of the package and its project, as a wheel names them."""
    package = {name.removeprefix("src/") for name in tracked_files() if name.startswith("src/resonant/")}
    project = {f"resonant/_project/{name}" for name in tracked_files() if name.startswith(PROJECT_PARTS)}
    return package | project


def contents(wheel) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def is_metadata(name: str) -> bool:
    return name.startswith("resonant-") and ".dist-info/" in name


def test_a_wheel_has_exactly_the_tracked_files_and_says_that_it_is_typed(wheel):
    packed = contents(wheel)
    assert {name for name in packed if not is_metadata(name)} == of_package()
    assert {name.partition("/")[2] for name in packed if is_metadata(name)} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    assert "resonant/py.typed" in packed


def test_an_sdist_has_no_stray_file_and_builds_the_same_wheel(checkout, wheel, tmp_path):
    sdist = build(checkout, tmp_path / "sdist", "sdist")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
        # Python has filters since 3.11.4, and wants one from 3.12 on.
        file.extractall(
            tmp_path / "unpacked", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {})
        )
    assert not names & set(STRAY)
    assert names - {"PKG-INFO"} <= set(tracked_files())
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert contents(build(unpacked, tmp_path / "wheel")) == contents(wheel)


def test_make_builds_both_without_the_development_environment(tmp_path):
    folder = clone(tmp_path / "checkout")
    # Nothing can be installed. The environment with hatchling is the one that make would install.
    environment = os.environ | {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1"}
    make = partial(subprocess.run, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    make(["make", "build/constraints.txt"])
    new_environment(folder / "build" / "hatchling", "--without-pip")
    (folder / "build" / "hatchling" / "ready").touch()
    make(["make", "wheel"])
    assert sorted(each.suffix for each in (folder / "dist").iterdir()) == [".gz", ".whl"]
    assert not (folder / ".venv").exists()


def test_the_version_of_hatchling_that_make_installs_is_the_tested_one(tmp_path):
    folder = clone(tmp_path / "checkout")
    subprocess.run(["make", "build/constraints.txt"], cwd=folder, check=True)
    constraints = (folder / "build" / "constraints.txt").read_text().splitlines()
    assert f"hatchling=={version('hatchling')}" in constraints
    assert not any("--hash" in line for line in constraints), "pip would require them of all packages"


def test_an_editable_install_adds_the_source_folder_and_no_copy(checkout, tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    [editable] = WheelBuilder(str(checkout)).build(directory=str(tmp_path), versions=["editable"])
    assert {name for name in contents(editable) if not is_metadata(name)} == {"_resonant.pth"}


def test_pytest_finds_the_fixtures_of_an_installed_wheel(python, tmp_path):
    command = [python, "-m", "pytest", "--fixtures", "-q", "-p", "no:cacheprovider"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "resonant_receiver" in shown.stdout, shown.stdout + shown.stderr
    assert "resonant_store" in shown.stdout


@pytest.mark.slow
def test_a_type_checker_accepts_the_programs_of_the_documentation(python, tmp_path):
    api = PROJECT / "tests" / "resonant" / "api_usage.py"
    for path in (api, *PROJECT.glob("examples/**/*.py")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for number, page in enumerate(pages()):
        for block in page.blocks:
            # pytest gives a test its arguments, so tests are rarely typed.
            if re.search(r"^from resonant", block.text, re.MULTILINE) and "def test_" not in block.text:
                name = f"{page.path.stem.replace('-', '_')}_{number}_{block.line}.py"
                (tmp_path / name).write_text(block.text)
    # Some programs use a table of the reader. The cache has the types of Prefect, which take a quarter of a minute.
    options = ["--strict", "--config-file=", "--disable-error-code=name-defined"]
    options += ["--python-executable", python, "--cache-dir", PROJECT / ".mypy_cache" / "wheel"]
    files = sorted(tmp_path.glob("*.py"))
    environment = {name: value for name, value in os.environ.items() if name != "MYPYPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *files],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"Success: no issues found in {len(files)} source files\n", (
        done.stdout + done.stderr
    )
    assert len(files) > 15
