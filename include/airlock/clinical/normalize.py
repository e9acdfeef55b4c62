"""Normalize: import files of one resource type each, within the service's limits, every reference as it must be.

Writes the files below a prefix per batch, one ``batches/<batch id>`` dataset per batch, then ``batches/index.json``,
which makes them count.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.bodies import read_bodies
from airlock.clinical.records import BATCHES, REWRITES, VERDICTS
from airlock.records import Verdict, digest, schema
from airlock.stages.batches import Batch, check_batch_count, find_batches, find_begun_batches, write_batches
from airlock.stages.resources import BY_UNIT, UNIT
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import FrameFile, NumberedSpool, Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airlock.pipelines import HealthLake, Pipeline
    from airlock.run import Run
    from airlock.storage.spool import Spool
    from airlock.storage.workspace import DatasetWriter

    Bodies = Callable[[pl.DataFrame], Iterable[pl.DataFrame]]

_FILE = ["resource_type", "file"]
_KEY = list(UNIT)
_CONTENT = pl.format("{}/{}={}", "resource_type", "resource_id", "content_digest")
_SAMPLED = 100  # one content in so many says how the contents are spread
# An import file to be written: the number of its batch, its bytes and its resources.
FILES = schema(
    {"resource_type": pl.String},
    dict.fromkeys(("file", "batch", "bytes", "resources"), pl.Int64),
    {"batch_id": pl.String},
)


def normalize(run: Run[Pipeline], healthlake: HealthLake) -> list[Batch]:
    """Write a run's import files; once a job was begun, the files stand."""
    if find_begun_batches(run):
        return find_batches(run)
    with ExitStack() as stack:
        rewrites = _rewrites_by_part(run, stack)

        def bodies(placed: pl.DataFrame) -> Iterator[pl.DataFrame]:
            meant = rewrites.partition(placed["part"][0]).select(REWRITES.names())
            return read_bodies(run, placed, meant)

        return stage(run, healthlake, _accepted(run), bodies)


def foresee(run: Run[Pipeline], healthlake: HealthLake) -> pl.DataFrame:
    """Return the import files (`FILES`) of the accepted resources; nothing is written."""
    with Placement(run, healthlake) as placement:
        for resources in _accepted(run):
            placement.add(resources)
        return placement.files()


def _accepted(run: Run[Pipeline]) -> Iterator[pl.DataFrame]:
    """Yield the accepted resources of each part of the verdicts, with the number of the ``part``."""
    for number, units in enumerate(run.workspace.parts("verdicts", VERDICTS)):
        yield units.filter(pl.col("verdict") == Verdict.ACCEPT).with_columns(part=pl.lit(number, pl.Int64))


def _rewrites_by_part(run: Run[Pipeline], stack: ExitStack) -> Spool:
    """Return the rewrites by the part of the verdicts that has their unit."""
    found = stack.enter_context(NumberedSpool(pl.col("part"), max(1, len(run.workspace.part_names("verdicts")))))
    found.add(schema(REWRITES, {"part": pl.Int64}).to_frame())
    with Partitions(max(map(run.workspace.count_rows, ("rewrites", "verdicts")))) as partitions:
        rewrites = partitions.spool(BY_UNIT, REWRITES, run.workspace.parts("rewrites", REWRITES))
        if rewrites.rows:
            units = partitions.spool(BY_UNIT, schema(UNIT, {"part": pl.Int64}), _accepted(run))
            for meant, placed in zip_partitions(rewrites, units):
                found.add(meant.join(placed, on=_KEY, maintain_order="left"))
    return found


class Placement:
    """Gives resources their batch, their file and their line there, by sizes alone. A context manager.

    A file takes resources of one type in the order of the delivery, so that one pass over the bodies fills all files.
    """

    def __init__(self, run: Run[Pipeline], healthlake: HealthLake) -> None:
        self._run = run
        self._healthlake = healthlake
        self._placed_rows = FrameFile()
        self._frame_numbers: list[int] = []
        self._open: dict[str, tuple[int, int]] = {}  # by type the file that is open, and its bytes
        self._files: dict[tuple[str, int], list[int]] = {}  # bytes and resources
        self._sample = pl.Series([], dtype=pl.String)

    def __enter__(self) -> Placement:
        return self

    def __exit__(self, *_: object) -> None:
        self._placed_rows.close()

    def add(self, resources: pl.DataFrame) -> None:
        """Take in the next resources of the delivery, which are given back by `placed`."""
        if resources.is_empty():
            return
        sized = resources.with_columns(size=pl.col("size") + 1)  # with the line's end
        files = number_files(sized.select("resource_type", "size"), self._healthlake.bytes_per_file, self._open)
        placed = sized.with_columns(file=files)
        before = pl.struct(_FILE).map_elements(self._count_before, return_dtype=pl.Int64)
        counted = placed.group_by(_FILE).agg(bytes=pl.col("size").sum(), resources=pl.len())
        lines = counted.select(*_FILE, before=before)
        number = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).over(_FILE)
        placed = placed.join(lines, on=_FILE, how="left", maintain_order="left")
        self._frame_numbers.append(
            self._placed_rows.add(placed.with_columns(staged_line=number + pl.col("before")).drop("before"))
        )
        for kind, file, size, height in counted.select(*_FILE, "bytes", "resources").iter_rows():
            known = self._files.setdefault((kind, file), [0, 0])
            known[0], known[1] = known[0] + size, known[1] + height
        self._sample.append(resources.select(_CONTENT.alias("content"))["content"].gather_every(_SAMPLED))

    def _count_before(self, file: dict[str, Any]) -> int:
        return self._files.get((file["resource_type"], file["file"]), (0, 0))[1]

    def files(self) -> pl.DataFrame:
        """Return the files of all that was added, `FILES`, in the order of their batches."""
        rows = [(*file, *facts) for file, facts in sorted(self._files.items())]
        files = pl.DataFrame(rows, schema=[*_FILE, "bytes", "resources"], orient="row")
        files = files.cast({name: FILES[name] for name in files.columns}).with_columns(
            batch=self._batches(files["bytes"])
        )
        return files.with_columns(batch_id=self._batch_ids(files)).select(FILES.names())

    def _batches(self, sizes: Iterable[int]) -> pl.Series:
        """Return the number of each file's batch; a batch is full before it passes a limit."""
        limits, numbers = self._healthlake, []
        number = count = size = 0
        for more in sizes:
            if count and (count == limits.files_per_job or size + more > limits.bytes_per_job):
                number, count, size = number + 1, 0, 0
            numbers.append(number)
            count, size = count + 1, size + more
        return pl.Series(numbers, dtype=pl.Int64)

    def _batch_ids(self, files: pl.DataFrame) -> pl.Series:
        """Return the id of each file's batch: a name that the same resources get again in the same run."""
        contents = [hashlib.sha256() for _ in range(files["batch"].n_unique())]
        kinds = pl.Schema({"content": pl.String, "batch": pl.Int64})
        with Partitions(int(files["resources"].sum())) as partitions:
            numbers = files.select(*_FILE, "batch")
            rows = (frame.join(numbers, on=_FILE).select("batch", content=_CONTENT) for frame in self._read())
            for part in partitions.sorted_spool("content", self._sample, kinds, rows):
                for (batch,), lines in part.sort("content").group_by("batch"):
                    contents[batch].update("".join(f"{line}\n" for line in lines["content"]).encode())
        run, store = self._run, self._healthlake.datastore_id
        ids = [digest(store, run.key, run.folder, content.hexdigest()) for content in contents]
        return files["batch"].replace_strict(dict(enumerate(ids)), default=None, return_dtype=pl.String)

    def _read(self) -> Iterator[pl.DataFrame]:
        return map(self._placed_rows.read, self._frame_numbers)

    def placed(self, files: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the added rows with ``batch_id``, ``file`` and ``staged_line``."""
        for frame in self._read():
            yield frame.join(files.select(*_FILE, "batch_id"), on=_FILE, how="left", maintain_order="left")


def number_files(sizes: pl.DataFrame, limit: int, open_files: dict[str, tuple[int, int]]) -> pl.Series:
    """Return the number of each resource's file among those of its type; a file is full before it passes the limit.

    Parameters
    ----------
    sizes
        Type and bytes of each resource.
    limit
        Bytes of a file, unless one resource has more.
    open_files
        The file that is open for each type, and its bytes; brought up to date.
    """
    numbers = []
    for kind, more in sizes.iter_rows():
        number, size = open_files.get(kind, (0, 0))
        open_files[kind] = (number, size + more) if not size or size + more <= limit else (number + 1, more)
        numbers.append(open_files[kind][0])
    return pl.Series(numbers, dtype=pl.Int64)


def stage(
    run: Run[Pipeline],
    healthlake: HealthLake,
    resources: Iterable[pl.DataFrame],
    bodies: Bodies,
    standing: Sequence[Batch] = (),
) -> list[Batch]:
    """Write the import files of these resources, and the datasets of their batches.

    Parameters
    ----------
    run
        The run.
    healthlake
        Its data store and the limits.
    resources
        In frames: arrival_id, line, resource_type, resource_id, content_digest, size, patient, and what *bodies* needs.
    bodies
        Gives the resources of such a frame again with their ``body``, piece by piece, in their order.
    standing
        Batches that stay as they are, before those of these resources.
    """
    with Placement(run, healthlake) as placement:
        for rows in resources:
            placement.add(rows)
        files = placement.files()
        batch_ids = files["batch_id"].unique(maintain_order=True)
        check_batch_count(len(standing) + batch_ids.len())
        for batch_id in batch_ids:
            _empty(run, batch_id)
        written = _write_files(run, files, placement.placed(files), bodies)
    write_batches(run, [*standing, *written])
    return [*standing, *written]


def _prefix(run: Run[Pipeline], batch_id: str) -> S3Uri:
    pipeline: Pipeline = run.pipeline
    return S3Uri.parse(pipeline.staging.uri).join(pipeline.name, run.key, batch_id, "")


def _empty(run: Run[Pipeline], batch_id: str) -> None:
    """Leave nothing under a batch's prefix: a try that broke off may have cut the files otherwise."""
    listed = [item.key for item in run.s3.list_objects(_prefix(run, batch_id), placeholders=True)]
    run.s3.delete(_prefix(run, batch_id).bucket, listed)


def _open_unnamed() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="airlock-")  # without a name: it is gone with a task that is killed


@dataclass
class _ImportFile:
    """An import file as it fills, on the local disk."""

    key: str
    todo: int  # resources still to come
    content: IO[bytes] = field(default_factory=_open_unnamed)


@dataclass
class _StagedBatch:
    """A batch as its files are written."""

    prefix: S3Uri
    files: int
    todo: int  # resources still to come
    rows: DatasetWriter
    bytes: int = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows of the batches dataset; a complete part is written and leaves memory."""
        self.rows.add(rows)
        self.bytes += int(rows["size"].sum())
        self.todo -= rows.height
        if not self.todo:
            self.rows.end_part()


def _write_files(
    run: Run[Pipeline], files: pl.DataFrame, placed: Iterable[pl.DataFrame], bodies: Bodies
) -> list[Batch]:
    """Write every import file as soon as its last resource has come; return the batches."""
    todo = {
        (kind, number): (batch, left)
        for kind, number, batch, left in files.select(*_FILE, "batch_id", "resources").iter_rows()
    }
    sums = files.group_by("batch_id", maintain_order=True).agg(pl.len(), pl.col("resources").sum())
    with ExitStack() as stack:
        batches = {
            batch_id: _StagedBatch(
                _prefix(run, batch_id),
                number,
                resources,
                stack.enter_context(run.workspace.writer(f"batches/{batch_id}", BATCHES)),
            )
            for batch_id, number, resources in sums.iter_rows()
        }
        filling: dict[tuple[str, int], _ImportFile] = {}
        for rows in placed:
            for piece in bodies(rows):
                written = _write_bodies(run, piece, todo, filling)
                for (batch_id,), sent in written.group_by("batch_id", maintain_order=True):
                    batches[str(batch_id)].add(sent)
    return [Batch(name, str(one.prefix), one.files, one.bytes) for name, one in batches.items()]


def _write_bodies(
    run: Run[Pipeline],
    piece: pl.DataFrame,
    todo: dict[tuple[str, int], tuple[str, int]],
    filling: dict[tuple[str, int], _ImportFile],
) -> pl.DataFrame:
    """Write some bodies to their files; return their rows of the batches dataset."""
    sizes, keys = [], []
    bucket = S3Uri.parse(run.pipeline.staging.uri).bucket
    for kind, number, body in piece.select(*_FILE, "body").iter_rows():
        file = filling.get((kind, number))
        if file is None:
            batch_id, left = todo[kind, number]
            file = filling[kind, number] = _ImportFile(
                _prefix(run, batch_id).join(f"{kind}.{number:05}.ndjson").key, left
            )
        sizes.append(file.content.write(body.encode() + b"\n"))
        keys.append(file.key)
        file.todo -= 1
        if not file.todo:
            run.s3.put_file(S3Uri(bucket, file.key), file.content, "application/fhir+ndjson")
            file.content.close()
            del filling[kind, number]
    rows = piece.with_columns(
        staged_bucket=pl.lit(bucket),
        staged_key=pl.Series(keys, dtype=pl.String),
        size=pl.Series(sizes, dtype=pl.Int64),
    )
    return rows.select(BATCHES.names()).cast(BATCHES)
