"""The server admits programs and its own pages, and no other page, according to the headers that browsers send."""

import httpx
import pytest
from starlette.responses import PlainTextResponse

from deployments.server import OwnPagesAlone, guarded, without_pages_of_the_api

OWN = "http://127.0.0.1:4200,http://localhost:4200"
LOCAL = {"host": "127.0.0.1:4200"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FRAME = LINK | {"sec-fetch-dest": "iframe"}
ADMITTED = {
    "a program": {},
    "a program, by name": {"host": "localhost:4200"},
    "another case, no port": {"host": "LOCALHOST"},
    "through a tunnel from another port": {"host": "localhost:8080"},
    "the UI": {"origin": "http://127.0.0.1:4200"},
    "the UI, opened by name": {"origin": "http://localhost:4200"},
    "the UI, with Sec-Fetch-Site": {"origin": "http://localhost:4200", "sec-fetch-site": "cross-site"},
    "the UI, reading": {"sec-fetch-site": "same-origin"},
    "a bookmark or a typed address": {"sec-fetch-site": "none"},
}
FOREIGN = {
    "a page": {"origin": "https://evil.example"},
    "a sandboxed page, or a file": {"origin": "null"},
    "an empty origin": {"origin": ""},
    "another program's page": {"origin": "http://localhost:4201"},
    "another scheme": {"origin": "https://localhost:4200"},
    "an origin that begins like ours": {"origin": "http://localhost:4200.evil.example"},
    "a name that has come to mean 127.0.0.1": {"host": "evil.example:4200"},
    "the same, as its own origin": {"host": "evil.example:4200", "origin": "http://evil.example:4200"},
    "a name that begins like ours": {"host": "127.0.0.1.evil.example:4200"},
    "no host at all": {"host": "[::1"},
    "a user before our host name": {"host": "x@127.0.0.1:4200"},
    "a user and password before our host name": {"host": "evil.example:x@localhost"},
    "a path after our host name": {"host": "127.0.0.1:4200/evil.example"},
    "two names": {"host": "127.0.0.1 evil.example"},
    "an image or a script of a foreign page": {"sec-fetch-site": "cross-site"},
    "an image on another local program's page": {"sec-fetch-site": "same-site"},
    "an unknown value of Sec-Fetch-Site": {"sec-fetch-site": "anything"},
    "a link to the API": LINK,
}


async def answer(
    headers, *, origins=OWN, method="POST", address="127.0.0.1", path="/api/block_documents/filter", **api
):
    app = guarded(PlainTextResponse("secret"), origins, address=address, **api)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
        return await client.request(method, f"http://unused{path}", headers=headers)


async def status(headers, **how):
    return (await answer(headers, **how)).status_code


async def websocket(headers):
    """Open a websocket; return the first message of the server or of the application behind it."""
    said = []

    async def application(scope, receive, send):
        await send({"type": "websocket.accept"})

    async def send(message):
        said.append(message["type"])

    scope = {
        "type": "websocket",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await guarded(application, OWN)(scope, None, send)
    return said


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("case", [*ADMITTED, *FOREIGN])
async def test_programs_and_own_pages_are_admitted_and_foreign_pages_refused(case, method):
    headers = LOCAL | (ADMITTED | FOREIGN)[case]
    expected = (200, ["websocket.accept"]) if case in ADMITTED else (403, ["websocket.close"])
    assert (await status(headers, method=method), await websocket(headers)) == expected


@pytest.mark.parametrize("path", ["/", "/runs/flow-run/1", "/v2/artifacts", "/apis"])
async def test_a_page_elsewhere_may_link_to_the_ui_and_frame_nothing(path):
    assert await status(LOCAL | LINK, method="GET", path=path) == 200
    assert await status(LOCAL | LINK, method="POST", path=path) == 403
    assert await status(LOCAL | FRAME, method="GET", path=path) == 403
    assert await websocket(LOCAL | LINK) == ["websocket.close"]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/admin/version", "/%61pi/health"])
async def test_a_page_elsewhere_may_not_link_to_the_api_at_any_path(path):
    linked = LOCAL | LINK
    assert await status(linked, method="GET", path=path) == 403
    assert await status(linked, method="GET", path=path, api="/prefect/") == 200
    assert await status(linked, method="GET", path="/prefect/health", api="/prefect/") == 403


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "evil.example"])
async def test_no_response_can_be_framed_by_a_foreign_page_or_load_foreign_resources(host):
    headers = (await answer({"host": host})).headers
    assert headers["x-frame-options"] == "SAMEORIGIN"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'self'"
    assert policy["script-src"] == "'self' 'unsafe-eval'", "the UI's own scripts only"
    # Only images are allowed from the hosts of Prefect's logos.
    assert "http:" not in policy["img-src"]
    assert "*" not in policy["img-src"]
    assert set(policy["connect-src"].split()) == {
        "'self'", "http://127.0.0.1:4200", "http://localhost:4200", "ws://127.0.0.1:4200", "ws://localhost:4200",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "how", "expected"),
    [
        ({"host": "prefect.example", "origin": "https://prefect.example"}, {}, 403),
        (
            {"host": "prefect.example", "origin": "https://prefect.example"},
            {"origins": f"{OWN}, https://prefect.example"},
            200,
        ),
        ({"host": "prefect.example"}, {"origins": "https://prefect.example"}, 200),
        ({"host": "prefect.internal:4200"}, {"address": "0.0.0.0"}, 200),
        ({"host": "prefect.internal:4200", "origin": "https://evil.example"}, {"address": "0.0.0.0"}, 403),
        ({"host": "evil.example", "origin": "https://evil.example"}, {"origins": "*"}, 200),
    ],
)
async def test_the_users_settings_allow_origins_and_names(headers, how, expected):
    assert await status(headers, **how) == expected


async def test_the_servers_own_start_and_end_pass():
    seen = []

    async def application(scope, receive, send):
        seen.append(scope["type"])

    await OwnPagesAlone(application, [], is_local=True)({"type": "lifespan"}, None, None)
    assert seen == ["lifespan"]


@pytest.mark.parametrize("api", ["/api", "/prefect/"])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/docs", 404),
        ("/docs/", 404),
        ("/docs/oauth2-redirect", 404),
        ("/redoc", 404),
        ("API/docs", 404),
        ("API/%72edoc", 404),
        ("/", 200),
        ("/docs-of-a-flow", 200),
        ("API/openapi.json", 200),
    ],
)
async def test_pages_that_run_scripts_of_another_host_are_refused(api, path, status):
    app = without_pages_of_the_api(PlainTextResponse("a page"), api=api)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
        answer = await client.get(f"http://unused{path.replace('API', api.rstrip('/'))}")
    assert answer.status_code == status
