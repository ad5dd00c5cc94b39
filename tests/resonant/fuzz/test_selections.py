"""Selecting dead letters by any text: the database finds the same as a look at each dead letter, and no text is SQL."""

import asyncio
import math
import random
import re
from dataclasses import asdict
from datetime import datetime
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, insert, select

from resonant.cli import filters, options
from resonant.cli.command_store import command_store
from resonant.errors import StoreError
from resonant.events import Category, DeadLetter, Reason
from resonant.settings import Settings
from resonant.store import WorkerStore, schema
from resonant.store.queue.causes import Cause, cause_ids
from resonant.store.views.dead_letters import DeadLetters
from resonant.store.views.reads import count_dead_letters, each_dead_letter, find_event_ids
from resonant.store.views.selection import Selection

fuzzed = settings.get_profile("fuzz")
fuzzed_with_io = settings.get_profile("fuzz-io")

START = 1_700_000_000.0
# One snapshot answers so many: opening it takes longer than the questions.
WAYS = 5
NASTY = [
    *"%_\\'\"*?[];\n\téÉßİaA\u0131\u0301\U0001f600\x7f",
    "[a-z]",
    "--",
    "\\%",
    "%%",
    "/*",
    ":x",
    "$1",
    "{}",
    "b.",
    "'; DROP TABLE resonant_events; --",
    "' OR '1'='1",
]
UNSTORABLE = ["\x00", "\ud800", "\udfff"]
_GLOB = {"*": ".*", "?": "."}


def is_selected(record: DeadLetter, selection: Selection) -> bool | None:
    """Return whether a selection selects a dead letter; None if only the database knows, for case beyond ASCII."""
    for name in ("endpoint", "code", "reason"):
        wanted = getattr(selection, name)
        if wanted is not None and (not wanted or getattr(record, name) != wanted):
            return False
    pattern = "".join(_GLOB.get(each, re.escape(each)) for each in selection.event_type or "*")
    if (
        (selection.ids and record.event_id not in selection.ids)
        or selection.source not in (None, record.source)
        or (selection.event_type == "" or not re.fullmatch(pattern, record.event_type, re.DOTALL))
        or selection.category not in (None, record.category or "unknown")
        or (selection.since is not None and record.dead_at < selection.since)
        or (selection.until is not None and record.dead_at >= selection.until)
    ):
        return False
    return selection.text is None or _contains((record.error or "", record.error_type or ""), selection.text)


def _contains(texts: tuple[str, str], part: str) -> bool | None:
    if any(_folded(part) in _folded(each) for each in texts):
        return True
    return False if all(each.isascii() for each in (part, *texts)) else None


def _folded(text: str) -> str:
    # SQLite folds only ASCII, PostgreSQL the letters of its locale: there "İ" is found in "time".
    return re.sub("[A-Z]", lambda found: found[0].lower(), text)


def text(rng, longest=4):
    return "".join(rng.choice(NASTY) for _ in range(rng.randrange(longest)))


def make_dead_letters(rng, number=60):
    return [
        DeadLetter(
            event_id=f"evt{number}{text(rng)}",
            source=rng.choice(["/shop", "/Shop", text(rng) or "%"]),
            event_type=rng.choice(["order.paid", "Order.Paid", text(rng) or "%"]),
            endpoint=rng.choice(["orders", "audit", text(rng) or "_"]),
            reason=rng.choice(["permanent", "exhausted", "expired", "crashed"]),
            category=rng.choice(["transient", "permanent", "unknown", None]),
            code=rng.choice(["http_503", "timeout", None, text(rng) or None]),
            error_type=rng.choice([None, "ReadTimeout", text(rng)]),
            error=rng.choice([None, f"the endpoint answered {number}: {text(rng, 6)}", text(rng, 6)]),
            dead_at=START + rng.choice([0, 0.5, 1, 2, number]),
            status_code=None,
            attempts=1,
            first_attempt_at=None,
            replays=0,
        )
        for number in range(number)
    ]


def store_all(connection, given):
    """Store dead letters as a worker would have, in few statements, each with a twin that is not final."""
    names = ("endpoint", "event_type", "reason", "category", "code", "error_type", "error")
    causes = {each: Cause.of(each.endpoint, each.event_type, each.reason, asdict(each)) for each in given}
    ids = cause_ids(connection, causes.values())
    for each in given:
        event = {
            "id": each.event_id,
            "type": each.event_type,
            "source": each.source,
            "time": "",
            "digest": "",
        }
        event |= {"accepted_at": START, "webhook_id": each.event_id, "body": b"null"}
        [key] = connection.execute(insert(schema.events).values(**event)).inserted_primary_key
        row = {name: getattr(each, name) for name in (*names, "attempts")} | {"event_key": key}
        # The same words select the twin, by the moment of its acceptance.
        row |= {"accepted_at": each.dead_at, "round_started_at": START}
        final = {"status": "dead_letter", "finished_at": each.dead_at, "cause_id": ids[causes[each]]}
        connection.execute(insert(schema.deliveries).values(**row | final))
        waiting = {"status": "retrying", "available_at": START, "reason": None}
        twin = row | waiting | {"endpoint": f"{each.endpoint}-twin"}
        connection.execute(insert(schema.deliveries).values(**twin))


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
        runner.run(store.write(store_all, KEPT))
        before = runner.run(store.read(sizes))
        yield lambda operation: runner.run(store.read(operation))
        assert runner.run(store.read(sizes)) == before, "no text was taken for a statement"
        runner.run(store.close())


def words(rng):
    """Make a filter of an operator: parts of existing texts, with any text between."""
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
        "source": about(dead_letter.source),
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


@fuzzed_with_io
@given(seed=st.integers(0, 2**64), few=st.sampled_from([0, 64]))
def test_the_database_finds_the_same_as_a_look_at_each_dead_letter(ask, seed, few):
    rng = random.Random(seed)
    table, events = schema.deliveries, schema.events
    ids = select(events.c.id).join_from(table, events, events.c.key == table.c.event_key)

    def found(connection, selection):
        waiting = [table.c.available_at.is_not(None), *selection.of_unfinished()]
        scanned = DeadLetters.of(connection, selection).conditions()
        return (
            [each.event_id for each in each_dead_letter(connection, selection)],
            [each.event_id for each in each_dead_letter(connection, selection, limit=3)],
            count_dead_letters(connection, selection),
            *(set(connection.execute(ids.where(*conditions)).scalars()) for conditions in (scanned, waiting)),
        )

    asked = [Selection(**words(rng)) for _ in range(WAYS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("resonant.store.views.dead_letters._FEW_CAUSES", few)
        answers = ask(lambda connection: [found(connection, selection) for selection in asked])
    for selection, (listed, page, counted, scanned, unfinished) in zip(asked, answers, strict=True):
        assert len(listed) == len(set(listed)) == counted
        assert page == listed[:3]
        assert scanned == set(listed), "a replay and a purge select the listed dead letters"
        for each in KEPT:
            expected = is_selected(each, selection)
            assert expected in (None, each.event_id in scanned), (selection, each)
            if (selection.endpoint, selection.reason) == (None, None):  # the twin's are others
                assert expected in (None, each.event_id in unfinished), (selection, each, "unfinished")


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
def test_only_text_that_no_database_stores_is_refused_in_one_line(seed):
    rng = random.Random(seed)
    for _ in range(WAYS):
        asked = words(rng)
        name = rng.choice([name for name in asked if name not in ("since", "until")] or ["text"])
        bad = text(rng) + rng.choice(UNSTORABLE) + text(rng)
        Selection(**asked)
        with pytest.raises(StoreError) as refused:
            Selection(**asked | {name: (bad,) if name == "ids" else bad})
        assert str(refused.value).isprintable()


ZONES = st.sampled_from(["", "Z", "+00:00", "+23:59", "-23:59", "+24:00", "+99:99", " "])
times = st.builds("{}{}".format, st.datetimes().map(datetime.isoformat) | st.dates(), ZONES)
spans = st.from_regex(r"-?\d{1,12}[smhdw]?")


@fuzzed
@given(st.text(st.characters(), max_size=30) | spans | times, st.floats(0, 1e11))
def test_a_time_option_is_a_moment_or_misuse(value, now):
    try:
        moment = options.moment("--since", value, now=now)
    except options.Misuse as error:
        refusal = str(error)
    else:
        assert math.isfinite(moment)
        return
    assert refusal.isprintable()


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    settings = Settings(database_url=f"sqlite:///{tmp_path_factory.mktemp('store')}/resonant.db")
    with command_store(settings) as store:
        yield store


@fuzzed
@given(
    ids=st.lists(st.text(st.characters(), max_size=10), max_size=2),
    value=st.none() | st.text(st.characters(), max_size=10),
)
def test_the_options_of_a_command_are_a_selection_or_misuse(empty_store, ids, value):
    for name in ("endpoint", "event_type", "code", "text", "since", "until"):
        try:
            selection = filters.Filters(**{name: value}).selection(empty_store, ids=ids)
        except options.Misuse as error:
            refusal = str(error)
        else:
            assert "" not in selection.as_dict().values()
            continue
        assert refusal.isprintable()
