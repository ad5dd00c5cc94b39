"""One request to the console: methods, headers of answers, hostile paths, queries and bodies, a store that is away."""

import threading

import pytest

from resonant.console import app
from resonant.console.pages import ACTIONS
from resonant.console.pages import now as now_page
from resonant.errors import StoreUnavailable
from support.console import JSON, open_pages

FORM = "application/x-www-form-urlencoded"


def one_line(answer):
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert 0 < len(detail) <= 1_010
    assert detail.isprintable()
    return detail


def test_every_answer_forbids_inline_scripts_frames_sniffing_and_caching(pages):
    for path, code in (("/", 200), ("/nothing", 404), ("/deliveries?limit=x", None)):
        headers = pages.send("GET", path, code=code, headers={"accept": "text/html"}).headers
        assert "unsafe" not in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control-") for name in headers)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "GET, HEAD"),
        ("OPTIONS", "/status", "GET, HEAD"),
        ("DELETE", "/endpoints/shop/pause", "POST"),
        ("GET", "/endpoints/shop/pause", "POST"),
        ("PUT", "/deliveries/cancel", "GET, HEAD, POST"),
        ("POST", "/static/console.css", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_405_with_those_it_takes(pages, method, path, allowed):
    answer = pages.send(method, path, code=405, headers=JSON)
    assert answer.headers["allow"] == allowed
    assert allowed in one_line(answer)


def test_head_is_answered_like_get(pages):
    answers = [pages.send(method, "/", code=200, headers=JSON) for method in ("HEAD", "GET")]
    assert answers[0].headers == answers[1].headers


@pytest.mark.parametrize("pattern", ACTIONS)
def test_a_read_only_console_takes_no_post(sqlite_desk, pattern):
    with open_pages(sqlite_desk, read_only=True) as pages:
        answer = pages.send("POST", pattern.replace("*", "x"), code=405, headers=JSON, json={})
        assert answer.headers["allow"] in ("", "GET, HEAD")
        assert one_line(answer) in ("this console is read-only", "this path takes only GET, HEAD")


@pytest.mark.parametrize(
    "path",
    ["/%zz", "/%", "/%ff", "/%00", "/endpoints/%00", "/endpoints/%ff", "/%0a%0dX-Evil:1", "/events/a", "/../x",
     "/events/%0a/%0d%0a/x", "/static/../app.py", "/static/%2e%2e%2fapp.py", "/" + "x" * 30_000, "/login", "/static/console.css%0a"],
)  # fmt: skip
def test_a_path_without_a_page_is_404_in_one_line(pages, path):
    assert one_line(pages.send("GET", path, code=404, headers=JSON))
    assert "X-Evil" not in pages.send("GET", path, code=404, headers={"accept": "text/html"}).headers


@pytest.mark.parametrize(
    "query",
    ["text=" + "x" * 50_001, "event_type=" + "*" * 50_001, "x=%00", "%00=x", "x=%ff", "x=" + "y" * 60_000 + "%00", "&".join(f"n{n}=1" for n in range(2_000))],
)  # fmt: skip
def test_a_malformed_query_is_422_in_one_line(pages, query):
    assert one_line(pages.send("GET", f"/deliveries?{query}", code=422, headers=JSON))


def test_names_that_are_given_twice_and_odd_headers_are_no_error_of_ours(pages):
    for query in ("done=a&done=b", "x=%0a&x=%0d", "x=" + "y" * 60_000):
        assert pages.send("GET", f"/?{query}", headers=JSON).status_code < 500
    odd = "\u00e9\u202e".encode()
    for name in ("accept", "cookie", "origin", "authorization", "sec-fetch-site", "content-type"):
        assert pages.send("GET", "/", headers={name: odd}).status_code in (200, 403)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"[]", 400),
        ("application/json", b"[" * 200_000, 400),
        ("application/json", b'{"a": "\\u0000"}', 400),
        ("application/json", b'{"a": "\\ud800"}', 400),
        ("application/json", b"\xff", 400),
        ("application/json", b'{"a": ' + b"9" * 100_000 + b"}", 400),
        ("application/json", b" " * 262_145, 413),
        (FORM, b"a=%00", 422),
        (FORM, b"\xff=%ff", 422),
        (FORM, b"a=" + b"x" * 262_145, 413),
        (FORM, b"a=1", 403),
        ("text/plain", b'{"a": 1}', 403),
        ("multipart/form-data; boundary=x", b"", 403),
        ("", b"{}", 403),
    ],
)
def test_a_body_that_is_not_a_form_of_the_session_or_json_is_refused_in_one_line(pages, kind, body, status):
    headers = {**JSON, "content-type": kind}
    assert one_line(pages.send("POST", "/deliveries/cancel", code=status, content=body, headers=headers))


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (StoreUnavailable("postgresql://host/resonant: connection refused"), 503, "the store does not answer: postgres"),
        (ZeroDivisionError("secret"), 500, "an error of Resonant"),
    ],
)  # fmt: skip
def test_an_error_while_a_page_is_read_is_one_line_in_html_and_json(
    sqlite_desk, monkeypatch, error, status, says
):
    def fail(*_args, **_options):
        raise error

    monkeypatch.setattr(now_page, "read_overview", fail)
    with open_pages(sqlite_desk) as pages:
        assert one_line(pages.send("GET", "/", code=status, headers=JSON)).startswith(says)
        page = pages.html("/", code=status)
    assert says in page
    assert "secret" not in page


def test_a_page_that_the_store_does_not_answer_in_time_is_503(sqlite_desk, monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr(app, "_STORE_SECONDS", 0.1)
    monkeypatch.setattr(now_page, "read_overview", lambda *_args, **_options: answered.wait(60))
    with open_pages(sqlite_desk) as pages:
        answer = pages.send("GET", "/", code=503, headers=JSON)
        assert one_line(answer) == "the store does not answer: no answer within 0.1 s"
        assert answer.headers["retry-after"] == "2"
        answered.set()
