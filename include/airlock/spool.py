"""Rows set aside on the local disk and taken up again by groups: a task's memory does not grow with the delivery.

What must be seen together (the copies of an instance, the files of a study) comes out in one partition. The partitions
are consecutive in one order of the values, `place`, that does not depend on how many there are.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

PARTITION_ROWS = 100_000  # about, in one partition; rows of one value are never parted, however many
_PARTITION = "_partition"


def partitions_for(rows: int) -> int:
    """Return into how many partitions so many rows go."""
    return max(1, -(-rows // PARTITION_ROWS))


def place(value: pl.Expr) -> pl.Expr:
    """Return where a value stands in the order of the partitions: 64 bits, the same wherever polars has one version."""
    return value.hash(seed=0)


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
        self._pending: list[pl.DataFrame] = []
        self._pending_rows = 0
        self._files: list[list[Path]] = [[] for _ in range(partitions)]
        self._folder = tempfile.TemporaryDirectory(prefix="airlock-")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pending = []
        self._folder.cleanup()

    def add(self, rows: pl.DataFrame) -> None:
        """Set rows aside; all frames must have the same columns."""
        self.rows += rows.height
        self._pending.append(rows)
        self._pending_rows += rows.height
        if self.partitions > 1 and self._pending_rows >= PARTITION_ROWS:
            self._write()

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield each partition that has rows, always in the same order; can be done again and again."""
        if self.partitions == 1:
            if self.rows:
                yield pl.concat(self._pending)
            return
        self._write()
        for files in self._files:
            if files:
                yield pl.concat([pl.read_ipc(file) for file in files])

    def _write(self) -> None:
        if not self._pending_rows:
            return
        rows = pl.concat(self._pending)
        self._pending, self._pending_rows = [], 0
        rows = rows.with_columns((place(self._by) // (2**64 // self.partitions + 1)).alias(_PARTITION))
        pieces = rows.partition_by(_PARTITION, include_key=False, maintain_order=True, as_dict=True)
        for (number,), piece in pieces.items():
            file = Path(self._folder.name) / f"{number}-{len(self._files[number])}.arrow"
            piece.write_ipc(file, compression="lz4")
            self._files[number].append(file)
