"""Picking dead letters by any text: the database finds what a plain look at each dead letter finds, and no text is SQL."""

from __future__ import annotations

import asyncio
import math
import random
import re
from dataclasses import dataclass, fields
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from resonant.cli import filters, options
from resonant.errors import StoreError
from resonant.events import Category, Reason
from resonant.store import WorkerStore, schema
from resonant.store.queue.causes import Cause, cause_ids
from resonant.store.views.dead_letters import DeadLetters
from resonant.store.views.reads import count_dead_letters, dead_letters, find_event_ids
from resonant.store.views.selection import Selection

fuzzed = settings.get_profile("fuzz")
fuzzed_with_io = settings.get_profile("fuzz-io")

START = 1_700_000_000.0
# One snapshot answers so many: opening it takes longer than the questions.
WAYS = 10
NASTY = [
    "%",
    "_",
    "\\",
    "'",
    '"',
    "*",
    "?",
    "[",
    "]",
    "[a-z]",
    "--",
    ";",
    "\\%",
    "%%",
    "/*",
    ":x",
    "$1",
    "{}",
    "\n",
    "\t",
]
NASTY += [
    "'; DROP TABLE resonant_events; --",
    "' OR '1'='1",
    "é",
    "É",
    "ß",
    "İ",
    "\u0131",
    "\u0301",
    "\U0001f600",
    "\x7f",
    "a",
    "A",
    "b.",
]
UNSTORABLE = ["\x00", "\ud800", "\udfff"]


@dataclass(frozen=True)
class Letter:
    """A dead letter as the oracle sees it."""

    event_id: str
    event_type: str
    endpoint: str
    reason: str
    category: str | None
    code: str | None
    error_type: str | None
    error: str | None
    dead_at: float


def text(rng, longest=4):
    return "".join(rng.choice(NASTY) for _ in range(rng.randrange(longest)))


def make_dead_letters(rng, number=60):
    return [
        Letter(
            event_id=f"evt{number}{text(rng)}",
            event_type=rng.choice(["order.paid", "Order.Paid", text(rng) or "%"]),
            endpoint=rng.choice(["orders", "audit", text(rng) or "_"]),
            reason=rng.choice(["permanent", "exhausted", "expired", "crashed"]),
            category=rng.choice(["transient", "permanent", "unknown", None]),
            code=rng.choice(["http_503", "timeout", None, text(rng) or None]),
            error_type=rng.choice([None, "ReadTimeout", text(rng)]),
            error=rng.choice([None, f"the endpoint answered {number}: {text(rng, 6)}", text(rng, 6)]),
            dead_at=START + rng.choice([0, 0.5, 1, 2, number]),
        )
        for number in range(number)
    ]


async def fill(store, given):
    """Store them as a worker would have, in few statements."""

    def write(connection):
        causes = {
            dead_letter: Cause.of(
                *(
                    dead_letter.endpoint,
                    dead_letter.event_type,
                    dead_letter.reason,
                    dead_letter.category,
                    dead_letter.code,
                ),
                *(dead_letter.error_type, dead_letter.error),
            )
            for dead_letter in given
        }
        ids = cause_ids(connection, causes.values())
        for dead_letter in given:
            event = {
                "id": dead_letter.event_id,
                "type": dead_letter.event_type,
                "source": "/s",
                "time": "",
                "digest": "",
            }
            connection.execute(insert(schema.events).values(**event, accepted_at=START, body=b"null"))
            row = {
                field.name: getattr(dead_letter, field.name)
                for field in fields(dead_letter)
                if field.name != "dead_at"
            }
            row |= {"accepted_at": dead_letter.dead_at, "round_started_at": START, "attempts": 1}
            final = {
                "status": "dead_letter",
                "finished_at": dead_letter.dead_at,
                "cause_id": ids[causes[dead_letter]],
            }
            connection.execute(insert(schema.deliveries).values(**row | final))
            # Its twin is not final; the same words select it, by the moment of its acceptance.
            twin = {
                **row,
                "event_id": dead_letter.event_id,
                "endpoint": f"{dead_letter.endpoint}-twin",
                "reason": None,
            }
            waiting = {"status": "retrying", "available_at": START}
            connection.execute(insert(schema.deliveries).values(**twin | waiting))

    await store.write(write)


# In every store here.
KEPT = make_dead_letters(random.Random(6))


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def ask(request, tmp_path_factory):
    """Ask one store: a function of a connection is run on a snapshot; in the end nothing was changed."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('fuzz')}/resonant.db"
    else:
        url = request.getfixturevalue("postgresql").empty_database()
    tables = schema.metadata.sorted_tables

    def sizes(connection):
        return [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables]

    with asyncio.Runner() as runner, pytest.MonkeyPatch.context() as patch:
        # So that some causes stand for many dead letters, whose texts are then looked at one by one.
        patch.setattr("resonant.store.queue.causes.MOST_ERRORS", 2)
        patch.setattr("resonant.store.queue.causes.MOST_NORMALISED", 3)
        store = runner.run(WorkerStore.open(url))
        runner.run(fill(store, KEPT))
        before = runner.run(store.read(sizes))
        yield lambda operation: runner.run(store.read(operation))
        assert runner.run(store.read(sizes)) == before, "no text was taken for a statement"
        runner.run(store.close())


def words(rng):
    """Make up what an operator may ask: parts of what is there, with anything between."""
    dead_letter = rng.choice(KEPT)

    def about(value):
        value = value or ""
        start, end = sorted(rng.randrange(len(value) + 1) for _ in range(2))
        return rng.choice(
            [value, value[start:end], value.swapcase(), value[start:end] + rng.choice(NASTY), text(rng)]
        )

    def glob(value):
        value = list(about(value))
        for _ in range(rng.randrange(3)):
            value.insert(rng.randrange(len(value) + 1), rng.choice("*?"))
        return "".join(value)

    made = {
        "ids": tuple(
            rng.choice([about(dead_letter.event_id), dead_letter.event_id]) for _ in range(rng.randint(1, 3))
        ),
        "event_type": glob(dead_letter.event_type),
        "endpoint": about(dead_letter.endpoint),
        "category": rng.choice([dead_letter.category or "unknown", *get_args(Category)]),
        "code": about(dead_letter.code),
        "reason": rng.choice([dead_letter.reason, *get_args(Reason)]),
        "text": rng.choice([about(dead_letter.error), about(dead_letter.error_type)])
        or "%",  # the doors refuse an empty one
        "since": START + rng.choice([-1e300, -math.inf, 0, 0.5, 1, 7, 1e300, math.inf]),
        "until": START + rng.choice([-1e300, -math.inf, 0, 0.5, 1, 7, 1e300, math.inf]),
    }
    names = rng.sample(list(made), rng.choice([1, 1, 1, 2, 3]))
    return {name: made[name] for name in names}


def matches(dead_letter, asked):
    """Tell whether a dead letter is selected; None where "in any case" is for the database to say (beyond ASCII)."""
    certain = True
    for name, value in asked.items():
        if name == "text":
            texts = [dead_letter.error or "", dead_letter.error_type or ""]
            if not any(_folded(value) in _folded(each) for each in texts):
                if all(each.isascii() for each in (value, *texts)):
                    return False
                certain = False
        elif not _holds(dead_letter, name, value):
            return False
    return True if certain else None


def _holds(dead_letter, name, value):
    match name:
        case "ids":
            return dead_letter.event_id in value
        case "event_type":
            pattern = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in value)
            return re.fullmatch(pattern, dead_letter.event_type, re.DOTALL) is not None
        case "category":
            return bool(value) and (dead_letter.category or "unknown") == value
        case "since":
            return dead_letter.dead_at >= value
        case "until":
            return dead_letter.dead_at < value
        case _:
            return bool(value) and getattr(dead_letter, name) == value


def _folded(value):
    # SQLite folds ASCII alone, PostgreSQL what its locale knows: there "İ" is found in "time".
    return re.sub("[A-Z]", lambda found: found[0].lower(), value)


@fuzzed_with_io
@given(seed=st.integers(0, 2**64))
def test_the_database_finds_what_a_look_at_each_dead_letter_finds(ask, seed):
    rng = random.Random(seed)
    asked = [words(rng) for _ in range(WAYS)]

    def answers(connection):
        for each in asked:
            selection = Selection(**each)
            table = schema.deliveries
            unfinished = select(table.c.event_id).where(
                table.c.available_at.is_not(None), *selection.of_unfinished()
            )
            conditions = DeadLetters.of(connection, selection).conditions()
            yield (
                [dead_letter.event_id for dead_letter in dead_letters(connection, selection)],
                count_dead_letters(connection, selection),
                set(connection.execute(select(table.c.event_id).where(*conditions)).scalars()),
                set(connection.execute(unfinished).scalars()),
            )

    for each, (listed, counted, conditioned, unfinished) in zip(
        asked, ask(lambda connection: list(answers(connection))), strict=True
    ):
        found = set(listed)
        assert len(listed) == len(found) == counted
        assert conditioned == found, "a replay and a purge take what the list shows"
        for dead_letter in KEPT:
            expected = matches(dead_letter, each)
            assert expected is None or (dead_letter.event_id in found) == expected, (each, dead_letter)
        if not {"endpoint", "reason"} & each.keys():  # the twin's are others
            for dead_letter in KEPT:
                expected = matches(dead_letter, each)
                assert expected is None or (dead_letter.event_id in unfinished) == expected, (
                    each,
                    dead_letter,
                    "unfinished",
                )


@fuzzed_with_io
@given(seed=st.integers(0, 2**64))
def test_the_beginning_of_an_id_finds_the_ids_that_begin_with_it(ask, seed):
    rng = random.Random(seed)
    for _ in range(WAYS):
        whole = rng.choice(KEPT).event_id
        prefix = whole[: rng.randrange(len(whole) + 1)] + rng.choice(["", *NASTY])
        found = ask(lambda connection, prefix=prefix: find_event_ids(connection, prefix, limit=1000))
        assert sorted(found) == sorted(each.event_id for each in KEPT if each.event_id.startswith(prefix))


@fuzzed
@given(seed=st.integers(0, 2**64))
def test_what_no_database_stores_is_refused_in_one_line_and_nothing_else_is(seed):
    rng = random.Random(seed)
    for _ in range(WAYS):
        asked = words(rng)
        name = rng.choice([name for name in asked if name not in ("since", "until")] or ["text"])
        bad = text(rng) + rng.choice(UNSTORABLE) + text(rng)
        Selection(**asked)
        with pytest.raises(StoreError) as refused:
            Selection(**asked | {name: (bad,) if name == "ids" else bad})
        assert str(refused.value).isprintable()


@fuzzed
@given(st.text(st.characters(), max_size=30) | st.from_regex(r"-?\d{1,12}[smhdw]?"), st.floats(0, 1e11))
def test_a_time_option_is_a_moment_or_misuse(value, now):
    try:
        moment = options.moment("--since", value, now=now)
    except options.Misuse as error:
        refusal = str(error)
    else:
        assert math.isfinite(moment)
        return
    assert refusal.isprintable()


@fuzzed
@given(
    st.datetimes(),
    st.sampled_from(["", "Z", "+00:00", "+23:59", "-23:59", "+24:00", "+99:99", " "]),
    st.booleans(),
)
def test_a_time_option_of_any_year_is_a_moment_or_misuse(moment, zone, short):
    written = f"{moment.date() if short else moment.isoformat()}{zone}"
    try:
        found = options.moment("--since", written, now=START)
    except options.Misuse:
        return
    assert math.isfinite(found)


@fuzzed
@given(
    st.lists(st.text(st.characters(), max_size=10), max_size=2),
    st.none() | st.text(st.characters(), max_size=10),
)
def test_the_options_of_a_command_are_a_selection_or_misuse(ids, value):
    for name in ("endpoint", "event_type", "code", "text", "since", "until"):
        try:
            selection = filters.selection(ids=ids, **{name: value})
        except options.Misuse as error:
            refusal = str(error)
        else:
            assert "" not in selection.as_dict().values()
            continue
        assert refusal.isprintable()
