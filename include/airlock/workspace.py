"""A run's folder on S3, holding each stage's dataset; a dataset is visible whole or not at all.

A dataset is a folder with one Parquet part and a marker ``_COMMITTED.json`` that names the part. The part's name is new
with every write, so that writing a dataset again swaps it in one step: readers see the old rows or the new ones.
Mapped stages write one dataset per shard or batch, under a common folder.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.s3 import S3
    from airlock.s3uri import S3Uri

MARKER = "_COMMITTED.json"


class DatasetMissingError(LookupError):
    """A stage asks for a dataset that the stage before it has not committed."""


@dataclass(frozen=True)
class Workspace:
    """One run's datasets.

    Parameters
    ----------
    s3
        Where the workspace's bucket is.
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
            Its folder below the root, as ``arrivals`` or ``headers/0007``.
        schema
            The columns it must have, in order.
        rows
            What to write.

        Returns
        -------
        str
            The dataset's address.

        Raises
        ------
        polars.exceptions.SchemaError
            If the rows have other columns or types than the schema.
        """
        if rows.schema != schema:
            raise pl.exceptions.SchemaError(f"dataset {dataset}: columns are {rows.schema}, not {schema}")
        body = io.BytesIO()
        rows.write_parquet(body, compression="zstd")
        part = f"part-{hashlib.sha256(body.getbuffer()).hexdigest()[:16]}.parquet"
        self.s3.put(self.root.join(dataset, part), body.getvalue(), "application/vnd.apache.parquet")
        self.write_json(f"{dataset}/{MARKER}", {"part": part, "rows": rows.height})
        return str(self.root.join(dataset, ""))

    def read(self, dataset: str, schema: pl.Schema) -> pl.DataFrame:
        """Read a committed dataset.

        Raises
        ------
        DatasetMissingError
            If it was never committed.
        """
        try:
            marker = json.loads(self.s3.get(self.root.join(dataset, MARKER)))
        except FileNotFoundError:
            raise DatasetMissingError(
                f"dataset {dataset!r} of the run is not there: clear the stage that writes it, then this one"
            ) from None
        body = self.s3.get(self.root.join(dataset, marker["part"]))
        return pl.read_parquet(io.BytesIO(body), schema=schema)

    def read_all(self, datasets: Sequence[str], schema: pl.Schema) -> pl.DataFrame:
        """Read the datasets of a mapped stage as one frame; all of them must be there."""
        frames = [self.read(dataset, schema) for dataset in datasets]
        return pl.concat(frames) if frames else schema.to_frame()

    def find(self, dataset: str, schema: pl.Schema) -> pl.DataFrame:
        """Read a dataset if it was committed, else give an empty frame: for the audit of a run that broke off."""
        try:
            return self.read(dataset, schema)
        except DatasetMissingError:
            return schema.to_frame()

    def is_committed(self, dataset: str) -> bool:
        """Say whether the dataset can be read."""
        return self.s3.exists(self.root.join(dataset, MARKER))

    def write_json(self, name: str, content: Any) -> str:
        """Write a small JSON document below the root and return its address."""
        where = self.root.join(name)
        self.s3.put(where, json.dumps(content, indent=1, default=str).encode(), "application/json")
        return str(where)

    def write_text(self, name: str, content: str, content_type: str) -> str:
        """Write a text below the root and return its address."""
        where = self.root.join(name)
        self.s3.put(where, content.encode("utf-8"), content_type)
        return str(where)
