"""The words of the doctor: a check, its finding and its result."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Result(StrEnum):
    """The result of a check."""

    PASS = "pass"  # noqa: S105  # not a password
    WARN = "warn"  # it works, but is not as it should be; or the check could not be made
    FAIL = "fail"  # a run would fail, or data could be lost or seen by others
    NOT_MADE = "not made"  # another check has to pass first, or the local stack has no such thing


@dataclass(frozen=True)
class Finding:
    """What a check has found.

    Parameters
    ----------
    result
        The result.
    found
        A sentence. It names buckets, roles and fields of the pipeline file, but no object key, prefix or patient.
    fix
        What to do; empty if there is nothing to do.
    """

    result: Result
    found: str
    fix: str = ""


def passed(found: str) -> Finding:
    """Return the finding that everything is right."""
    return Finding(Result.PASS, found)


def warned(found: str, fix: str) -> Finding:
    """Return a finding that a person should read."""
    return Finding(Result.WARN, found, fix)


def failed(found: str, fix: str) -> Finding:
    """Return a finding that a person has to act on."""
    return Finding(Result.FAIL, found, fix)


def not_made(found: str) -> Finding:
    """Return why a check was not made."""
    return Finding(Result.NOT_MADE, found)


@dataclass(frozen=True)
class Check:
    """One look at one thing.

    Parameters
    ----------
    name
        What is checked, for example ``bucket.encryption``; docs/doctor.md has a row for it.
    about
        The thing, for example ``staging.uri (airlock-staging)``.
    look
        Makes the check.
    needs
        The ids of checks without which this one says nothing: it is not made if one of them fails.
    right
        The AWS action that the look needs, named if AWS refuses it.
    """

    name: str
    about: str
    look: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    right: str = ""

    @property
    def id(self) -> str:
        """The name by which other checks need this one."""
        return f"{self.name} {self.about}"
