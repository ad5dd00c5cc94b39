"""The application answers every request, also those for which it has no resource."""

import pytest

from resonant.intake.access.tokens import OpenAccess
from resonant.intake.app import create_app, resource
from resonant.intake.limits import IntakeLimits
from resonant.intake.meters import Meters


def test_an_unknown_path_is_not_found(client):
    for path in ("/", "/event", "/events/", "/events/%2e%2e", "/a%0ab" + "c" * 9_000):
        answer = client.send("POST", path)
        assert answer.status_code == answer.json()["status"] == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "no such path: send events to /events"
        assert answer.json()["detail"].isprintable()


@pytest.mark.parametrize("path", ["/events/{}", "/{}", "/x%2F{}", "/%2572sn_{}", "/events%0A{}"])
def test_a_token_in_the_path_is_not_repeated(client, path):
    secret = "a2b3" * 8
    for method in ("GET", "POST"):
        assert secret not in client.send(method, path.format(f"rsn_{secret}")).text


@pytest.mark.parametrize(
    ("path", "allowed", "others"),
    [
        ("/events", {"OPTIONS", "POST"}, ["GET", "PUT", "DELETE", "PATCH", "TRACE"]),
        ("/events/%2Fshop/evt_0", {"GET", "HEAD"}, ["POST", "DELETE"]),
    ],
)
def test_another_method_is_not_allowed(client, path, allowed, others):
    for method in others:
        answer = client.send(method, path)
        assert answer.status_code == 405
        assert {*answer.headers["allow"].split(", ")} == allowed
        assert answer.json()["detail"].startswith("this path takes ")


def test_an_internal_error_is_a_problem_document(desk, caplog):
    import httpx

    async def fail(_request):
        raise ZeroDivisionError

    app = create_app(
        desk.store,
        access=OpenAccess(),
        limits=IntakeLimits(),
        meters=Meters(),
        routes=[resource("/fail", GET=fail)],
    )

    async def get():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://intake.test") as http:
            return await http.get("/fail")

    answer = desk.run(get())
    assert answer.status_code == 500
    assert answer.json()["detail"] == "an error of Resonant: its log has the details"
