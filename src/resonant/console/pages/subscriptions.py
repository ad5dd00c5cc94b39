"""Who gets what, and what would happen to an event."""

from sqlalchemy import Connection

from resonant import documents
from resonant.console.asked import Asked, Page
from resonant.errors import InvalidEvent
from resonant.intake.problems import Problem
from resonant.store.shared.subscriptions import read_subscriptions, try_event


def subscriptions(connection: Connection, asked: Asked) -> Page:
    """List the subscriptions; with ``event``, show which endpoints would get it, and why the others would not."""
    if unknown := sorted(asked.given.keys() - {"event"}):
        raise Problem(422, f"{', '.join(unknown)}: no such value: use event")
    found, text, trial, problem = read_subscriptions(connection), asked.text("event"), None, None
    document: object = [documents.subscription(each) for each in found]
    if text:
        try:
            most = asked.console.settings.max_event_bytes
            trial = try_event(connection, text, default_type=None, max_bytes=most)
            document = documents.subscription_test(*trial)
        except InvalidEvent as error:
            problem = Problem(422, str(error))
    context = {"subscriptions": found, "text": text, "trial": trial, "problem": problem}
    return Page("subscriptions.html", document, context, problem=problem)
