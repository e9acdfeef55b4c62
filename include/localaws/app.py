"""The ASGI application: one process, one port, every emulated service."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Mount

from localaws.callers import why_refused
from localaws.control import Calls, Control
from localaws.errors import AwsError, log_defect
from localaws.events import Events
from localaws.faults import Fault, FaultBoard
from localaws.healthlake import tables as healthlake
from localaws.healthlake.plane import FHIR_PATH
from localaws.healthlake.service import HealthLake
from localaws.healthlake.transformation import tables as transformation
from localaws.imaging import tables as imaging
from localaws.imaging.service import Imaging
from localaws.protocol import Call, error_response
from localaws.runtime import Runtime
from localaws.schedule import Schedule
from localaws.state import State
from localaws.throttles import Throttle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from botocore.model import OperationModel
    from starlette.types import ASGIApp, Receive, Scope, Send

    from localaws.protocol import Params, Plane, Service
    from localaws.settings import Settings


class OwnCallers:
    """Refuses pages of other origins, and Host headers that are not the server's."""

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 where the caller is a page of another origin, else pass the request on."""
        reason = why_refused(Headers(scope=scope).get, self._allowed) if scope["type"] == "http" else None
        refusal = reason and error_response(AwsError("AccessDeniedException", reason), 403)
        await (refusal or self._app)(scope, receive, send)


class Gateway:
    """Takes every AWS call to its service, past throttles and faults."""

    def __init__(self, services: Mapping[str, Service], faults: FaultBoard, throttle: Throttle, calls: Calls) -> None:
        self._services = services
        self._faults = faults
        self._throttle = throttle
        self._calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request; anything else (a WebSocket) is closed."""
        if scope["type"] != "http":
            return
        call = Call.of(scope, await _body(receive))
        service = self._services.get(call.signing_name or "")
        if service is None:
            answer = self._unsigned(call)
        else:
            answer = await self._answer(service.plane(call), call)
        await answer(scope, receive, send)

    def _unsigned(self, call: Call) -> Response:
        message = f"Sign the request for one of these services: {', '.join(self._services)}."
        status = 401 if FHIR_PATH.match(call.raw_path) else 403
        return error_response(AwsError("MissingAuthenticationTokenException", message), status)

    async def _answer(self, plane: Plane, call: Call) -> Response:
        try:
            operation, labels = plane.find(call)
        except AwsError as error:
            return plane.error(error)
        answer = await self._operate(plane, operation, labels, call)
        self._calls.count(operation.name, 0 if isinstance(answer, DroppedResponse) else answer.status_code)
        return answer

    async def _operate(
        self, plane: Plane, operation: OperationModel, labels: Mapping[str, str], call: Call
    ) -> Response:
        try:
            self._throttle.admit(operation.name)
            params = plane.parse(operation, labels, call)
            faults = await run_in_threadpool(self._find_faults, plane, operation.name, params)
            await _before(faults)
            answer = await run_in_threadpool(plane.handle, operation, params)
        except AwsError as error:
            return plane.error(error)
        except Exception as error:  # noqa: BLE001 - whatever breaks is the service's own 500
            log_defect(operation.name, error)
            return plane.error(AwsError("InternalServerException", "Internal server error"))
        return _after(faults, answer, plane)

    def _find_faults(self, plane: Plane, operation: str, params: Params) -> list[Fault]:
        return self._faults.for_call(operation, *plane.subject(params)) if self._faults.any_for_calls else []


async def _before(faults: list[Fault]) -> None:
    """Apply the faults that act before the call is carried out."""
    for fault in faults:
        if fault.kind == "slow_responses":
            await asyncio.sleep(fault.duration)
        elif fault.kind == "throttle_storm":
            raise AwsError("ThrottlingException", "Rate exceeded")
        elif fault.kind == "quota_storm":
            raise AwsError("ServiceQuotaExceededException", "Service quota exceeded")
        elif fault.kind == "role_not_assumable":
            raise AwsError(fault.chosen_answer, "The service cannot assume the data access role.")


def _after(faults: list[Fault], answer: Response, plane: Plane) -> Response:
    """Return the answer of a call that was carried out, or what a fault puts in its stead."""
    for fault in faults:
        if fault.kind == "lost_response":
            if fault.chosen_answer == "500":
                return plane.error(AwsError("InternalServerException", "Internal server error"))
            return DroppedResponse()
    return answer


class DroppedResponse(Response):
    """An answer that breaks off: the server closes the connection in the middle of the body."""

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Begin a body and do not end it; uvicorn then closes the connection."""
        # Chunked on purpose: clients do not notice that a body is shorter than its Content-Length.
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


def build_app(settings: Settings) -> Starlette:
    """Open the state and put the application together.

    Unfinished jobs go on when the application starts (ASGI lifespan).
    """
    state = State(settings.state, [imaging.TABLES, healthlake.TABLES, transformation.TABLES])
    workers = ThreadPoolExecutor(settings.jobs_at_once, thread_name_prefix="localaws-job")
    schedule, faults, events = Schedule(state, workers), FaultBoard(state), Events(settings)
    calls = Calls()
    runtime = Runtime(settings, state, schedule, faults, events)
    services: dict[str, Service] = {service.name: service for service in (Imaging(runtime), HealthLake(runtime))}
    gateway = Gateway(services, faults, Throttle(settings.rates()), calls)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        running = asyncio.create_task(schedule.run())
        yield
        schedule.stop()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await asyncio.to_thread(workers.shutdown, wait=True)
        await asyncio.to_thread(events.close)
        state.close()

    control = Control(services, faults, calls)
    routes = [*control.routes(), Mount("/", app=gateway)]
    return Starlette(routes=routes, middleware=[Middleware(OwnCallers, settings.allowed_host)], lifespan=lifespan)
