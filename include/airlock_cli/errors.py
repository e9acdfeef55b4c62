"""The exit statuses of commands, and the errors that a command reports to its user."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The exit status of ``airlock``; docs/cli.md explains each."""

    OK = 0
    WRONG = 1  # a problem was found, a thing was not found, or the run failed
    REQUEST = 2
    UNREACHABLE = 3
    UNDECIDED = 4  # the run is still running, or waits for a person
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot answer the request; its user reads the message."""

    status = Status.REQUEST


class RequestError(CommandError):
    """The request or the environment is wrong; the message says what to change."""


class WrongError(CommandError):
    """The requested thing does not exist, or is not in order."""

    status = Status.WRONG


class UnreachableError(CommandError):
    """Airflow, the ledger or S3 does not answer, or denies access."""

    status = Status.UNREACHABLE


class StoppedError(CommandError):
    """The user has stopped the command."""

    status = Status.INTERRUPTED


class UndecidedError(CommandError):
    """The run has no result yet."""

    status = Status.UNDECIDED
