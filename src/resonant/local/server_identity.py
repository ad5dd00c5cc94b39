"""A Prefect server's identity, which lasts over restarts, other URLs and a move of its database, and its time."""

from collections.abc import Callable
from email.utils import parsedate_to_datetime
from uuid import uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists

from resonant.display import duration
from resonant.errors import ResonantError
from resonant.events import Clock

VARIABLE = "resonant_server_id"
# Short enough for a table, and more than the few servers of a store need.
_CHARACTERS = 8
# A larger difference of the clocks causes a warning.
_CLOCKS_DIFFER_SECONDS = 60.0


async def server_id(client: PrefectClient) -> str:
    """Return the server's id, the value of a Prefect variable; the first call creates it."""
    while (found := await client.read_variable_by_name(VARIABLE)) is None:
        try:
            await client.create_variable(VariableCreate(name=VARIABLE, value=uuid4().hex[:_CHARACTERS]))
        except ObjectAlreadyExists:  # another process was faster
            continue
    return str(found.value)


async def server_time(client: PrefectClient, clock: Clock, warn: Callable[[str], object]) -> float:
    """Return the server's time in whole seconds since the epoch, from the ``Date`` header of an answer.

    Args:
        clock: the clock of this process.
        warn: called with a text if the two clocks differ by a minute or more.

    Raises:
        ResonantError: the answer has no such header.
    """
    asked_at = clock()
    answer = await client.hello()
    try:
        at = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        raise ResonantError(
            f"the Prefect server at {client.api_url} sends no Date header, so its time is unknown: let its proxy pass it on"
        ) from None
    ahead, behind = asked_at - at, at - clock()
    if max(ahead, behind) >= _CLOCKS_DIFFER_SECONDS:
        how = f"{duration(ahead)} ahead of" if ahead > behind else f"{duration(behind)} behind"
        warn(f"the clock of this machine is {how} the Prefect server's: synchronize both (NTP)")
    return at
