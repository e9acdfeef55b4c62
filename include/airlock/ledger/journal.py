"""The journal: the calls by which a run has changed the ledger, for `airlock ledger rebuild`.

A method marked `journaled` notes its arguments and the times that it has read. The calls of one transaction are one
entry, which is handed to the ledger's `Journal` after the commit. Frames are stored in the entry's file as the method
reads them, so that memory does not grow with the delivery.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import wraps
from inspect import signature
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, cast
from uuid import uuid4

import polars as pl
from sqlalchemy import Table

from airlock.ledger import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.ledger.clock import Times

SCHEMA = "airlock.journal/1"
TIME = "%Y%m%dT%H%M%S.%fZ"  # how the names of entries begin: they sort by the times of their transactions
KIND = "$"  # the key in an entry that names the type of a value
_IN_MEMORY = 8 * 1024**2  # bytes of an entry before it is on the local disk
LENGTH = 8  # bytes at the end that say how long the entry's JSON is

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Keeper")


class Journal(Protocol):
    """The place where entries are kept."""

    def write(self, entry: Entry) -> None:
        """Keep an entry for good, before this returns."""

    def withdraw(self, entry: Entry) -> None:
        """Note that the commit of a kept entry has failed."""


class Keeper(Protocol):
    """A ledger that may have a journal."""

    def begin_entry(self) -> Entry | None:
        """Return the entry for a call; None without a journal."""

    def end_entry(self, entry: Entry) -> None:
        """Have the entry of a call kept, unless its transaction goes on."""


def name_entry(at: datetime, digits: str) -> str:
    """Return the name of the entry of a transaction that was about to be committed at this time."""
    return f"{at.astimezone(UTC).strftime(TIME)}-{digits}.entry"


class Entry:
    """The calls of one transaction: frames, the JSON that describes the calls, and its length, in one file."""

    def __init__(self) -> None:
        self.digits = uuid4().hex[:8]  # of its name
        self.kept_as = ""  # the name of its object; empty before
        self.at: datetime | None = None  # when its transaction was about to be committed
        self.calls: list[dict[str, Any]] = []
        self.staged: list[tuple[Table, int]] = []  # tables that calls have staged for later ones, by the call's number
        self.file = cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115  (closed by `close`)

    @property
    def name(self) -> str:
        """The name of the object in which the entry is kept."""
        return name_entry(self.at or datetime.now(UTC), self.digits)

    def add_frame(self, rows: pl.DataFrame) -> list[int]:
        """Store a frame; return its position and length."""
        body = io.BytesIO()
        rows.write_parquet(body, compression="zstd", compression_level=1, statistics=False)  # half the CPU of level 3
        start = self.file.seek(0, io.SEEK_END)
        self.file.write(body.getbuffer())
        return [start, body.tell()]

    def add_call(self, method: str, arguments: Mapping[str, Any], times: Times) -> None:
        """Add a call whose arguments are encoded."""
        read = [moment.isoformat() for moment in times.read]
        self.calls.append({"method": method, "arguments": dict(arguments), "times": read})
        self.at = times.ended_at or self.at

    def finish(self) -> IO[bytes]:
        """Write the description of the calls; return the whole file."""
        calls = [
            call | {"arguments": {name: _finish(one) for name, one in call["arguments"].items()}} for call in self.calls
        ]
        told = json.dumps({"schema": SCHEMA, "calls": calls}).encode()
        self.file.seek(0, io.SEEK_END)
        self.file.write(told + len(told).to_bytes(LENGTH, "big"))
        return self.file

    def close(self) -> None:
        """Delete the file."""
        self.file.close()


class Taken:
    """An argument that is read once: its frames are stored in an entry as the method reads them."""

    def __init__(self, entry: Entry, given: Iterable[Any]) -> None:
        self._entry = entry
        self._given = given
        self.frames: list[list[int]] = []
        self.values: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        """Yield what was given."""
        for value in self._given:
            if isinstance(value, pl.DataFrame):
                self.frames.append(self._entry.add_frame(value))
            else:
                self.values.append(encode(value))
            yield value

    def read_all(self) -> Self:
        """Store everything, and return the same argument."""
        for _ in self:
            pass
        return self


def _finish(value: Any) -> Any:
    if isinstance(value, Taken):
        return {KIND: "frames", "value": value.frames} if value.frames or not value.values else value.values
    return value


def encode(value: Any) -> Any:
    """Return a value as JSON values; `replay` reads it."""
    if isinstance(value, datetime):
        return {KIND: "datetime", "value": value.isoformat()}
    if isinstance(value, StrEnum):
        return {KIND: type(value).__name__, "value": value.value}
    if is_dataclass(value) and not isinstance(value, type):
        told = {field.name: encode(getattr(value, field.name)) for field in fields(value)}
        return {KIND: type(value).__name__, "value": told}
    if isinstance(value, Mapping):
        return {KIND: "dict", "value": {name: encode(one) for name, one in value.items()}}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [encode(one) for one in value]
    return value


def take(entry: Entry, value: Any) -> tuple[Any, Any]:
    """Return an argument as the method is to get it, and as the entry has it."""
    if isinstance(value, pl.DataFrame):
        return value, {KIND: "frame", "value": entry.add_frame(value)}
    if isinstance(value, Table):
        return value, {KIND: "staged", "value": next(number for table, number in entry.staged if table is value)}
    if isinstance(value, pl.Series):
        return value, {KIND: "series", "value": entry.add_frame(value.to_frame("value"))}
    if isinstance(value, (str, bytes, Mapping, list, tuple, set, frozenset)) and not _has_frames(value):
        return value, encode(value)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)):
        taken = Taken(entry, value)
        return taken, taken
    return value, encode(value)


def _has_frames(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(one, pl.DataFrame) for one in value)


def journaled(
    *, without: str = "", result: str = "", skip_zero: bool = False
) -> Callable[[Callable[Concatenate[S, P], R]], Callable[Concatenate[S, P], R]]:
    """Mark a method that changes the ledger: its calls are noted where the ledger has a journal.

    A call that changes nothing is noted too: it may be the second try of one whose entry was lost after the commit.

    Parameters
    ----------
    without
        An argument that is not noted, since it is a function.
    result
        The name under which the result, a frame, is noted: with it the call can be repeated without the function.
    skip_zero
        Whether a call that returns 0 is not noted. Only for what no later change depends on, or that is kept first.
    """

    def mark(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
        parameters = signature(method)

        @wraps(method)
        def call(self: S, *args: P.args, **given: P.kwargs) -> R:
            entry = self.begin_entry()
            if entry is None:
                return method(self, *args, **given)
            arguments = dict(parameters.bind(self, *args, **given).arguments)
            arguments.pop("self")
            taken = {name: (one, None) if name == without else take(entry, one) for name, one in arguments.items()}
            noted = {name: told for name, (_, told) in taken.items() if name != without}
            repeated: Any = method  # called by names: its arguments are bound
            with clock.note_times(entry.digits) as times:
                answer: R = repeated(self, **{name: one for name, (one, _) in taken.items()})
            if result:
                noted[result] = take(entry, answer)[1]
            if isinstance(answer, Table):
                entry.staged.append((answer, len(entry.calls)))
            if not (skip_zero and answer == 0):
                entry.add_call(method.__name__, noted, times)
            self.end_entry(entry)
            return answer

        call.is_journaled = True  # type: ignore[attr-defined]  # `replay` repeats only such methods
        return cast("Callable[Concatenate[S, P], R]", call)

    return mark
