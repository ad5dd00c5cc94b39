"""Who may use the console: foreign pages, sessions, tokens of forms, passwords."""

import asyncio
import time
from urllib.parse import urlencode

import pytest

from resonant.console.access import SESSION_SECONDS, Access
from resonant.console.app import create_app
from resonant.console.asked import Console
from resonant.console.plans import Plans
from resonant.settings import Settings
from support.console import JSON, open_pages
from support.foreign_pages import ALLOWED, FRAME, LINK, OWN, REFUSED
from support.waiting import PATIENCE_SECONDS

PASSWORD = "resonant:s3cret"
HTML = {"accept": "text/html"}
# Without its own fields, every action refuses a request that may act.
ACTION = "/replays/none/cancel"


@pytest.fixture
def locked(sqlite_desk):
    with open_pages(sqlite_desk, password=PASSWORD) as pages:
        yield pages


def log_in(pages, **given):
    pages.http.cookies.clear()
    return pages.submit("/login", "/login", code=None, **{"name": "Ada", "password": "s3cret"} | given)


def token_of(pages, page="/login"):
    return pages.html(page).partition('name="token" value="')[2].partition('"')[0]


@pytest.mark.parametrize("headers", ALLOWED + REFUSED)
def test_programs_and_its_own_pages_may_act_and_other_pages_may_not(pages, headers):
    headers_sent = {"Host": "127.0.0.1:8080", **JSON, **headers}
    answer = pages.send("POST", ACTION, json={}, headers=headers_sent)

    assert (answer.status_code == 403) == (headers in REFUSED)
    assert answer.headers["content-type"].startswith("application/")


@pytest.mark.parametrize(
    ("headers", "status"), [(LINK, 200), (FRAME, 403), ({}, 403), ({"Sec-Fetch-Mode": "cors"}, 403)]
)
def test_a_link_from_another_page_may_be_followed_but_not_framed(pages, headers, status):
    pages.get("/", code=status, **{"Sec-Fetch-Site": "cross-site", **headers})


def test_a_host_is_an_address_or_an_allowed_name_and_is_given_once(sqlite_desk):
    with open_pages(sqlite_desk, hosts=("Console.example.com",)) as pages:

        def status(*hosts, **headers):
            sent = [*(("host", each) for each in hosts), *headers.items(), ("accept", "text/html")]
            return pages.send("GET", "/", headers=sent).status_code

        for host in ("console.example.com", "console.EXAMPLE.com:8443", "10.1.2.3:4201", "[fd00::1]"):
            assert status(host) == 200, host
        for host in (
            "evil.example.com",
            "console.example.com.evil",
            "\u00e9.example".encode(),
            "a b",
            "http://[",
            "",
        ):
            assert status(host) == 403, host
        assert status("127.0.0.1", "evil.example.com") == 403
        assert (
            status("evil.example.com", **{"x-forwarded-host": "127.0.0.1", "forwarded": "host=127.0.0.1"})
            == 403
        )


def test_a_browser_logs_in_for_12_hours_and_a_program_sends_its_password_each_time(locked):
    assert locked.get("/", code=303).headers["location"] == "/login"
    assert log_in(locked).status_code == 303
    page = locked.html("/")
    assert "Ada in the console" in page
    assert "s3cret" not in page

    cookie = log_in(locked).headers["set-cookie"]
    for attribute in ("HttpOnly", "SameSite=strict", "Max-Age=43200", "Path=/"):
        assert attribute in cookie
    assert "Secure" not in cookie
    assert cookie != log_in(locked).headers["set-cookie"]

    locked.http.cookies.clear()
    refused = locked.send("GET", "/", code=401, headers=JSON)
    assert refused.headers["www-authenticate"].startswith("Basic realm=")
    locked.send("GET", "/", code=401)
    for user, password in (("Ada", "s3cret"), ("resonant", "s3cret")):
        locked.send("GET", "/", code=200, headers=JSON, auth=(user, password))
    locked.send("GET", "/", code=422, headers=JSON, auth=("", "s3cret"))
    for value in ("Basic \u00e9".encode(), b"Basic x", b"Basic /////w==", b"Basic"):
        locked.send("GET", "/", code=401, headers={**JSON, "authorization": value})


@pytest.mark.parametrize(
    "page", ["/deliveries?endpoint=a%20b&text=x", "/events/%2Fshop/evt%2F1", "/endpoints"]
)
def test_a_login_leads_to_the_page_that_was_asked_for(locked, page):
    login = locked.get(page, code=303).headers["location"]
    done = locked.submit(login, "/login", name="Ada", password="s3cret")
    assert done.headers["location"] == page


@pytest.mark.parametrize(
    "page",
    ["//evil.example", "/\\evil.example", "https://evil.example", "/\t/evil.example", "x", "/login", ""],
)
def test_a_login_never_leads_elsewhere(locked, page):
    locked.http.cookies.clear()
    given = {"name": "Ada", "password": "s3cret", "next": page}
    assert locked.submit("/login", "/login", **given).headers["location"] == "/"
    link = f"/login?{urlencode({'next': page})}"
    assert 'name="next" value="/"' in locked.html(link)


def test_logging_out_ends_the_session_and_a_link_of_another_site_does_not(locked):
    log_in(locked)
    key = locked.http.cookies["resonant_session"]
    locked.get("/login", **{"Sec-Fetch-Site": "same-site", **LINK})
    locked.get("/")
    locked.get("/login")
    locked.http.cookies.set("resonant_session", key)
    locked.get("/", code=303)


def test_a_session_ends_after_12_hours(sqlite_desk):
    time_now = [0.0]
    access = Access(PASSWORD, clock=lambda: time_now[0])
    console = Console(sqlite_desk.store, Settings(), Plans())
    with open_pages(sqlite_desk, app=create_app(console, access)) as pages:
        log_in(pages)
        time_now[0] = SESSION_SECONDS - 1
        pages.get("/")
        time_now[0] = SESSION_SECONDS
        pages.get("/", code=303)


def test_the_cookie_is_for_https_only_if_the_browser_uses_it(sqlite_desk):
    with open_pages(sqlite_desk, password=PASSWORD, hosts=("c.example",)) as pages:
        headers = {**HTML, "host": "c.example", "origin": "https://c.example"}
        given = {"name": "Ada", "password": "s3cret", "token": token_of(pages)}
        assert (
            "Secure"
            in pages.send("POST", "/login", code=303, data=given, headers=headers).headers["set-cookie"]
        )


def test_a_form_needs_the_token_of_its_session_and_its_action(locked):
    login_token = token_of(locked)
    log_in(locked)
    own, key = token_of(locked), locked.http.cookies["resonant_session"]
    log_in(locked)
    for given in (
        {},
        {"token": ""},
        {"token": login_token},
        {"token": own},
        {"token": [own, own]},
        {"token": "\u00e9"},
    ):
        refused = locked.send(
            "POST", ACTION, code=403, data=given, headers={**HTML, "origin": "http://127.0.0.1:4201"}
        )
        assert "open its page again" in refused.text
    assert key != locked.http.cookies["resonant_session"]


@pytest.mark.parametrize("given", [{"password": "wrong"}, {"password": ""}, {"password": "s3cret "}])
def test_a_wrong_password_is_refused_after_a_second_without_a_window_of_the_browser(locked, given):
    began = time.monotonic()
    answer = log_in(locked, **given)
    assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, None)
    assert "the password is wrong" in answer.text
    assert time.monotonic() - began >= 1


@pytest.mark.parametrize("name", ["", " ", "x" * 61, "a\nb", "\u202eadA"])
def test_a_session_has_a_printable_name(locked, name):
    assert log_in(locked, name=name).status_code == 422


def test_wrong_passwords_are_slowed_and_do_not_slow_the_right_one(locked, monkeypatch):
    async def ask(password):
        return (await locked.http.get("/", auth=("Ada", password), headers=JSON)).status_code

    async def main():
        with monkeypatch.context() as patched:
            patched.setattr("resonant.console.access._SECONDS_PER_GUESS", PATIENCE_SECONDS)
            guesses = [asyncio.create_task(ask("wrong")) for _ in range(9)]
            await asyncio.sleep(0)
            assert await ask("s3cret") == 200
            assert not any(guess.done() for guess in guesses)
            for guess in guesses:
                guess.cancel()
            await asyncio.wait(guesses)
        assert {*await asyncio.gather(*(ask("wrong") for _ in range(20)))} == {401, 429}
        assert await ask("s3cret") == 200

    locked.desk.run(main())


@pytest.mark.parametrize("headers", [{"x-forwarded-for": "127.0.0.1"}, {"x-forwarded-user": "Ada"}])
def test_headers_of_proxies_give_no_access(locked, headers):
    locked.send("GET", "/", code=401, headers={**JSON, **headers})
    assert OWN not in locked.send("GET", "/", headers={**HTML, "x-forwarded-host": OWN}).headers["location"]
