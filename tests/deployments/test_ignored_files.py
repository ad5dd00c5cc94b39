"""Copies of the project, by Prefect or into an image, contain the code and no secret or large file."""

import subprocess
from pathlib import Path

from prefect.utilities.filesystem import filter_files

ROOT = Path(__file__).parents[2]
LEFT_BEHIND = [
    ".git/config",
    ".venv/bin/python",
    "flows/__pycache__/emit.pyc",
    ".mypy_cache/x",
    ".pytest_cache/x",
    ".coverage.1",
    ".resonant/resonant.db",
    "data/orders.db",
    "data/orders.db-wal",
    ".prefect/storage/x",
    ".env",
    "tls/server.key",
    "tls/server.pem",
    "prefect-server.log",
    "build/screenshots/x.png",
    "dist/resonant.whl",
    "demo-output/report.json",
    "error_report.json",
]


def patterns(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]


def test_no_secret_or_large_file_is_copied(tmp_path):
    kept = ["flows/emit.py", "src/resonant/sinks/redaction.py", "prefect.yaml", "deployments/server.env"]
    for name in (*LEFT_BEHIND, *kept):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    going = filter_files(str(tmp_path), ignore_patterns=patterns(".prefectignore"), include_dirs=False)
    assert {str(name) for name in going} == set(kept)


def test_every_file_of_the_project_is_copied():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = set(listed.stdout.splitlines())
    going = filter_files(str(ROOT), ignore_patterns=patterns(".prefectignore"), include_dirs=False)
    assert files <= {str(name) for name in going}


def test_images_and_prefect_ignore_the_same_files():
    assert patterns(".dockerignore") == patterns(".prefectignore")
