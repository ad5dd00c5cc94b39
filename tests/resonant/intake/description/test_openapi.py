"""The OpenAPI document describes the server exactly: what it takes, what it refuses, and what it answers."""

import os
import re
import subprocess
import sys
from base64 import b64encode
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from resonant.errors import InvalidEvent
from resonant.events import ENDPOINT_NAME
from resonant.events.times import parse_rfc3339
from resonant.input_lines import decode_json, event_from_fields
from resonant.intake.description.openapi import openapi
from resonant.intake.limits import IntakeLimits
from support.examples import examples
from support.hostile_lines import damaged_lines, good_lines
from support.posting import posting
from support.processes import clean_environment
from support.serving import add_endpoints, create_token, route_everything, serving
from support.sources import source, webhook

SCHEMATHESIS = [sys.executable, "-m", "schemathesis.cli", "run", "--no-color"]
FORMATS = FormatChecker(formats=())
FORMATS.checks("date-time")(lambda value: not isinstance(value, str) or parse_rfc3339(value) is not None)
DOCUMENT = openapi(IntakeLimits(), needs_token=True, has_sources=False)
EVENT = Draft202012Validator(DOCUMENT["components"]["schemas"]["Event"], format_checker=FORMATS)
# JSON Schema has no words for these.
BEYOND_SCHEMA = (
    "bytes, the limit is",
    "sent as UTF-8",
    "lone surrogate",
    "nested too deeply",
    "extension attributes, not",
)


def refusal_of(fields):
    try:
        event_from_fields(fields)
    except InvalidEvent as error:
        return str(error)
    return None


@given(good_lines | damaged_lines)
def test_the_schema_of_an_event_accepts_what_is_accepted(line):
    try:
        fields = decode_json(line)
    except InvalidEvent:
        return
    refusal = refusal_of(fields)
    if refusal is None:
        EVENT.validate(fields)
    elif not any(words in refusal for words in BEYOND_SCHEMA):
        assert not EVENT.is_valid(fields), refusal


@given(
    st.from_regex(ENDPOINT_NAME, fullmatch=True)
    | st.text(st.characters(codec="ascii", exclude_categories=["Cc"]))
)
@example("a" * 1_025)
def test_the_parameter_endpoint_accepts_each_possible_name(name):
    [schema] = [
        each["schema"]
        for each in DOCUMENT["paths"]["/events"]["post"]["parameters"]
        if each["name"] == "endpoint"
    ]
    can_be_name = ENDPOINT_NAME.fullmatch(name) is not None and len(name) <= 1_024
    assert Draft202012Validator(schema).is_valid(name) == can_be_name


def test_every_operation_is_served_and_described(client):
    for path, methods in client.send("GET", "/openapi.json").json()["paths"].items():
        for method in methods:
            if path in ("/healthz", "/readyz", "/metrics"):
                continue  # of the process
            answer = client.send(method.upper(), path)
            assert str(answer.status_code) in methods[method]["responses"], (method, path)


def test_webhooks_are_described_with_their_answers_by_a_server_that_takes_them(client, sqlite_desk, tmp_path):
    path = "/sources/{name}"
    assert path not in client.send("GET", "/openapi.json").json()["paths"]
    sources = {name: source(tmp_path, name, endpoint="orders") for name in ("github", "twilio")}
    with posting(sqlite_desk, sources=sources) as receiver:
        document = receiver.send("GET", "/openapi.json").json()
        assert "/sources/{name}" in receiver.send("GET", "/docs").text
        methods = document["paths"][path]
        # Other than /events, it answers 401 and 429 also on a server without tokens.
        assert {"401", "429"} <= methods["post"]["responses"].keys()
        schema = Draft202012Validator(document["components"]["schemas"]["Received"])
        for name in sources:
            answers = [
                receiver.send("POST", f"/sources/{name}"),
                receiver.send("OPTIONS", f"/sources/{name}"),
                receiver.send("POST", "/sources/unknown"),
            ]
            for _ in range(2):
                given = webhook(name)
                answers.append(
                    receiver.send("POST", f"/sources/{name}", content=given.body, headers=given.headers)
                )
            for answer in answers:
                found = methods[answer.request.method.lower()]["responses"][str(answer.status_code)]
                if answer.content:
                    kind = answer.headers["content-type"].partition(";")[0]
                    assert kind in found["content"]
                    if kind == "application/json":
                        schema.validate(answer.json())
            assert answers[-1].status_code in (200, 202)


def test_a_server_without_tokens_describes_no_token(client):
    document = client.send("GET", "/openapi.json").json()
    assert "securitySchemes" not in document["components"]
    assert "401" not in document["paths"]["/events"]["post"]["responses"]


def test_the_page_loads_no_other_resource_and_describes_every_operation(client):
    answer = client.send("GET", "/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page, policy = answer.text, answer.headers["content-security-policy"]
    [style] = re.findall("<style>(.*?)</style>", page, re.DOTALL)
    assert policy.startswith("default-src 'none'; ")
    assert b64encode(sha256(style.encode()).digest()).decode() in policy
    assert not re.search(r"<script|<link|<img|url\(|@import| style=| on\w+=", page)
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            assert f"<h2>{method.upper()} {path}</h2>" in page
            assert operation["summary"] in page


@pytest.mark.slow
@pytest.mark.timeout(1_200)  # it sends many requests, one after the other
@pytest.mark.parametrize("has_sources", [False, True])
def test_schemathesis_reports_no_problem(tmp_path, has_sources):
    url = f"sqlite:///{tmp_path / 'store.db'}"
    add_endpoints(url, "orders")
    route_everything(url, "orders")
    token = create_token(url, tmp_path, "shop", "--read")
    variables = {"SCHEMATHESIS_HOOKS": "support.schemathesis_hooks", "PYTHONPATH": os.pathsep.join(sys.path)}
    file = tmp_path / "sources.yaml"
    file.write_text("sources: [{name: github, verify: github, secret: env:SECRET}]\n")
    options = ["--sources", str(file)] if has_sources else []
    with serving(url, tmp_path, *options, SECRET="s") as server:
        given = [f"{server.url}/openapi.json", f"--header=Authorization: Bearer {token}", "--checks=all"]
        done = subprocess.run(
            [*SCHEMATHESIS, *given, f"--max-examples={examples(20)}"],
            cwd=tmp_path,
            env=clean_environment() | variables,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    # It cannot sign webhooks, and warns of that.
    assert ("No issues found" in done.stdout) is not has_sources
