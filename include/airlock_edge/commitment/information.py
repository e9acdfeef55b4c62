"""The data sets of Storage Commitment: a request's Action Information, a result's Event Information (PS3.4 annex J)."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom.dsutils import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PUSH_MODEL_INSTANCE: Final = "1.2.840.10008.1.20.1.1"  # the well-known SOP instance (PS3.4 section J.3.5)
REQUEST: Final = 1  # Action Type ID
ALL_SUCCEEDED, FAILURES_EXIST = 1, 2  # Event Type ID
_UID = re.compile(r"[0-9.]{1,64}").fullmatch


class InformationError(ValueError):
    """An Action Information cannot be read, or lacks what it must have; the text quotes nothing of it."""


@dataclass(frozen=True)
class Reference:
    """A SOP instance that a request names, with the Failure Reason of its result (None: committed, or not decided)."""

    sop_class_uid: str
    sop_instance_uid: str
    failure: int | None = None


@dataclass(frozen=True)
class Request:
    """What is to be committed."""

    transaction_uid: str
    references: tuple[Reference, ...]


def decode_request(encoded: bytes, transfer_syntax: str) -> Request:
    """Return the request of an N-ACTION (PS3.4 table J.3-1).

    Raises
    ------
    InformationError
        If it is not one.
    """
    syntax = UID(transfer_syntax)
    try:
        content = decode(io.BytesIO(encoded), syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        request = Request(str(content.TransactionUID), tuple(_read_references(content)))
    except Exception as error:  # noqa: BLE001 - whatever a decoder of foreign bytes raises; its text may quote them
        raise InformationError(f"the request cannot be read ({type(error).__name__})") from None
    if not request.references:
        raise InformationError("the request names no instance")
    uids = (uid for one in request.references for uid in (one.sop_class_uid, one.sop_instance_uid))
    if not all(map(_UID, (request.transaction_uid, *uids))):
        raise InformationError("the request has a value that is not a UID")
    return request


def _read_references(content: Dataset) -> Iterator[Reference]:
    for item in content.ReferencedSOPSequence:
        yield Reference(str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID))


def describe_result(transaction_uid: str, references: Sequence[Reference]) -> tuple[int, Dataset]:
    """Return Event Type ID and Event Information of a result: the complete set of the request (PS3.4 table J.3-2)."""
    content = Dataset()
    content.TransactionUID = transaction_uid
    succeeded = [_write_reference(one) for one in references if one.failure is None]
    failed = [_write_reference(one) for one in references if one.failure is not None]
    if succeeded:
        content.ReferencedSOPSequence = succeeded
    if failed:
        content.FailedSOPSequence = failed
    return (FAILURES_EXIST if failed else ALL_SUCCEEDED), content


def _write_reference(one: Reference) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.sop_class_uid, one.sop_instance_uid
    if one.failure is not None:
        item.FailureReason = one.failure
    return item


def encode_information(content: Dataset, transfer_syntax: str) -> bytes:
    """Return an encoded data set.

    Raises
    ------
    ValueError
        If it cannot be encoded.
    """
    syntax = UID(transfer_syntax)
    encoded = encode(content, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    if encoded is None:
        raise ValueError("a commitment result cannot be encoded")
    return bytes(encoded)
