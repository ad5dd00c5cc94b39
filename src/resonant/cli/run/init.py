"""``resonant init``: a copy of the flows, for teams that want to change them."""

import hashlib
import json
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from resonant import output
from resonant.display import some
from resonant.errors import InitError
from resonant.files import atomic_file
from resonant.local.project import PROJECT_PARTS, installed_project

# In the folder: the SHA-256 of each file as `init` wrote it, by its path in the folder.
MANIFEST = ".resonant-init.json"
_NEXT = """\
copied {parts} to {folder}
Commands that run in this folder use these flows:
{enter}  resonant up
With your own Prefect server, instead of `resonant up`:
  python -m deployments.bootstrap
  prefect worker start --pool resonant
"""


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new folder.")],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace the files of an earlier copy, unless somebody changed one of them."
        ),
    ] = False,
) -> None:
    """Copy the flows, tasks, blocks and deployments to a folder, so that you can change them.

    Commands and workers that start in that folder use its flows instead of the installed ones.

    --overwrite replaces only unchanged files that `init` wrote. If another file would be replaced, the command
    changes nothing and lists these files. Then copy to another folder, and compare.
    """
    source = installed_project()
    shown = output.visible(str(folder))
    try:
        _check(folder, source, overwrite=overwrite)
        files = {path: (source / path).read_bytes() for path in _files(source)}
        written = _read_manifest(folder)
        if own := [path for path in files if not _may_write(folder, path, files[path], written.get(path))]:
            raise InitError(_refusal(shown, own))
        for path, content in files.items():
            _replace(folder / path, content)
        hashes = written | {path: _hash(content) for path, content in files.items()}
        _replace(folder / MANIFEST, (json.dumps(hashes, indent=1, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise InitError(f"cannot copy the flows to {shown}: {error.strerror}") from None
    enter = "" if folder.samefile(Path()) else f"  cd {shlex.quote(shown)}\n"
    output.write(_NEXT.format(parts=" ".join(PROJECT_PARTS), folder=shown, enter=enter))


def _check(folder: Path, source: Path, *, overwrite: bool) -> None:
    shown = output.visible(str(folder))
    if folder.exists() and not folder.is_dir():
        raise InitError(f"{shown} is not a folder")
    if folder.is_dir() and folder.samefile(source):
        raise InitError(f"{shown} is the project that this installation uses")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise InitError(
            f"{shown} is not empty: choose another folder, or use --overwrite for a copy that `resonant init` made"
        )


def _files(source: Path) -> Iterator[str]:
    """Yield the project's files as paths relative to it."""
    for part in PROJECT_PARTS:
        paths = sorted((source / part).rglob("*")) if (source / part).is_dir() else [source / part]
        for path in paths:
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(source).as_posix()


def _read_manifest(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):  # a copy by an older version, or a project of others
        return {}
    return found if isinstance(found, dict) else {}


def _may_write(folder: Path, path: str, content: bytes, written: object) -> bool:
    """Return whether a file is new, equal, or as ``init`` wrote it. Behind a link, it may belong to others."""
    target = folder / path
    if target.resolve() != folder.resolve() / path:
        return False
    if not target.exists():
        return True
    return target.is_file() and _hash(target.read_bytes()) in (_hash(content), written)


def _refusal(shown: str, own: list[str]) -> str:
    return (
        f"nothing was written to {shown}: `resonant init` did not write these files, or they were changed since: {some(own)}; "
        "choose another folder, such as `resonant init our-flows`, and compare"
    )


def _replace(target: Path, content: bytes) -> None:
    """Write a file, and keep its permissions; an interruption leaves the old content or the new."""
    target.parent.mkdir(parents=True, exist_ok=True)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o600
    with atomic_file(target, mode=mode) as write:
        write(content.decode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
