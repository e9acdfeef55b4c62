"""Entries that a rebuild cannot repeat are refused by what is wrong with them, without a trace of their content."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger.journal import LENGTH
from airlock.ledger.replay import BrokenEntryError, NewerEntryError, read_entry, repeat_calls
from tests.unit.airlock.ledger.samples import NIGHTLY

if TYPE_CHECKING:
    from airlock.ledger import Ledger


def entry(told: bytes | dict[str, Any], frames: bytes = b"") -> io.BytesIO:
    body = told if isinstance(told, bytes) else json.dumps(told).encode()
    return io.BytesIO(frames + body + len(body).to_bytes(LENGTH, "big"))


def call(method: str, arguments: Any, *times: str) -> dict[str, Any]:
    return {"schema": "airlock.journal/1", "calls": [{"method": method, "arguments": arguments, "times": times}]}


def strays(listing: dict[str, Any]) -> dict[str, Any]:
    return call("owe_strays", {"pipeline": NIGHTLY, "sweep": "s", "listing": listing})


BROKEN = {
    "no calls": entry({"calls": []}),
    "nothing": io.BytesIO(),
    "no text": entry(b"\xff\xfe"),
    "deep": entry(b'{"calls":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "arguments in a list": entry(call("note_told", [])),
    "an argument is missing": entry(call("note_told", {})),
    "an argument of another type": entry(call("owe_strays", {"pipeline": NIGHTLY, "sweep": "s", "listing": 7})),
    "a frame that is none": entry(strays({"$": "frame", "value": [0, 10]}), b"0123456789"),
    "a frame beyond the file": entry(strays({"$": "frame", "value": [10**6, 10]})),
    "a staged table that is none": entry(
        call(
            "record_verdicts",
            {"datastore_id": "d", "pipeline": "p", "run_key": "r", "given": {"$": "staged", "value": 3}},
        )
    ),
}
NEWER = {
    "a method": entry(call("no_such_method", {})),
    "an argument": entry(call("note_told", {"pipeline": NIGHTLY, "newer": 1})),
    "an argument of a method that is repeated in another way": entry(call("claim_resources", {"newer": 1})),
    "a type": entry(call("note_told", {"pipeline": {"$": "NewKind", "value": "x"}})),
    "a field of a type": entry(call("note_told", {"pipeline": {"$": "Window", "value": {"newer": 1}}})),
}


def repeat(ledger: Ledger, file: io.BytesIO) -> None:
    ledger.begin_rebuild({}, "an operator")
    repeat_calls(ledger, "0001", read_entry(file))


@pytest.mark.parametrize("name", BROKEN)
def test_an_entry_that_is_broken_is_refused(ledger: Ledger, name: str) -> None:
    with pytest.raises(BrokenEntryError, match=r"the entry|a frame of the entry|does not fit its method"):
        repeat(ledger, BROKEN[name])


@pytest.mark.parametrize("name", NEWER)
def test_what_a_newer_version_has_written_asks_for_an_upgrade(ledger: Ledger, name: str) -> None:
    with pytest.raises(NewerEntryError, match="a newer version of Airlock wrote it: upgrade"):
        repeat(ledger, NEWER[name])
