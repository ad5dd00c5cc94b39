"""The identity of a Prefect server, which lasts over restarts, other URLs and a move of its database."""

from uuid import uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists

VARIABLE = "resonant_server_id"
# Short enough for a table, and more than the few servers of a store need.
_CHARACTERS = 8


async def server_id(client: PrefectClient) -> str:
    """Return the server's id, the value of a Prefect variable; the first call creates it."""
    while (found := await client.read_variable_by_name(VARIABLE)) is None:
        try:
            await client.create_variable(VariableCreate(name=VARIABLE, value=uuid4().hex[:_CHARACTERS]))
        except ObjectAlreadyExists:  # another process was faster
            continue
    return str(found.value)
