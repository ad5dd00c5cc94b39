"""Puts a secret in each place that can hold one, makes many sends fail, and searches for each secret by value.

The receiver repeats each request in its answer, and a broken sink quotes everything in its errors. The search covers the store,
Prefect's database and the answers of its API, logs at DEBUG, artifacts, Prometheus text, the error report, the output of each
command, and the arguments of the processes.
"""

import base64
import json
import re
import subprocess
import sys
import urllib.parse
from pathlib import Path

import psutil
import pytest
import trustme
from standardwebhooks import Webhook

from resonant.testing import Action, Request, never_answer, respond
from support.prefect import everything_on
from support.processes import look_at
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

PROJECT = Path(__file__).parents[2]
PAYLOAD = "payl0ad-4111-1111"


CLIENT = trustme.CA().issue_cert("client.example")
CLIENT_KEY = CLIENT.private_key_pem.bytes().decode()


def secret_key(text: str, prefix: str = "whsec_") -> str:
    return prefix + base64.b64encode(text.encode()).decode()


SECRETS = {
    "path of the URL": "path-t0ken/5f2a+9c",
    "query of the URL": "query t0ken&77aa=01",
    "password in the URL": "url-passw0rd@c3:d4",
    "header": "header-t0ken-e5f6a7",
    "signing secret": secret_key("signing s3cret of this test, new"),
    "old signing secret": secret_key("signing s3cret of this test, old", "whsk_"),
    "OAuth client secret": "oauth-s3cret&a8b9/c0",
    "OAuth token": "oauth-t0ken-d1e2f3",
    "password of the database": "db-passw0rd-91b2c3",
    "password of Prefect": "api-passw0rd-d4e5f6",
    "password of the proxy": "pr0xy-passw0rd-77ee",
    "client key": CLIENT_KEY.splitlines()[1],
}


def forms_of(secret: str) -> set[bytes]:
    """Write a secret in each form: plain, percent-encoded, as a key's bytes, hexadecimal, within base64."""
    plain = secret.removeprefix("whsec_").removeprefix("whsk_").encode()
    raw = [plain, base64.b64decode(plain)] if secret.startswith(("whsec_", "whsk_")) else [plain]
    found = {urllib.parse.quote(plain, safe="").encode(), urllib.parse.quote_plus(plain).encode(), *raw}
    for each in raw:
        found |= {each.hex().encode(), each.hex().upper().encode()}
        for before in range(3):
            # In a longer base64 text, only the characters that this part alone determines.
            encoded = base64.b64encode(bytes(before) + each)
            whole = encoded[-(-before * 8 // 6) : (before + len(each)) * 8 // 6]
            found |= {whole, whole.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


FORMS = {place: forms_of(secret) for place, secret in SECRETS.items()}


def echoing(request: Request) -> Action:
    """Answer with the request without its body, raw and decoded; the status depends on the kind of event."""
    scheme, _, credentials = request.headers["authorization"].partition(" ")
    if request.path == "/token":
        token = {"access_token": SECRETS["OAuth token"], "token_type": "Bearer"}
        return respond(200, body=json.dumps(token).encode())
    if scheme == "Basic":
        credentials = base64.b64decode(credentials).decode()
    head = "\n".join(f"{name}: {value}" for name, value in request.headers.items())
    echo = f"{request.path}\n{urllib.parse.unquote(request.path)}\n{head}\n{credentials}".encode()
    kind = request.event_type.rpartition(".")[2]
    return respond({"rejected": 400, "broken": 503}.get(kind, 200), body=echo)


def silent(_request: Request) -> Action:
    return never_answer()


# Many commands in one process, which is faster: their arguments, input, possible exit codes, and Python to run before.
COMMANDS = """
import io, json, sys
from resonant.cli import main
for arguments, typed, codes, before in json.load(sys.stdin):
    exec(before)
    sys.argv, sys.stdin = ["resonant", *arguments], io.StringIO(typed)
    try:
        main()
    except SystemExit as end:
        assert (end.code or 0) in codes, arguments
"""
# A sink whose errors quote all its data, in the text and as a cause.
BREAK_SINK = """
import resonant.sinks.http as sink

async def send(self, event):
    e = self.endpoint
    known = f"{e.url} {dict(e.headers)} {e.signing_secrets} {e.proxy and e.proxy.url}"
    if e.client_certificate:
        known = e.client_certificate.key + known
    try:
        raise KeyError(known)
    except KeyError as error:
        raise RuntimeError(f"cannot send to {known}") from error

sink.HttpSink.send = send
"""
READING = """\
endpoint show secretive
endpoint show secretive-tls --json
endpoint list --export
endpoint list --json
dlq --json --limit 0
dlq --group
failed
retry-candidates
replay --all --include-permanent --dry-run
purge --older-than 0 --dry-run
metrics
prometheus
audit
"""
RUN_FLOWS = """
import asyncio
from resonant.local.project import make_flows_importable
make_flows_importable()
from flows.dead_letters import collect_dead_letters
from flows.metrics import export_metrics
asyncio.run(export_metrics())
asyncio.run(collect_dead_letters())
"""


# At DEBUG of the root logger this library prints the password of Prefect's API, as it sends it: SECURITY.md says so.
WEBSOCKETS = re.compile(rb"^.*\| websockets\.client - .*\n", re.MULTILINE)


def assert_nothing_secret(texts: dict[str, bytes]) -> None:
    texts = {where: WEBSOCKETS.sub(b"", text) for where, text in texts.items()}
    found = [
        f"{place} in {where}"
        for where, text in texts.items()
        for place, forms in FORMS.items()
        if any(form in text for form in forms)
    ]
    assert not found, "\n".join(found)


@pytest.fixture
def secretive(machine, start_receiver):
    """Save the endpoint with a secret in each place, one of them just rotated; return its receiver and the output."""
    machine.variables |= {
        "PREFECT_API_AUTH_STRING": f"admin:{SECRETS['password of Prefect']}",
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_ROOT_LEVEL": "DEBUG",
    }

    def save(script: str = "e2e.test_security:echoing"):
        receiver = start_receiver(script)
        given = machine.home / "given"
        given.mkdir()
        headers, proxy, certificate, key = (
            given / name for name in ("headers", "proxy", "certificate", "key")
        )
        headers.write_text(f"X-Api-Key: Token {SECRETS['header']}")
        # The receiver is its own proxy, which repeats also the password for the proxy.
        proxy.write_text(receiver.url.replace("://", f"://me:{SECRETS['password of the proxy']}@"))
        certificate.write_bytes(CLIENT.cert_chain_pems[0].bytes())
        key.write_text(CLIENT_KEY)
        client_secret = given / "client-secret"
        client_secret.write_text(SECRETS["OAuth client secret"])
        quoted = {place: urllib.parse.quote(secret, safe="") for place, secret in SECRETS.items()}
        host = receiver.url.removeprefix("http://")
        url = (
            f"http://me:{quoted['password in the URL']}@{host}/hooks/{quoted['path of the URL']}"
            f"?key={quoted['query of the URL']}"
        )
        printed = run_commands(
            machine,
            # The session's server stores it, and its rotation.
            command("endpoint remove secretive --yes", codes=(0, 2)),
            command(
                f"endpoint add secretive - --allow-private --header @{headers} --secret-stdin --policy classic"
                f" --proxy @{proxy} --overwrite",
                typed=f"{url}\n{SECRETS['old signing secret']}\n",
            ),
            command(
                f"endpoint add tokened http://{host}/tokened --allow-private --oauth-token-url http://{host}/token"
                f" --oauth-client-id me --oauth-client-secret-file {client_secret} --overwrite"
            ),
            command(
                "endpoint rotate-secret secretive --secret-stdin", typed=SECRETS["signing secret"] + "\n"
            ),
            command(
                f"endpoint add secretive-tls https://127.0.0.1:1/ --allow-private --client-cert {certificate}"
                f" --client-key {key} --proxy @{proxy} --overwrite"
            ),
        )
        return receiver, printed

    return save


Command = tuple[list[str], str, tuple[int, ...], str]


def command(line: str, *, typed: str = "", codes: tuple[int, ...] = (0,), before: str = "") -> Command:
    return line.split(), typed, codes, before


def run_commands(machine, *commands: Command) -> bytes:
    finished = subprocess.run(
        [sys.executable, "-c", COMMANDS],
        env=machine.environment,
        cwd=PROJECT,
        input=json.dumps(commands).encode(),
        capture_output=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr.decode()
    return finished.stdout + finished.stderr


def events_of(*kinds: str) -> list[dict]:
    return [{"type": f"a.{kind}", "source": "/x", "data": {"card": PAYLOAD}} for kind in kinds]


@pytest.fixture
def prefects_own_files(tmp_path_factory, prefect_api):
    """Read the session server's database, including its write-ahead log, and its log."""

    def read() -> dict[str, bytes]:
        files = [path for path in tmp_path_factory.getbasetemp().glob("prefect*/**/*") if path.is_file()]
        assert any(path.name == "prefect.db" for path in files)
        assert any(path.name == "prefect-server.log" for path in files)
        return {f"Prefect's {path.name}": path.read_bytes() for path in files}

    return read


def everything_in(server, database: str) -> bytes:
    """Read every row of every table of a PostgreSQL store, as text."""
    found = b""
    for (table,) in server.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", database):
        for (row,) in server.execute(f'SELECT t::text FROM "{table}" t', database):
            found += row.encode() + b"\n"
        for (column,) in server.execute(
            "SELECT column_name FROM information_schema.columns"
            f" WHERE table_name = '{table}' AND data_type = 'bytea'",
            database,
        ):
            for (value,) in server.execute(f'SELECT "{column}" FROM "{table}"', database):
                found += bytes(value or b"") + b"\n"
    return found


@pytest.mark.slow
def test_no_secret_is_anywhere_but_in_its_block(
    machine, secretive, prefects_own_files, postgresql, postgresql_url
):
    """The store is in PostgreSQL, whose URL has a password."""
    url = postgresql.url("test", user="postgres", password=SECRETS["password of the database"])
    machine.variables["RESONANT_DATABASE_URL"] = url
    receiver, saved = secretive()
    printed = {"saving": saved}
    first = machine.write_events("events.jsonl", events_of("opened", "rejected", "broken"))
    more = machine.write_events("more.jsonl", events_of("opened", "rejected"))
    broken = machine.write_events("broken.jsonl", events_of("unsendable"))
    printed["sending"] = run_commands(
        machine,
        command(f"enqueue {first} --endpoint secretive"),
        command(f"emit {first} --endpoint secretive --max-attempts 2", codes=(1,)),
        command(f"emit {more} --endpoint secretive --lane bulk", codes=(1,)),
        command(f"emit {more} --endpoint tokened", codes=(1,)),
        command(f"emit {broken} --endpoint secretive --max-attempts 1", codes=(1,), before=BREAK_SINK),
        command(f"emit {broken} --endpoint secretive-tls --max-attempts 1", codes=(1,)),
    )
    [dead, *others] = machine.read("dlq", "--limit", "0")
    # The broken sink really quoted the secrets of both endpoints.
    quoted = {row["endpoint"] for row in (dead, *others) if re.match("KeyError.*[*]{3}", row["error"])}
    assert quoted == {"secretive", "secretive-tls"}
    report = machine.home / "report.json"
    away = f"postgresql://me:{SECRETS['password of the database']}@127.0.0.1:1/events"
    detail = f"detail {dead['event_id']}"
    printed["detail"] = run_commands(machine, command(detail), command(f"{detail} --json"))
    printed["reading and replaying"] = run_commands(
        machine,
        # A command silences Prefect for the rest of its process.
        command("status", before=RUN_FLOWS),
        *map(command, READING.splitlines()),
        # The dead letters fail again.
        command("replay --endpoint secretive --all --include-permanent --rate 1000", codes=(0, 1)),
        command("endpoint test secretive"),
        command(f"export --output {report}"),
        command("status", codes=(1,), before=f"import os; os.environ['RESONANT_DATABASE_URL'] = {away!r}"),
    )
    files = {
        str(path): path.read_bytes()
        for path in machine.home.rglob("*")
        if path.is_file() and path.parent.name != "given" and not path.name.startswith("received-")
    }
    assert str(report) in files
    files["the database"] = everything_in(postgresql, "test")

    # The secrets were really sent, and repeated in answers.
    sent_with_token = [entry for entry in receiver.journal if entry["path"] == "/tokened"]
    assert {each["headers"]["authorization"] for each in sent_with_token} == {
        f"Bearer {SECRETS['OAuth token']}"
    }
    for entry in receiver.journal:
        if entry["path"].startswith("/token"):
            continue
        assert SECRETS["password of the proxy"] in str(
            base64.b64decode(entry["headers"]["proxy-authorization"].removeprefix("Basic "))
        )
        assert entry["headers"]["x-api-key"] == f"Token {SECRETS['header']}"
        Webhook(SECRETS["signing secret"]).verify(base64.b64decode(entry["body"]), entry["headers"])
        assert " v1a," in entry["headers"]["webhook-signature"]
    assert b"***" in files["the database"]
    assert b"DEBUG" in printed["sending"]
    assert b"Finished in state" in printed["reading and replaying"], "the flows log"
    of_prefect = prefects_own_files() | {"Prefect's API": everything_on(machine.prefect_api)}
    assert_nothing_secret(printed | files | of_prefect)

    outside_the_store = of_prefect | {
        name: text
        for name, text in (printed | files).items()
        if name not in ("detail", "the database") and not name.endswith(".jsonl")
    }
    assert [name for name, text in outside_the_store.items() if PAYLOAD.encode() in text] == []


@pytest.mark.slow
def test_no_secret_is_an_argument_of_a_process(machine, secretive):
    receiver, _ = secretive("e2e.test_security:silent")
    path = machine.write_events("events.jsonl", events_of("opened"))
    emitting = machine.start("emit", path, "--endpoint", "secretive")
    arguments: dict[str, bytes] = {}

    def has_sent() -> bool:
        # All processes of this test, also those that end soon: the server and its supervisor, the receiver, the command.
        every = psutil.Process().children(recursive=True)
        for pid, words in look_at(every, lambda one: (one.pid, one.cmdline())):
            arguments[f"process {pid}"] = "\0".join(words).encode()
        return bool(receiver.journal)

    wait_until(has_sent)
    emitting.kill()
    emitting.communicate()
    assert f"process {emitting.pid}" in arguments
    assert_nothing_secret(arguments)
