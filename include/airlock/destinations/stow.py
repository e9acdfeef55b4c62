"""A DICOMweb server, which receives the instances of released studies themselves (STOW-RS, PS3.18 section 10.5).

Each instance is streamed from S3 to the server, and only if its object is still the one that the contract names. The
server's answer about an instance is recorded in the ledger at once, so that after an interruption the next attempt
sends only instances that are not stored yet. Only the instances of the contract are sent, which are all released.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import BoundedSemaphore
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import polars as pl
from pydantic import BaseModel, Field, ValidationError

from airlock.destinations.dicomweb import DicomWebError, Part, RequestRefusedError, is_for_good, may_be_there
from airlock.destinations.message import DestinationError, aws_error, read_contract
from airlock.ledger import StowState
from airlock.ledger.stow import STOW_INSTANCES
from airlock.reasons import Reason
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.destinations.dicomweb import DicomWeb, StoreAnswer
    from airlock.destinations.message import Message
    from airlock.ledger import Ledger
    from airlock.storage.s3 import S3

_LOST = {
    "NoSuchKey": Reason.OBJECT_GONE,
    "404": Reason.OBJECT_GONE,
    "NoSuchBucket": Reason.OBJECT_GONE,
    "PreconditionFailed": Reason.OBJECT_CHANGED,
    "412": Reason.OBJECT_CHANGED,
}
_UNPROVEN = "no_answer"  # the server does not name an instance in its answer, and does not have it
_OTHER_CONTENT = "other_content"  # the server keeps an earlier object with this UID
_SERVER_ERRORS = 3  # requests of one instance that may end in 500; after the next one the study is given up


class StowSettings(Protocol):
    """The settings of ``pipelines.routes.StowDestination`` that ``Stow`` uses."""

    @property
    def instances_per_request(self) -> int:
        """The largest number of instances in a request."""

    @property
    def mib_per_request(self) -> int:
        """The largest size of a request, unless a single instance is larger."""

    @property
    def requests_in_flight(self) -> int:
        """The largest number of simultaneous requests, of all studies together."""

    @property
    def look_up(self) -> bool:
        """Whether to search the server for an instance whose result its answer leaves open."""


class _ContractInstance(BaseModel):
    SOPInstanceUID: str
    source: str
    etag: str
    size: int


class _ContractSeries(BaseModel):
    SeriesInstanceUID: str
    instances: tuple[_ContractInstance, ...]


class _Contract(BaseModel):
    """The fields of a study contract that a server is sent by; other fields may follow."""

    version: Literal["airlock.study/1"] = Field(alias="schema")
    StudyInstanceUID: str
    series: tuple[_ContractSeries, ...]


class Instance(NamedTuple):
    """One instance of a contract, with the UIDs above it."""

    study: str
    series: str
    uid: str
    source: str  # s3:// address
    etag: str
    size: int  # bytes

    @classmethod
    def of(cls, contract: _Contract) -> Iterator[Instance]:
        """Yield the instances of a contract, series by series."""
        for series in contract.series:
            study, above = contract.StudyInstanceUID, series.SeriesInstanceUID
            for one in series.instances:
                yield cls(study, above, one.SOPInstanceUID, one.source, one.etag, one.size)


class Decision(NamedTuple):
    """The result of sending an instance."""

    instance: Instance
    state: StowState
    code: str | None = None
    for_good: bool = False


class SourceError(RuntimeError):
    """An instance's object is not the one that the contract names.

    Parameters
    ----------
    instance
        The instance.
    reason
        The reason code.
    """

    def __init__(self, instance: Instance, reason: Reason) -> None:
        super().__init__(reason.sentence)
        self.instance = instance
        self.reason = reason


class Stow:
    """Sends studies to one server; several threads may share it.

    Parameters
    ----------
    web
        The client of the server.
    s3
        S3 of the pipeline's source, with the contracts and the objects that they name.
    ledger
        The ledger, in which the server's answers are recorded.
    address
        The destination's name in the ledger.
    settings
        Sizes of requests.
    """

    def __init__(self, web: DicomWeb, s3: S3, ledger: Ledger, address: str, settings: StowSettings) -> None:
        self._web = web
        self._s3 = s3
        self._ledger = ledger
        self._address = address
        self._settings = settings
        self._free = BoundedSemaphore(settings.requests_in_flight)

    def send(self, message: Message) -> None:
        """Send the instances of a contract that the server does not have yet; return when it has all of them.

        Raises
        ------
        DestinationError
            If the server does not answer, or has not stored an instance; the stored ones are recorded in the ledger.
        """
        contract = self._contract(message)
        missing, held_otherwise = self._missing(list(Instance.of(contract)))
        refused = [decision for decision in self._send(missing, held_otherwise) if decision.state == StowState.REFUSED]
        if refused:
            worst = next((decision for decision in refused if not decision.for_good), refused[0])
            raise DestinationError(f"{worst.code}", retryable=not worst.for_good)

    def _contract(self, message: Message) -> _Contract:
        try:
            return _Contract.model_validate_json(read_contract(self._s3, message))
        except ValidationError:  # a contract of another version
            raise DestinationError("contract_unreadable", retryable=False) from None

    def _missing(self, instances: list[Instance]) -> tuple[list[Instance], set[str]]:
        """Return the instances to send, and the UIDs of those of which the server holds another object."""
        uids = pl.Series([instance.uid for instance in instances], dtype=pl.String)
        known = self._ledger.stow_instances(self._address, uids).filter(state=StowState.STORED.value)
        stored = dict(known.select("SOPInstanceUID", "etag").iter_rows())
        missing = [instance for instance in instances if stored.get(instance.uid) != instance.etag]
        return missing, {instance.uid for instance in missing if instance.uid in stored}

    def _send(self, instances: list[Instance], held_otherwise: set[str]) -> list[Decision]:
        """Send instances in parallel requests; the first request that the server does not answer ends all."""
        sending = _Sending(self._web, self._s3, self._settings.look_up, held_otherwise, self._record)
        batches = list(_batches(instances, self._settings))
        with ThreadPoolExecutor(self._settings.requests_in_flight) as pool:
            requests = [pool.submit(self._request, sending, batch) for batch in batches]
        return [decision for request in requests for decision in request.result()]

    def _request(self, sending: _Sending, batch: list[Instance]) -> list[Decision]:
        """Send one request, unless an earlier one has failed and so ended the study."""
        with self._free:
            if sending.is_broken_off:
                return []
            try:
                return sending.post(batch)
            except DicomWebError as error:
                sending.is_broken_off = True
                raise DestinationError(error.code, retryable=True, retry_after=error.retry_after) from None
            except BaseException:
                sending.is_broken_off = True
                raise

    def _record(self, decisions: list[Decision]) -> None:
        rows = [(made.instance.uid, made.instance.etag, made.state.value, made.code) for made in decisions]
        frame = pl.DataFrame(rows, schema=STOW_INSTANCES, orient="row")
        self._ledger.decide_stow_instances(self._address, frame, datetime.now(UTC))


class _Sending:
    """The requests about one study."""

    def __init__(
        self,
        web: DicomWeb,
        s3: S3,
        look_up: bool,
        held_otherwise: set[str],
        record: Callable[[list[Decision]], None],
    ) -> None:
        self._web = web
        self._s3 = s3
        self._look_up = look_up
        self._held_otherwise = held_otherwise
        self._record = record
        self._server_errors = 0
        self.is_broken_off = False

    def post(self, batch: list[Instance]) -> list[Decision]:
        """Send instances in one request; if it fails because of one instance, send the others without it."""
        lost: list[Decision] = []
        while batch:
            try:
                answer = self._web.store([self._part(instance) for instance in batch])
            except SourceError as error:
                code, for_good = error.reason.value, error.reason != Reason.ACCESS_DENIED
                lost += self._refuse(error.instance, code, for_good=for_good)
                batch = [instance for instance in batch if instance is not error.instance]
            except RequestRefusedError as error:
                return lost + self._divide(batch, error)
            else:
                return lost + self._decide(batch, answer)
        return lost

    def _decide(self, batch: list[Instance], answer: StoreAnswer) -> list[Decision]:
        """Return the decision on each instance; those of the answer are recorded before the server is searched."""
        settled = self._record_new([made for instance in batch if (made := self._read_result(instance, answer))])
        done = {made.instance.uid for made in settled}
        left = [instance for instance in batch if instance.uid not in done]
        return settled + [made for instance in left for made in self._record_new([self._look_up_one(instance, answer)])]

    def _record_new(self, decisions: list[Decision]) -> list[Decision]:
        """Record decisions and return them; a refusal does not overwrite that the server holds an earlier object."""
        held = self._held_otherwise
        self._record([made for made in decisions if made.state == StowState.STORED or made.instance.uid not in held])
        return decisions

    def _divide(self, batch: list[Instance], error: RequestRefusedError) -> list[Decision]:
        if len(batch) > 1:
            half = len(batch) // 2
            return self.post(batch[:half]) + self.post(batch[half:])
        if not error.for_good:
            self._server_errors += 1
            if self._server_errors > _SERVER_ERRORS:
                raise error
        return self._refuse(batch[0], error.code, for_good=error.for_good)

    def _refuse(self, instance: Instance, code: str, *, for_good: bool) -> list[Decision]:
        return self._record_new([Decision(instance, StowState.REFUSED, code, for_good)])

    def _read_result(self, instance: Instance, answer: StoreAnswer) -> Decision | None:
        """Return an answer's result of an instance; None if the server must be searched for it."""
        if instance.uid in answer.stored:
            return Decision(instance, StowState.STORED, _hex(answer.stored[instance.uid]))
        reason = answer.failed.get(instance.uid)
        if self._look_up and may_be_there(reason):
            return None
        return Decision(instance, StowState.REFUSED, _hex(reason) or _UNPROVEN, is_for_good(reason))

    def _look_up_one(self, instance: Instance, answer: StoreAnswer) -> Decision:
        code = _hex(answer.failed.get(instance.uid)) or _UNPROVEN
        if not self._web.holds(instance.study, instance.series, instance.uid):
            return Decision(instance, StowState.REFUSED, code)
        if instance.uid in self._held_otherwise:
            return Decision(instance, StowState.REFUSED, _OTHER_CONTENT, for_good=True)
        return Decision(instance, StowState.STORED, code)

    def _part(self, instance: Instance) -> Part:
        return Part(instance.size, self._pieces(instance))

    def _pieces(self, instance: Instance) -> Iterator[bytes]:
        """Yield an object's bytes.

        Raises
        ------
        SourceError
            If it is not the object that the contract names, or has another size.
        DestinationError
            If S3 cannot be read now.
        """
        left = instance.size
        try:
            for piece in self._s3.stream(S3Uri.parse(instance.source), instance.etag):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
        except S3Error as error:
            raise _source_error(instance, error) from None
        if left:
            raise SourceError(instance, Reason.OBJECT_CHANGED)


def _source_error(instance: Instance, error: S3Error) -> SourceError | DestinationError:
    reason = Reason.ACCESS_DENIED if error.code in {"AccessDenied", "403"} else _LOST.get(error.code)
    return SourceError(instance, reason) if reason else aws_error(error)


def _hex(status: int | None) -> str | None:
    """Return a DICOM status as four hex digits, as in the standard: A900."""
    return None if status is None else f"{status:04X}"


def _batches(instances: list[Instance], settings: StowSettings) -> Iterator[list[Instance]]:
    """Yield the instances of each request, within the settings' limits."""
    batch: list[Instance] = []
    size = 0
    for instance in instances:
        full = len(batch) == settings.instances_per_request
        if batch and (full or size + instance.size > settings.mib_per_request * 1024**2):
            yield batch
            batch, size = [], 0
        batch.append(instance)
        size += instance.size
    if batch:
        yield batch
