"""The emulator beside an S3 server, its fault switches, and a way to run a deferrable task to its end."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred

if TYPE_CHECKING:
    from airflow.sdk import Context

ONE_TRY = {"retries": {"total_max_attempts": 1}}


@dataclass(frozen=True)
class Emulator:
    url: str
    s3: Any

    def jobs_started(self) -> int:
        with urllib.request.urlopen(f"{self.url}/_localaws/calls", timeout=10) as reply:
            return int(json.load(reply)["jobs_started"])

    def fault(self, kind: str, **more: Any) -> None:
        """Switch one fault on, and every other off."""
        self._put([{"kind": kind, **more}])

    def heal(self) -> None:
        self._put([])

    def _put(self, faults: list[dict[str, Any]]) -> None:
        headers = {"Content-Type": "application/json"}
        body = json.dumps(faults).encode()
        request = urllib.request.Request(f"{self.url}/_localaws/faults", body, headers, method="PUT")
        urllib.request.urlopen(request, timeout=10).close()


def run(task: Any, context: Context) -> Any:
    """Run a deferrable task to its end: execute, trigger, resume."""
    try:
        return task.execute(context)
    except TaskDeferred as deferral:
        while True:
            event = asyncio.run(_first(deferral.trigger.run()))
            try:
                return task.resume_execution(deferral.method_name, {"event": event}, context)
            except TaskDeferred as again:
                deferral = again


async def _first(events: Any) -> Any:
    return (await anext(events)).payload
