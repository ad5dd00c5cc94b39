"""Acknowledge causes of dead letters."""

from resonant import documents
from resonant.console.actions.planning import checked, flag, only
from resonant.console.asked import Asked, Done, path
from resonant.dead_letters.acknowledging import change_causes, checked_note
from resonant.display import counted
from resonant.intake.problems import Problem
from resonant.store.views.selection import Selection


async def acknowledge(asked: Asked) -> Done:
    """Acknowledge a cause, or with ``undo`` reopen it."""
    only(asked, "cause", "note", "undo")
    cause, note, undo = asked.text("cause"), asked.text("note") or None, flag(asked, "undo")
    if undo and note:
        raise Problem(422, "note cannot be combined with undo")
    store, note = asked.console.store, checked_note(note)
    await store.read(checked, Selection(cause=cause))
    found = await store.write(change_causes, [cause], note=note, undo=undo, who=asked.who, now=asked.now)
    done = "reopened" if undo else "acknowledged"
    text = f"{done} {cause}: {counted(found[cause], 'dead letter')}"
    return Done(text, documents.acknowledged(found, done), path("dead-letters", cause))
