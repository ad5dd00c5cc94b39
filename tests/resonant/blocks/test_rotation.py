"""The rotation of a signing secret: the old secret also signs until the end of the overlap, in every sender."""

import base64
import time
from datetime import UTC, datetime, timedelta

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from resonant.blocks import WebhookEndpoint, load_endpoint
from resonant.blocks.catalog import end_rotation, remove_endpoint, rotate_secret
from resonant.errors import EndpointError
from resonant.events import Event
from resonant.sinks import reloading
from resonant.testing import Receiver
from support.file_endpoint import FileEndpoint
from support.waiting import until

pytestmark = pytest.mark.engine

OLD, NEW, THIRD = ("whsec_" + base64.b64encode(letter * 32).decode() for letter in (b"o", b"n", b"t"))
NAME = "rotated"
NOW = datetime.fromtimestamp(int(time.time()), UTC)
DAY, NONE = timedelta(days=1), timedelta()
EVENT = Event(type="order.paid", source="/shop", data={"order": 42})


async def save(secret: str | None = OLD, url: str = "https://hooks.example.com/in") -> None:
    signing = None if secret is None else SecretStr(secret)
    block = WebhookEndpoint(url=SecretStr(url), signing_secret=signing, allow_private=True)
    await block.asave(NAME, overwrite=True)


@pytest.fixture
async def endpoint(prefect_api):
    """A saved endpoint that signs with the old secret."""
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        await save()
        yield
        await remove_endpoint(NAME)


async def rotate(secret: str = NEW, *, overlap: timedelta = DAY, now: datetime = NOW) -> datetime | None:
    return await rotate_secret(NAME, SecretStr(secret), overlap=overlap, now=now)


async def read():
    return (await load_endpoint(NAME)).to_endpoint(NAME)


async def signing():
    """Return which secrets sign, each with its end."""
    found = await read()
    return [(secret, found.signing_ends.get(secret)) for secret in found.signing_secrets]


@pytest.mark.parametrize(
    ("before", "overlap", "after"),
    [
        (OLD, DAY, [(NEW, None), (OLD, (NOW + DAY).timestamp())]),
        (OLD, NONE, [(NEW, None)]),
        (None, DAY, [(NEW, None)]),
    ],
    ids=["overlap", "no overlap", "no secret before"],
)
async def test_the_new_secret_signs_first_and_the_old_one_until_the_end_of_the_overlap(
    endpoint, before, overlap, after
):
    await save(before)
    until = await rotate(overlap=overlap)
    assert await signing() == after
    assert until == (NOW + DAY if len(after) == 2 else None)
    assert await rotate(overlap=DAY, now=NOW + DAY / 2) == until, "the same secret again is the same rotation"
    assert await signing() == after


async def test_a_second_rotation_is_refused_until_the_first_has_ended(endpoint):
    with pytest.raises(EndpointError, match="no rotation is under way"):
        await end_rotation(NAME, now=NOW)
    await rotate()
    with pytest.raises(EndpointError, match="a rotation is under way"):
        await rotate(THIRD, now=NOW + DAY - timedelta(seconds=1))
    assert [secret for secret, _ in await signing()] == [NEW, OLD]
    await rotate(THIRD, now=NOW + DAY)
    assert [secret for secret, _ in await signing()] == [THIRD, NEW]
    await end_rotation(NAME, now=NOW + DAY)
    assert await signing() == [(THIRD, None)]


@pytest.mark.parametrize(
    ("secret", "problem"),
    [
        (OLD, "is its signing secret already"),
        ("s3cret!", "must be whsec_ and base64"),
        ("whsec_c2hvcnQ=", "its signing secret has 5 bytes, not 24 to 64"),
    ],
)
async def test_an_unusable_new_secret_changes_nothing(endpoint, secret, problem):
    with pytest.raises(EndpointError, match=problem) as refused:
        await rotate(secret)
    assert secret not in str(refused.value)
    assert await signing() == [(OLD, None)]


async def test_an_endpoint_without_http_is_not_rotated(endpoint, tmp_path):
    await FileEndpoint(path=tmp_path / "log").asave(NAME, overwrite=True)
    with pytest.raises(EndpointError, match="signs nothing"):
        await rotate_secret(f"file-endpoint/{NAME}", SecretStr(NEW), overlap=DAY, now=NOW)
    await remove_endpoint(f"file-endpoint/{NAME}")


def verified_by(request) -> list[str]:
    """Return the secrets with which the reference library verifies a request."""
    found = []
    for secret in (OLD, NEW):
        try:
            Webhook(secret).verify(request.body, dict(request.headers))
        except WebhookVerificationError:
            continue
        found.append(secret)
    return found


async def test_an_open_endpoint_signs_with_both_secrets_after_a_rotation(endpoint, monkeypatch):
    monkeypatch.setattr(reloading, "LOOK_AGAIN_SECONDS", 0.01)
    async with Receiver() as receiver:
        await save(url=receiver.url)
        destination = (await load_endpoint(NAME)).open(NAME)
        await destination.sink.send(EVENT)
        await rotate(now=datetime.now(UTC))

        async def signs_with_both():
            await destination.sink.send(EVENT)
            return verified_by(receiver.journal[-1]) == [OLD, NEW]

        await until(signs_with_both)
        await destination.close()
    assert verified_by(receiver.journal[0]) == [OLD]
