"""The emulator's own endpoints under ``/_localaws``: health, fault switches, and counts of calls."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from localaws.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from localaws.faults import FaultBoard
    from localaws.protocol import Service


class Calls:
    """Counts answers per operation and HTTP status since the start of the process; a dropped answer counts as 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def count(self, operation: str, status: int) -> None:
        """Count one answer."""
        with self._lock:
            self._counts[operation][str(status)] += 1

    def counted(self) -> dict[str, dict[str, int]]:
        """Return the counts so far."""
        with self._lock:
            return {operation: dict(statuses) for operation, statuses in self._counts.items()}

    def clear(self) -> None:
        """Start counting anew."""
        with self._lock:
            self._counts.clear()


class Control:
    """Handlers of the endpoints."""

    def __init__(self, services: Mapping[str, Service], faults: FaultBoard, calls: Calls) -> None:
        self._faults = faults
        self._calls = calls
        self._services = services

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/_localaws/health", self.health, methods=["GET"]),
            Route("/_localaws/faults", self.get_faults, methods=["GET"]),
            Route("/_localaws/faults", self.put_faults, methods=["PUT"]),
            Route("/_localaws/faults", self.delete_faults, methods=["DELETE"]),
            Route("/_localaws/calls", self.get_calls, methods=["GET"]),
            Route("/_localaws/calls", self.delete_calls, methods=["DELETE"]),
        ]

    def health(self, _request: Request) -> Response:
        """Answer that the emulator is ready; before that it answers nothing."""
        return JSONResponse({"status": "ready", "services": list(self._services)})

    def get_faults(self, _request: Request) -> Response:
        """List the fault switches."""
        return JSONResponse(self._faults.standing())

    async def put_faults(self, request: Request) -> Response:
        """Switch on exactly the faults of the body, a JSON list; 400 names what is wrong with it."""
        try:
            return JSONResponse(self._faults.replace(json.loads(await request.body())))
        except ValueError:
            return JSONResponse({"message": "Send a JSON list of faults."}, 400)
        except AwsError as error:
            return JSONResponse({"message": error.message}, 400)

    def delete_faults(self, _request: Request) -> Response:
        """Switch all faults off; a stuck job goes on."""
        return JSONResponse(self._faults.replace([]))

    def get_calls(self, _request: Request) -> Response:
        """Answer the number of calls of each operation, and the jobs that exist."""
        jobs = [{"service": service.name, **job} for service in self._services.values() for job in service.jobs()]
        return JSONResponse({"operations": self._calls.counted(), "jobs_started": len(jobs), "jobs": jobs})

    def delete_calls(self, _request: Request) -> Response:
        """Start counting calls anew; the jobs stay."""
        self._calls.clear()
        return Response(status_code=204)
