"""Opening a database, and the one clear line for each way in which that can fail."""

import asyncio
import itertools
import random
import socket
import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from resonant.errors import StoreError
from resonant.store import WorkerStore, enqueue
from resonant.store.engine.database import open_database
from support.waiting import PATIENCE_SECONDS

ENCODE = "percent-encode special characters in its password (%40 for @, %3F for ?)"


WITHOUT_SCHEME = [
    *("nonsense", "relative.db", "/absolute/resonant.db", "sqlite:relative.db", ""),
    *("postgresql//user:geheim@127.0.0.1/db", "postgresql:user:geheim@127.0.0.1/db"),
]


async def refusal(url: str) -> str:
    """Return the line that opening this database fails with."""
    with pytest.raises(StoreError) as failure:
        await WorkerStore.open(url)
    line = str(failure.value)
    assert "\n" not in line
    assert "geheim" not in line
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__ or failure.value.__context__ is None
    return line


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("mysql://user:geheim@host/db", "must be sqlite:///PATH or postgresql://"),
        ("://geheim", "must be sqlite:///PATH or postgresql://"),
        ("postgresql://user:geheim@host:port/db", "must be sqlite:///PATH or postgresql://"),
        ("sqlite://geheim", "needs a file: sqlite:///PATH"),
        ("sqlite://", "needs a file: sqlite:///PATH"),
        ("sqlite:///:memory:", "needs a file: sqlite:///PATH"),
        ("sqlite:///store.db?mode=ro", "has the option 'mode'; known for sqlite: none"),
        (
            "postgresql://host/db?password=geheim",
            "has the option 'password'; known for postgresql: host, port, sslmode, target_session_attrs",
        ),
        (
            "postgresql:///s?target_session_attrs=primary",
            "RESONANT_DATABASE_URL: target_session_attrs can only be read-write",
        ),
        ("postgresql://user:p@geheim@host/db", ENCODE),
        ("postgresql://user:p@x/geheim@host/db", ENCODE),
        ("postgresql://user:p@geheim?x@host/db", ENCODE),
        ("postgresql://user:p@geheim?option=x@host/db", ENCODE),
        ("postgresql://user:p@x?geheim=1@host/db", ENCODE),
        ("postgresql://user:p@x?host=geheim@host/db", ENCODE),
        ("postgresql://user:p@geheim:5432@host/db", "must be sqlite:///PATH or postgresql://"),
        *((url, "it has no scheme, so write sqlite:///PATH for a file") for url in WITHOUT_SCHEME),
    ],
)
async def test_a_url_that_names_no_database_is_refused_and_makes_no_file(url, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = await refusal(url)
    assert hint in line
    assert line.startswith("RESONANT_DATABASE_URL")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unused():
    """An address where nothing answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize("user", ["user@geheim", "user?geheim", "user%40geheim", "user/geheim"])
async def test_a_user_that_may_contain_a_part_of_the_password_is_not_shown(unused, user):
    line = await refusal(f"postgresql://{user}:x@{unused}/db")
    assert line.startswith((f"postgresql://hidden:***@{unused}/db: ", f"RESONANT_DATABASE_URL: {ENCODE}"))


async def test_an_unreachable_server_is_named_with_the_next_step(unused, tmp_path):
    hint = "no database server answers at this address: start it, or set RESONANT_DATABASE_URL"
    line = await refusal(f"postgresql://user:geheim@{unused}/db")
    assert line == f"postgresql://user:***@{unused}/db: {hint}"
    line = await refusal(f"postgresql://user:geheim@/db?host={tmp_path}")
    assert line == f"postgresql://user:***@/db: {hint}"
    line = await refusal("postgresql://user:geheim@nowhere.invalid/db")
    assert line.startswith("postgresql://user:***@nowhere.invalid/db: ")


async def test_another_program_that_answers_is_an_error_of_one_line():
    def answer_like_a_web_server(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer_like_a_web_server, args=(listening,))
        thread.start()
        port = listening.getsockname()[1]
        line = await refusal(f"postgresql://user:geheim@127.0.0.1:{port}/db")
        thread.join()
    assert line.startswith(f"postgresql://user:***@127.0.0.1:{port}/db: ")


@pytest.fixture
def guarded_user(postgresql):
    """Create the user guarded, of whom the server wants the password, and who may create nothing."""
    rules = postgresql.data / "pg_hba.conf"
    open_to_all = rules.read_text()
    postgresql.execute("CREATE ROLE guarded LOGIN PASSWORD 'geheim'")
    rules.write_text(f"local all guarded scram-sha-256\n{open_to_all}")
    postgresql.reload()
    yield
    rules.write_text(open_to_all)
    postgresql.reload()
    postgresql.execute("DROP ROLE guarded")


@pytest.mark.parametrize(
    ("user", "database", "password", "reason"),
    [
        (
            "postgres",
            "nowhere",
            "geheim",
            "the server has no such database: create it, or set RESONANT_DATABASE_URL",
        ),
        ("nobody", "postgres", "geheim", "the server refuses this user or password"),
        ("guarded", "postgres", "geheim-but-wrong", "the server refuses this user or password"),
        ("guarded", "postgres", None, "the server refuses this user or password"),
        (
            "guarded",
            "postgres",
            "geheim",
            "permission denied for schema public: use a user with this privilege, or upgrade the store as the owner of its tables",
        ),
    ],
)
@pytest.mark.usefixtures("guarded_user")
async def test_a_refusal_of_the_server_names_the_reason(postgresql, user, database, password, reason):
    line = await refusal(postgresql.url(database, user=user, password=password))
    shown = user if password is None else f"{user}:***"
    assert line == f"postgresql://{shown}@/{database}: {reason}"


async def test_other_spellings_of_postgresql_and_its_options_and_passwords_are_understood(
    postgresql, postgresql_url
):
    spellings = [
        *(
            postgresql_url.replace("postgresql", scheme, 1)
            for scheme in ("postgres", "postgresql+asyncpg", "postgresql+psycopg")
        ),
        f"{postgresql_url}&sslmode=prefer",
        *(
            postgresql.url("test", password="geheim").replace("geheim", password)
            for password in ("p%40x%3Fy%2Fz", "p?x/y", "p:x#y")
        ),
    ]
    for url in spellings:
        database = await open_database(url)
        await database.close()
        assert str(database) in ("postgresql://postgres@/test", "postgresql://postgres:***@/test")
    assert "sslmode" in await refusal(f"{postgresql_url}&sslmode=perhaps")


def test_a_mistake_of_ours_keeps_its_traceback_and_shows_no_values(desk):
    mistake = text("SELECT no_such_column WHERE 1 = :secret")
    with pytest.raises(DBAPIError, match="no_such_column") as failure:
        desk.write(lambda connection: connection.execute(mistake, {"secret": 7}))
    assert "hidden" in str(failure.value)


def test_an_error_of_the_callers_own_passes_through_as_it_is(desk):
    async def read_a_file_within_a_transaction():
        async with desk.store.transaction():
            raise FileNotFoundError(2, "No such file", "events.jsonl")

    def write_a_file(_connection):
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(FileNotFoundError):
        desk.run(read_a_file_within_a_transaction())
    for run in (desk.read, desk.write):
        with pytest.raises(BrokenPipeError):
            run(write_a_file)
    assert desk.enqueue("evt_1").accepted == 1


def test_a_cancelled_operation_is_done_or_not_and_the_next_one_goes_on(desk):
    """A cancellation may come at any step of a transaction, and dozens may come in a row."""
    rng = random.Random(4)
    cancelled, stored = [], []

    def storing(number):
        events = [desk.make(f"evt_{number}_{index}") for index in range(3)]
        return desk.store.enqueue(events, "orders") if number % 3 else _enqueue_in_steps(desk, events)

    async def store_or_cancel(number, seconds):
        task = asyncio.create_task(storing(number))
        await asyncio.sleep(seconds * rng.random())
        task.cancel()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await task
            stored.append(number)
        except asyncio.CancelledError:
            cancelled.append(number)

    async def enqueue_and_cancel():
        seconds = 0.01
        for start in itertools.count(0, 4):
            before = len(cancelled)
            await asyncio.gather(*(store_or_cancel(start + each, seconds) for each in range(4)))
            if len(cancelled) > 20 and len(stored) > 10:
                return
            # An operation takes longer on a busy machine, and if it has to connect.
            seconds *= {0: 0.5, 4: 2.0}.get(len(cancelled) - before, 1.0)

    desk.run(enqueue_and_cancel())
    assert desk.enqueue("evt_after").accepted == 1
    status = desk.status()
    assert status.balanced
    assert (status.accepted - 1) % 3 == 0, "each was stored as a whole or not at all"
    assert status.accepted - 1 >= 3 * len(stored)
    for number in stored:
        assert desk.detail(f"evt_{number}_2") is not None


async def _enqueue_in_steps(desk, events) -> None:
    async with desk.store.transaction() as transaction:
        for event in events:
            await transaction.run_sync(enqueue, [event], "orders", now=desk.clock())


def test_reads_go_on_and_writes_wait_while_a_transaction_of_several_steps_is_open(desk):
    async def store_twice():
        async with desk.store.transaction() as transaction, asyncio.timeout(PATIENCE_SECONDS):
            await transaction.run_sync(enqueue, [desk.make("evt_1")], "orders", now=desk.clock())
            other = asyncio.create_task(desk.store.enqueue([desk.make("evt_1")], "orders"))
            assert (await desk.store.status()).accepted == 0
            assert not other.done()
        return await other

    assert desk.run(store_twice()).known == 1
    assert desk.status().accepted == 1


async def test_threads_end_when_a_store_is_closed(store_url):
    before = set(threading.enumerate())
    store = await WorkerStore.open(store_url)
    await store.status()
    await store.close()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert set(threading.enumerate()) <= before, "threads of earlier tests may end meanwhile"


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda _content: b"A text,\n" * 1_000,
            "the file is not an SQLite database: choose another, or set RESONANT_DATABASE_URL",
        ),
        (
            lambda content: content[:100] + b"\xff" * 19_900 + content[20_000:],
            "the file is damaged: restore it from a backup",
        ),
    ],
    ids=["other", "damaged"],
)
async def test_a_file_that_is_no_database_is_refused_and_left_alone(sqlite_url, tmp_path, spoil, reason):
    await (await WorkerStore.open(sqlite_url)).close()
    path = tmp_path / "resonant.db"
    spoilt = spoil(path.read_bytes())
    path.write_bytes(spoilt)
    assert await refusal(sqlite_url) == f"{sqlite_url}: {reason}"
    assert path.read_bytes() == spoilt
