"""An EventBridge event bus.

EventBridge neither orders nor deduplicates: a rule's target recognizes a repeated event by ``detail.deduplication_id``,
and the latest of a subject by its highest ``detail.revision``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.destinations.message import DestinationError, Message, aws_error
from airlock.storage.aws import AWS_ERRORS

if TYPE_CHECKING:
    from botocore.client import BaseClient

_FOR_GOOD = frozenset({"InvalidArgument", "MalformedDetail"})  # EventBridge API reference, PutEventsResultEntry


class EventBus:
    """Puts each message on a bus as an event.

    Parameters
    ----------
    client
        boto3's client of ``events``.
    bus
        The name or ARN of the bus.
    source, detail_type
        ``Source`` and ``DetailType`` of the events.
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
        if reply["FailedEntryCount"]:  # the call itself succeeds even then
            code = str(reply["Entries"][0].get("ErrorCode", "refused"))
            raise DestinationError(code, retryable=code not in _FOR_GOOD)
