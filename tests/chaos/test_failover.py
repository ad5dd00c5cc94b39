"""The primary PostgreSQL server is killed, and its synchronous standby takes over, while producers send to ``resonant up``.

``RESONANT_CHAOS=long`` does it ten times.
"""

import contextlib
import itertools
import re
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from chaos_facts import Database
from faults import DATABASE, IS_LONG

from resonant.dispatch.limits import Limits
from support.machine import Machine
from support.ports import free_port
from support.postgresql import started_postgresql
from support.producers import Producers
from support.receivers import started_receiver
from support.waiting import wait_until

pytestmark = [pytest.mark.engine, pytest.mark.own_server, pytest.mark.slow]

FAILOVERS = 10 if IS_LONG else 1
PRODUCERS, PAUSE_SECONDS = 4, 0.2  # 10.5 events each time: about 200 events/s
GIVEN_UP_SECONDS = 120.0
GOES_ON_WITHIN_SECONDS = 15.0 if IS_LONG else GIVEN_UP_SECONDS  # the short form may run on a busy machine
# Of the two drains of `up`.
MOST_IN_FLIGHT = 2 * Limits().endpoint_concurrency
_DELIVERED = "SELECT count(*) AS number FROM resonant_deliveries WHERE status = 'delivered'"
_UNSETTLED = "SELECT count(*) AS number FROM resonant_deliveries WHERE status <> 'delivered'"


class Pair:
    """A primary and its standby, and one URL for clients, which names both.

    After a failover, a new standby copies the new primary. As Patroni does, commits wait for a standby only while there is one.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack, self._numbers = folder, stack, itertools.count()
        self._places = folder / "a", folder / "b"
        self.primary = stack.enter_context(started_postgresql())
        self.primary.execute(f"CREATE DATABASE {DATABASE}")
        self._point(0, self.primary)
        self.add_standby()

    @property
    def url(self) -> str:
        hosts = "&".join(f"host={place}:5432" for place in self._places)
        return f"postgresql://postgres@/{DATABASE}?{hosts}&target_session_attrs=read-write"

    def add_standby(self) -> None:
        number = next(self._numbers)
        self.standby = self._stack.enter_context(self.primary.standby(self._folder / f"data-{number}"))
        self._point((number + 1) % 2, self.standby)
        self._wait_for_standbys("*")

    def fail_over(self) -> None:
        self.primary.kill()
        self.primary = self.standby
        self.primary.promote()
        self._wait_for_standbys("")

    def _point(self, place: int, server) -> None:
        link = self._places[place]
        link.unlink(missing_ok=True)
        link.symlink_to(server.folder)

    def _wait_for_standbys(self, names: str) -> None:
        self.primary.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        self.primary.reload()


@pytest.fixture
def pair():
    with tempfile.TemporaryDirectory(prefix="resonant-") as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)
        yield Pair(Path(folder), stack)


@pytest.mark.timeout(3600)
def test_no_accepted_event_is_lost_and_everything_goes_on_by_itself(pair, tmp_path):
    machine = Machine(tmp_path, variables={"RESONANT_DATABASE_URL": pair.url})
    port, waits = free_port(), []
    with (
        started_receiver(tmp_path / "receiver", "support.receiver_scripts:steady") as receiver,
        machine.up("--serve", str(port)) as up,
    ):
        machine.prefect_api = f"{up.url}/api"
        machine.do("endpoint", "add", "shop", receiver.url, "--allow-private")
        token = re.search(r"rsn_\S+", machine.do("token", "create", "shop").stdout)[0]
        options = {"headers": {"Authorization": f"Bearer {token}"}, "trust_env": False, "timeout": 60}
        server = f"http://127.0.0.1:{port}"
        producers = Producers(lambda: httpx.Client(base_url=server, **options), pause=PAUSE_SECONDS)

        def goes_on() -> None:
            """Wait until events are delivered that were accepted from now on."""
            before = set(producers.answered)
            wait_until(lambda: len(producers.answered) > len(before) or producers.problems, GIVEN_UP_SECONDS)
            assert producers.problems == []
            new = {each for each in list(producers.answered) if each not in before}
            wait_until(lambda: not new.isdisjoint(receiver.received()), GIVEN_UP_SECONDS)

        with producers.at_work(PRODUCERS):
            goes_on()
            for _ in range(FAILOVERS):
                pair.fail_over()
                promoted_at = time.monotonic()
                goes_on()
                waits.append(round(time.monotonic() - promoted_at, 1))
                pair.add_standby()
            producers.finish()

        database = Database(pair.primary.url(DATABASE))
        wait_until(lambda: database.query(_UNSETTLED) == [{"number": 0}], GIVEN_UP_SECONDS)
        sent = receiver.received()

    ids = set(producers.answered)
    repeats = sum(map(len, sent.values())) - len(sent)
    print(f"{FAILOVERS} failovers: {len(ids)} events, {repeats} sent twice, went on after {waits} s")
    assert producers.problems == []
    assert ids - sent.keys() == set(), "accepted, and never sent"
    assert database.query(_DELIVERED) == [{"number": len(ids)}]
    assert repeats <= FAILOVERS * MOST_IN_FLIGHT
    assert max(waits) < GOES_ON_WITHIN_SECONDS
