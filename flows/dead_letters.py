"""The flows of the dead-letter queue."""

from prefect import State, flow
from prefect.states import Completed

from tasks.dead_letters import (
    open_configured_store,
    take_back_expired_leases,
    take_back_leases_of_ended_runs,
    write_triage,
)
from tasks.failing import fails_plainly


@flow(name="collect-dead-letters", persist_result=False)
@fails_plainly
async def collect_dead_letters() -> State[None]:
    """Take back what lost workers held, give up what was lost too often, and write the triage of the queue."""
    async with open_configured_store() as store:
        taken_back = await take_back_expired_leases(store)
        taken_back += await take_back_leases_of_ended_runs(store)
        groups = await write_triage(store)
    return Completed(message=f"{taken_back} deliveries taken back; {groups}")
