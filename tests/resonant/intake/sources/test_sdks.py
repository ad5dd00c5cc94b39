"""The official libraries of services that sign webhooks agree with each scheme: on what they sign, and on what is forged."""

import base64
import time
from itertools import islice

import pytest

from resonant.intake.sources.schemes import Forged
from resonant.intake.sources.source import Stale
from resonant.intake.sources.templates import FORM
from support.forging import forgeries, proves
from support.sdks import sign_in_javascript, sign_in_python
from support.sources import BASE64_SECRET, SECRET, TWILIO_URL, hash_in_query, webhook

BODIES = [b'{"id": "evt_1", "type": "t"}', '{"name": "Grüße €"}'.encode(), b"x", b" \r\n ", b"{" * 2_000]
FORMS = [
    b"Body=Hi+there&From=%2B1555",
    b"Body=Gr%C3%BC%C3%9Fe&Empty=&A=%00",
    b"B=2&A=2&A=1&A=1",
    b"A=a%20b&a=+",
]
# The default of GitHub: its JSON as the field of a form.
PAYLOADS = [
    b"payload=%7B%22action%22%3A%22opened%22%7D",
    b"payload=%7B%22a%22%3A+%22Gr%C3%BC%C3%9Fe+%2B+50%25%22%7D",
]


@pytest.fixture(params=["another time", "now"])
def now(request):
    return time.time() - (400 if request.param == "another time" else 0)


def examples(verify, at):
    if verify != "twilio":
        forms = [webhook(verify, body, at=at, kind=FORM) for body in PAYLOADS if verify == "github"]
        return [*(webhook(verify, body, at=at) for body in BODIES), *forms]
    return [
        *(webhook(verify, body, query="a=1&b=%20") for body in FORMS),
        *(webhook(verify, body, kind="application/json", query=hash_in_query(body)) for body in BODIES),
    ]


def given(verify, each, at, library=""):
    return {
        "verify": verify,
        "library": library,
        "secret": BASE64_SECRET if verify == "standard-webhooks" else SECRET,
        "at": str(int(at)),
        "url": TWILIO_URL + (f"?{each.query}" if each.query else ""),
        "headers": {name: value.decode("latin-1") for name, value in each.headers},
        "body": base64.b64encode(each.body).decode(),
    }


def passes(source, each):
    try:
        source.check(each.received, each.query, time.time())
    except (Forged, Stale):
        return False
    return True


def check(of, verify, at, sign, library=""):
    """Compare what a library says of good, old and forged webhooks with what the source does, both ways."""
    source, good = of(verify), examples(verify, at)
    forged = [
        each
        for original in good
        for each in islice(forgeries(verify, original, seed=48), 150)
        if not proves(verify, original, each) and is_text(each)
    ]
    said = sign([given(verify, each, at, library) for each in (*good, *forged)])
    is_old = at < time.time() - 300 and verify in ("standard-webhooks", "stripe", "slack")

    assert len(forged) > 200
    assert [each["verified"] for each in said[: len(good)]] == [not is_old] * len(good)
    assert [passes(source, each) for each in good] == [not is_old] * len(good)
    signed = [each.changed(**found["signed"]) for each, found in zip(good, said, strict=False)]
    assert [passes(source, each) for each in signed] == [not is_old] * len(good)
    assert [each for each in forged if passes(source, each)] == []
    return [each for each, found in zip(forged, said[len(good) :], strict=True) if found["verified"]]


def is_text(each):
    """Return whether the libraries can be given it: they take text, and one header of a name."""
    try:
        each.body.decode()
    except UnicodeDecodeError:
        return False
    names = [name for name, _ in each.headers]
    return len(names) == len(set(names)) and (each.received.kind != FORM or each.body.isascii())


@pytest.mark.program
@pytest.mark.parametrize("verify", ["slack", "stripe", "twilio"])
def test_the_official_libraries_in_python_agree(of, verify, now):
    accepted = check(of, verify, now, sign_in_python)
    # Stripe's also accepts a signature with more after another =, and Twilio's a body of another type without a hash.
    assert verify in ("stripe", "twilio") or accepted == []


@pytest.mark.program
@pytest.mark.parametrize(
    ("verify", "library"),
    [
        ("github", "@octokit/webhooks"),
        ("standard-webhooks", "svix"),
        ("standard-webhooks", "standardwebhooks"),
    ],
)
def test_the_official_libraries_in_javascript_agree(of, verify, library, now):
    assert check(of, verify, now, sign_in_javascript, library) == []
