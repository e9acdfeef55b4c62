"""Rows set aside on the local disk and taken up again by groups: a task's memory does not grow with the delivery.

What must be seen together (the copies of an instance, the files of a study) comes out in one partition. The partitions
are consecutive in one order of the values, `partition_hash`, that does not depend on how many there are.
"""

from __future__ import annotations

import io
import tempfile
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

PARTITION_ROWS = 100_000  # about, in one partition; rows of one value are never parted, however many
PENDING_BYTES = 64 * 1024**2  # of rows kept in memory before they are written: a draft of a contract is long
_PARTITION = "_partition"


def partitions_for(rows: int) -> int:
    """Return into how many partitions so many rows go."""
    return max(1, -(-rows // PARTITION_ROWS))


def partition_hash(value: pl.Expr) -> pl.Expr:
    """Return where a value stands in the order of the partitions: 64 bits, the same wherever polars has one version."""
    return value.hash(seed=0)


class Aside:
    """Frames on the local disk, each to be had back by its number. A context manager: they are gone when it ends.

    The file has no name: frames hold patients' data, and of a task that is killed nobody cleans up.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="airlock-")  # noqa: SIM115  (closed by `close`)
        self._pieces: list[tuple[int, int]] = []  # where each lies, and its bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all frames."""
        self._file.close()

    def add(self, rows: pl.DataFrame) -> int:
        """Set a frame aside and return its number."""
        body = io.BytesIO()
        rows.write_ipc(body, compression="lz4")
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(body.getbuffer())
        self._pieces.append((start, body.getbuffer().nbytes))
        return len(self._pieces) - 1

    def read(self, number: int) -> pl.DataFrame:
        """Return a frame."""
        start, size = self._pieces[number]
        self._file.seek(start)
        return pl.read_ipc(self._file.read(size))


class Spool:
    """Rows partitioned by a value: those of one value are in one partition, in the order in which they were added.

    A context manager: the rows are gone when it ends. One partition alone stays in memory.

    Parameters
    ----------
    by
        The value, of a type that can be hashed. Rows without one (null) are together.
    partitions
        How many; `partitions_for` gives the number.
    """

    def __init__(self, by: pl.Expr, partitions: int) -> None:
        self.partitions = partitions
        self.rows = 0
        self._by = by
        self._empty = pl.DataFrame()
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._aside = Aside()
        self._pieces: list[list[int]] = [[] for _ in range(partitions)]  # of each partition, by their numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pending = []
        self._aside.close()

    def add(self, rows: pl.DataFrame) -> None:
        """Set rows aside; all frames must have the same columns."""
        self._empty = rows.clear()
        self.rows += rows.height
        self._pending.append(rows)
        self._pending_rows += rows.height
        self._pending_bytes += int(rows.estimated_size())
        full = self._pending_rows >= PARTITION_ROWS or self._pending_bytes >= PENDING_BYTES
        if self.partitions > 1 and full:
            self._write()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield each partition that has rows, always in the same order; can be done again and again."""
        yield from (rows for rows in map(self.partition, range(self.partitions)) if rows.height)

    def partition(self, number: int) -> pl.DataFrame:
        """Return a partition by its number, from 0; it may have no rows, and if none was ever added, no columns."""
        if self.partitions == 1:
            return pl.concat([self._empty, *self._pending])
        self._write()
        return pl.concat([self._empty, *map(self._aside.read, self._pieces[number])])

    def _number(self) -> pl.Expr:
        return partition_hash(self._by) // (2**64 // self.partitions + 1)

    def _write(self) -> None:
        if not self._pending_rows:
            return
        rows = pl.concat(self._pending)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
        rows = rows.with_columns(self._number().cast(pl.Int64).alias(_PARTITION))
        pieces = rows.partition_by(_PARTITION, include_key=False, maintain_order=True, as_dict=True)
        for (number,), piece in pieces.items():
            self._pieces[number].append(self._aside.add(piece))


class SortedSpool(Spool):
    """Rows partitioned by ranges of a text: the partitions come in its order, the rows of one as they were added.

    Parameters
    ----------
    by
        The column.
    bounds
        Where one range ends and the next begins, in order; `bounds_of` finds them.
    """

    def __init__(self, by: str, bounds: pl.Series) -> None:
        super().__init__(pl.col(by), bounds.len() + 1)
        self._bounds = bounds

    def _number(self) -> pl.Expr:
        return pl.lit(self._bounds).search_sorted(self._by, side="right")


def bounds_of(sample: pl.Series, partitions: int) -> pl.Series:
    """Return the bounds of so many ranges of about equal size, or of fewer, from some of the texts."""
    ordered = sample.drop_nulls().sort()
    steps = [number * ordered.len() // partitions for number in range(1, partitions)]
    return ordered.gather(steps if ordered.len() else []).unique(maintain_order=True)


def together(*spools: Spool) -> Iterator[tuple[pl.DataFrame, ...]]:
    """Yield, partition by partition, what several spools of equally many partitions have of the same values."""
    for number in range(spools[0].partitions):
        yield tuple(spool.partition(number) for spool in spools)
