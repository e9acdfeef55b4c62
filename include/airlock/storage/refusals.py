"""Why S3 refuses a single object: the reason for the object's arrival, by S3's error code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.reasons import Reason

if TYPE_CHECKING:
    from airlock.storage.s3 import S3Error

ARCHIVED = ("InvalidObjectState", "ObjectNotInActiveTierError")  # in Glacier and not restored, to a GET and a copy
_REASONS = {  # by S3's error code, or the status where a server gives no code
    "NoSuchKey": Reason.OBJECT_GONE,
    "NoSuchVersion": Reason.OBJECT_GONE,
    "404": Reason.OBJECT_GONE,
    "MethodNotAllowed": Reason.OBJECT_GONE,  # the version is a delete marker
    "PreconditionFailed": Reason.OBJECT_CHANGED,
    "412": Reason.OBJECT_CHANGED,
    "InvalidRange": Reason.OBJECT_CHANGED,  # the object has become shorter
    "416": Reason.OBJECT_CHANGED,
    "AccessDenied": Reason.ACCESS_DENIED,
    "403": Reason.ACCESS_DENIED,
    **dict.fromkeys(ARCHIVED, Reason.ACCESS_DENIED),
}


def find_refusal(code: str) -> Reason | None:
    """Return why S3 refuses an object; None where the code concerns all objects."""
    return Reason.ACCESS_DENIED if code.startswith("KMS.") else _REASONS.get(code)


def refusal_of(error: S3Error) -> tuple[Reason, str]:
    """Return the reason and S3's code, where S3 refuses a single object.

    Raises
    ------
    S3Error
        The same error, if it concerns all objects.
    """
    reason = find_refusal(error.code)
    if reason is None:
        raise error
    return reason, error.code
