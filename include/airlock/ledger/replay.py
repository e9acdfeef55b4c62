"""Repeat the calls of a journal's entries on a ledger that is being rebuilt."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import polars as pl

from airlock.ledger import clock
from airlock.ledger.brakes import BrakeAnswer
from airlock.ledger.columns import Resolution, ResolutionState
from airlock.ledger.data_stores import Adoption
from airlock.ledger.errors import LedgerError
from airlock.ledger.jobs import Job
from airlock.ledger.journal import KIND, LENGTH
from airlock.ledger.resolutions import ResolutionRecord
from airlock.ledger.sweeps import SweepAnswer
from airlock.records import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.ledger.ledger import Ledger

_TYPES: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "Window": Window,
    "Job": Job,
    "ResolutionRecord": ResolutionRecord,
    "BrakeAnswer": BrakeAnswer,
    "Adoption": Adoption,
    "SweepAnswer": SweepAnswer,
}
_WORDS: dict[str, Callable[[str], Any]] = {
    "Resolution": Resolution,
    "ResolutionState": ResolutionState,
    "datetime": datetime.fromisoformat,
}
_RESOURCE = ["resource_type", "resource_id"]
_PARQUET = b"PAR1"  # other frames are of the version before, which wrote Arrow IPC


class BrokenEntryError(ValueError):
    """An entry of a journal cannot be read."""


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
    BrokenEntryError
        If the file is not a whole entry.
    """
    try:
        end = file.seek(-LENGTH, io.SEEK_END)
        length = int.from_bytes(file.read(LENGTH), "big")
        file.seek(end - length)
        content = json.loads(file.read(length))
        return [
            Call(
                str(one["method"]),
                {name: _decode(value, file) for name, value in one["arguments"].items()},
                [datetime.fromisoformat(moment) for moment in one["times"]],
            )
            for one in content["calls"]
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BrokenEntryError(f"the entry is not whole ({type(error).__name__})") from None


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
    return pl.read_parquet(body) if body.startswith(_PARQUET) else pl.read_ipc(body)


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
    return _TYPES[kind](**{name: _decode(one, file) for name, one in content.items()})


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


def _record_removal(ledger: Ledger, /, **given: Any) -> None:
    ledger.repeat_removal(**given)


def _record_job(ledger: Ledger, /, **given: Any) -> None:
    ledger.repeat_job(**given)


_SPECIAL: dict[str, Callable[..., None]] = {
    "claim": _claim,
    "claim_resources": _claim_resources,
    "revise_contracts": _revise_contracts,
    "record_removal": _record_removal,
    "record_job": _record_job,
}


def repeat_calls(ledger: Ledger, name: str, calls: Iterable[Call]) -> None:
    """Repeat the calls of an entry in one transaction, and note its name as the position of the rebuild.

    Raises
    ------
    LedgerError
        If a call does not fit what was rebuilt before. Nothing of the entry is written.
    """
    with ledger.alone() as alone:
        alone.move_rebuild(name)  # first: of two rebuilds at once, one repeats the entry
        answers: list[Any] = []
        for call in calls:
            arguments = {
                name: answers[value.call] if isinstance(value, _Staged) else value
                for name, value in call.arguments.items()
            }
            repeat: Any = _SPECIAL.get(call.method, getattr(type(alone), call.method, None))
            if call.method not in _SPECIAL and not getattr(repeat, "is_journaled", False):
                raise LedgerError(f"the journal has a call {call.method!r} that this version does not know: upgrade")
            with clock.repeat_times(call.times):
                answers.append(repeat(alone, **arguments))
