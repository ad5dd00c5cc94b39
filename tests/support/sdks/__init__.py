"""The libraries with which producers write events, and receivers read and verify them, and which the tests cannot import.

In JavaScript, these are the official ones of CloudEvents, Standard Webhooks, Svix and GitHub. In Python, they are those of
Slack, Stripe and Twilio, which are installed without what they need to call these services, and ``cloudevents-pydantic`` with
version 1 of the official SDK, which it needs; the tests import version 2.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from resonant.testing.journal import Request
from support.programs import lacking, need, require_mark

_HERE = Path(__file__).parent
_INSTALLED = _HERE.parents[2] / "build" / "sdks"


def read_in_javascript(requests: Iterable[Request], *, secret: str) -> list[dict[str, Any]]:
    """Return what the libraries make of each request: an ``event`` (attributes and data), and ``verified``."""
    command = [need("node"), str(_HERE / "read.cjs")]
    return _read(command, {"NODE_PATH": installed("node_modules")}, requests, secret)


def read_in_old_python(requests: Iterable[Request], *, extensions: Collection[str]) -> list[dict[str, Any]]:
    """Return what each SDK makes of each request: an ``event``, by version 1; and ``pydantic``."""
    command = [sys.executable, str(_HERE / "read.py"), json.dumps(list(extensions))]
    return _read(command, {"PYTHONPATH": installed("python")}, requests)


def send_in_javascript(url: str, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send events (``mode``, ``attributes``, and ``data`` or ``base64``) with the library; return the answers."""
    command = [need("node"), str(_HERE / "send.cjs")]
    given = {"url": url, "events": events}
    answers: list[dict[str, Any]] = _run(command, {"NODE_PATH": installed("node_modules")}, given)
    return answers


def write_in_old_python(events: Sequence[dict[str, Any]]) -> list[tuple[dict[str, str], bytes]]:
    """Return the headers and the body that version 1 of the SDK makes of each event, given as above."""
    command = [sys.executable, str(_HERE / "write.py")]
    written = _run(command, {"PYTHONPATH": installed("python")}, events)
    return [(each["headers"], base64.b64decode(each["body"])) for each in written]


def sign_in_javascript(webhooks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the headers with which the libraries sign each webhook (``signed``), and whether they accept it (``verified``).

    Args:
        webhooks: each has ``verify``, ``library``, ``secret``, ``at``, ``headers``, and ``body`` in base64.
    """
    command = [need("node"), str(_HERE / "sign.cjs")]
    found: list[dict[str, Any]] = _run(command, {"NODE_PATH": installed("node_modules")}, webhooks)
    return found


def sign_in_python(webhooks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do the same with the libraries in Python; each webhook also has its ``url``."""
    command = [sys.executable, str(_HERE / "sign.py")]
    found: list[dict[str, Any]] = _run(command, {"PYTHONPATH": installed("python")}, webhooks)
    return found


def installed(folder: str) -> str:
    """Return the folder of installed libraries with this name, or skip the test."""
    require_mark()
    if not (_INSTALLED / folder).exists():
        lacking("this test needs libraries of receivers: apt-get install npm, then make sdks")
    return str(_INSTALLED / folder)


def _read(
    command: list[str], environment: dict[str, str], requests: Iterable[Request], secret: str = ""
) -> list[dict[str, Any]]:
    given = [
        {
            "headers": dict(each.headers),
            "body": base64.b64encode(each.body).decode(),
            "isText": each.headers.get("content-type", "").startswith(("application/", "text/")),
            "secret": secret,
        }
        for each in requests
    ]
    found: list[dict[str, Any]] = _run(command, environment, given)
    return found


def _run(command: list[str], environment: dict[str, str], given: Any) -> Any:
    """Run a program that reads JSON and prints JSON."""
    done = subprocess.run(
        command,
        input=json.dumps(given),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
