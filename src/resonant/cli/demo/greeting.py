"""The flow that a webhook of the demo starts."""

from prefect import flow  # noqa: TID253 - only the worker of the demo, and the demo once Prefect runs, import this


@flow(log_prints=True)
def greet(event: dict) -> None:  # type: ignore[type-arg]
    """Print the webhook's repository."""
    print(f"{event['data']['repository']['full_name']} got a push")  # noqa: T201 - into the run's log
