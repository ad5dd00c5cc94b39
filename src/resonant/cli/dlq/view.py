"""How dead letters and their groups are shown."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from resonant import documents
from resonant.cli.view import View
from resonant.dead_letters.advice import advise, processed
from resonant.delivery.wording import shortened, why
from resonant.display import ago, counted
from resonant.events import minute, rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from resonant.dead_letters.triage import DeadLetterGroup
    from resonant.events import DeadLetter
    from resonant.store.shared.gates import Holds

NEXT_COMMANDS = (
    "resonant detail {example}  shows every attempt\n"
    "resonant export  writes all of them to error_report.json\n"
    "resonant dlq --group  groups them by cause\n"
)


def dead_letters(holds: Holds, *, now: float) -> View[DeadLetter]:
    """Return the view of dead letters.

    Args:
        holds: what the gates hold back.
    """
    return View(
        document=lambda each: documents.dead_letter(each, holds.state(each.endpoint)),
        columns={
            "event": lambda each: each.event_id,
            "type": lambda each: each.event_type,
            "endpoint": lambda each: each.endpoint,
            "reason": lambda each: each.reason,
            "category": lambda each: each.category or "-",
            "code": lambda each: each.code or "-",
            "tries": lambda each: each.attempts,
            "dead at": lambda each: rfc3339(each.dead_at),
            "error": lambda each: _error(each, holds.why(each.endpoint, each.event_type)),
        },
        cards=partial(_cards, holds=holds, now=now),
        identity=lambda each: (each.event_id, each.source),
    )


def _error(dead_letter: DeadLetter, why_held: str) -> str:
    parts = [
        dead_letter.error or dead_letter.error_type,
        dead_letter.answer and f"the answer: {shortened(dead_letter.answer)}",
        dead_letter.maybe_processed and processed(dead_letter.code or ""),
        dead_letter.replayed_to and f"replayed to {dead_letter.replayed_to}",
        _held(why_held),
    ]
    return "; ".join(part for part in parts if part)


def _held(why: str) -> str | None:
    return f"held: {why}, so a replay would wait" if why else None


def _cards(rows: Iterator[DeadLetter], *, holds: Holds, now: float) -> Iterator[list[str | None]]:
    """Yield the lines of each dead letter, with the advice once for consecutive failures of the same kind."""
    before = None
    for row in rows:
        why_held = holds.why(row.endpoint, row.event_type)
        error = row.error or ""
        of_setting = error if row.code == "endpoint_error" else ""  # the advice depends on it
        alike = (row.code or "", row.reason, row.category or "", row.endpoint, of_setting, why_held)
        tries = counted(row.attempts, "try", "tries")
        replays = f", {counted(row.replays, 'replay')}" if row.replays else ""
        replays += f", replayed to {row.replayed_to}" if row.replayed_to else ""
        check = f"{processed(row.code or '')}: check the receiver before a replay"
        lines = [
            f"{row.event_id} from {row.source}  to {row.endpoint}  {ago(now - row.dead_at)}",
            f"{row.reason} after {tries}{replays}, {minute(row.dead_at)}, {row.event_type}",
            why(reason=row.reason, code=row.code, error=row.error or row.error_type, answer=row.answer),
            check if row.maybe_processed else None,
        ]
        if alike != before:
            code, reason, category, endpoint, *_ = before = alike
            advice = advise(
                code=code,
                reason=reason,
                category=category,
                endpoint=endpoint,
                event_id=row.event_id,
                source=row.source if row.shares_id else None,
                error=error,
            )
            lines += [_held(why_held), f"next: {advice}"]
        yield lines


def groups(*, now: float) -> View[DeadLetterGroup]:
    """Return the view of groups of dead letters; ``now`` is in seconds since the epoch."""

    def cards(rows: Iterator[DeadLetterGroup]) -> Iterator[list[str]]:
        for group in rows:
            failed_with = why(reason=group.reason, code=group.code, error=group.error, answer=group.answer)
            yield [
                (
                    f"{counted(group.count, 'dead letter')} to {group.endpoint}  last {ago(now - group.last_at)}, "
                    f"first {ago(now - group.first_at)}"
                ),
                f"{group.reason}, {failed_with}" if group.code else failed_with,
                next_step(group),
                f"example: {group.example}, cause: {group.fingerprint}",
            ]

    def next_step(group: DeadLetterGroup) -> str:
        if (known := group.acknowledged) is None:
            return f"next: {group.advice}"
        return f"acknowledged by {known.by}, {ago(now - known.at)}{f': {known.note}' if known.note else ''}"

    def error(group: DeadLetterGroup) -> str:
        answer = f"; the answer: {shortened(group.answer)}" if group.answer else ""
        return f"{group.error}{answer}" or "-"

    return View(
        document=documents.dead_letter_group,
        columns={
            "count": lambda group: group.count,
            "endpoint": lambda group: group.endpoint,
            "code": lambda group: group.code or "-",
            "reason": lambda group: group.reason,
            "cause": lambda group: group.fingerprint,
            "first": lambda group: rfc3339(group.first_at),
            "last": lambda group: rfc3339(group.last_at),
            "example": lambda group: group.example,
            "error": error,
            "what to do": lambda group: next_step(group).removeprefix("next: "),
        },
        cards=cards,
        fits=True,
    )
