"""Cancel unfinished deliveries."""

import math

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import changed, checked, flag, only, plan_page, until
from resonant.console.asked import Asked, Done, Page, path
from resonant.dead_letters import cancel as cancelling
from resonant.dead_letters.replay import require_restricted
from resonant.store.views.selection import Selection


def plan(connection: Connection, asked: Asked) -> Page:
    """Show which unfinished deliveries would be given up."""
    selection = checked(connection, asked.selection(besides=("everything",)))
    require_restricted(selection, everything=flag(asked, "everything"))
    selection = until(selection, math.nextafter(asked.now, math.inf))
    expected = cancelling.cancellable(connection, selection)
    return plan_page(
        asked,
        "cancel",
        selection.as_dict(),
        documents.cancellable(expected),
        number=expected.number,
        title="Cancel deliveries",
        said=str(expected),
        lines=["They become dead letters with the reason cancelled, and can be replayed."],
        button="Give up",
        target="/deliveries/cancel",
    )


async def cancel(asked: Asked) -> Done:
    """Give up the deliveries of a plan, except those that have ended or are being sent meanwhile."""
    only(asked, "plan")
    plans, store = asked.console.plans, asked.console.store
    planned = plans.read("cancel", asked.given.get("plan"), now=asked.now)
    selection = Selection(**planned.what)
    expected = await store.read(cancelling.cancellable, selection)
    # Fewer are no reason to refuse: drains end deliveries all the time, and the operator has seen those that are left.
    if not 0 < expected.number <= planned.counts["would_cancel"]:
        raise changed(documents.cancellable(expected))
    audit_id = await plans.start(
        lambda on_begin: cancelling.cancel(store, selection, who=asked.who, on_begin=on_begin)
    )
    document = {"id": audit_id, **documents.cancellable(expected), "dry_run": False}
    return Done(f"{expected.number:,} are being given up", document, path("replays", str(audit_id)))
