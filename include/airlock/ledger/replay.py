"""Repeat the calls of a journal's entries on a ledger that is being rebuilt."""

from __future__ import annotations

import io
import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from inspect import signature
from typing import IO, TYPE_CHECKING, Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from airlock.ledger import clock
from airlock.ledger.brakes import BrakeAnswer
from airlock.ledger.columns import Resolution, ResolutionState
from airlock.ledger.data_stores import Adoption
from airlock.ledger.errors import LedgerError
from airlock.ledger.identities import IdentityAnswer
from airlock.ledger.jobs import Job
from airlock.ledger.journal import KIND, LENGTH
from airlock.ledger.resolutions import ResolutionRecord
from airlock.ledger.reviews import ReviewAnswer
from airlock.ledger.sign_offs import SignOff
from airlock.ledger.sweeps import SweepAnswer
from airlock.records import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airlock.ledger.ledger import Ledger

_TYPES: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "Window": Window,
    "Job": Job,
    "ResolutionRecord": ResolutionRecord,
    "BrakeAnswer": BrakeAnswer,
    "Adoption": Adoption,
    "SweepAnswer": SweepAnswer,
    "SignOff": SignOff,
    "IdentityAnswer": IdentityAnswer,
    "ReviewAnswer": ReviewAnswer,
}
_WORDS: dict[str, Callable[[str], Any]] = {
    "Resolution": Resolution,
    "ResolutionState": ResolutionState,
    "datetime": datetime.fromisoformat,
}
_RESOURCE = ["resource_type", "resource_id"]
_PARQUET = b"PAR1"  # other frames are of the version before, which wrote Arrow IPC


# What a value raises that is not of the type that a method expects; a frame that is none may end in a panic.
_MISFITS = (TypeError, ValueError, LookupError, AttributeError, RecursionError, PolarsError, PanicException)


class BrokenEntryError(Exception):
    """An entry of a journal cannot be read."""


class NewerEntryError(LedgerError):
    """An entry of a journal was written by a newer version of Airlock.

    Parameters
    ----------
    has
        What the entry has that this version does not know.
    """

    def __init__(self, has: str) -> None:
        super().__init__(f"{has}, so a newer version of Airlock wrote it: upgrade, then rebuild into a new database")


@contextmanager
def _blame_entry(what: str) -> Iterator[None]:
    """Raise an error that the content of an entry has caused as a `BrokenEntryError`, which quotes nothing of it."""
    try:
        yield
    except _MISFITS as error:
        raise BrokenEntryError(f"{what} ({type(error).__name__})") from None


@dataclass(frozen=True)
class Call:
    """A call that an entry describes."""

    method: str
    arguments: dict[str, Any]
    times: list[datetime]


def read_entry(file: IO[bytes]) -> list[Call]:
    """Return the calls of an entry; its frames are read when the calls are repeated.

    Raises
    ------
    BrokenEntryError, NewerEntryError
        If the file is not a whole entry, or has a type that this version does not know.
    """
    with _blame_entry("the entry is not whole"):
        end = file.seek(-LENGTH, io.SEEK_END)
        length = int.from_bytes(file.read(LENGTH), "big")
        file.seek(end - length)
        calls = [
            Call(
                str(one["method"]),
                {name: _decode(value, file) for name, value in one["arguments"].items()},
                [datetime.fromisoformat(moment) for moment in one["times"]],
            )
            for one in json.loads(file.read(length))["calls"]
        ]
    if not calls:
        raise BrokenEntryError("the entry has no calls")
    return calls


class _Frames:
    """Frames of an entry, read from its file one by one whenever they are iterated."""

    def __init__(self, file: IO[bytes], pieces: list[list[int]]) -> None:
        self._file = file
        self._pieces = pieces

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for piece in self._pieces:
            yield _read_frame(self._file, piece)


def _read_frame(file: IO[bytes], piece: list[int]) -> pl.DataFrame:
    file.seek(piece[0])
    body = file.read(piece[1])
    try:
        return pl.read_parquet(body) if body.startswith(_PARQUET) else pl.read_ipc(body)
    except OSError as error:  # of polars: the body is in memory
        raise BrokenEntryError(f"a frame of the entry is not whole ({type(error).__name__})") from None


@dataclass(frozen=True)
class _Staged:
    """A table that an earlier call of the entry has staged."""

    call: int


_READ: dict[str, Callable[[IO[bytes], Any], Any]] = {
    "frame": _read_frame,
    "frames": _Frames,
    "staged": lambda _, call: _Staged(call),
    "series": lambda file, piece: _read_frame(file, piece)["value"],
}


def _decode(value: Any, file: IO[bytes]) -> Any:
    if isinstance(value, list):
        return [_decode(one, file) for one in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[KIND], value["value"]
    if kind in _READ:
        return _READ[kind](file, content)
    if kind in _WORDS:
        return _WORDS[kind](content)
    if kind not in _TYPES:
        raise NewerEntryError(f"the entry has a value of type {kind!r}")
    given = {name: _decode(one, file) for name, one in content.items()}
    if kind != "dict":
        _need_known(given, kind, _TYPES[kind])
    return _TYPES[kind](**given)


def _need_known(given: Iterable[str], of: str, *functions: Callable[..., Any]) -> None:
    """Refuse arguments that none of these functions of this version has.

    Raises
    ------
    NewerEntryError
        If so.
    """
    known = {name for function in functions for name in signature(function).parameters}
    if not known.issuperset(given):
        raise NewerEntryError(f"the entry has an argument of {of!r} that this version does not know")


def _claim(ledger: Ledger, /, *, pipeline: str, run_key: str, listing: Iterable[pl.DataFrame], **given: Any) -> None:
    """Claim what a run held after its claim.

    What it held before and holds no longer was given back, by a command without a workspace; so was what another run
    holds of it here.
    """
    for run in ledger.find_given_back(pipeline, run_key, listing):
        ledger.release_resources(pipeline, run, jobs_ended=True)
        ledger.release_claims(pipeline, run)
    ledger.claim(pipeline, run_key, listing, **given)


def _claim_resources(ledger: Ledger, /, *, claims: Any, refused: pl.DataFrame, **given: Any) -> None:
    """Claim the resources that the run got."""
    frames = [claims] if isinstance(claims, pl.DataFrame) else claims
    got = (rows.join(refused, on=_RESOURCE, how="anti", maintain_order="left") for rows in frames)
    ledger.claim_resources(claims=got, **given)


def _revise_contracts(ledger: Ledger, /, *, completed: pl.DataFrame, **given: Any) -> None:
    ledger.revise_contracts(revise=lambda _: completed, **given)


def _record_removal(ledger: Ledger, /, *, removed: int, **given: Any) -> None:
    ledger.repeat_removal(removed=removed, **given)


def _record_job(ledger: Ledger, /, **given: Any) -> None:
    ledger.repeat_job(**given)


_SPECIAL: dict[str, Callable[..., None]] = {
    "claim": _claim,
    "claim_resources": _claim_resources,
    "revise_contracts": _revise_contracts,
    "record_removal": _record_removal,
    "record_job": _record_job,
}


def repeat_calls(ledger: Ledger, name: str, calls: Sequence[Call]) -> None:
    """Repeat the calls of an entry in one transaction, and note its name as the position of the rebuild.

    Raises
    ------
    BrokenEntryError, NewerEntryError
        If a call has arguments that its method cannot take. Nothing of the entry is written.
    LedgerError
        If a call does not fit what was rebuilt before. Nothing of the entry is written.
    """
    with ledger.alone() as alone, _blame_entry("a call does not fit its method"):
        alone.move_rebuild(name)  # first: of two rebuilds at once, one repeats the entry
        answers: list[Any] = []
        for call in calls:
            repeat = _find_method(alone, call)
            arguments = {
                name: answers[value.call] if isinstance(value, _Staged) else value
                for name, value in call.arguments.items()
            }
            with clock.repeat_times(call.times):
                answers.append(repeat(alone, **arguments))


def _find_method(ledger: Ledger, call: Call) -> Callable[..., Any]:
    """Return the method that a call names.

    Raises
    ------
    NewerEntryError
        If this version has no such method, or the method does not have these arguments.
    """
    method: Any = getattr(type(ledger), call.method, None)
    if not getattr(method, "is_journaled", call.method == "claim"):
        raise NewerEntryError(f"the entry has a call of {call.method!r}")
    repeat: Callable[..., Any] = _SPECIAL.get(call.method, method)
    _need_known(call.arguments, call.method, method, repeat)
    return repeat
