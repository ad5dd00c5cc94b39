"""Triage: group dead letters by cause, with advice for each group, and acknowledged causes last."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from resonant.dead_letters.advice import advise
from resonant.store import schema
from resonant.store.engine.sql import is_any_of
from resonant.store.queue.fingerprint import normalised
from resonant.store.shared.acknowledgements import Acknowledgement, read_acknowledged
from resonant.store.views.dead_letters import CauseCount, DeadLetters
from resonant.store.views.reads import ReceiverSide, answers, read_deliveries
from resonant.store.views.selection import Selection

_c = schema.causes


@dataclass(frozen=True, slots=True)
class DeadLetterGroup:
    """Dead letters of one endpoint with the same cause.

    Attributes:
        fingerprint: 12 hex digits derived from endpoint, code and error; stable over time.
        reason, category: the most frequent ones, or empty.
        error: the error text, with variable parts replaced.
        count: the number of dead letters.
        first_at, last_at: when the first and the last of them were given up, seconds since the epoch.
        example, example_source: the event id and the source of the newest dead letter.
        shares_id: whether events of other sources have the example's id.
        answer: the beginning of the receiver's answer to the example, if any; otherwise empty.
        maybe_processed: whether the receiver may have processed some, judged by the newest of each cause.
        acknowledged: the acknowledgement of the cause, if any.
    """

    fingerprint: str
    endpoint: str
    code: str
    reason: str
    category: str
    error: str
    count: int
    first_at: float
    last_at: float
    example: str
    example_source: str
    answer: str
    maybe_processed: bool
    shares_id: bool = False
    acknowledged: Acknowledgement | None = None

    @property
    def advice(self) -> str:
        """The recommended action."""
        return advise(
            code=self.code,
            reason=self.reason,
            category=self.category,
            endpoint=self.endpoint,
            event_id=self.example,
            source=self.example_source if self.shares_id else None,
            error=self.error,
            cause=self.fingerprint,
            maybe_processed=self.maybe_processed,
        )


def triage(connection: Connection, selection: Selection = Selection()) -> list[DeadLetterGroup]:  # noqa: B008 - frozen
    """Group the selected dead letters by fingerprint, acknowledged causes last, and else the largest group first."""
    return group_by_cause(connection, DeadLetters.of(connection, selection))


def group_by_cause(connection: Connection, dead_letters: DeadLetters) -> list[DeadLetterGroup]:
    """Group dead letters, read on this connection, as ``triage`` does."""
    counts = {each.cause_id: each for each in dead_letters.count_by_cause(connection)}
    members: defaultdict[str, list[tuple[Row[Any], CauseCount]]] = defaultdict(list)
    for cause in connection.execute(select(_c).where(is_any_of(_c.c.id, list(counts)))):
        members[cause.fingerprint].append((cause, counts[cause.id]))
    newest = [each.last_id for each in counts.values()]
    examples = {row.id: row for row in read_deliveries(connection, newest)}
    said = answers(connection, newest)
    acknowledged = read_acknowledged(connection)
    groups = [
        _group(fingerprint, group, examples, said, acknowledged.get(fingerprint))
        for fingerprint, group in members.items()
    ]
    return sorted(groups, key=lambda group: (bool(group.acknowledged), -group.count, group.fingerprint))


def _group(
    fingerprint: str,
    members: list[tuple[Row[Any], CauseCount]],
    examples: Mapping[int, Row[Any]],
    said: Mapping[int, ReceiverSide],
    acknowledged: Acknowledgement | None,
) -> DeadLetterGroup:
    kinds: Counter[tuple[str, str]] = Counter()
    for cause, dead_letters in members:
        kinds[cause.reason, cause.category] += dead_letters.number
    [((reason, category), _)] = kinds.most_common(1)
    first, _ = members[0]
    counts = [each for _, each in members]
    newest = [each.last_id for each in counts]
    example = examples[max(newest)]
    return DeadLetterGroup(
        fingerprint=fingerprint,
        endpoint=first.endpoint,
        code=first.code,
        reason=reason,
        category=category,
        error=normalised(first.error),
        count=kinds.total(),
        first_at=min(each.first_at for each in counts),
        last_at=max(each.last_at for each in counts),
        example=example.event_id,
        example_source=example.source,
        answer=said[max(newest)].answer or "",
        maybe_processed=any(said[each].maybe_processed for each in newest),
        shares_id=example.shares_id,
        acknowledged=acknowledged,
    )
