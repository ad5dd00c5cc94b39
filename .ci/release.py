"""``python .ci/release.py TAG``: checks that this commit can be released as TAG, and writes its notes to build/release/notes.md."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path


def notes_of(folder: Path, tag: str) -> str:
    """Return the section of the changelog for a release.

    Raises:
        ValueError: the folder cannot be released with this tag; the message says why.
    """
    version = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]
    if tag != f"v{version}":
        raise ValueError(f"the tag must be v{version}, the version in pyproject.toml, not {tag!r}")
    _, *sections = re.split(r"^## ", (folder / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    parts = [section.partition("\n") for section in sections]
    if parts and parts[0][0] == "Unreleased":
        if parts[0][2].strip():
            raise ValueError(f"CHANGELOG.md has changes under Unreleased: move them to '## {version} - DATE'")
        parts.pop(0)
    if not parts or not re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", parts[0][0]):
        raise ValueError(f"the newest section of CHANGELOG.md must be '## {version} - DATE'")
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
    )
    if status.stdout:
        raise ValueError(f"git has changes that are not committed: {status.stdout.splitlines()[0].strip()}")
    return parts[0][2].strip() + "\n"


def main(folder: Path, tag: str) -> int:
    """Write the notes, or one line about what is wrong; return the exit code."""
    try:
        notes = notes_of(folder, tag)
    except ValueError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    target = folder / "build" / "release" / "notes.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(notes)
    print(f"wrote {target.relative_to(folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1], sys.argv[1] if len(sys.argv) > 1 else ""))
