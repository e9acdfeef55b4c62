"""HealthImaging and HealthLake of the emulator, in this process and without HTTP, threads or waiting.

The calls go to the handlers that answer HTTP requests elsewhere; their checks of parameters and answers stay. A job is
done as soon as somebody asks about it, on a database in memory that is emptied between two histories.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode

from botocore.exceptions import ClientError

from localaws import objects
from localaws.errors import AwsError
from localaws.events import Events
from localaws.faults import FaultBoard
from localaws.healthlake import tables as healthlake_tables
from localaws.healthlake.service import HealthLake
from localaws.healthlake.transformation import tables as transformation_tables
from localaws.imaging import tables as imaging_tables
from localaws.imaging.service import Imaging
from localaws.protocol import Call
from localaws.runtime import Runtime
from localaws.schedule import Schedule
from localaws.settings import Seed, Settings
from localaws.state import SHARED_TABLES, State
from tests.explore.folder import FOLDER
from tests.explore.pipelines import DATASTORE, RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from localaws.protocol import Service
    from tests.explore.memory_s3 import MemoryS3

_TABLES = [imaging_tables.TABLES, healthlake_tables.TABLES, transformation_tables.TABLES]
_LONGEST_JOB = 50  # steps


class _Connection(sqlite3.Connection):
    """A connection that `State` can refer to weakly."""


class MemoryState(State):
    """The emulator's database in memory, on one connection."""

    def __init__(self) -> None:
        self.path = FOLDER / "explore"
        self._one = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, factory=_Connection, cached_statements=1024
        )
        self._one.row_factory = sqlite3.Row
        for script in (SHARED_TABLES, *_TABLES):
            self._one.executescript(script)
        self._full = sqlite3.connect(":memory:", check_same_thread=False)

    def _connection(self) -> sqlite3.Connection:
        return self._one

    def keep(self) -> None:
        """Remember the present content for `reset`."""
        self._one.backup(self._full)

    def reset(self) -> None:
        """Return to the content that was kept."""
        self._full.backup(self._one)

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows of a query."""
        return self._one.execute(query, values).fetchall()


class _Steps(Schedule):
    """The emulator's list of steps, done when somebody asks."""

    def do_all(self) -> None:
        """Do steps until none is left."""
        for _ in range(_LONGEST_JOB):
            with self._state.read() as connection:
                rows = connection.execute("SELECT kind, subject FROM todo ORDER BY due_at, kind, subject").fetchall()
            if not rows:
                return
            for kind, subject in rows:
                self._do(kind, subject)
        raise RuntimeError("a job of the emulator does not end")


class Services:
    """Both services over one S3.

    Parameters
    ----------
    s3
        Where jobs read and write; it may be replaced between histories by `reset`.
    """

    def __init__(self, s3: MemoryS3) -> None:
        self._door = _CurrentS3(s3)
        self.calls = 0  # of HealthLake's and HealthImaging's control planes
        settings = Settings(
            state=FOLDER / "explore",
            submitted_seconds=0.0,
            change_seconds=0.0,
            datastore=(Seed(DATASTORE, "test"),),
            healthlake_datastore=(Seed(RECORDS, "test"),),
        )
        self.state = MemoryState()
        self.steps = _Steps(self.state, None)  # type: ignore[arg-type]  # it runs no step in the background
        self.faults = FaultBoard(self.state)
        runtime = Runtime(settings, self.state, self.steps, self.faults, Events(settings))
        self._imaging, self._healthlake = self._open(runtime)
        self.steps.do_all()
        self.state.keep()

    def _open(self, runtime: Runtime) -> tuple[Imaging, HealthLake]:
        """Open both services over the S3 in memory: they make their clients by `local_client`."""
        kept = objects.local_client
        objects.local_client = lambda *_, **__: self._door  # type: ignore[assignment]
        try:
            return Imaging(runtime), HealthLake(runtime)
        finally:
            objects.local_client = kept

    def reset(self, s3: MemoryS3, faults: list[dict[str, Any]]) -> None:
        """Empty the stores, and switch on these faults."""
        self._door.s3 = s3
        self.state.reset()
        self.faults.replace(faults)

    def imaging(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call HealthImaging; a job that it starts is done at once."""
        return self._ask(self._imaging, operation, params)

    def healthlake(self, operation: str, **params: Any) -> dict[str, Any]:
        """Call HealthLake's control plane; a job that it starts is done at once."""
        return self._ask(self._healthlake, operation, params)

    def _ask(self, service: Service, operation: str, params: dict[str, Any]) -> dict[str, Any]:
        self.calls += operation.startswith("Start")
        answer = _call(service, operation, params)
        if operation.startswith("Start"):
            self.steps.do_all()
        return answer

    def fhir(self, method: str, path: str, query: str = "", body: bytes = b"") -> tuple[int, Any]:
        """Send a request to the FHIR interface of the data store; return the status and the JSON, with decimals."""
        headers = {"content-type": "application/fhir+json"}
        raw = f"/datastore/{RECORDS}/r4/{path}"
        call = Call(method, raw, parse_qs(query, keep_blank_values=True), headers, body, query)
        plane = self._healthlake.plane(call)
        try:
            interaction, labels = plane.find(call)
            reply = plane.handle(interaction, plane.parse(interaction, labels, call))
        except AwsError as error:
            reply = plane.error(error)
        return reply.status_code, json.loads(bytes(reply.body), parse_float=Decimal) if reply.body else None


class _CurrentS3:
    """The S3 of the present history."""

    def __init__(self, s3: MemoryS3) -> None:
        self.s3 = s3

    def __getattr__(self, name: str) -> Any:
        return getattr(self.s3, name)


def _call(service: Service, operation: str, params: dict[str, Any]) -> dict[str, Any]:
    """Call a handler; its answer has streams where boto3's has."""
    try:
        answer = service.handlers[operation](_as_sent(params))
    except AwsError as error:
        said: Any = {"Error": {"Code": error.code, "Message": error.message}}
        raise ClientError(said, operation) from None
    return {name: _as_boto3(name, value) for name, value in answer.items()}


def _as_sent(value: Any) -> Any:
    """Return a parameter as boto3 sends it: a time as a number of seconds."""
    if isinstance(value, dict):
        return {name: _as_sent(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_as_sent(item) for item in value]
    return value.timestamp() if isinstance(value, datetime) else value


def _as_boto3(name: str, value: Any) -> Any:
    """Return a value of an answer in boto3's type: a stream for a blob, an aware time for a number of seconds."""
    if isinstance(value, bytes):
        return BytesIO(value)
    if isinstance(value, dict):
        return {inner: _as_boto3(inner, item) for inner, item in value.items()}
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float) and name.endswith(("At", "Time")) else value


class ImageSetReader:
    """The part of a ``medical-imaging`` client that audits and reconciliations use."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def get_datastore(self, **params: Any) -> dict[str, Any]:
        """Return a data store's properties."""
        return self._services.imaging("GetDatastore", **params)

    def get_image_set_metadata(self, **params: Any) -> dict[str, Any]:
        """Return an image set's metadata."""
        return self._services.imaging("GetImageSetMetadata", **params)

    def get_image_set(self, **params: Any) -> dict[str, Any]:
        """Return an image set's properties."""
        return self._services.imaging("GetImageSet", **params)

    def search_image_sets(self, **params: Any) -> dict[str, Any]:
        """Search image sets."""
        return self._services.imaging("SearchImageSets", **params)


class MemoryFhir:
    """The FHIR interface of the data store, as the stages use it; the hook of healthaws would need Airflow."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None if it is not there."""
        status, body = self._services.fhir("GET", f"{resource_type}/{resource_id}")
        return None if status in {404, 410} else _expect(status, body)

    def search(self, resource_type: str, params: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """Yield the resources that match, of one page."""
        page = _expect(*self._services.fhir("GET", resource_type, query=urlencode(params)))
        yield from (entry["resource"] for entry in page.get("entry", ()))

    def validate(self, resource: str) -> dict[str, Any]:
        """Return $validate's OperationOutcome."""
        kind = json.loads(resource)["resourceType"]
        return _expect(*self._services.fhir("POST", f"{kind}/$validate", body=resource.encode()))


def _expect(status: int, body: Any) -> dict[str, Any]:
    if status != 200:
        raise RuntimeError(f"the FHIR interface answered {status}")
    return dict(body)
