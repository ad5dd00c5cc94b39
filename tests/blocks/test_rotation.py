"""The rotation of a signing secret: begun, run out, ended, and no event in between that a receiver cannot verify."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from blocks import WebhookEndpoint, load_endpoint
from blocks.catalog import end_rotation, remove_endpoint, rotate_secret
from resonant.delivery.attempt import AttemptRunner
from resonant.dispatch.dispatcher import Dispatcher
from resonant.dispatch.limits import Limits
from resonant.dispatch.secret_rotation import until_every_run_signs
from resonant.errors import EndpointError, NotConfirmed
from resonant.events import Event
from resonant.sinks import reloading
from resonant.store import WorkerStore
from resonant.testing import Receiver, respond
from support.file_endpoint import FileEndpoint

pytestmark = pytest.mark.engine

OLD, NEW, THIRD = (
    "whsec_" + base64.b64encode(dead_letter * 32).decode() for dead_letter in (b"o", b"n", b"t")
)
NAME = "rotated"
HOUR = 3600.0


@pytest.fixture
def on_prefect(prefect_api):
    """Run a coroutine with an endpoint saved that signs with the old secret; it is removed afterwards."""

    async def run(work, *, url="https://hooks.example.com/in", secret=OLD):
        async def main():
            signing = None if secret is None else SecretStr(secret)
            block = WebhookEndpoint(url=SecretStr(url), signing_secret=signing, allow_private=True)
            await block.asave(NAME, overwrite=True)
            try:
                return await work()
            finally:
                await remove_endpoint(NAME)

        with temporary_settings({PREFECT_API_URL: prefect_api}):
            return await main()

    return run


async def signing():
    """Return which secrets sign, each with its end."""
    endpoint = (await load_endpoint(NAME)).to_endpoint(NAME)
    return [(secret, endpoint.signing_ends.get(secret)) for secret in endpoint.signing_secrets]


async def test_a_new_secret_signs_first_and_the_old_one_ends_by_itself(on_prefect):
    async def work():
        rotation = await rotate_secret(NAME, SecretStr(NEW), keep_old=24 * HOUR)
        return rotation.old_signs_until, await signing()

    until, secrets = await on_prefect(work)
    assert secrets == [(NEW, None), (OLD, until.timestamp())]
    assert until.timestamp() == pytest.approx(time.time() + 24 * HOUR, abs=60)


async def test_to_keep_the_old_one_for_no_time_stops_it_at_once(on_prefect):
    async def work():
        rotation = await rotate_secret(NAME, SecretStr(NEW), keep_old=0)
        return rotation.old_signs_until, await signing()

    assert await on_prefect(work) == (None, [(NEW, None)])


async def test_an_endpoint_that_signed_nothing_signs_from_now_on(on_prefect):
    async def work():
        rotation = await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)
        return rotation.old_signs_until, await signing()

    assert await on_prefect(work, secret=None) == (None, [(NEW, None)])


async def test_a_rotation_is_ended_by_hand(on_prefect):
    async def work():
        await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)
        await end_rotation(NAME)
        return await signing()

    assert await on_prefect(work) == [(NEW, None)]


async def test_a_second_rotation_waits_for_the_end_of_the_first(on_prefect):
    async def work():
        await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)
        with pytest.raises(EndpointError, match="a rotation is under way"):
            await rotate_secret(NAME, SecretStr(THIRD), keep_old=HOUR)
        kept = await signing()
        block = await load_endpoint(NAME)
        block.previous_signing_secret_until = datetime.now(UTC) - timedelta(seconds=1)
        await block.asave(NAME, overwrite=True)
        await rotate_secret(NAME, SecretStr(THIRD), keep_old=HOUR)
        return kept, await signing()

    kept, after = await on_prefect(work)
    assert [secret for secret, _ in kept] == [NEW, OLD]
    assert [secret for secret, _ in after] == [THIRD, NEW]


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (OLD, "is its signing secret already"),
        ("s3cret!", "must be whsec_ and base64"),
        ("whsec_c2hvcnQ=", "its signing secret has 5 bytes, not 24 to 64"),
    ],
)
async def test_a_secret_that_cannot_be_the_new_one_changes_nothing(on_prefect, secret, problem):
    async def work():
        with pytest.raises(EndpointError, match=problem) as refused:
            await rotate_secret(NAME, SecretStr(secret), keep_old=HOUR)
        return str(refused.value), await signing()

    said, secrets = await on_prefect(work)
    assert secret not in said
    assert secrets == [(OLD, None)]


@pytest.mark.parametrize("keep_old", [HOUR, 0])
async def test_the_same_secret_given_again_is_the_same_rotation(on_prefect, keep_old):
    async def work():
        first = await rotate_secret(NAME, SecretStr(NEW), keep_old=keep_old)
        return first, await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)

    first, again = await on_prefect(work)
    assert first == again


async def test_a_save_whose_answer_is_lost_is_looked_up(on_prefect, monkeypatch):
    save = WebhookEndpoint.asave

    async def save_and_lose_the_answer(block, *args, **kwargs):
        await save(block, *args, **kwargs)
        raise httpx.ReadError("connection reset")

    async def lose_the_request(block, *args, **kwargs):
        raise httpx.ConnectError("connection refused")

    async def work():
        with monkeypatch.context() as patch:
            patch.setattr(WebhookEndpoint, "asave", lose_the_request)
            with pytest.raises(httpx.ConnectError):
                await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)
            patch.setattr(WebhookEndpoint, "asave", save_and_lose_the_answer)
            rotation = await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)
        return rotation.moment, await signing()

    moment, secrets = await on_prefect(work)
    assert secrets == [(NEW, None), (OLD, moment)]


async def test_a_save_that_cannot_be_looked_up_is_reported_as_unconfirmed(on_prefect, monkeypatch):
    save = WebhookEndpoint.asave

    async def save_and_die(block, *args, **kwargs):
        await save(block, *args, **kwargs)
        monkeypatch.setattr("blocks.catalog.load_endpoint", dead)
        raise httpx.ReadError("connection reset")

    async def dead(name):
        raise httpx.ConnectError("connection refused")

    async def work():
        monkeypatch.setattr(WebhookEndpoint, "asave", save_and_die)
        with pytest.raises(NotConfirmed) as raised:
            await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR)
        monkeypatch.undo()
        return str(raised.value)

    said = await on_prefect(work)
    assert "the answer to its save was lost (ReadError), and Prefect is unreachable" in said
    assert NEW not in said


async def test_what_is_not_rotated_is_not_ended_and_what_signs_nothing_is_not_rotated(on_prefect, tmp_path):
    async def work():
        with pytest.raises(EndpointError, match="no rotation is under way"):
            await end_rotation(NAME)
        await FileEndpoint(path=tmp_path / "log").asave(NAME, overwrite=True)
        with pytest.raises(EndpointError, match="signs nothing"):
            await rotate_secret(f"file-endpoint/{NAME}", SecretStr(NEW), keep_old=HOUR)
        await remove_endpoint(f"file-endpoint/{NAME}")

    await on_prefect(work)


def verified_by(request) -> tuple[str, ...]:
    found = []
    for secret in (OLD, NEW):
        try:
            Webhook(secret).verify(request.body, dict(request.headers))
        except WebhookVerificationError:
            continue
        found.append(secret)
    return tuple(found)


async def test_an_emission_that_is_under_way_signs_with_both_and_then_with_the_new_one_alone(
    on_prefect, sqlite_url, monkeypatch
):
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.05)

    async def open_destination(name):
        return (await load_endpoint(name)).open(name)

    async def until_signed_by(receiver, *secrets):
        async with asyncio.timeout(30):
            while not receiver.journal or verified_by(receiver.journal[-1]) != secrets:
                await asyncio.sleep(0.01)

    async def work():
        async with Receiver(respond(200, delay=0.005)) as receiver:
            block = await load_endpoint(NAME)
            block.url = SecretStr(receiver.url)
            await block.asave(NAME, overwrite=True)
            store = await WorkerStore.open(sqlite_url)
            await store.enqueue([Event(type="t", source="/s", data=n) for n in range(20_000)], NAME)
            attempt_runner = AttemptRunner(clock=time.time, rng=random.Random(1))
            limits = Limits(concurrency=2, endpoint_concurrency=2)
            async with Dispatcher(
                store, attempt_runner, open_destination, owner="run", limits=limits
            ) as dispatcher:

                async def emit_one(lease):
                    await dispatcher.attempt(lease.key)

                run = asyncio.create_task(dispatcher.run(emit_one))
                await until_signed_by(receiver, OLD)
                await until_used(store, await rotate_secret(NAME, SecretStr(NEW), keep_old=HOUR))
                changed_over.append(len(receiver.journal))
                await until_signed_by(receiver, OLD, NEW)
                await until_used(store, await end_rotation(NAME))
                changed_over.append(len(receiver.journal))
                async with asyncio.timeout(30):
                    while len(receiver.journal) == changed_over[-1]:
                        await asyncio.sleep(0.01)
                assert not run.done()
                run.cancel()
                await asyncio.wait([run])
            await store.close()
            return [verified_by(request) for request in receiver.journal]

    async def until_used(store, rotation):
        waited = []
        behind = await until_every_run_signs(
            store, NAME, rotation.moment, patience=30, on_waiting=waited.append
        )
        assert behind == 0
        assert waited in ([1], []), "it may use it at once"

    changed_over = []
    verified = await on_prefect(work)
    changes = [one for before, one in zip([None, *verified], verified, strict=False) if one != before]
    # Two are under way at the same time, and either may be received first.
    assert set(changes) == {(OLD,), (OLD, NEW), (NEW,)}
    assert verified.index((OLD, NEW)) < verified.index((NEW,))
    assert all(verified), "an event that nobody could verify"
    # The receiver relies on this: after each wait, no send is signed the old way.
    both, new_alone = changed_over
    assert (OLD,) not in verified[both:]
    assert set(verified[new_alone:]) == {(NEW,)}
