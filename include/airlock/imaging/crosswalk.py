"""The crosswalk: a dated CSV file of merges that the archive's headers do not know, as old and new identifiers."""

from __future__ import annotations

import csv
import io
import tempfile
from collections import defaultdict
from itertools import islice
from typing import IO, TYPE_CHECKING

import polars as pl

from airlock.imaging.fhir.values import exact
from airlock.records import schema
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    from airlock.imaging.patient_match import Key
    from airlock.run import Run

MOST_STEPS = 5  # from one number to the next; what goes farther, or in a circle, ends there
_MOST_BYTES = 256 * 1024**2
_ROWS = 50_000  # read at a time
_OLD, _NEW = ["old_system", "old_id"], ["new_system", "new_id"]
_COLUMNS = (*_OLD, *_NEW, "effective", "source")
MERGES = pl.Schema(dict.fromkeys((*_OLD, *_NEW), pl.String))
_SCHEMA = schema(MERGES, {"effective": pl.Date})


class CrosswalkError(ValueError):
    """The crosswalk cannot be read; the text has no identifiers."""

    def __init__(self, fault: str) -> None:
        super().__init__(
            f"publish.patient_match: the crosswalk {fault}. Correct it, then clear the task normalize of the group fhir"
        )


class Crosswalk:
    """The merges that are effective.

    Parameters
    ----------
    rows
        Old and new identifiers with the day from which they count.
    today
        Merges of later days do not count.
    """

    def __init__(self, rows: pl.DataFrame, today: date) -> None:
        effective = rows.filter(pl.col("effective") <= today)
        # Of several merges of one number the latest counts: the others were undone, or the number was given again.
        latest = pl.col("effective") == pl.col("effective").max().over(_OLD)
        self.merges = effective.filter(latest).select(MERGES.names()).unique()

    def list_changed(self, before: pl.DataFrame) -> list[Key]:
        """Return the old numbers of merges that have been added or have gone since earlier ones (`MERGES`)."""
        both = (self.merges, before), (before, self.merges)
        changed = pl.concat([one.join(other, on=MERGES.names(), how="anti") for one, other in both])
        return list(changed.select(_OLD).unique().sort(_OLD).iter_rows())

    def follow(self, keys: Iterable[Key]) -> Mapping[Key, tuple[Key, ...]]:
        """Return the numbers to which each of these leads, the nearest first; only those that lead somewhere."""
        starts = set(keys)
        edges: dict[Key, set[Key]] = {}
        ahead = starts
        for _ in range(MOST_STEPS):
            step = self._step(ahead, _OLD, _NEW)
            edges.update(step)
            ahead = {new for news in step.values() for new in news} - edges.keys()
            if not ahead:
                break
        return {key: found for key in starts if (found := _walk(key, edges))}

    def lead_to(self, keys: Iterable[Key]) -> set[Key]:
        """Return the numbers that lead to one of these."""
        reached: set[Key] = set(keys)
        found: set[Key] = set()
        ahead = reached
        for _ in range(MOST_STEPS):
            ahead = {old for olds in self._step(ahead, _NEW, _OLD).values() for old in olds} - reached
            if not ahead:
                break
            reached |= ahead
            found |= ahead
        return found

    def _step(self, keys: Iterable[Key], by: list[str], to: list[str]) -> Mapping[Key, set[Key]]:
        asked = pl.DataFrame(sorted(keys), schema=dict.fromkeys(by, pl.String), orient="row")
        found: defaultdict[Key, set[Key]] = defaultdict(set)
        for row in self.merges.join(asked, on=by, how="semi").select(*by, *to).iter_rows():
            found[row[0], row[1]].add((row[2], row[3]))
        return found


def _walk(key: Key, edges: Mapping[Key, set[Key]]) -> tuple[Key, ...]:
    """Return the numbers that are reached from one in at most `MOST_STEPS` steps, the nearest first."""
    found: dict[Key, None] = {}
    ahead = {key}
    for _ in range(MOST_STEPS):
        ahead = {new for old in ahead for new in edges.get(old, ())} - {key, *found}
        found |= dict.fromkeys(sorted(ahead))
    return tuple(found)


def read_crosswalk(run: Run, address: str, today: date) -> Crosswalk:
    """Read the crosswalk.

    Raises
    ------
    CrosswalkError
        If there is none, or it is not such a file.
    """
    with tempfile.TemporaryFile(prefix="airlock-") as file:
        try:
            run.s3.get_file(S3Uri.parse(address), file)
        except FileNotFoundError:
            raise CrosswalkError("does not exist at its address") from None
        if file.tell() > _MOST_BYTES:
            raise CrosswalkError(f"is larger than {_MOST_BYTES // 1024**2} MiB")
        file.seek(0)
        try:
            rows = pl.concat([_SCHEMA.to_frame(), *_parse(file)])
        except (csv.Error, UnicodeDecodeError) as error:
            raise CrosswalkError(f"is not a CSV file in UTF-8 ({type(error).__name__})") from None
    return Crosswalk(rows, today)


def _parse(file: IO[bytes]) -> Iterator[pl.DataFrame]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text)
        names = [name.strip() for name in next(lines, [])]
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise CrosswalkError(f"does not name the columns {', '.join(missing)} in its first line")
        places = [names.index(name) for name in _SCHEMA]
        rows = ([exact(line[place]) if place < len(line) else None for place in places] for line in lines if line)
        while chunk := list(islice(rows, _ROWS)):
            read = pl.DataFrame(chunk, schema=dict.fromkeys(_SCHEMA, pl.String), orient="row")
            typed = read.with_columns(pl.col("effective").str.to_date("%Y-%m-%d", strict=False))
            wrong = typed.filter(pl.any_horizontal(pl.all().is_null())).height
            if wrong:
                raise CrosswalkError(f"has {wrong} lines without two identifiers and a date as 2026-11-30")
            yield typed
