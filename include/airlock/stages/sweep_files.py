"""The folder of a sweep on S3: what it has listed and found so far, its lists and its report.

``<workspace>/<pipeline>/sweeps/<name>/`` has ``sweep.json``, ``overdue.csv`` and ``vanished.csv``. Parts are Parquet
files. A process writes parts under a name of its own, and the sweep's position counts those that are valid: a process
that is killed, or a second one on the same sweep, cannot change what was counted.
"""

from __future__ import annotations

import io
import json
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import polars as pl

from airlock.stages.reporting import to_csv
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import datetime

    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3

SWEEPS = "sweeps"
REPORT = "sweep.json"


def name_sweep(number: int, began_at: datetime) -> str:
    """Return the name of a sweep's folder; numbers begin again in a ledger that was restored."""
    return f"{began_at:%Y-%m-%dT%H-%M-%SZ}-{number}"


def sweeps_folder(pipeline: Pipeline) -> S3Uri:
    """Return the folder of all sweeps of a pipeline."""
    return S3Uri.parse(pipeline.workspace).join(pipeline.name, SWEEPS, "")


class SweepFiles:
    """The files of a sweep.

    Parameters
    ----------
    s3, pipeline
        The workspace.
    name
        Of the sweep.
    valid
        The parts that are counted: the writers of each list and how many parts of each count.
    """

    def __init__(self, s3: S3, pipeline: Pipeline, name: str, valid: dict[str, dict[str, int]] | None = None) -> None:
        self.name = name
        self.root = sweeps_folder(pipeline).join(name, "")
        self.valid = {} if valid is None else {part: dict(writers) for part, writers in valid.items()}
        self._s3 = s3
        self._writer = uuid4().hex[:12]

    def add(self, name: str, rows: pl.DataFrame) -> None:
        """Write rows as another part of a list; without rows write nothing."""
        if rows.is_empty():
            return
        writers = self.valid.setdefault(name, {})
        number = writers.get(self._writer, 0)
        body = io.BytesIO()
        rows.write_parquet(body, compression="zstd")
        self._s3.put(self._part(name, self._writer, number), body.getvalue(), "application/vnd.apache.parquet")
        writers[self._writer] = number + 1

    def read(self, name: str) -> Iterator[pl.DataFrame]:
        """Yield the parts of a list."""
        for writer, number in self.valid.get(name, {}).items():
            for part in range(number):
                yield pl.read_parquet(io.BytesIO(self._s3.get(self._part(name, writer, part))))

    def _part(self, name: str, writer: str, number: int) -> S3Uri:
        return self.root.join(name, f"part-{writer}-{number:05}.parquet")

    def write_report(self, report: dict[str, Any]) -> str:
        """Write the report, and return its address."""
        where = self.root.join(REPORT)
        self._s3.put(where, json.dumps(report, indent=1, default=str).encode(), "application/json")
        return str(where)

    def write_csv(self, name: str, frames: Iterable[pl.DataFrame], columns: Sequence[str]) -> str:
        """Write rows as CSV, as `reporting.to_csv`, and return its address; memory does not grow with their number."""
        where = self.root.join(name)
        with TemporaryFile() as file:
            empty = pl.DataFrame(schema=dict.fromkeys((*columns, "reason"), pl.String))
            file.write(to_csv(empty, columns).encode())
            for rows in frames:
                texts = rows.select(columns).cast(pl.String).with_columns(reason=pl.lit(None, pl.String))
                file.write(to_csv(texts, columns, head=False).encode())
            self._s3.put_file(where, file, "text/csv")
        return str(where)
