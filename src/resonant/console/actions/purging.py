"""Purge dead letters."""

from sqlalchemy import Connection

from resonant import documents
from resonant.console.actions.planning import changed, checked, flag, only, plan_page, until
from resonant.console.asked import Asked, Done, Page, path
from resonant.dead_letters import purge as purging
from resonant.dead_letters.replay import require_restricted
from resonant.store.views.dead_letters import after_deaths
from resonant.store.views.selection import Selection


def plan(connection: Connection, asked: Asked) -> Page:
    """Show how many dead letters would be removed; with ``archive=0``, without an archive."""
    selection = checked(connection, asked.selection(besides=("archive", "everything")))
    require_restricted(selection, everything=flag(asked, "everything"))
    selection = until(selection, after_deaths(connection, now=asked.now))
    archive = flag(asked, "archive", otherwise=True)
    report = purging.count_purge(connection, purging.Chosen(selection), now=asked.now)
    first = (
        f"They are first written to a new file in {asked.console.settings.archive_folder}."
        if archive
        else "No archive is written."
    )
    return plan_page(
        asked,
        "purge",
        {"selection": selection.as_dict(), "archive": archive},
        documents.purged(report),
        number=report.purged,
        title="Purge dead letters",
        said=str(report),
        lines=[
            first,
            "Their history and their events are removed too, unless another delivery needs an event.",
        ],
        button="Remove permanently",
        target="/dead-letters/purge",
    )


async def purge(asked: Asked) -> Done:
    """Remove the dead letters of a plan."""
    only(asked, "plan")
    plans, store = asked.console.plans, asked.console.store
    planned = plans.read("purge", asked.given.get("plan"), now=asked.now)
    what = purging.Chosen(Selection(**planned.what["selection"]))
    report = await store.read(purging.count_purge, what, now=asked.now)
    if report.purged != planned.counts["purged"]:
        raise changed(documents.purged(report))
    settings, archives = asked.console.settings, planned.what["archive"]
    file = purging.archive_path(None, settings, asked.now) if archives else None
    audit_id = await plans.start(
        lambda on_begin: purging.purge(
            store, what, who=asked.who, now=asked.now, archive=file, on_begin=on_begin
        )
    )
    document = {"id": audit_id, **documents.purged(report), "dry_run": False}
    return Done(f"{report.purged:,} are being removed", document, path("replays", str(audit_id)))
