"""A run's folder on S3 with the stages' datasets; readers see a dataset as a whole or not at all.

A dataset is a folder with Parquet parts and a marker ``_COMMITTED.json`` that names them. A part's name has a hash of
its content, so that writing a dataset again replaces it in one step: readers see the old rows or the new ones. Datasets
are written and read part by part, so that a task's memory does not grow with the delivery. Mapped stages write one
dataset per shard or batch, under a common folder.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

import polars as pl

from airlock.records import CLASSIFYING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri

MARKER = "_COMMITTED.json"
PART_ROWS = 50_000
COMPRESSION_LEVEL = 1  # of zstd: half the CPU of the default 3, and no more bytes


class DatasetMissingError(LookupError):
    """A stage reads a dataset that an earlier stage has not committed."""


class DatasetWriter:
    """A writer of one dataset; `Workspace.writer` returns one."""

    def __init__(self, workspace: Workspace, dataset: str, schema: pl.Schema, part_rows: int | None) -> None:
        self.rows = 0
        self._part_rows = part_rows
        self._workspace = workspace
        self._dataset = dataset
        self._schema = schema
        self._pending: list[pl.DataFrame] = []
        self._parts: list[str] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Append rows.

        Raises
        ------
        polars.exceptions.SchemaError
            If the rows have other columns or types than the schema.
        """
        if rows.schema != self._schema:
            raise pl.exceptions.SchemaError(f"dataset {self._dataset}: columns are {rows.schema}, not {self._schema}")
        self.rows += rows.height
        self._pending.append(rows)
        if self._part_rows is not None and sum(frame.height for frame in self._pending) >= self._part_rows:
            self.end_part()

    def end_part(self) -> None:
        """Write the rows that were added since the last part; without rows write nothing."""
        pending = pl.concat([self._schema.to_frame(), *self._pending])
        self._pending = []
        for rows in pending.iter_slices(self._part_rows or max(1, pending.height)):
            if rows.height:
                self._put(rows)

    def commit(self) -> None:
        """Commit the added rows as the dataset, replacing its earlier content."""
        self.end_part()
        self._workspace.write_json(f"{self._dataset}/{MARKER}", {"parts": self._parts, "rows": self.rows})

    def _put(self, rows: pl.DataFrame) -> None:
        body = io.BytesIO()
        rows.write_parquet(body, compression="zstd", compression_level=COMPRESSION_LEVEL)
        content = hashlib.sha256(body.getbuffer()).hexdigest()[:16]
        part = f"part-{len(self._parts):05}-{content}.parquet"
        where = self._workspace.root.join(self._dataset, part)
        self._workspace.s3.put(where, body.getvalue(), "application/vnd.apache.parquet")
        self._parts.append(part)


@dataclass(frozen=True)
class Workspace:
    """One run's datasets.

    Parameters
    ----------
    s3
        The S3 account of the workspace's bucket.
    root
        The run's folder: ``s3://<workspace>/<pipeline>/<run key>/``.
    """

    s3: S3
    root: S3Uri

    def write(self, dataset: str, schema: pl.Schema, rows: pl.DataFrame) -> str:
        """Write a dataset and commit it.

        Parameters
        ----------
        dataset
            Its folder below the root, for example ``arrivals`` or ``headers/0007``.
        schema
            The columns it must have, in order.
        rows
            The rows to write.

        Returns
        -------
        str
            The dataset's address.

        Raises
        ------
        polars.exceptions.SchemaError
            If the rows have other columns or types than the schema.
        """
        with self.writer(dataset, schema) as writer:
            writer.add(rows)
        return str(self.root.join(dataset, ""))

    @contextmanager
    def writer(self, dataset: str, schema: pl.Schema, part_rows: int | None = PART_ROWS) -> Iterator[DatasetWriter]:
        """Write a dataset frame by frame; it is committed at the end of the block, unless the block raises.

        Parameters
        ----------
        dataset, schema
            As in `write`.
        part_rows
            Rows in a part; None if the caller ends each part itself, so that readers find certain rows together.
        """
        writer = DatasetWriter(self, dataset, schema, part_rows)
        yield writer
        writer.commit()

    def parts(self, dataset: str, schema: pl.Schema, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """Yield a committed dataset's rows part by part, in their order; an empty dataset yields one empty frame.

        Parameters
        ----------
        dataset, schema
            As in `write`.
        columns
            The columns to read; all without it.

        Raises
        ------
        DatasetMissingError
            If it was never committed.
        """
        names = self.part_names(dataset)
        if not names:
            yield schema.to_frame().select(columns or schema.names())
        for name in names:
            yield self.read_part(dataset, name, schema, columns)

    def part_names(self, dataset: str) -> list[str]:
        """Return the names of a committed dataset's parts, in the order of their rows, for `read_part`.

        Raises
        ------
        DatasetMissingError
            If it was never committed.
        """
        return list(self._marker(dataset)["parts"])

    def count_rows(self, dataset: str) -> int:
        """Return how many rows a committed dataset has; 0 if it was never committed."""
        try:
            return int(self._marker(dataset)["rows"])
        except DatasetMissingError:
            return 0

    def _marker(self, dataset: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.s3.get(self.root.join(dataset, MARKER))))
        except FileNotFoundError:
            raise DatasetMissingError(
                f"the run has no dataset {dataset!r}: clear the stage that writes it, then this one"
            ) from None

    def read_part(
        self, dataset: str, part: str, schema: pl.Schema, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Return one part of a dataset by its name, all columns or some."""
        body = io.BytesIO(self.s3.get(self.root.join(dataset, part)))
        names = schema.names() if columns is None else list(columns)
        rows = pl.read_parquet(body, schema=schema, columns=names, missing_columns=_may_lack(body, schema))
        return rows.select(names)

    def read(self, dataset: str, schema: pl.Schema) -> pl.DataFrame:
        """Return a whole committed dataset.

        Raises
        ------
        DatasetMissingError
            If it was never committed.
        """
        return pl.concat(self.parts(dataset, schema))

    def read_all(self, datasets: Sequence[str], schema: pl.Schema) -> pl.DataFrame:
        """Return the datasets of a mapped stage as one frame; all of them must be committed."""
        frames = [self.read(dataset, schema) for dataset in datasets]
        return pl.concat(frames) if frames else schema.to_frame()

    def find(self, dataset: str, schema: pl.Schema) -> pl.DataFrame:
        """Return a dataset, or an empty frame if it was not committed: for the audit of an interrupted run."""
        try:
            return self.read(dataset, schema)
        except DatasetMissingError:
            return schema.to_frame()

    def find_parts(
        self, dataset: str, schema: pl.Schema, columns: Sequence[str] | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield a dataset's parts as `parts`, or one empty frame if it was not committed."""
        try:
            yield from self.parts(dataset, schema, columns)
        except DatasetMissingError:
            yield schema.to_frame().select(columns or schema.names())

    def is_committed(self, dataset: str) -> bool:
        """Return whether a dataset was committed."""
        return self.s3.exists(self.root.join(dataset, MARKER))

    def write_json(self, name: str, content: Any) -> str:
        """Write a small JSON document below the root and return its address."""
        where = self.root.join(name)
        self.s3.put(where, json.dumps(content, indent=1, default=str).encode(), "application/json")
        return str(where)

    def write_file(self, name: str, file: IO[bytes], content_type: str) -> str:
        """Write an open file below the root and return its address."""
        where = self.root.join(name)
        self.s3.put_file(where, file, content_type)
        return str(where)

    def read_file(self, name: str, file: IO[bytes]) -> None:
        """Write an object below the root to an open file.

        Raises
        ------
        FileNotFoundError
            If there is no such object.
        """
        self.s3.get_file(self.root.join(name), file)

    def write_text(self, name: str, content: str, content_type: str) -> str:
        """Write a text below the root and return its address."""
        where = self.root.join(name)
        self.s3.put(where, content.encode("utf-8"), content_type)
        return str(where)


def _may_lack(body: io.BytesIO, schema: pl.Schema) -> Literal["insert", "raise"]:
    """Return what polars does about absent columns: it inserts nulls if an earlier version wrote the part."""
    if CLASSIFYING[0] not in schema:
        return "raise"
    absent = schema.keys() - pl.read_parquet_schema(body).keys()
    body.seek(0)
    return "insert" if absent <= set(CLASSIFYING) else "raise"
