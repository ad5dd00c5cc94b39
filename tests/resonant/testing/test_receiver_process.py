"""The test receiver as a process of its own."""

import os
import select
import signal
import ssl
import subprocess
import sys
import warnings
from contextlib import contextmanager

import httpx
import pytest

from resonant.testing import (
    nobody_listening,
    read_journal,
)
from support import patient
from support.talking import refusal


@contextmanager
def receiver_process(folder, *options):
    """Run a receiver as a process of its own, in a folder where its modules are found; give its URL, and the pipe of its lines."""
    command = [sys.executable, "-m", "resonant.testing", *options]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip(), process.stdout
        finally:
            process.terminate()
    assert process.returncode == 0


def test_it_runs_as_a_process_until_a_signal(tmp_path):
    journal = tmp_path / "journal.jsonl"
    (tmp_path / "mine.py").write_text("from resonant.testing import respond\nscript = respond(202)\n")
    command = [sys.executable, "-W", "error", "-m", "resonant.testing", "--journal", str(journal)]
    for number, script, status in [
        (signal.SIGTERM, "mine:script", 202),
        (signal.SIGINT, "resonant.testing:always_ok", 200),
    ]:
        with subprocess.Popen(
            [*command, "--script", script],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},
        ) as process:
            url = process.stdout.readline().strip()
            assert patient.post(url, headers={"webhook-id": script}).status_code == status
            assert read_journal(journal)[-1].webhook_id == script
            process.send_signal(number)
            rest, complaints = process.communicate(timeout=60)
        assert (process.returncode, rest.count("\n"), complaints) == (0, 1, "")
        assert f"  {script}  -  try 1 -> {status}  " in rest


def test_it_prints_a_line_for_each_request_into_a_pipe_at_once(tmp_path):
    with receiver_process(tmp_path) as (url, lines):
        headers = {"webhook-id": "order-1", "ce-type": "order.paid"}
        httpx.post(url, headers=headers, content=b'{"total":10}\x1b', trust_env=False)
        assert select.select([lines], [], [], 60)[0], "no line"
        line = lines.readline()
    assert line.split("  ", 1)[1] == 'order-1  order.paid  try 1 -> 200  {"total":10}\\x1b\n'


@pytest.mark.parametrize("closes", [True, False], ids=["has gone", "does not read"])
def test_it_answers_although_the_reader_of_its_lines(tmp_path, closes):
    with receiver_process(tmp_path) as (url, lines), httpx.Client(trust_env=False) as client:
        if closes:
            lines.close()
        # A pipe of Linux takes 64 KiB.
        assert {client.post(url, content=b"x" * 200).status_code for _ in range(400)} == {200}


@pytest.mark.parametrize("certificate", ["valid", "wrong-name"])
def test_the_process_speaks_tls_with_the_given_certificate(tmp_path, certificate):
    with receiver_process(tmp_path, "--tls", certificate, "--ca-file", "ca.pem") as (url, _):
        assert url.startswith("https://127.0.0.1:")
        trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        if certificate == "valid":
            assert patient.post(url, verify=trust).status_code == 200
        else:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                patient.post(url, verify=trust)


def test_the_process_takes_a_script_for_its_connections(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from resonant.testing import garbage\nfirst_is_garbage = {1: garbage()}.get\n"
    )
    with receiver_process(tmp_path, "--connection", "mine:first_is_garbage") as (url, _):
        with pytest.raises(httpx.TransportError):
            patient.post(url)
        assert patient.post(url).status_code == 200


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--script", "nowhere:script"], "No module named 'nowhere'"),
        (["--script", "resonant.testing:nothing"], "has no attribute 'nothing'"),
        (["--script", "not a name"], "invalid format: 'not a name'"),
        (
            ["--script", "resonant.testing:FAULTS"],
            "resonant.testing:FAULTS is neither a script nor an action",
        ),
        (["--connection", "nowhere:script"], "No module named 'nowhere'"),
        (["--port", "many"], "many is not a number from 0 to 65535"),
        (["--port", "65536"], "65536 is not a number from 0 to 65535"),
        (["--tls", "good"], "invalid choice: 'good'"),
        (["--ca-file", "ca.pem"], "--ca-file needs --tls"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_invalid_option_is_refused_in_one_line(capsys, options, said):
    code, line = refusal(capsys, *options)
    assert code == 2
    assert said in line


def test_a_port_in_use_is_one_line_and_leaves_nothing_open(capsys, tmp_path):
    with nobody_listening() as url, warnings.catch_warnings():
        warnings.simplefilter("error")
        port = str(httpx.URL(url).port)
        code, line = refusal(capsys, "--port", port, "--journal", str(tmp_path / "journal.jsonl"))
    assert code == 1
    assert port in line
    assert "address already in use" in line


@pytest.mark.parametrize("option", ["--journal", "--ca-file"])
def test_a_file_that_cannot_be_written_is_one_line(capsys, tmp_path, option):
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "no" / "file", "No such file or directory")):
        code, line = refusal(capsys, option, str(path), "--tls", "valid")
        assert (code, line) == (1, f"{path}: {said}")
