"""Each check is made in a thread of its own, for a bounded time; what keeps it from an answer becomes a warning.

An error that no check expects becomes a failure of that check alone.
"""

from __future__ import annotations

import threading
import traceback
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from airlock.ledger import LedgerError
from airlock.stages.doctor.findings import Result, failed, not_made, warned
from airlock.storage.aws import AWS_ERRORS, error_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.stages.doctor.findings import Check, Finding

AT_ONCE: Final = 8  # checks; IAM throttles callers that ask more
_DENIED: Final = frozenset(
    {"AccessDenied", "AccessDeniedException", "AuthorizationError", "UnauthorizedOperation", "AllAccessDisabled", "403"}
)
_REACH: Final = "Check the network, the endpoint and the Region."
_TRUST: Final = "First cure: machine.authorities."
_REPORT: Final = (
    "If a setting of the thing is wrong, correct it. Otherwise report this line to the maintainers of the copy that "
    "you got Airlock from, and look at the thing by hand."
)
_LATER: Final = "Look at it by hand, or call airlock doctor again later."


class CheckUnableError(Exception):
    """A check cannot be made; the text says why, and has the fix after a line break."""


class _Attempt(threading.Thread):
    """One check in a daemon thread: a request that never ends must not keep the command from ending."""

    def __init__(self, check: Check) -> None:
        super().__init__(name=check.name, daemon=True)
        self.check = check
        self.finding: Finding | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.finding = self.check.look()
        except BaseException as error:  # noqa: BLE001  # a finding of the check, by `_explain`
            self.error = error


def make_checks(checks: Sequence[Check], seconds: float) -> Iterator[tuple[Check, Finding]]:
    """Make the checks, some at the same time, and yield each with its finding in the given order.

    Parameters
    ----------
    checks
        What a check needs must come before it.
    seconds
        The longest time for one check.
    """
    found: dict[str, Finding] = {}
    waiting = list(checks)
    while waiting:
        ready = [one for one in waiting if all(need in found for need in one.needs)][:AT_ONCE]
        if not ready:
            raise ValueError(f"{waiting[0].id} needs a check that does not come before it: {waiting[0].needs}")
        for check, finding in zip(ready, _make_together(ready, found, seconds), strict=True):
            found[check.id] = finding
        waiting = [one for one in waiting if one.id not in found]
    for check in checks:
        yield check, found[check.id]


def _make_together(ready: Sequence[Check], found: dict[str, Finding], seconds: float) -> Iterator[Finding]:
    """Yield the findings of checks that depend on none of each other."""
    attempts = [_find_obstacle(check, found) or _Attempt(check) for check in ready]
    for attempt in attempts:
        if isinstance(attempt, _Attempt):
            attempt.start()
    until = monotonic() + seconds
    for attempt in attempts:
        if isinstance(attempt, _Attempt):
            attempt.join(max(0.0, until - monotonic()))
            yield _conclude(attempt, seconds)
        else:
            yield attempt


def _find_obstacle(check: Check, found: dict[str, Finding]) -> Finding | None:
    """Return why a check is not made, if a check that it needs has failed or was not made."""
    for need in check.needs:
        if found[need].result is Result.FAIL:
            return not_made(f"First cure: {need}.")
        if found[need].result is Result.NOT_MADE:
            return found[need]
    return None


def _conclude(attempt: _Attempt, seconds: float) -> Finding:
    if attempt.error is not None:
        return _explain(attempt.error, attempt.check.right)
    if attempt.finding is None:
        return warned(f"Not checked: no answer within {seconds:g} seconds.", _LATER)
    return attempt.finding


def _explain(error: BaseException, right: str) -> Finding:
    """Return the finding for what kept a check from an answer; the error's own text may quote a request."""
    if isinstance(error, CheckUnableError):
        why, _, fix = str(error).partition("\n")
        return warned(f"Not checked: {why}", fix)
    if isinstance(error, LedgerError):
        return warned(f"Not checked: {error}.", _LATER)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return warned("Not checked: boto3 finds no credentials.", "Give the connection or the machine credentials.")
    if isinstance(error, ProfileNotFound | CredentialRetrievalError):
        return warned("Not checked: the AWS credentials cannot be read.", "First cure identity.caller.")
    if not isinstance(error, AWS_ERRORS):
        return failed(f"The check could not be made: {_locate(error)}.", _REPORT)
    return _explain_aws(error, right)


def _explain_aws(error: Exception, right: str) -> Finding:
    code = error_code(error)
    if isinstance(error, ClientError) and code in _DENIED:
        allow = f"Allow {right} (iam/doctor-policy.json)" if right else "Allow it (iam/doctor-policy.json)"
        return warned(f"Not checked: AWS refuses the look ({code}).", f"{allow}, or look at it by hand.")
    if isinstance(error, ClientError):
        return warned(f"Not checked: AWS answers {code}.", _LATER)
    return warned(f"Not checked: AWS does not answer ({code}).", _TRUST if isinstance(error, SSLError) else _REACH)


def _locate(error: BaseException) -> str:
    """Return the class of an error and the line that raised it: its own text may hold a secret or an identifier."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return f"{type(error).__name__}{where}"
