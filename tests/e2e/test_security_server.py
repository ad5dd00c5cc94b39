"""Prefect's server on this machine: who may read its answers, and who the files that commands write.

What web pages can do is in test_ui_foreign_pages.py, and a `resonant up` with a password in test_up_password.py.
"""

import httpx
import pytest

from support.permissions import Home, open_to_others
from support.prefect import patient_client

pytestmark = [pytest.mark.engine, pytest.mark.slow]

SECRETS = "/block_documents/filter"
EVENT = '{"type": "t", "source": "/s", "data": 1}\n'
FLOW = """
import asyncio
from resonant.local.project import make_flows_importable
make_flows_importable()
from flows.metrics import export_metrics
asyncio.run(export_metrics())
"""


def test_only_its_own_pages_may_read_answers(prefect_api):
    port, origin = httpx.URL(prefect_api).port, "https://evil.example"
    before = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    with patient_client(prefect_api, event_hooks={}) as client:
        for answer in (
            client.post(SECRETS, json={}, headers={"origin": origin}),
            client.options(SECRETS, headers={"origin": origin} | before),
        ):
            assert answer.is_client_error
            assert "access-control-allow-origin" not in answer.headers
        for own in (f"http://127.0.0.1:{port}", f"http://localhost:{port}"):
            answer = client.post(SECRETS, json={}, headers={"origin": own})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, own)


def test_only_the_textfile_of_a_command_is_readable_by_others(tmp_path, prefect_api, start_receiver):
    home = Home(tmp_path, umask=0o000)
    home.prefect_api = prefect_api
    receiver = start_receiver("support.receiver_scripts:mixed")
    (tmp_path / "events.jsonl").write_text(EVENT.replace('"t"', '"t.rejected"'))

    assert home.run("emit", "events.jsonl", "--endpoint", receiver.url, "--allow-private").returncode == 1
    assert open_to_others(home.modes(whole=True)) == {}
    exported = home.run_code(FLOW)
    assert exported.returncode == 0, exported.stderr
    home.succeed("export", "--output", str(tmp_path / ".resonant" / "report.json"))
    home.succeed("prometheus", "--output", str(tmp_path / ".resonant" / "metrics" / "resonant.prom"))
    home.succeed(
        "purge", "--older-than", "0", "--yes", "--archive", str(tmp_path / ".resonant" / "archive.jsonl.gz")
    )

    modes = home.modes()
    assert {"resonant.db", "report.json", "archive.jsonl.gz", "metrics/resonant.prom"} <= modes.keys()
    assert open_to_others(modes) == {}
