"""Purge dead letters."""

from functools import partial

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import begin, changed, checked, flag, of_plan, plan_page, until
from resonant.console.asked import Asked, Done, Page
from resonant.console.plans import Plan
from resonant.dead_letters import purge as purging
from resonant.dead_letters.replay import require_restricted
from resonant.store.views.dead_letters import after_deaths
from resonant.store.views.selection import Selection


def plan(connection: Connection, asked: Asked) -> Page:
    """Show how many dead letters would be removed; with ``archive=0``, without an archive."""
    selection = checked(connection, asked.selection(besides=("archive", "everything")))
    require_restricted(selection, everything=flag(asked, "everything"))
    selection = until(selection, after_deaths(connection, now=asked.now))
    archive, folder = flag(asked, "archive", otherwise=True), asked.console.settings.archive_folder
    report = purging.count_purge(connection, purging.Chosen(selection), now=asked.now)
    first = f"They are first written to a new file in {folder}." if archive else "No archive is written."
    then = "Their history is removed too, and each event that no other delivery needs."
    what = {"selection": selection.as_dict(), "archive": archive}
    return plan_page(asked, "purge", what, documents.purged(report), report, first, then)


@of_plan("purge")
async def purge(asked: Asked, plan: Plan) -> Done:
    """Remove the dead letters of a plan."""
    store, what = asked.console.store, purging.Chosen(Selection(**plan.what["selection"]))
    report = await store.read(purging.count_purge, what, now=asked.now)
    if report.purged != plan.counts["purged"]:
        raise changed(documents.purged(report))
    has_archive = plan.what["archive"]
    file = purging.archive_path(None, asked.console.settings, asked.now) if has_archive else None
    start = partial(purging.purge, store, what, who=asked.who, now=asked.now, archive=file)
    said = f"{report.purged:,} are being removed"
    return await begin(asked, start, said, documents.purged(report))
