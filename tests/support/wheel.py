"""Copies of the checkout, their wheel, and an environment with the wheel installed."""

import subprocess
import sys
import sysconfig
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def tracked_files() -> list[str]:
    """Return the checkout's tracked files that exist, relative to it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split("\0")[:-1] if (PROJECT / name).is_file()]


def clone(folder: Path) -> Path:
    """Make a repository of the tracked files in their current state, including edits."""
    folder.mkdir()
    for name in tracked_files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((PROJECT / name).read_bytes())
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all", "--force"], cwd=folder, check=True)
    return folder


def build(source: Path, output: Path, target: str = "wheel") -> Path:
    """Build a distribution, without a network; return its file."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(output)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    [file] = output.iterdir()
    return file


def new_environment(folder: Path, *options: str) -> Path:
    """Make a virtual environment that sees this one's packages, except editable installs; return its ``bin``."""
    subprocess.run([sys.executable, "-m", "venv", *options, str(folder)], check=True, timeout=240)
    [packages] = folder.glob("lib/python*/site-packages")
    # Python ignores .pth files in a folder added like this, and an editable install is a line of such a file.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def install(binaries: Path, package: Path) -> None:
    """Install a wheel or a source tree, without its dependencies and without a network."""
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [str(binaries / "python"), "-m", "pip", "install", *options, str(package)]
    installed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert installed.returncode == 0, installed.stderr
