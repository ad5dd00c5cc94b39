"""``endpoint rotate-secret``: save the new secret, and wait until every live run signs with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resonant import output
from resonant.cli.running import run_with_store
from resonant.dispatch.secret_rotation import until_every_run_signs
from resonant.errors import ResonantError
from resonant.events import rfc3339
from resonant.store.shared.signers import LIVE_SECONDS

if TYPE_CHECKING:
    from pydantic import SecretStr

    from blocks.catalog import Rotation
    from resonant.settings import Settings
    from resonant.store import Store

# A killed run counts as dead after this time; a live run reacts sooner. The endpoint's timeout is added for sends in
# progress.
_PATIENCE_SECONDS = LIVE_SECONDS + 15.0


def rotate(name: str, secret: SecretStr, settings: Settings, *, keep_old: float, show: bool) -> None:
    """Rotate an endpoint's signing secret.

    Args:
        name: the endpoint's name.
        secret: the new secret.
        settings: provide the store that the runs use.
        keep_old: how long to sign with the old secret too, in seconds.
        show: print the new secret, even if the command is interrupted or fails: it is shown nowhere else.

    Raises:
        ResonantError: the secret was not saved, may not have been saved, or is not yet used by every run.
    """
    from blocks.catalog import rotate_secret
    from resonant.errors import NotConfirmed

    async def work(store: Store) -> None:
        try:
            rotation = await rotate_secret(name, secret, keep_old=keep_old)
        except NotConfirmed as error:
            _show(secret, show=show)
            raise NotConfirmed(f"{error}. {_repeat(name)}") from None
        try:
            behind = await _wait(store, name, rotation)
        except asyncio.CancelledError as stop:
            stop.args = (f"interrupted; the new secret is saved. {_repeat(name)}",)
            raise
        finally:
            _show(secret, show=show)
        if behind:
            raise ResonantError(_not_done(name, behind))
        old = rotation.old_signs_until
        also = "" if old is None else f", and with the old one too until {rfc3339(old.timestamp())}"
        output.say(f"endpoint {name}: done, every run signs with the new secret{also}")

    run_with_store(work, settings)


def end_rotation(name: str, settings: Settings) -> None:
    """End the current rotation.

    Raises:
        ResonantError: no rotation is in progress, its end may not have been saved, or a run still uses the old secret.
    """
    from blocks import catalog

    async def work(store: Store) -> None:
        rotation = await catalog.end_rotation(name)
        if behind := await _wait(store, name, rotation):
            raise ResonantError(
                f"endpoint {name}: saved, but {_runs(behind)} the old secret too, until it ends or can read the endpoint again"
            )
        output.say(f"endpoint {name}: done, no run signs with the old secret")

    run_with_store(work, settings)


async def _wait(store: Store, name: str, rotation: Rotation) -> int:
    def say(behind: int) -> None:
        output.say(f"endpoint {name}: saved; waiting for {output.counted(behind, 'run')} to use it")

    patience = _PATIENCE_SECONDS + rotation.timeout
    return await until_every_run_signs(store, name, rotation.moment, patience=patience, on_waiting=say)


def _show(secret: SecretStr, *, show: bool) -> None:
    if show:
        output.write(f"{secret.get_secret_value()}\n")
        output.flush()


def _repeat(name: str) -> str:
    return (
        "Do not change the receiver yet. Run the command again with the new secret to continue: "
        f"`resonant endpoint rotate-secret {name} --secret-stdin`"
    )


def _not_done(name: str, behind: int) -> str:
    return f"endpoint {name}: saved, but {_runs(behind)} only the old secret. {_repeat(name)}"


def _runs(number: int) -> str:
    return f"{output.counted(number, 'run')} {'signs' if number == 1 else 'sign'} with"
