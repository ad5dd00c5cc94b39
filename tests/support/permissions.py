"""The permissions of the files that Resonant and Prefect write into a user's home."""

import stat
from pathlib import Path

from support.machine import Machine

READABLE_BY_ALL = {"metrics/resonant.prom": 0o644, "metrics": 0o755}


class Home(Machine):
    """A user's home, with files at the default paths.

    Attributes:
        given: files that the test has written, except ``.jsonl`` files.
    """

    def __init__(self, path: Path, umask: int) -> None:
        at_default = {"RESONANT_HOME": str(path / ".resonant"), "PREFECT_HOME": str(path / ".prefect")}
        super().__init__(path, variables=at_default, umask=umask)
        self.given: set[Path] = set()

    @property
    def database(self) -> Path:
        return self.home / ".resonant" / "resonant.db"

    def prepare(self) -> None:
        """Do nothing: the server makes every file itself."""

    def modes(self, *, whole: bool = False) -> dict[str, int]:
        """Return the modes of the files that Resonant writes, by their names, without sockets.

        Args:
            whole: include the files of Prefect and matplotlib.
        """
        resonant, prefect = self.home / ".resonant", self.home / ".prefect"
        written = [resonant, *resonant.rglob("*"), prefect, *prefect.glob("prefect.db*")]
        if whole:
            every = self.home.rglob("*")
            written = [path for path in every if path.suffix != ".jsonl" and path not in self.given]
        return {
            str(path.relative_to(resonant if path.is_relative_to(resonant) else self.home)): stat.S_IMODE(
                path.stat().st_mode
            )
            for path in written
            if path.exists() and not path.is_socket()
        }


def open_to_others(modes: dict[str, int]) -> dict[str, str]:
    """Return the files that other users may read or write although they should not."""
    return {
        name: oct(mode) for name, mode in modes.items() if mode & 0o077 and mode != READABLE_BY_ALL.get(name)
    }
