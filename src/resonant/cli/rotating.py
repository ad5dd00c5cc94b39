"""What ``endpoint rotate-secret`` does: save, wait until every run signs with the new secret, and say so."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from resonant.cli import output
from resonant.cli.running import run_with_store
from resonant.errors import ResonantError
from resonant.events import rfc3339
from resonant.signing import until_every_run_signs
from resonant.store.signers import LIVE_SECONDS

if TYPE_CHECKING:
    from pydantic import SecretStr

    from blocks.catalog import Rotation
    from resonant.settings import Settings
    from resonant.store import Store

# Besides the sends that are under way: until a killed run is taken for dead, which is longer than a live one takes.
_PATIENCE_SECONDS = LIVE_SECONDS + 15.0


def rotate(name: str, secret: SecretStr, settings: Settings, *, keep_old: float, show: bool) -> None:
    """Rotate an endpoint's signing secret.

    Args:
        name: the endpoint's.
        secret: the new one.
        settings: say where the store of the runs is.
        keep_old: for how many seconds the old one signs too.
        show: print the new secret, which nothing else knows: also where the command does not get to its end.

    Raises:
        ResonantError: it is not saved, perhaps not saved, or some run does not use it yet.
    """
    from blocks.catalog import NotConfirmed, rotate_secret

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
        also = "alone" if old is None else f"and with the old one too until {rfc3339(old.timestamp())}"
        output.say(f"endpoint {name}: done, every run signs with the new secret, {also}")

    run_with_store(work, settings)


def end_rotation(name: str, settings: Settings) -> None:
    """End the rotation that is under way.

    Raises:
        ResonantError: none is, it is perhaps not saved, or some run signs with the old secret still.
    """
    from blocks import catalog

    async def work(store: Store) -> None:
        rotation = await catalog.end_rotation(name)
        if behind := await _wait(store, name, rotation):
            raise ResonantError(
                f"endpoint {name}: saved, but {_runs(behind)} the old secret too, until it ends or can read the endpoint"
            )
        output.say(f"endpoint {name}: done, the old secret signs no more")

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
        "Leave the receiver as it is, and repeat it with this secret, which goes on where this ended: "
        f"`resonant endpoint rotate-secret {name} --secret-stdin`"
    )


def _not_done(name: str, behind: int) -> str:
    return f"endpoint {name}: saved, but {_runs(behind)} the old secret alone. {_repeat(name)}"


def _runs(number: int) -> str:
    return f"{output.counted(number, 'run')} {'signs' if number == 1 else 'sign'} with"
