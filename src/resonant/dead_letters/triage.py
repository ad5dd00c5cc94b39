"""Triage: group dead letters by cause, with advice for each group, and acknowledged causes last."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        blame: whose fault the example's last failure was.
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
    blame: str | None = None
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
    return triage_page(connection, dead_letters, limit=None).groups


class TriagePage(NamedTuple):
    """A part of the groups, the number of all groups, and whether more follow."""

    groups: list[DeadLetterGroup]
    total: int
    goes_on: bool


def triage_page(
    connection: Connection, dead_letters: DeadLetters, *, limit: int | None, after: str | None = None
) -> TriagePage:
    """Return the first groups of ``triage``, or those after the group with the fingerprint ``after``."""
    counts = {each.cause_id: each for each in dead_letters.count_by_cause(connection)}
    acknowledged = read_acknowledged(connection)
    of_group: defaultdict[str, list[int]] = defaultdict(list)
    query = select(_c.c.fingerprint, _c.c.id).where(is_any_of(_c.c.id, list(counts)))
    for fingerprint, cause in connection.execute(query):
        of_group[fingerprint].append(cause)

    def rank(fingerprint: str) -> tuple[bool, int, str]:
        return (
            fingerprint in acknowledged,
            -sum(counts[each].number for each in of_group[fingerprint]),
            fingerprint,
        )

    order = sorted(of_group, key=rank)
    start = order.index(after) + 1 if after is not None and after in of_group else 0
    chosen = order[start:] if limit is None else order[start : start + limit]
    groups = _read_groups(
        connection, {each: [counts[id_] for id_ in of_group[each]] for each in chosen}, acknowledged
    )
    return TriagePage(groups, len(order), start + len(chosen) < len(order))


def _read_groups(
    connection: Connection,
    counts: Mapping[str, list[CauseCount]],
    acknowledged: Mapping[str, Acknowledgement],
) -> list[DeadLetterGroup]:
    every = [each for of_group in counts.values() for each in of_group]
    query = select(_c).where(is_any_of(_c.c.id, [each.cause_id for each in every]))
    causes = {row.id: row for row in connection.execute(query)}
    newest = [each.last_id for each in every]
    examples = {row.id: row for row in read_deliveries(connection, newest)}
    said = answers(connection, newest)
    return [
        _group(
            fingerprint,
            sorted(((causes[each.cause_id], each) for each in of_group), key=lambda member: member[0].id),
            examples,
            said,
            acknowledged.get(fingerprint),
        )
        for fingerprint, of_group in counts.items()
    ]


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
        blame=said[max(newest)].blame,
        acknowledged=acknowledged,
    )
