"""The refusals of AWS, and how long to wait before asking again."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from healthaws.exceptions import RequestRejectedError, without_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.exceptions import ClientError

BUSY_CODES = frozenset({"ThrottlingException", "TooManyRequestsException", "ServiceQuotaExceededException"})
BUSY_HTTP_STATUS = frozenset({402, 429})
REJECTED_CODES = frozenset({"ValidationException", "AccessDeniedException", "ResourceNotFoundException"})
ROLE_PENDING_CODES = frozenset({"ValidationException", "AccessDeniedException"})
CHANGING_DATASTORE_STATUS = frozenset({"CREATING", "UPDATING"})
TOKEN = re.compile(r"token|idempoten", re.IGNORECASE)
ASSUME_ROLE = re.compile(r"\bassum(e|ed|able|ing)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Backoff:
    """
    Exponential pauses with jitter.

    Half of each pause is fixed, so that a pause is never close to zero: Airflow may fail a task whose trigger
    fires within a few seconds of the deferral.

    Attributes
    ----------
    initial : float
        Longest first pause, in seconds. Each refusal in a row doubles it.
    maximum : float
        Longest pause, in seconds.
    timeout : float
        How long refusals in a row may last, in seconds.
    """

    initial: float = 30
    maximum: float = 600
    timeout: float = 6 * 60 * 60

    def delay(self, refusals: int) -> float:
        """
        Return the seconds to wait after refusals in a row.

        Parameters
        ----------
        refusals : int
            Refusals in a row, from 1.
        """
        longest = min(self.maximum, self.initial * 2.0 ** min(refusals - 1, 32))
        return random.uniform(longest / 2, longest)  # noqa: S311 - jitter, not a secret


@dataclass(frozen=True)
class Refusals:
    """
    Refusals in a row.

    Attributes
    ----------
    count : int
        How many.
    since : float or None
        When the first came, in seconds since the epoch: a monotonic clock would not survive a deferral.
    """

    count: int = 0
    since: float | None = None

    def one_more(self) -> Refusals:
        """Return these refusals and a new one."""
        return Refusals(self.count + 1, time.time() if self.since is None else self.since)

    @property
    def seconds(self) -> float:
        """How long the refusals have gone on."""
        return 0.0 if self.since is None else time.time() - self.since


def is_busy(response: Mapping[str, Any]) -> bool:
    """
    Return whether an error reply is a throttle (429) or a quota refusal (402).

    botocore retries throttles a few times and quota refusals never.

    Parameters
    ----------
    response : Mapping
        ``response`` of a ClientError, or ``last_response`` of a WaiterError.
    """
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return response.get("Error", {}).get("Code") in BUSY_CODES or status in BUSY_HTTP_STATUS


def is_role_pending(error: ClientError) -> bool:
    """
    Return whether a start failed because the service cannot assume the data access role (yet).

    IAM needs some seconds until a new role can be assumed. Until then a start gets AccessDenied or Validation, which
    are final in other cases; only the text distinguishes them. A missing iam:PassRole is final.

    Parameters
    ----------
    error : ClientError
        The error of the start.
    """
    reply = error.response.get("Error", {})
    return (
        error.operation_name.startswith("Start")
        and reply.get("Code") in ROLE_PENDING_CODES
        and ASSUME_ROLE.search(reply.get("Message", "")) is not None
    )


def is_token_conflict(error: ClientError, *, started_before: bool) -> bool:
    """
    Return whether a start may have been refused because a job for its client token exists.

    Neither service documents this refusal. HealthImaging declares ConflictException for it; HealthLake has only
    ValidationException.

    Parameters
    ----------
    error : ClientError
        The error of the start.
    started_before : bool
        Whether the token may have been sent earlier.
    """
    reply = error.response.get("Error", {})
    if reply.get("Code") == "ConflictException":
        return True
    named = TOKEN.search(reply.get("Message", "")) is not None
    return reply.get("Code") == "ValidationException" and (named or started_before) and not is_role_pending(error)


def rejection(error: ClientError) -> RequestRejectedError | None:
    """
    Return the error that no retry can help, for a validation, access or not-found error.

    Parameters
    ----------
    error : ClientError
        The client's error.

    Returns
    -------
    RequestRejectedError or None
        None for any other error, which a retry may help.
    """
    reply = error.response.get("Error", {})
    if reply.get("Code") not in REJECTED_CODES:
        return None
    message = without_keys(reply.get("Message", ""))
    return RequestRejectedError(f"{error.operation_name} was rejected: {reply['Code']}: {message}")
