"""What supervisors and Prometheus ask a server: does it run, can it use the store, and what has it counted?"""

import pytest
from sqlalchemy import text

from resonant.intake.access.foreign_pages import LocalAccess
from resonant.intake.access.tokens import TokenAccess
from resonant.intake.app import resource
from resonant.intake.meters import Meters
from resonant.intake.serving.health import Metrics, Readiness, healthz
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE
from support.posting import posting


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ready(desk, clock):
    """Return the status of /readyz."""
    routes = [
        resource("/healthz", GET=healthz),
        resource("/readyz", GET=Readiness(desk.store, clock=clock).readyz),
    ]
    with posting(desk, routes=routes) as client:
        yield lambda: client.send("GET", "/readyz")


def set_version(desk, version):
    desk.write(
        lambda connection: connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'"))
    )


def test_a_server_is_ready_while_the_store_has_its_schema(desk, ready, clock, caplog):
    assert ready().json() == {"status": "ready"}
    set_version(desk, "9999")
    clock.now += 1
    answer = ready()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert "9999" not in answer.text, "the reason is in the log only"
    assert "schema is 9999" in caplog.text
    set_version(desk, SCHEMA_VERSION)
    clock.now += 1
    assert ready().status_code == 200


def test_readiness_reads_the_store_once_a_second(desk, ready, clock):
    assert ready().status_code == 200
    set_version(desk, "9999")
    clock.now += 0.9
    assert ready().status_code == 200
    clock.now += 0.1
    assert ready().status_code == 503
    set_version(desk, SCHEMA_VERSION)


def test_the_metrics_need_a_token_if_they_are_not_open(sqlite_desk, new_token):
    token = new_token()
    routes = [
        resource("/open", GET=Metrics(Meters(), LocalAccess()).metrics),
        resource("/closed", GET=Metrics(Meters(), TokenAccess(sqlite_desk.store)).metrics),
    ]
    with posting(sqlite_desk, routes=routes) as client:
        opened = client.send("GET", "/open", headers={"Host": "127.0.0.1:8080"})
        assert opened.headers["content-type"].startswith("text/plain; version=")
        assert client.send("GET", "/closed").status_code == 401
        answer = client.send("GET", "/closed", headers={"Authorization": f"Bearer {token}"})
        assert "resonant_intake_requests_total" in answer.text
