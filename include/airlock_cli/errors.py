"""What a command ends with: the exit statuses, and the errors that are no fault of the program."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """The exit status of ``airlock``; docs/cli.md explains each."""

    OK = 0
    WRONG = 1  # something was found wrong, or not found; or the run failed
    REQUEST = 2  # the request cannot be carried out as it is
    UNREACHABLE = 3
    UNDECIDED = 4  # the run goes on, or waits for a person
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot give what was asked; the message is what the person reads."""

    status = Status.REQUEST


class RequestError(CommandError):
    """The request, or the environment, is wrong: the message names what to change."""


class WrongError(CommandError):
    """What was asked for is not there, or is not as it should be."""

    status = Status.WRONG


class UnreachableError(CommandError):
    """Airflow, the ledger or S3 does not answer, or does not let the person in."""

    status = Status.UNREACHABLE


class UndecidedError(CommandError):
    """The run goes on, and its result is not there yet."""

    status = Status.UNDECIDED
