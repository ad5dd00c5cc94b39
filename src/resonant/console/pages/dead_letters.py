"""The dead-letter queue by cause, and the dead letters of one cause."""

from dataclasses import replace

from sqlalchemy import Connection

from resonant import documents
from resonant.console.asked import Asked, Page, path
from resonant.console.pages.deliveries import ROWS, checked, links, list_deliveries, next_link
from resonant.dead_letters.triage import DeadLetterGroup, triage, triage_page
from resonant.intake.problems import Problem
from resonant.store.queue.causes import is_known
from resonant.store.views.dead_letters import DeadLetters

_SECONDS = 0.05


def groups(connection: Connection, asked: Asked) -> Page:
    """Group the dead letters by cause, acknowledged causes last."""
    selection = checked(connection, asked.selection(besides=("after",)))
    page = triage_page(
        connection, DeadLetters.of(connection, selection), limit=ROWS, after=asked.text("after") or None
    )
    found = [_shown(each, asked) for each in page.groups]
    after = found[-1].fingerprint if page.goes_on else None
    context = {"groups": found, "total": page.total, **links(asked, "/dead-letters", after)}
    listed = [documents.dead_letter_group(each) for each in found]
    return Page("dead_letters.html", listed, context, next_link(context))


def of_cause(connection: Connection, asked: Asked) -> Page:
    """Show one cause, its advice, and its dead letters."""
    [cause] = asked.names
    selection = asked.selection(besides=("after",), cause=cause)
    if not is_known(connection, cause):
        raise Problem(404, f"no dead letter has the cause {cause!r}: /dead-letters lists the causes")
    listed = list_deliveries(connection, asked, selection, "dead_letter", rows=ROWS, seconds=_SECONDS)
    found = [_shown(each, asked) for each in triage(connection, selection)]
    more = links(asked, path("dead-letters", cause), listed.after)
    context = {**more, "listed": listed, "cause": cause, "group": found[0] if found else None}
    return Page("cause.html", listed.documents, context, next_link(more))


def _shown(group: DeadLetterGroup, asked: Asked) -> DeadLetterGroup:
    return group if asked.console.shows_bodies else replace(group, answer="")
