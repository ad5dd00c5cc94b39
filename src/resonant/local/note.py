"""The note in which ``resonant up`` records its server, so that other commands find it."""

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

from resonant.local.health import is_healthy
from resonant.settings import Settings


@dataclass(frozen=True, slots=True)
class Note:
    """The note of a ``resonant up``.

    Attributes:
        api_url: the URL of the API of its server.
        pid: the id of its process.
        has_password: whether the server requires the password of ``password_file``.
    """

    api_url: str
    pid: int
    has_password: bool


def running_up(settings: Settings) -> Note | None:
    """Return the note of the running ``resonant up`` if its server answers."""
    if not is_held(lock_of_up(settings)):
        # A killed process may have left its note. By now another program may listen there; it must not get secrets.
        return None
    found = read_note(settings)
    return found if found and is_healthy(found.api_url) else None


def read_note(settings: Settings) -> Note | None:
    """Return the note, if there is a valid one."""
    try:
        return Note(**json.loads(note_of_up(settings).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def note_of_up(settings: Settings) -> Path:
    """Return the file in which ``resonant up`` records its address."""
    return settings.home.expanduser() / "up.json"


def lock_of_up(settings: Settings) -> Path:
    """Return the file that ``resonant up`` locks while it runs."""
    return note_of_up(settings).with_suffix(".lock")


def is_held(lock: Path) -> bool:
    """Return whether a process holds this lock exclusively; the check briefly takes a shared lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
