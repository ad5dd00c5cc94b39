"""Print dead letters and groups: a few lines each on a terminal, one line each elsewhere."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from resonant import output
from resonant.dead_letters.advice import advise, processed
from resonant.delivery.wording import shortened, why
from resonant.events import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from resonant.dead_letters.triage import DeadLetterGroup
    from resonant.events import DeadLetter
    from resonant.store.shared.gates import GateState

# Rows per table. Tables are aligned in memory, and there may be millions of rows.
_TABLE_ROWS = 1_000
_COLUMNS = ("event", "type", "endpoint", "reason", "category", "code", "tries", "dead at", "error")
_GROUP_COLUMNS = (
    *("count", "endpoint", "code", "reason", "cause", "first", "last", "example", "error"),
    "what to do",
)


def write_dead_letters(
    dead_letters: Iterator[DeadLetter], states: Mapping[str, GateState], *, now: float
) -> None:
    """Write dead letters as a stream.

    Args:
        dead_letters: the dead letters to write.
        states: gate states other than normal, keyed by endpoint.
        now: seconds since the epoch.
    """
    if not output.stdout().is_terminal:
        while page := list(islice(dead_letters, _TABLE_ROWS)):
            output.write_table(_COLUMNS, [_columns(each, states.get(each.endpoint)) for each in page])
        return
    example, before = None, None
    for dead_letter in dead_letters:
        example = example or dead_letter.event_id
        alike = (dead_letter.code or "", dead_letter.reason, dead_letter.category or "", dead_letter.endpoint)
        # Print the advice once for consecutive failures of the same kind.
        advice: list[str | None] = []
        if alike != before:
            advice = [_held(states.get(dead_letter.endpoint)), f"next: {_advice(dead_letter)}"]
        _write_on_screen(dead_letter, *advice, now=now)
        before = alike
    if example:
        output.write(
            f"resonant detail {example}  shows every attempt\n"
            "resonant export  writes all of them to error_report.json\n"
            "resonant dlq --group  groups them by cause\n"
        )


def write_groups(groups: Sequence[DeadLetterGroup], *, now: float) -> None:
    """Write groups of dead letters."""
    if output.stdout().is_terminal:
        for group in groups:
            _write_group_on_screen(group, now=now)
    else:
        output.write_table(_GROUP_COLUMNS, [_group_columns(group) for group in groups])


def _advice(dead_letter: DeadLetter) -> str:
    return advise(
        code=dead_letter.code or "",
        reason=dead_letter.reason,
        category=dead_letter.category or "",
        endpoint=dead_letter.endpoint,
        event_id=dead_letter.event_id,
    )


def _held(state: GateState | None) -> str | None:
    return f"held: the endpoint is {state}, so a replay would wait" if state else None


def _write_on_screen(dead_letter: DeadLetter, *advice: str | None, now: float) -> None:
    output.write_paragraph(
        f"{dead_letter.event_id}  to {dead_letter.endpoint}  {output.ago(now - dead_letter.dead_at)}",
        indent=2,
    )
    tries = output.counted(dead_letter.attempts, "try", "tries")
    replays = f", {output.counted(dead_letter.replays, 'replay')}" if dead_letter.replays else ""
    dead_at = rfc3339(dead_letter.dead_at)
    happened = f"{dead_letter.reason} after {tries}{replays}, {dead_at[:10]} {dead_at[11:16]}Z"
    _write_indented(
        f"{happened}, {output.visible(dead_letter.event_type)}",
        output.visible(_why(dead_letter)),
        f"{processed(dead_letter.code or '')}: check the receiver before a replay"
        if dead_letter.maybe_processed
        else None,
        *advice,
    )


def _write_group_on_screen(group: DeadLetterGroup, *, now: float) -> None:
    output.write_paragraph(
        f"{output.counted(group.count, 'dead letter')} to {group.endpoint}  last {output.ago(now - group.last_at)}, "
        f"first {output.ago(now - group.first_at)}",
        indent=2,
    )
    failed_with = why(reason=group.reason, code=group.code, error=group.error, answer=group.answer)
    reason = f"{group.reason}, " if group.code else ""
    _write_indented(
        f"{reason}{output.visible(failed_with)}",
        f"next: {group.advice}",
        f"example: {group.example}, cause: {group.fingerprint}",
    )


def _write_indented(*lines: str | None) -> None:
    for line in lines:
        if line:
            output.write_paragraph(f"  {line}", indent=4)
    output.write("\n")


def _why(dead_letter: DeadLetter) -> str:
    return why(
        reason=dead_letter.reason,
        code=dead_letter.code,
        error=dead_letter.error or dead_letter.error_type,
        answer=dead_letter.answer,
    )


def _columns(dead_letter: DeadLetter, state: GateState | None) -> tuple[str, ...]:
    parts = [
        dead_letter.error or dead_letter.error_type,
        dead_letter.answer and f"the answer: {shortened(dead_letter.answer)}",
        dead_letter.maybe_processed and processed(dead_letter.code or ""),
        _held(state),
    ]
    return (
        dead_letter.event_id,
        output.visible(dead_letter.event_type),
        dead_letter.endpoint,
        dead_letter.reason,
        dead_letter.category or "-",
        dead_letter.code or "-",
        str(dead_letter.attempts),
        rfc3339(dead_letter.dead_at),
        output.visible("; ".join(part for part in parts if part)),
    )


def _group_columns(group: DeadLetterGroup) -> tuple[str, ...]:
    answer = f"; the answer: {shortened(group.answer)}" if group.answer else ""
    return (
        str(group.count),
        group.endpoint,
        group.code or "-",
        group.reason,
        group.fingerprint,
        rfc3339(group.first_at),
        rfc3339(group.last_at),
        group.example,
        output.visible(f"{group.error}{answer}") or "-",
        group.advice,
    )
