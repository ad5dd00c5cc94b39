"""``resonant source``: the sources of a file, and what a recorded request would become."""

import time

import pytest

from support.sources import declare, row, webhook


@pytest.fixture
def file(tmp_path):
    """A file with two sources."""
    rows = row("github", subject="{data/number|}", rate=5), row("stripe", name="billing", endpoint="orders")
    return str(declare(tmp_path, *rows))


@pytest.fixture
def recorded(tmp_path):
    """Return a function that records a webhook in a file, and returns its path."""

    def record(given, line="POST /sources/x HTTP/1.1\r\n"):
        head = "".join(f"{name}: {value.decode()}\r\n" for name, value in given.headers)
        path = tmp_path / "recorded.http"
        path.write_bytes(f"{line}{head}\r\n".encode() + given.body)
        return str(path)

    return record


def test_lists_the_sources_without_their_secrets(resonant, file):
    github, billing = resonant.json("source", "list", "--sources", file)
    assert github == {
        "name": "github",
        "verify": "github",
        "type": "com.github.{header.x-github-event}.{data/action|none}",
        "source": "/github/{data/repository/full_name|organisation}",
        "ids": ["{header.x-github-delivery}"],
        "subject": "{data/number|}",
        "endpoint": None,
        "tolerance": None,
        "rate": 5,
        "secrets": 1,
    }
    assert (billing["name"], billing["endpoint"], billing["tolerance"], billing["subject"]) == (
        "billing",
        "orders",
        300,
        None,
    )
    shown = resonant("source", "list", "--sources", file).out
    assert all(each in shown for each in ("github", "billing", "com.stripe.{data/type}", "orders"))
    assert "secret of a test" not in shown


def test_on_a_terminal_each_source_is_a_card_if_a_row_is_too_wide(resonant, file):
    shown = resonant.on_a_terminal("source", "list", "--sources", file, columns=60)
    assert "billing: stripe" in shown
    assert "endpoint orders" in shown


def test_a_file_without_sources_is_said_to_have_none(resonant, tmp_path):
    file = str(declare(tmp_path))
    answer = resonant("source", "list", "--sources", file)
    assert f"no sources in {file}" in answer.err.replace("\n", "")
    assert resonant.json("source", "list", "--sources", file) == []


def test_a_mistake_in_the_file_is_one_line_and_exit_code_2(resonant, tmp_path):
    file = declare(tmp_path, row("github", subjct="x"))
    said = resonant.refused("source", "list", "--sources", str(file), code=2)
    assert said == f"{file}: source 'github': unknown setting 'subjct': did you mean subject?"
    said = resonant.refused("source", "list", "--sources", str(tmp_path / "missing.yaml"), code=2)
    assert said == f"{tmp_path / 'missing.yaml'}: No such file or directory"


def test_shows_the_event_that_a_recorded_request_becomes(resonant, file, recorded):
    body = b'{"action": "opened", "number": 7, "repository": {"full_name": "octo/shop"}}'
    request = recorded(webhook("github", body).changed(x_github_event="pull_request"))
    arguments = ("source", "test", "github", "--sources", file, "--request", request)
    found = resonant.json(*arguments)
    expected = {
        "id": "evt_1",
        "type": "com.github.pull_request.opened",
        "source": "/github/octo/shop",
        "subject": "7",
        "form": "json",
        "bytes": len(body),
    }
    assert expected.items() <= found.items()
    lines = resonant(*arguments).out.splitlines()
    assert lines[:2] == ["id          evt_1", "type        com.github.pull_request.opened"]
    assert lines[-1] == f"data        {len(body)} bytes, JSON"


def test_the_age_of_a_recorded_request_is_said_but_does_not_count(resonant, file, recorded):
    arguments = ("source", "test", "billing", "--sources", file, "--request")
    assert "old: a server refuses it now with 403" in resonant(*arguments, recorded(webhook("stripe"))).err
    ahead = webhook("stripe", at=time.time() + 3_600)
    assert "ahead: a server refuses it now with 403" in resonant(*arguments, recorded(ahead)).err
    now = resonant(*arguments, recorded(webhook("stripe", at=time.time())))
    assert (now.err, "com.stripe.order.paid" in now.out) == ("", True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            webhook("github", secret="another"),
            "refused with 401: the signature, token or password does not fit",
        ),
        (webhook("github").changed(x_github_event=None), "refused: the request has no header.x-github-event"),
    ],
)
def test_a_request_that_would_be_refused_is_one_line_and_exit_code_1(resonant, file, recorded, given, said):
    line = resonant.refused("source", "test", "github", "--sources", file, "--request", recorded(given))
    assert said in line
    assert "secret of a test" not in line


@pytest.mark.parametrize(
    ("name", "request_file", "said"),
    [
        ("githb", None, "no source is named 'githb': did you mean github?"),
        ("github", "missing.http", "missing.http: No such file or directory"),
        ("github", "sources.yaml", "sources.yaml: must be headers, an empty line and the body of a request"),
    ],
)
def test_a_wrong_name_or_file_is_one_line_and_exit_code_2(resonant, file, recorded, name, request_file, said):
    request = request_file or recorded(webhook("github"))
    assert said in resonant.refused("source", "test", name, "--sources", file, "--request", request, code=2)


def test_the_query_of_the_request_line_counts_for_twilio(resonant, tmp_path, recorded):
    file = str(declare(tmp_path, row("twilio")))
    request = recorded(webhook("twilio", query="a=1"), "POST /sources/twilio?a=1 HTTP/1.1\r\n")
    arguments = ("source", "test", "twilio", "--sources", file, "--request")
    assert resonant.json(*arguments, request)["type"] == "com.twilio.webhook"
    assert "401" in resonant.refused(*arguments, recorded(webhook("twilio", query="a=1")))
