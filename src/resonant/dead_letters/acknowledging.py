"""Acknowledge causes of dead letters, or reopen them, as an operator asks: all of them, or none."""

from collections.abc import Iterable

from sqlalchemy import Connection

from resonant.errors import ResonantError
from resonant.store.queue.attempts import storable
from resonant.store.shared.acknowledgements import acknowledge, reopen

# The triage shows each note in a line.
_LONGEST_NOTE = 500


def checked_note(note: str | None) -> str | None:
    """Return a note that the store can keep.

    Raises:
        ResonantError: it is empty or too long.
    """
    if note is not None and not 0 < (length := len(note.strip())) <= _LONGEST_NOTE:
        raise ResonantError(f"note has {length:,} characters: write 1 to {_LONGEST_NOTE}")
    return storable(note)


def change_causes(
    connection: Connection, causes: Iterable[str], *, note: str | None, undo: bool, who: str, now: float
) -> dict[str, int]:
    """Acknowledge causes, or with ``undo`` reopen them; return the numbers of their dead letters.

    Raises:
        ResonantError: a cause has no dead letter, or is not acknowledged.
    """
    found = {}
    for cause in causes:
        if undo:
            found[cause] = reopen(connection, cause, who=who, now=now)
            why = f"the cause {cause} is not acknowledged: nothing was changed"
        else:
            found[cause] = acknowledge(connection, cause, who=who, note=note, now=now)
            why = f"the queue has no dead letter of the cause {cause}: nothing was acknowledged"
        if not found[cause]:
            raise ResonantError(why)
    return found
