"""``resonant serve --sources``: many webhooks at once, copies and forgeries, on a server in its own process."""

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from itertools import islice

import httpx
import pytest

from support import patient
from support.forging import PROOFS, forgeries, proves
from support.serving import add_endpoints, serving
from support.sources import declare, row, webhook
from support.store_rows import DELIVERIES

VERIFY = ("standard-webhooks", "github", "stripe", "slack")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a source of each scheme."""
    folder = tmp_path_factory.mktemp("sources")
    store_url = f"sqlite:///{folder}/store.db"
    add_endpoints(store_url, "orders")
    file = declare(folder, *(row(verify, endpoint="orders") for verify in PROOFS))
    with serving(store_url, folder, "--sources", str(file)) as server:
        yield server


def stored(server):
    with contextlib.closing(sqlite3.connect(server.store_url.removeprefix("sqlite:///"))) as database:
        return Counter(row[0] for row in database.execute(f"SELECT event_id FROM {DELIVERIES}"))


def send_all(server, webhooks):
    """Send pairs of a source's name and its webhook at the same time; return the answers."""

    async def send(client, name, sent):
        query = f"?{sent.query}" if sent.query else ""
        headers = [(key.encode(), value) for key, value in sent.headers]
        return await client.post(f"/sources/{name}{query}", content=sent.body, headers=headers)

    async def send_each():
        limits = httpx.Limits(max_connections=50)
        async with patient.AsyncClient(base_url=server.url, limits=limits) as client:
            return await asyncio.gather(*(send(client, *each) for each in webhooks))

    return asyncio.run(send_each())


def test_200_webhooks_at_once_of_which_half_are_repeated_are_stored_once(server):
    before, now = stored(server), time.time()
    distinct = [
        (verify, webhook(verify, event_id=f"{verify}-{number}", at=now))
        for verify in VERIFY
        for number in range(25)
    ]
    answers = send_all(server, [*distinct, *distinct])
    assert {each.status_code for each in answers} <= {200, 202}
    assert stored(server) - before == Counter({f"{verify}-{n}": 1 for verify in VERIFY for n in range(25)})


def test_copies_of_a_body_under_new_ids_at_once_are_stored_once(server):
    before = stored(server)
    body = b'{"zen": "Half measures are as bad as nothing at all."}'
    answers = send_all(
        server, [("github", webhook("github", body, event_id=f"copy-{n}")) for n in range(100)]
    )
    assert {each.status_code for each in answers} == {202}
    assert [each.json()["duplicate"] for each in answers].count(False) == 1
    assert (stored(server) - before).total() == 1


def test_no_forgery_is_stored(server):
    before, now = stored(server), time.time()
    forged = [
        (verify, each)
        for verify in PROOFS
        for original in [webhook(verify, at=now)]
        for each in islice(forgeries(verify, original, seed=47), 60)
        if not proves(verify, original, each) and is_sent_as_it_is(each)
    ]
    answers = send_all(server, forged)
    assert len(forged) > 100
    assert {each.status_code for each in answers} <= {401, 403}
    assert stored(server) == before


def is_sent_as_it_is(sent):
    """Return whether the client sends these headers, and no server trims them."""
    values = [value for _, value in sent.headers]
    return all(
        value == value.strip() and not set(value) & set(b"\r\n\0") and len(value) < 10_000 for value in values
    )
