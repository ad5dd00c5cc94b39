"""What supervisors and Prometheus ask a server: does it run, can it use the store, and what has it counted?"""

from resonant.intake.access.foreign_pages import LocalAccess
from resonant.intake.access.tokens import TokenAccess
from resonant.intake.app import resource
from resonant.intake.meters import Meters
from resonant.intake.serving.health import Metrics, Readiness, healthz
from resonant.store.engine.migrate import SCHEMA_VERSION, VERSION_TABLE
from resonant.testing import FixedClock
from support.posting import posting


def test_a_server_is_ready_while_the_store_has_its_schema_which_it_reads_once_a_second(sqlite_desk, caplog):
    desk, clock = sqlite_desk, FixedClock(0.0)
    routes = [
        resource("/healthz", GET=healthz),
        resource("/readyz", GET=Readiness(desk.store, clock=clock).readyz),
    ]

    def set_version(version):
        desk.execute(f"UPDATE {VERSION_TABLE} SET version_num = '{version}'")

    with posting(desk, routes=routes) as client:
        assert client.send("GET", "/readyz").json() == {"status": "ready"}
        set_version("9999")
        clock.advance(0.9)
        assert client.send("GET", "/readyz").status_code == 200
        clock.advance(0.1)
        answer = client.send("GET", "/readyz")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "9999" not in answer.text, "the reason is in the log only"
        assert "schema is 9999" in caplog.text
        assert client.send("GET", "/healthz").status_code == 200
        set_version(SCHEMA_VERSION)
        clock.advance(1)
        assert client.send("GET", "/readyz").status_code == 200


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
