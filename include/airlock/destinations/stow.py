"""A DICOMweb server that is sent the instances of released studies themselves (STOW-RS, PS3.18 section 10.5).

Each instance goes from S3 to the server as it is read, and only if the object still is the one that the contract names.
What the server says of an instance is written into the ledger at once: whatever is broken off, the next attempt sends
only what is not stored yet. Bodies are made of the contract alone, which names released instances only.
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
_UNPROVEN = "no_answer"  # the server says nothing of an instance, and does not have it
_OTHER_CONTENT = "other_content"  # the server has an earlier object under this UID, and keeps it
_SERVER_ERRORS = 3  # requests of one instance that end in 500 before the server is left alone


class StowSettings(Protocol):
    """What ``Stow`` needs of ``pipelines.routes.StowDestination``."""

    @property
    def instances_per_request(self) -> int:
        """At most."""

    @property
    def mib_per_request(self) -> int:
        """At most, unless a single instance is larger."""

    @property
    def requests_in_flight(self) -> int:
        """At most, whatever the number of studies."""

    @property
    def look_up(self) -> bool:
        """Whether the server is asked for an instance that its answer does not settle."""


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
    """What became of an instance."""

    instance: Instance
    state: StowState
    code: str | None = None
    for_good: bool = False


class SourceError(RuntimeError):
    """An instance's object is not the one that the contract names.

    Parameters
    ----------
    instance
        Whose object.
    reason
        Why.
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
        The server.
    s3
        Of the pipeline's source, with the contracts and the objects that they name.
    ledger
        Keeps what the server has taken.
    address
        What the ledger knows the destination by.
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
            If the server cannot be asked, or has not taken an instance; what it took is known to the ledger.
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
        """Return the instances to send, and the UIDs of those under which the server has another object's content."""
        uids = pl.Series([instance.uid for instance in instances], dtype=pl.String)
        known = self._ledger.stow_instances(self._address, uids).filter(state=StowState.STORED.value)
        there = dict(known.select("SOPInstanceUID", "etag").iter_rows())
        missing = [instance for instance in instances if there.get(instance.uid) != instance.etag]
        return missing, {instance.uid for instance in missing if instance.uid in there}

    def _send(self, instances: list[Instance], held_otherwise: set[str]) -> list[Decision]:
        """Send instances by requests side by side; the first that shows the server to be away ends them all."""
        sending = _Sending(self._web, self._s3, self._settings.look_up, held_otherwise, self._keep)
        batches = list(_batches(instances, self._settings))
        with ThreadPoolExecutor(self._settings.requests_in_flight) as pool:
            requests = [pool.submit(self._request, sending, batch) for batch in batches]
        return [decision for request in requests for decision in request.result()]

    def _request(self, sending: _Sending, batch: list[Instance]) -> list[Decision]:
        """Send one request, unless one before it has broken off; whose error is the study's."""
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

    def _keep(self, decisions: list[Decision]) -> None:
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
        keep: Callable[[list[Decision]], None],
    ) -> None:
        self._web = web
        self._s3 = s3
        self._look_up = look_up
        self._held_otherwise = held_otherwise
        self._keep = keep
        self._server_errors = 0
        self.is_broken_off = False

    def post(self, batch: list[Instance]) -> list[Decision]:
        """Send instances in one request; where one of them spoils it, the others are sent without that one."""
        lost: list[Decision] = []
        while batch:
            try:
                answer = self._web.store([self._part(instance) for instance in batch])
            except SourceError as error:
                code, for_good = error.reason.value, error.reason != Reason.ACCESS_DENIED
                lost += self._refused(error.instance, code, for_good=for_good)
                batch = [instance for instance in batch if instance is not error.instance]
            except RequestRefusedError as error:
                return lost + self._divided(batch, error)
            else:
                return lost + self._decided(batch, answer)
        return lost

    def _decided(self, batch: list[Instance], answer: StoreAnswer) -> list[Decision]:
        """Write down what the answer settles before the server is asked for the rest, which may break off."""
        settled = self._kept([made for instance in batch if (made := self._said(instance, answer))])
        done = {made.instance.uid for made in settled}
        open_ = [instance for instance in batch if instance.uid not in done]
        return settled + [made for instance in open_ for made in self._kept([self._looked_up(instance, answer)])]

    def _kept(self, decisions: list[Decision]) -> list[Decision]:
        """Write decisions down; that an instance is refused does not take away what the server has of it."""
        there = self._held_otherwise
        self._keep([made for made in decisions if made.state == StowState.STORED or made.instance.uid not in there])
        return decisions

    def _divided(self, batch: list[Instance], error: RequestRefusedError) -> list[Decision]:
        if len(batch) > 1:
            half = len(batch) // 2
            return self.post(batch[:half]) + self.post(batch[half:])
        if not error.for_good:
            self._server_errors += 1
            if self._server_errors > _SERVER_ERRORS:
                raise error
        return self._refused(batch[0], error.code, for_good=error.for_good)

    def _refused(self, instance: Instance, code: str, *, for_good: bool) -> list[Decision]:
        return self._kept([Decision(instance, StowState.REFUSED, code, for_good)])

    def _said(self, instance: Instance, answer: StoreAnswer) -> Decision | None:
        """Return what an answer says of an instance; None where the server is to be asked for it."""
        if instance.uid in answer.stored:
            return Decision(instance, StowState.STORED, _hex(answer.stored[instance.uid]))
        reason = answer.failed.get(instance.uid)
        if self._look_up and may_be_there(reason):
            return None
        return Decision(instance, StowState.REFUSED, _hex(reason) or _UNPROVEN, is_for_good(reason))

    def _looked_up(self, instance: Instance, answer: StoreAnswer) -> Decision:
        code = _hex(answer.failed.get(instance.uid)) or _UNPROVEN
        if not self._web.holds(instance.study, instance.series, instance.uid):
            return Decision(instance, StowState.REFUSED, code)
        if instance.uid in self._held_otherwise:
            return Decision(instance, StowState.REFUSED, _OTHER_CONTENT, for_good=True)
        return Decision(instance, StowState.STORED, code)

    def _part(self, instance: Instance) -> Part:
        return Part(instance.size, self._pieces(instance))

    def _pieces(self, instance: Instance) -> Iterator[bytes]:
        """Yield an object's bytes, as long as it is the contract's object and has its size."""
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
    """Return a DICOM status as the standard writes it: A900."""
    return None if status is None else f"{status:04X}"


def _batches(instances: list[Instance], settings: StowSettings) -> Iterator[list[Instance]]:
    """Yield what goes in one request each."""
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
