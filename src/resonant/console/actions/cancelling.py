"""Cancel unfinished deliveries."""

import math
from functools import partial

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import begin, changed, checked, flag, of_plan, plan_page, until
from resonant.console.asked import Asked, Done, Page
from resonant.console.plans import Plan
from resonant.dead_letters.cancel import cancel as cancel_deliveries
from resonant.dead_letters.cancel import cancellable
from resonant.dead_letters.replay import require_restricted
from resonant.store.views.selection import Selection


def plan(connection: Connection, asked: Asked) -> Page:
    """Show which unfinished deliveries would be given up."""
    selection = checked(connection, asked.selection(besides=("everything",)))
    require_restricted(selection, everything=flag(asked, "everything"))
    end = math.nextafter(asked.now, math.inf)
    selection = until(selection, end)
    expected = cancellable(connection, selection, begun_before=end)
    # A replay makes old dead letters unfinished again; the plan does not show them.
    what = {"selection": selection.as_dict(), "begun_before": end}
    after = "They become dead letters with the reason cancelled, and can be replayed."
    return plan_page(asked, "cancel", what, documents.cancellable(expected), expected, after)


@of_plan("cancel")
async def cancel(asked: Asked, plan: Plan) -> Done:
    """Give up the deliveries of a plan, except those that have ended or are being sent meanwhile."""
    store, selection = asked.console.store, Selection(**plan.what["selection"])
    begun_before = plan.what["begun_before"]
    expected = await store.read(cancellable, selection, begun_before=begun_before)
    # Fewer are no reason to refuse: drains end deliveries all the time, and the operator has seen those that are left.
    if not 0 < expected.number <= plan.counts["would_cancel"]:
        raise changed(documents.cancellable(expected))
    start = partial(cancel_deliveries, store, selection, begun_before=begun_before, who=asked.who)
    said = f"{expected.number:,} are being given up"
    return await begin(asked, start, said, documents.cancellable(expected))
