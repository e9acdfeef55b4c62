"""Events of the emulated services, sent to an EventBridge endpoint in order and best effort."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from localaws.aws_clients import local_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localaws.settings import Settings

log = logging.getLogger(__name__)


class Events:
    """Sends events one after the other from a thread of its own; a failure is logged and never reaches a job.

    Parameters
    ----------
    settings : Settings
        Without ``events_endpoint`` nothing is sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._bus = settings.event_bus
        endpoint = settings.events_endpoint
        self._client = local_client("events", settings.region, endpoint, attempts=1) if endpoint else None
        self._sender = ThreadPoolExecutor(1, thread_name_prefix="localaws-events")

    def send(self, source: str, detail_type: str, resources: Sequence[str], detail: dict[str, Any]) -> None:
        """Queue one event.

        Parameters
        ----------
        source : str
            For example ``aws.medical-imaging``.
        detail_type : str
            For example ``Import Job Completed``.
        resources : sequence of str
            ARNs.
        detail : dict
            The event's detail.
        """
        if self._client is None:
            return
        entry = {
            "Source": source,
            "DetailType": detail_type,
            "Resources": list(resources),
            "Detail": json.dumps(detail),
            "EventBusName": self._bus,
            "Time": datetime.now(UTC),
        }
        self._sender.submit(self._put, self._client, entry)

    @staticmethod
    def _put(client: Any, entry: dict[str, Any]) -> None:
        try:
            answer = client.put_events(Entries=[entry])
        except (BotoCoreError, ClientError) as error:
            log.warning("event %r was not delivered: %s", entry["DetailType"], type(error).__name__)
            return
        if answer.get("FailedEntryCount"):
            log.warning("event %r was refused: %s", entry["DetailType"], answer["Entries"][0].get("ErrorCode"))

    def close(self) -> None:
        """Wait for the queued events to be sent."""
        self._sender.shutdown(wait=True)
