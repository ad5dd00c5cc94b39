"""Starts a flow run of a deployment for a process that otherwise needs no Prefect."""

import asyncio
import importlib

from resonant.display import one_line
from resonant.errors import ServerError
from resonant.local.server import configure_prefect, known_url, refuse_cloud
from resonant.settings import Settings
from resonant.sinks.redaction import without_credentials

_IMPORT_SECONDS, _ANSWER_SECONDS = 4.0, 5.0


async def start_run(deployment: str, parameters: dict[str, object], settings: Settings, *, key: str) -> str:
    """Start a run, and return its id.

    Args:
        deployment: ``FLOW/DEPLOYMENT``.
        parameters: of the flow.
        settings: provide the home of ``resonant up``, whose server is used if it runs.
        key: the same key starts one run.

    Raises:
        ServerError: no server is known, or it refuses.
        TimeoutError: it does not answer within 5 seconds, and may have started the run.
    """
    if (url := known_url(settings)) is None:
        raise ServerError("no Prefect server is known")
    refuse_cloud(url)
    configure_prefect()
    try:
        async with asyncio.timeout(_IMPORT_SECONDS):
            # In a thread, since it takes seconds.
            deployments = await asyncio.to_thread(importlib.import_module, "prefect.deployments")
        from prefect.settings import PREFECT_API_URL, temporary_settings

        with temporary_settings({PREFECT_API_URL: url}):
            async with asyncio.timeout(_ANSWER_SECONDS):
                run = await deployments.arun_deployment(
                    deployment, parameters=parameters, timeout=0, as_subflow=False, idempotency_key=key
                )
    except TimeoutError:
        raise TimeoutError(
            f"the Prefect server at {without_credentials(url)} did not answer in time"
        ) from None
    except Exception as error:  # noqa: BLE001 - of many classes, and the caller goes on without Prefect
        why = one_line(str(error))[:300] or type(error).__name__
        said = f"the Prefect server at {url} started no run of {deployment}: {why}"
        raise ServerError(without_credentials(said)) from None
    return str(run.id)
