"""Rows stored on the local disk and read again in partitions, so that a task's memory does not grow with the delivery.

Rows that must be seen together (the copies of an instance, the files of a study) are in one partition. Partitions are
ranges of `partition_hash`, whose order does not depend on the number of partitions.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, TypeVar

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType
    from typing import Self

PARTITION_ROWS = 100_000  # approximate, per partition: rows of one value stay together, whatever their number
PENDING_BYTES = 64 * 1024**2  # of rows in memory before they are written: a draft of a contract is long
_PARTITION = "_partition"


def count_partitions(rows: int) -> int:
    """Return the number of partitions for this number of rows."""
    return max(1, -(-rows // PARTITION_ROWS))


def partition_hash(value: pl.Expr) -> pl.Expr:
    """Return the 64-bit hash by which values are ordered into partitions; it depends only on the version of polars."""
    return value.hash(seed=0)


class FrameFile:
    """Frames on the local disk, each read again by its number. A context manager: they are deleted when it ends.

    The file has no name, so that it disappears with a killed task: frames hold patients' data.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._file: IO[bytes] | None = None
        self._pieces: list[tuple[int, int]] = []  # offset and bytes of each frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete all frames."""
        if self._file is not None:
            self._file.close()

    def add(self, rows: pl.DataFrame) -> int:
        """Store a frame and return its number."""
        self.rows += rows.height
        body = io.BytesIO()
        rows.write_ipc(body, compression="lz4")
        return self._append(body.getbuffer())

    def add_all(self, frames: Iterable[pl.DataFrame]) -> None:
        """Store frames."""
        for rows in frames:
            self.add(rows)

    def take_over(self, other: FrameFile) -> None:
        """Move the frames of another file to this one without decoding them, and delete the other."""
        self.rows += other.rows
        for number in range(len(other._pieces)):
            self._append(other._body(number))
        other.close()

    def read(self, number: int) -> pl.DataFrame:
        """Return the frame with this number."""
        return pl.read_ipc(self._body(number))

    def _append(self, body: bytes | memoryview) -> int:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="airlock-")  # noqa: SIM115  (closed by `close`)
        self._pieces.append((self._file.seek(0, io.SEEK_END), len(body)))
        self._file.write(body)
        return len(self._pieces) - 1

    def _body(self, number: int) -> bytes:
        start, size = self._pieces[number]
        assert self._file is not None  # noqa: S101  # for mypy: `_append` has opened it
        self._file.seek(start)
        return self._file.read(size)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield all frames in the order in which they were stored."""
        return map(self.read, range(len(self._pieces)))


class Spool:
    """Rows partitioned by a value: rows of one value are in one partition, in the order in which they were added.

    A context manager: the rows are deleted when it ends. A single partition stays in memory.

    Parameters
    ----------
    by
        The value, of a hashable type. Rows without a value (null) are together.
    partitions
        The number of partitions, from `count_partitions`.
    """

    def __init__(self, by: pl.Expr, partitions: int) -> None:
        self.partitions = partitions
        self.rows = 0
        self._by = by
        self._empty = pl.DataFrame()
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._frames = FrameFile()
        self._pieces: list[list[int]] = [[] for _ in range(partitions)]  # the frames' numbers, per partition

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete all rows."""
        self._pending = []
        self._frames.close()

    def add(self, rows: pl.DataFrame) -> None:
        """Store rows; all frames must have the same columns."""
        self._empty = rows.clear()
        self.rows += rows.height
        self._pending.append(rows)
        self._pending_rows += rows.height
        self._pending_bytes += int(rows.estimated_size())
        full = self._pending_rows >= PARTITION_ROWS or self._pending_bytes >= PENDING_BYTES
        if self.partitions > 1 and full:
            self._write()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield each partition that has rows, always in the same order; iterating again is allowed."""
        yield from (rows for rows in map(self.partition, range(self.partitions)) if rows.height)

    def partition(self, number: int) -> pl.DataFrame:
        """Return a partition by its number, from 0; it may have no rows, and no columns if no rows were ever added."""
        return pl.concat([self._empty, *self.pieces(number)])

    def pieces(self, number: int) -> Iterator[pl.DataFrame]:
        """Yield a partition's rows frame by frame, in their order: those of one value may be too many for memory."""
        if self.partitions == 1:
            yield from self._pending
        else:
            self._write()
            yield from map(self._frames.read, self._pieces[number])

    def _partition_number(self) -> pl.Expr:
        return partition_hash(self._by) // (2**64 // self.partitions + 1)

    def _write(self) -> None:
        if not self._pending_rows:
            return
        rows = pl.concat(self._pending)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
        rows = rows.with_columns(self._partition_number().cast(pl.Int64).alias(_PARTITION))
        pieces = rows.partition_by(_PARTITION, include_key=False, maintain_order=True, as_dict=True)
        for (number,), piece in pieces.items():
            self._pieces[number].append(self._frames.add(piece))


class SortedSpool(Spool):
    """Rows partitioned by ranges of a text: partitions are in its order, rows within one in the order of adding.

    Parameters
    ----------
    by
        The text.
    bounds
        The bounds between the ranges, ascending, from `compute_bounds`.
    """

    def __init__(self, by: pl.Expr, bounds: pl.Series) -> None:
        super().__init__(by, bounds.len() + 1)
        self._bounds = bounds

    def _partition_number(self) -> pl.Expr:
        return pl.lit(self._bounds).search_sorted(self._by, side="right")


class NumberedSpool(Spool):
    """Rows partitioned by the partition number that each row has."""

    def _partition_number(self) -> pl.Expr:
        return self._by


SpoolT = TypeVar("SpoolT", bound=Spool)


class Partitions(ExitStack):
    """Spools with the same number of partitions. A context manager: all of them are deleted when it ends.

    Parameters
    ----------
    rows
        The approximate number of rows of the largest spool.
    """

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.number = count_partitions(rows)

    def spool(self, by: pl.Expr, schema: pl.Schema, frames: Iterable[pl.DataFrame] = ()) -> Spool:
        """Return a spool of these columns by a value, with the rows of these frames."""
        return self._fill_spool(Spool(by, self.number), schema, frames)

    def numbered_spool(self, by: pl.Expr, schema: pl.Schema, frames: Iterable[pl.DataFrame] = ()) -> Spool:
        """Return a spool of these columns by the partition numbers that rows have, with the rows of these frames."""
        return self._fill_spool(NumberedSpool(by, self.number), schema, frames)

    def sorted_spool(
        self, by: pl.Expr, sample: pl.Series, schema: pl.Schema, frames: Iterable[pl.DataFrame] = ()
    ) -> Spool:
        """Return a spool of these columns by ranges of a text, which a sample of its values bounds, with these rows."""
        return self._fill_spool(SortedSpool(by, compute_bounds(sample, self.number)), schema, frames)

    def _fill_spool(self, spool: SpoolT, schema: pl.Schema, frames: Iterable[pl.DataFrame]) -> SpoolT:
        self.enter_context(spool)
        spool.add(schema.to_frame())
        for rows in frames:
            spool.add(rows.select(schema.names()))
        return spool


def compute_bounds(sample: pl.Series, partitions: int) -> pl.Series:
    """Return the bounds of this number of ranges (or fewer) of about equal size, from a sample of the texts."""
    ordered = sample.drop_nulls().sort()
    steps = [number * ordered.len() // partitions for number in range(1, partitions)]
    return ordered.gather(steps if ordered.len() else []).unique(maintain_order=True)


def zip_partitions(*spools: Spool) -> Iterator[tuple[pl.DataFrame, ...]]:
    """Yield the partitions of equal number from several spools, which must have the same number of partitions."""
    for number in range(spools[0].partitions):
        yield tuple(spool.partition(number) for spool in spools)
