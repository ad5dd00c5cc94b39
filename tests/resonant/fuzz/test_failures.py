"""Failures of any shape: each exception of a library or a user's sink gets a verdict and a decision."""

import asyncio
import contextlib
import logging
import random
import re
import ssl
import traceback
from typing import get_args

import aiohttp
import httpx
import pytest
import requests
import urllib3.exceptions
from hypothesis import given, settings
from hypothesis import strategies as st

from resonant.delivery.attempt import AttemptRunner, Destination
from resonant.delivery.classification import Classifier, classify
from resonant.delivery.outcome import Outcome
from resonant.delivery.verdict import Verdict
from resonant.errors import UnexpectedStatus
from resonant.events import Category, Event, Lease
from resonant.sinks.base import CallableSink
from resonant.sinks.endpoint import Endpoint
from resonant.store.queue.fingerprint import fingerprint
from support.redaction import safe_message

fuzzed = settings.get_profile("fuzz")
fuzzed_with_io = settings.get_profile("fuzz-io")

NOW = 1_700_000_000.0
ENDPOINT = Endpoint(
    "orders", "https://example.com/hooks/T0KENT0KEN", signing_secrets=("whsec_c2VjcmV0c2VjcmV0",)
)
LEASE = Lease(1, 1, "worker", Event(type="t", source="/s", data=None, id="evt_1"), "orders")
REQUEST = httpx.Request("POST", ENDPOINT.url)
PLAIN = [OSError, ConnectionError, ConnectionResetError, TimeoutError, ValueError, KeyError, RuntimeError]
PLAIN += [Exception, UnicodeError, StopAsyncIteration, MemoryError, RecursionError]
PLAIN += [ssl.SSLError, ssl.SSLCertVerificationError, aiohttp.ClientError, aiohttp.ClientOSError]
PLAIN += [httpx.ConnectError, httpx.ReadTimeout, httpx.TooManyRedirects]
PLAIN += [requests.ConnectionError, requests.HTTPError, urllib3.exceptions.HTTPError]
NOT_OURS = [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit]
MODULES = ["httpx", "requests.exceptions", "aiohttp.client", "urllib3", "resonant.errors", "builtins", "ssl"]
MODULES += ["", "Ünïcode"]
NAMES = ["HTTPStatusError", "HTTPError", "ClientResponseError", "UnexpectedStatus", "ConnectError"]
NAMES += ["gaierror", "OSError", ""]
ATTRIBUTES = ["response", "status_code", "status", "headers", "retry_after", "errno", "excerpt"]
ATTRIBUTES += ["exceptions", "reason"]
METHODS = ["__str__", "__repr__", "__eq__", "__hash__", "__bool__", "__len__", "__iter__", "__getattr__"]
METHODS += ["__class__"]
TEXTS = ["", "5", "-1", "Retry-After", "retry-after", "\x00", "\ud800", "%s%n", "\n", "\u202e", "Sch\xf6n"]
TEXTS += [ENDPOINT.url]
VALUES = [None, True, False, -5, 0, 99, 100, 200, 302, 404, 410, 429, 503, 600, 1 << 70, 10**400]
VALUES += [float("nan"), 5.5, b"503", [503], {"Retry-After": "5"}, {"Retry-After": 5}, object()]
VALUES += [Exception("x"), *TEXTS]
# One example makes so many: Hypothesis takes far longer to choose than the classifier to judge.
WAYS = 20


class Hostility(Exception):
    """An error of hostile code."""


def refuse(*_):
    raise Hostility("no")


def _constant(value):
    return lambda *_: value


class Response:
    """The answer that an exception carries, as the libraries have one."""

    def __init__(self, status, headers):
        self.status_code = status
        self.headers = headers


def made(rng):
    """Make one failure: of a known type, or of one that nobody would write on purpose."""
    way = rng.randrange(6)
    if way == 0:
        return rng.choice(PLAIN)(rng.choice(TEXTS))
    if way == 1:
        return UnexpectedStatus(
            rng.choice([rng.randrange(-5, 1000), 10**400]), rng.choice([None, *TEXTS]), rng.choice(TEXTS)
        )
    if way == 2:
        answer = httpx.Response(rng.randrange(100, 1000), headers={"retry-after": "5"}, request=REQUEST)
        return httpx.HTTPStatusError("", request=REQUEST, response=answer)
    if way == 3:
        error = requests.HTTPError("")
        error.response = Response(
            rng.choice(VALUES), rng.choice([{rng.choice(TEXTS): rng.choice(TEXTS)}, *VALUES])
        )
        return error
    return made_hostile(rng)


def made_hostile(rng):
    """Make an exception whose attributes, texts and class cause errors when they are read."""
    body = {}
    for name in rng.sample(ATTRIBUTES + METHODS, rng.randrange(5)):
        if name in METHODS and name != "__class__":
            body[name] = rng.choice([refuse, _constant(rng.choice(VALUES))])
        else:
            body[name] = rng.choice([property(refuse), rng.choice(VALUES)])
    body["__module__"] = rng.choice([*MODULES, None, 7])
    base = rng.choice([Exception, OSError, ConnectionError, ValueError, aiohttp.ClientError, httpx.HTTPError])
    try:
        return type(rng.choice(NAMES), (base,), body)("")
    except Exception:  # noqa: BLE001 - an exception that cannot be created is no failure
        return ValueError("")


def tangled(rng):
    """Make failures, and groups of them, that cause and surround each other without any order, cycles included."""
    knots = [made(rng) for _ in range(rng.randint(1, 4))]
    if not rng.randrange(10):
        knots.append(rng.choice(NOT_OURS)())
    # Seldom: groups in a ring are judged a thousand links deep, which takes a tenth of a second.
    for _ in range(rng.choice([0] * 60 + [1, 2, 3])):
        knots.append(BaseExceptionGroup("", [rng.choice(knots) for _ in range(rng.randint(1, 3))]))
    for knot in knots:
        for link in ("__cause__", "__context__"):
            with contextlib.suppress(Exception):  # a hostile one may refuse
                setattr(knot, link, rng.choice([None, *knots]))
    return rng.choice(knots)


@pytest.fixture(autouse=True)
def no_log():
    """Each invalid value is logged, which would take most of a long run."""
    loggers = [
        logging.getLogger(f"resonant.{name}")
        for name in ("delivery.classification", "delivery.retry_after", "delivery.attempt")
    ]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


def judged(failure, judge=classify, **options):
    """Classify it; an error of the classifier is reported as text, since pytest cannot show a hostile exception."""
    try:
        return judge(failure, now=NOW, **options)
    except Exception as error:  # noqa: BLE001 - see above
        where = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__} at {where.filename}:{where.lineno}: {where.line}"
    pytest.fail(f"the classifier raised {problem}; the failure is of {type(failure).__mro__}", pytrace=False)


def check(verdict):
    assert isinstance(verdict, Verdict)
    assert verdict.category in get_args(Category)
    assert re.fullmatch(r"[a-z][a-z0-9_]{0,40}", verdict.code)
    assert verdict.retry_after is None or 0 <= verdict.retry_after <= 24 * 3600
    assert verdict.free_wait is None, "only Resonant's own failures may go uncounted"


def check_judgement(rng):
    failure = tangled(rng)
    if not isinstance(failure, Exception):
        with pytest.raises(type(failure)):
            classify(failure, now=NOW)
        return
    overrides = {rng.randrange(100, 600): rng.choice(get_args(Category)) for _ in range(rng.randrange(3))}
    verdict = judged(failure, overrides=overrides)
    check(verdict)
    assert judged(failure, overrides=overrides) == verdict
    judge = Classifier()
    judge.rule(lambda _: answer)
    judge.rule(refuse)
    answer = rng.choice(VALUES)
    assert judged(failure, judge.classify) == judged(failure), (
        "a rule that fails or talks nonsense is passed over"
    )


@fuzzed
@given(st.integers(0, 2**64))
def test_every_failure_gets_a_verdict(seed):
    rng = random.Random(seed)
    for _ in range(WAYS):
        check_judgement(rng)


def test_a_failure_that_raises_when_it_is_looked_at_is_unknown(caplog):
    class HTTPError(requests.HTTPError):
        response = property(refuse)

        def __init__(self):
            """Set no response: this one has it to read only."""

    with caplog.at_level(logging.WARNING, logger="resonant.delivery.classification"):
        assert judged(HTTPError()) == Verdict("unknown", "unknown", maybe_processed=True)
    assert "classified a HTTPError as unknown: inspecting it raised Hostility" in caplog.text


@pytest.fixture(scope="module")
def runner():
    with asyncio.Runner() as opened:
        yield opened


@fuzzed_with_io
@given(st.integers(0, 2**64))
def test_every_failure_of_a_sink_is_an_attempt_that_can_be_recorded(runner, seed):
    failure = tangled(random.Random(seed))
    if not issubclass(type(failure), Exception):
        return

    async def send(_event):
        raise failure

    async def close():
        return None

    sink = CallableSink(send)
    destination = Destination("orders", sink, lambda error: safe_message(error, ENDPOINT), close, timeout=5.0)
    attempt_runner = AttemptRunner(clock=lambda: NOW, rng=random.Random(7))
    try:
        report = runner.run(attempt_runner.attempt(LEASE, destination))
    except Exception as error:  # noqa: BLE001 - see `judged`
        where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
        report = None
    if report is None:
        pytest.fail(f"the attempt is lost, at {where}", pytrace=False)
    assert isinstance(report, Outcome)
    check(report.verdict)
    attempt = report.attempt
    assert attempt.result == "failed"
    assert report.decision is not None
    assert attempt.status_code is None or 100 <= attempt.status_code < 600
    for text in (attempt.error, attempt.error_type, attempt.excerpt):
        if text is not None:
            assert text.isprintable()
            assert len(text) <= 1024
            text.encode()
    assert "T0KENT0KEN" not in attempt.error
    fingerprint("orders", attempt.code, attempt.error)
