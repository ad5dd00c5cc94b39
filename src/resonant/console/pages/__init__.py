"""The pages and actions by path; a star is one part of the path, encoded whole. The first match counts."""

from collections.abc import Mapping

from resonant.console.actions import acknowledging, cancelling, gates, purging, replaying
from resonant.console.asked import Action, View
from resonant.console.pages import audit, dead_letters, deliveries, endpoints, events, now, subscriptions

PAGES: Mapping[str, View] = {
    "/": now.now,
    "/status": now.status,
    "/endpoints": endpoints.endpoints,
    "/endpoints/*": endpoints.endpoint,
    "/deliveries": deliveries.deliveries,
    "/deliveries/cancel": cancelling.plan,
    "/deliveries/export": deliveries.export,
    "/events/*/*": events.event,
    "/events/*/*/replay": replaying.plan_event,
    "/dead-letters": dead_letters.groups,
    "/dead-letters/replay": replaying.plan,
    "/dead-letters/purge": purging.plan,
    "/dead-letters/*": dead_letters.of_cause,
    "/replays/*": replaying.progress,
    "/subscriptions": subscriptions.subscriptions,
    "/audit": audit.audit,
}
ACTIONS: Mapping[str, Action] = {
    "/endpoints/*/pause": gates.pause,
    "/endpoints/*/resume": gates.resume,
    "/endpoints/*/test": gates.test,
    "/deliveries/cancel": cancelling.cancel,
    "/events/*/*/replay": replaying.replay_event,
    "/dead-letters/acknowledge": acknowledging.acknowledge,
    "/dead-letters/replay": replaying.replay,
    "/dead-letters/purge": purging.purge,
    "/replays/*/cancel": replaying.cancel,
}
