"""The one exception that becomes an error answer of the emulated service."""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger(__name__)


def log_defect(what: str, error: Exception) -> None:
    """Log a defect and its line of code, without the exception's text: that may hold a tag value or a key."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
    log.error("%s broke: %s at %s", what, type(error).__name__, where)


class AwsError(Exception):
    """An error that the caller receives as the service's own.

    Parameters
    ----------
    code : str
        Name of the error shape, for example ``ValidationException``; the HTTP status comes from the service model.
    message : str
        One sentence; never holds a tag value.
    status : int, optional
        HTTP status, for codes that the model does not have.
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


def not_found(what: str, name: str) -> AwsError:
    """Return the ResourceNotFoundException for `what` with the identifier `name`."""
    return AwsError("ResourceNotFoundException", f"The {what} {name} does not exist in this data store or account.")


def conflict(message: str) -> AwsError:
    """Return a ConflictException."""
    return AwsError("ConflictException", message)


def invalid(message: str) -> AwsError:
    """Return a ValidationException."""
    return AwsError("ValidationException", message)
