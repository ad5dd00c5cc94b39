"""A Prefect notification block whose notifications become stored events."""

from typing import TYPE_CHECKING, Any, Self

from prefect.blocks.abstract import NotificationBlock, NotificationError
from pydantic import Field, HttpUrl

from resonant.blocks.endpoint import LOGO_URL
from resonant.errors import ResonantError
from resonant.local.calls import Finished, both_ways


class ResonantNotification(NotificationBlock):
    """Stores a notification as an event, which a drain delivers with retries.

    The action "Send a notification" of an automation calls ``notify`` in the process of the Prefect server, which therefore
    needs Resonant and RESONANT_DATABASE_URL.

    Example:
        Store a notification:

        ```python
        from resonant.blocks import ResonantNotification

        notification = ResonantNotification.load("BLOCK_NAME")
        notification.notify("Import finished", subject="orders")
        ```
    """

    _block_type_name = "Resonant Notification"
    _block_type_slug = "resonant-notification"
    _description = "Stores notifications as events, which Resonant delivers with retries."
    _logo_url = LOGO_URL
    _documentation_url = HttpUrl(
        "https://github.com/resonant-events/resonant/blob/main/docs/how-to/blocks.md"
    )

    # Not None: Prefect's form has two fields for a text that may be null.
    endpoint: str = Field(
        default="",
        description="Name of the endpoint that gets the events. Empty: each endpoint with a matching subscription.",
    )
    event_type: str = Field(default="prefect.notification", description="Type of the events.")
    source: str = Field(default="/prefect", description="Source of the events, a URI reference.")

    if TYPE_CHECKING:  # Prefect's `load` has the type Any or a coroutine

        @classmethod
        def load(cls, name: str, *args: Any, **options: Any) -> Self:
            """Load a block in synchronous code; asynchronous code uses ``aload``."""

    def notify(self, body: str, subject: str | None = None) -> Any:
        """Store an event with the data ``{"subject": ..., "body": ...}``. In asynchronous code, ``await`` it, as ``anotify``.

        Raises:
            NotificationError: the event is not stored; the text says why.
        """
        return both_ways(self.anotify(body, subject), lambda _: Finished())

    async def anotify(self, body: str, subject: str | None = None) -> None:
        """Store an event in asynchronous code, as ``notify`` does."""
        # This imports the database drivers, which a process that only looks up block types does not need.
        from resonant.blocks.emitting import store_given  # noqa: PLC0415

        try:
            data = {"subject": subject, "body": body}
            event = {"type": self.event_type, "source": self.source, "data": data}
            stored_id, is_new = await store_given(event, self.endpoint or None, is_of_block=True)
        except ResonantError as error:
            raise NotificationError(str(error)) from None
        said = (
            "stored a notification as event %s"
            if is_new
            else "the notification was already stored as event %s"
        )
        self.logger.info(said, stored_id)
