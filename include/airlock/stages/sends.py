"""Notes about what routes send, for `airlock ledger rebuild`: a destination must not get twice what it may have.

Before a route sends a lot of messages, it notes them in the folder ``sends`` beside the pipeline's runs; afterwards it
notes the answers. What a lost ledger had queued and no note names was not sent.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from airlock.ledger import MessageState
from airlock.ledger.journal import TIME
from airlock.ledger.rebuilt import SENDS, UNKNOWN_SEND
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.ledger import OutboxMessage
    from airlock.pipelines import Route
    from airlock.run import Run
    from airlock.storage.s3 import S3

FOLDER = "sends"
_ANSWERS = ".answers.json"
_READERS = 16
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z-[0-9a-f]{8}(\.answers)?\.json")
_LOT = {"destination", "repeatable", "messages"}


@dataclass
class Lot:
    """Messages that are about to be sent to one destination, and its answers."""

    name: str
    answers: dict[str, list[str | None]] = field(default_factory=dict)  # state, time and code by message

    def add_sent(self, message: OutboxMessage) -> None:
        """Add that the destination has a message; any thread may call this."""
        self.answers[name_message(message)] = [MessageState.SENT.value, datetime.now(UTC).isoformat(), None]

    def add_refused(self, message: OutboxMessage, code: str, *, given_up: bool) -> None:
        """Add that the destination does not have a message; any thread may call this."""
        state = MessageState.FAILED if given_up else MessageState.PENDING
        self.answers[name_message(message)] = [state.value, None, code]


def name_message(message: OutboxMessage) -> str:
    """Return the name of a message in its lot."""
    return f"{message.subject_key}/{message.revision}"


def begin_lot(run: Run[Any], item: Route, messages: Sequence[OutboxMessage]) -> Lot:
    """Note the messages that a route is about to send."""
    lot = Lot(f"{datetime.now(UTC).strftime(TIME)}-{uuid4().hex[:8]}")
    content = {
        "destination": item.address(run.pipeline.datastore_id),
        "repeatable": item.uri is not None or item.stow is not None,  # what is there already stays as it is
        "messages": [name_message(one) for one in messages],
    }
    _write(run, f"{lot.name}.json", content)
    return lot


def end_lot(run: Run[Any], lot: Lot) -> None:
    """Note the answers to a lot; a message without an answer was not sent."""
    _write(run, lot.name + _ANSWERS, lot.answers)


def note_announced(run: Run[Any], lot: str, names: Sequence[str]) -> None:
    """Note that all messages of a lot have arrived."""
    at = datetime.now(UTC).isoformat()
    _write(run, lot + _ANSWERS, {name: [MessageState.SENT.value, at, None] for name in names})


def _write(run: Run[Any], name: str, content: Any) -> None:
    where = S3Uri.parse(run.pipeline.workspace).join(run.pipeline.name, FOLDER, name)
    run.s3.put(where, json.dumps(content).encode(), "application/json")


def read_sends(s3: S3, roots: Sequence[str], refused: dict[str, int], since: str = "") -> pl.DataFrame:
    """Return what the notes below these folders say of each message, as `SENDS`; older notes than *since* do not count.

    A message of a lot without answers may have arrived: it is given up, unless the destination keeps what it has. Notes
    that cannot be read are counted in *refused*.
    """
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for root in map(S3Uri.parse, roots):
        folder = root.join(FOLDER, "")
        listed = {item.key: item.key.removeprefix(folder.key) for item in s3.list_objects(folder)}
        names = [key for key, name in listed.items() if name >= since and _NAME.fullmatch(name)]
        with ThreadPoolExecutor(_READERS) as pool:
            contents = pool.map(lambda key: _read_note(s3.get(S3Uri(root.bucket, key)), key), names)  # noqa: B023
            read = dict(zip(names, contents, strict=True))
        notes = {key: note for key, note in read.items() if note is not None}
        pipeline = root.key.rstrip("/").rpartition("/")[2]
        for key in read.keys() - notes.keys():
            refused[f"{pipeline}/{FOLDER}/{listed[key]}: the note is not whole"] = 1
        for key, note in notes.items():
            if not key.endswith(_ANSWERS):
                began = datetime.strptime(key.rpartition("/")[2].partition("-")[0], TIME).replace(tzinfo=UTC)
                _add_lot(known, began, note, notes.get(key.removesuffix(".json") + _ANSWERS))
    return pl.DataFrame(list(known.values()), SENDS, orient="row")


def _read_note(content: bytes, name: str) -> dict[str, Any] | None:
    """Return the content of a note; None if it cannot be read."""
    try:
        note = json.loads(content)
    except (ValueError, RecursionError):
        return None
    is_whole = isinstance(note, dict) and (name.endswith(_ANSWERS) or note.keys() >= _LOT)
    return note if is_whole else None


def _add_lot(
    known: dict[tuple[str, str], dict[str, Any]],
    began: datetime,
    note: dict[str, Any],
    answers: dict[str, list[str | None]] | None,
) -> None:
    unsure = MessageState.PENDING if note["repeatable"] else MessageState.FAILED
    unknown: list[str | None] = [unsure.value, None, UNKNOWN_SEND]
    for name in note["messages"]:
        key = note["destination"], name
        before = known.get(key)
        if before is not None and before["state"] == MessageState.SENT:
            continue
        if answers is not None and name not in answers:
            continue
        state, at, code = unknown if answers is None else answers[name]
        subject_key, _, revision = name.rpartition("/")
        known[key] = {
            "destination": note["destination"],
            "subject_key": subject_key,
            "revision": int(revision),
            "attempts": 1 if before is None else before["attempts"] + 1,
            "state": state,
            "last_error": code,
            "sent_at": None if at is None else datetime.fromisoformat(at),
            "begun_at": began,
        }
