"""An EventBridge event bus.

EventBridge neither orders nor deduplicates: a rule's target knows an event again by ``detail.deduplication_id``, and
takes the highest ``detail.revision`` of a subject for the latest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.destinations.message import DestinationError, Message, aws_error
from airlock.storage.aws import AWS_ERRORS

if TYPE_CHECKING:
    from botocore.client import BaseClient

_FOR_GOOD = frozenset({"InvalidArgument", "MalformedDetail"})  # PutEventsResultEntry, ErrorCode


class EventBus:
    """Puts each message on a bus as an event.

    Parameters
    ----------
    client
        Of boto3, for ``events``.
    bus
        Its name or ARN.
    source, detail_type
        Of the events.
    """

    def __init__(self, client: BaseClient, bus: str, source: str, detail_type: str) -> None:
        self.client: Any = client
        self.bus = bus
        self.source = source
        self.detail_type = detail_type

    def send(self, message: Message) -> None:
        """Put the event; see `Destination.send`."""
        entry = {
            "EventBusName": self.bus,
            "Source": self.source,
            "DetailType": self.detail_type,
            "Detail": message.to_json(),
        }
        try:
            reply = self.client.put_events(Entries=[entry])
        except AWS_ERRORS as error:
            raise aws_error(error) from None
        if reply["FailedEntryCount"]:  # PutEvents is a success even then
            code = str(reply["Entries"][0].get("ErrorCode", "refused"))
            raise DestinationError(code, retryable=code not in _FOR_GOOD)
