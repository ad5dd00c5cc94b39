"""Who changed what."""

from typing import get_args
from urllib.parse import urlencode

from sqlalchemy import Connection

from resonant import documents
from resonant.console.asked import Asked, Page
from resonant.intake.problems import Problem
from resonant.store.audit import AuditAction, read_audit
from resonant.suggestions import did_you_mean

_ROWS = 50
_ACTIONS: tuple[AuditAction, ...] = get_args(AuditAction)


def audit(connection: Connection, asked: Asked) -> Page:
    """List what operators did, newest first."""
    if unknown := sorted(asked.given.keys() - {"before", "action", "who"}):
        raise Problem(422, f"{', '.join(unknown)}: no such filter: use action or who")
    name, who = asked.text("action"), asked.text("who")
    action = next((each for each in _ACTIONS if each == name), None)
    if name and action is None:
        raise Problem(422, f"no action is named {name!r}{did_you_mean(name, _ACTIONS)}")
    before = asked.number("before", 1, most=10**12) if asked.text("before") else None
    found = read_audit(connection, limit=_ROWS + 1, action=action, who=who or None, before=before)
    more = None
    if len(found) > _ROWS:
        more = f"/audit?{urlencode({'action': name, 'who': who, 'before': found[_ROWS - 1].id})}"
    context = {"entries": found[:_ROWS], "actions": _ACTIONS, "action": name, "name": who, "more": more}
    return Page("audit.html", [documents.audit_entry(each) for each in found[:_ROWS]], context)
