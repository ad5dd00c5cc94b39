import asyncio

import httpx
import pytest

from resonant.cli.flow_runs import _count_task_runs
from resonant.errors import ServerGone
from resonant.local.health import translated_server_errors
from resonant.testing import Receiver, nobody_listening, respond


def test_an_unreachable_server_is_reported_in_one_line():
    with (
        nobody_listening() as url,
        pytest.raises(ServerGone, match=rf"{url}/api became unreachable") as gone,
        translated_server_errors(f"{url}/api"),
    ):
        httpx.get(f"{url}/api/flow_runs")
    assert "\n" not in str(gone.value)
    assert gone.value.__suppress_context__


@pytest.mark.parametrize(
    ("host", "status", "refused"),
    [
        ("prefect.example", 503, ServerGone),
        ("prefect.example", 500, httpx.HTTPStatusError),
        ("hooks.example", 503, httpx.HTTPStatusError),
    ],
    ids=["busy", "broken", "another server"],
)
def test_an_answer_is_translated_only_if_prefects_server_is_busy(host, status, refused):
    answer = httpx.Response(status, request=httpx.Request("GET", f"http://{host}/api/flow_runs"))
    with pytest.raises(refused) as busy, translated_server_errors("http://prefect.example/api"):
        answer.raise_for_status()
    assert "\n" not in str(busy.value) or refused is not ServerGone


async def test_records_are_counted_although_the_server_is_busy_at_first():
    from prefect.client.orchestration import PrefectClient

    def busy_at_first(request):
        if not request.path.endswith("/count"):
            return respond(404)
        counts.append(request.path)
        return respond(200, {"content-type": "application/json"}, b"7") if counts[1:] else busy

    counts = []
    busy = respond(503, {"retry-after": "0"}, b'{"exception_message": "Service Unavailable"}')
    async with Receiver(busy_at_first) as server, PrefectClient(f"{server.url}/api") as client:
        assert (await _count_task_runs(client, task_runs={})) == 7
    assert len(counts) == 2


async def test_a_failure_of_another_server_is_not_translated():
    def run(api_url):
        with translated_server_errors(api_url):
            raise httpx.ReadTimeout("another server's")

    async with Receiver() as server:
        with pytest.raises(httpx.ReadTimeout, match="another server's"):
            await asyncio.to_thread(run, f"{server.url}/api")


def test_another_error_is_not_translated():
    with nobody_listening() as url, pytest.raises(KeyError), translated_server_errors(f"{url}/api"):
        raise KeyError("of ours")
