"""Checks of local files of FHIR for a person at a terminal, before they are delivered; nothing is stored anywhere.

The order is that of a run: what parse sets aside, the local structure check, then the data store's $validate. Files are
read as a stream, and only the pieces of it that are being checked are in memory.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airlock.clinical.resources import dump, load
from airlock.clinical.rows import FileError, RowReader
from airlock.clinical.service_check import first_words, list_issues, outcome_of
from airlock.clinical.structure import check
from airlock.reasons import Reason
from airlock.storage.lines import BrokenGzipError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.clinical.resources import Row
    from airlock.pipelines import ClinicalParse

    Ask = Callable[[str], dict[str, Any]]  # $validate's OperationOutcome on a resource's text

LOCAL, SERVICE = "local", "$validate"
WRONG = ("error", "fatal")
MOST_GROUPS = 1_000  # of issues; the rest is counted as one
_PIECE_ROWS, _PIECE_BYTES = 64, 16 * 1024**2
_INDEX = re.compile(r"\[\d+\]")
# From the first sign to the last one: what is quoted may have such signs, and its end may be cut off.
_SIGNS = "[\"'`\u00ab\u00bb\u2018-\u201e]"
_QUOTED = re.compile(rf"{_SIGNS}(?:.*{_SIGNS}|.*$)", re.DOTALL)


@dataclass(frozen=True)
class Checked:
    """The result for one line or entry, or for a file that cannot be read."""

    file: str
    line: int  # 0 for the file as a whole
    resource_type: str | None
    resource_id: str | None
    source: str  # LOCAL or SERVICE
    issues: list[dict[str, Any]]
    outcome: str  # the OperationOutcome (JSON); empty if there is none

    @property
    def is_wrong(self) -> bool:
        """Whether an issue is an error."""
        return any(issue.get("severity") in WRONG for issue in self.issues)

    @property
    def is_noted(self) -> bool:
        """Whether an issue is a warning or an error; a data store may say of a valid resource that it is valid."""
        return any(issue.get("severity") in (*WRONG, "warning") for issue in self.issues)

    def to_json(self) -> str:
        """Return the line for a file of OperationOutcomes, in the form of audit/operation-outcomes.ndjson."""
        names = ("line", "resource_type", "resource_id", "source")
        head = json.dumps({"key": self.file} | {name: getattr(self, name) for name in names})
        return f'{head[:-1]}, "outcome": {self.outcome}}}'


class FileChecker:
    """Checks files, one after the other. A context manager.

    Parameters
    ----------
    settings
        The limits of lines, Bundles and files.
    ask
        Asks the data store about one resource; None to check only locally.
    in_flight
        The most questions at the same time.
    """

    def __init__(self, settings: ClinicalParse, ask: Ask | None, in_flight: int) -> None:
        self._reader = RowReader(settings)
        self._ask = ask
        self._pool = ThreadPoolExecutor(in_flight)

    def __enter__(self) -> FileChecker:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def check(self, stored: Iterable[bytes], name: str, size: int) -> Iterator[Checked]:
        """Yield the result for each line or entry of a file, in order.

        Parameters
        ----------
        stored
            The file's bytes.
        name, size
            Of the file.
        """
        try:
            for rows in _cut(self._reader.read(stored, name, size)):
                yield from self._check_rows(rows, name)
        except FileError as error:
            yield _set_aside(name, {"reason": str(error.reason), "detail": error.detail})
        except BrokenGzipError as error:
            yield _set_aside(name, {"reason": str(Reason.TRUNCATED), "detail": str(error)})

    def _check_rows(self, rows: list[Row], name: str) -> Iterator[Checked]:
        found = [_check_locally(name, row) for row in rows]
        asked = [row["body"] for row, checked in zip(rows, found, strict=True) if checked is None]
        answers: Iterator[dict[str, Any]] = iter(()) if self._ask is None else self._pool.map(self._ask, asked)
        for row, checked in zip(rows, found, strict=True):
            if checked is not None:
                yield checked
            elif self._ask is None:
                yield _describe(name, row, LOCAL, "")
            else:
                yield _describe(name, row, SERVICE, dump(next(answers)))


def ask_service(validate: Ask) -> Ask:
    """Return a question that takes a refusal of one resource for an answer about it."""
    return lambda body: outcome_of(validate, body)


def without_profiles(body: str) -> str:
    """Return a resource's text without the profiles that it names, so that only base R4 is asked about."""
    content = load(body.encode())
    meta = content.get("meta")
    if not isinstance(meta, dict) or "profile" not in meta:
        return body
    kept = {name: value for name, value in meta.items() if name != "profile"}
    rest = {name: value for name, value in content.items() if name != "meta"}
    return dump(rest | ({"meta": kept} if kept else {}))


def _cut(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Yield the rows in pieces of a bounded number and size."""
    piece: list[Row] = []
    size = 0
    for row in rows:
        piece.append(row)
        size += row.get("size") or 0
        if len(piece) == _PIECE_ROWS or size >= _PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _check_locally(name: str, row: Row) -> Checked | None:
    """Return what a run would find before it asks the data store; None if nothing."""
    if row.get("reason"):
        return _set_aside(name, row)
    finding = check(row["body"])
    return None if finding is None else _describe(name, row, LOCAL, finding.outcome)


def _set_aside(name: str, row: Row) -> Checked:
    said = ": ".join(filter(None, (row["reason"], row.get("detail"))))
    issue = {"severity": "error", "code": "structure", "diagnostics": said}
    return _describe(name, row, LOCAL, json.dumps({"resourceType": "OperationOutcome", "issue": [issue]}))


def _describe(name: str, row: Row, source: str, outcome: str) -> Checked:
    issues = list_issues(json.loads(outcome)) if outcome else []
    issues = [issue for issue in issues if issue.get("severity") in {*WRONG, "warning", "information"}]
    kind, known = row.get("resource_type"), row.get("resource_id")
    return Checked(name, row.get("line", 0), kind, known, source, issues, outcome.replace("\n", " "))


@dataclass
class IssueTable:
    """The issues of all files, counted by severity, source, code and text.

    The text is without the numbers of list items and without what it quotes, which may be a patient's: a terminal's
    output is kept by many a CI.
    """

    resources: int = 0
    wrong: int = 0
    counts: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    first: dict[tuple[str, str, str, str], str] = field(default_factory=dict)  # file:line

    def add(self, checked: Checked) -> None:
        """Count the result for a line, entry or file."""
        self.resources += checked.line > 0
        self.wrong += checked.is_wrong
        keys = {_key_of(issue, checked.source) for issue in checked.issues}
        for key in keys:
            known = key in self.counts or len(self.counts) < MOST_GROUPS
            group = key if known else (key[0], key[1], "", "further issues")
            self.counts[group] += 1
            self.first.setdefault(group, f"{checked.file}:{checked.line}" if checked.line else checked.file)

    def rows(self) -> list[dict[str, Any]]:
        """Return the groups, errors first, the most frequent first."""
        names = ("severity", "source", "code", "text")
        order = {severity: number for number, severity in enumerate(("fatal", "error", "warning", "information"))}
        found = sorted(self.counts.items(), key=lambda item: (order[item[0][0]], -item[1], item[0]))
        return [dict(zip(names, key, strict=True)) | {"resources": n, "first": self.first[key]} for key, n in found]


def _key_of(issue: dict[str, Any], source: str) -> tuple[str, str, str, str]:
    text = _QUOTED.sub("'…'", _INDEX.sub("", first_words(issue, _PIECE_BYTES)))
    return str(issue["severity"]), source, str(issue.get("code", "")), text[:200]
