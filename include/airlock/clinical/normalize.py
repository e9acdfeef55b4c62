"""Normalize: import files of one resource type each, within the service's limits, with references rewritten.

Writes the files below a prefix per batch, one ``batches/<batch id>`` dataset per batch, and last
``batches/index.json``: batches that it does not list do not exist.
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
from airlock.clinical.unreviewed import add_tag
from airlock.pipelines import ValidationLevel
from airlock.records import Verdict, digest, schema
from airlock.stages.batches import Batch, check_batch_count, find_batches, find_begun_batches, write_batches
from airlock.stages.resources import BY_UNIT, UNIT
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import FrameFile, NumberedSpool, Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airlock.pipelines import ClinicalPipeline, HealthLake, Pipeline
    from airlock.run import Run
    from airlock.storage.spool import Spool
    from airlock.storage.workspace import DatasetWriter

    Bodies = Callable[[pl.DataFrame], Iterable[pl.DataFrame]]

_FILE = ["resource_type", "file"]
_KEY = list(UNIT)
_CONTENT = pl.format("{}/{}={}", "resource_type", "resource_id", "content_digest")
_SAMPLED = 100  # every so many contents, one is sampled to divide their order into ranges of equal size
# An import file to be written: its type and number, the number of its batch, its bytes and its resources.
FILES = schema(
    {"resource_type": pl.String},
    dict.fromkeys(("file", "batch", "bytes", "resources"), pl.Int64),
    {"batch_id": pl.String},
)


def normalize(run: Run[ClinicalPipeline], healthlake: HealthLake) -> list[Batch]:
    """Write a run's import files and return their batches; once a job was begun, the files do not change."""
    if find_begun_batches(run):
        return find_batches(run)
    with ExitStack() as stack:
        rewrites = _spool_rewrites(run, stack)
        is_unreviewed = run.pipeline.risk.validation_level is ValidationLevel.MINIMAL

        def bodies(placed: pl.DataFrame) -> Iterator[pl.DataFrame]:
            meant = rewrites.partition(placed["part"][0]).select(REWRITES.names())
            texts = read_bodies(run, placed, meant)
            return map(_tag_bodies, texts) if is_unreviewed else texts

        return stage_batches(run, healthlake, _read_accepted(run), bodies)


def _tag_bodies(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(body=pl.Series(map(add_tag, rows["body"]), dtype=pl.String))


def plan_files(run: Run[Pipeline], healthlake: HealthLake) -> pl.DataFrame:
    """Return the import files (`FILES`) that `normalize` would write for the accepted resources."""
    with Placement(run, healthlake) as placement:
        for resources in _read_accepted(run):
            placement.add(resources)
        return placement.files()


def _read_accepted(run: Run[Pipeline]) -> Iterator[pl.DataFrame]:
    """Yield the accepted resources of each part of the verdicts, with the number of the ``part``."""
    for number, units in enumerate(run.workspace.parts("verdicts", VERDICTS)):
        yield units.filter(pl.col("verdict") == Verdict.ACCEPT).with_columns(part=pl.lit(number, pl.Int64))


def _spool_rewrites(run: Run[Pipeline], stack: ExitStack) -> Spool:
    """Return the rewrites, partitioned by the part of the verdicts that has their unit."""
    found = stack.enter_context(NumberedSpool(pl.col("part"), max(1, len(run.workspace.part_names("verdicts")))))
    found.add(schema(REWRITES, {"part": pl.Int64}).to_frame())
    with Partitions(max(map(run.workspace.count_rows, ("rewrites", "verdicts")))) as partitions:
        rewrites = partitions.spool(BY_UNIT, REWRITES, run.workspace.parts("rewrites", REWRITES))
        if rewrites.rows:
            units = partitions.spool(BY_UNIT, schema(UNIT, {"part": pl.Int64}), _read_accepted(run))
            for meant, placed in zip_partitions(rewrites, units):
                found.add(meant.join(placed, on=_KEY, maintain_order="left"))
    return found


class Placement:
    """Assigns a batch, a file and a line to each resource, from sizes alone. A context manager.

    A file has resources of one type in the order of the delivery, so that one pass over the bodies fills all files.
    """

    def __init__(self, run: Run[Pipeline], healthlake: HealthLake) -> None:
        self._run = run
        self._healthlake = healthlake
        self._placed_rows = FrameFile()
        self._frame_numbers: list[int] = []
        self._open: dict[str, tuple[int, int]] = {}  # by type, the number of the file that is not full, and its bytes
        self._files: dict[tuple[str, int], list[int]] = {}  # bytes and resources
        self._sample = pl.Series([], dtype=pl.String)

    def __enter__(self) -> Placement:
        return self

    def __exit__(self, *_: object) -> None:
        self._placed_rows.close()

    def add(self, resources: pl.DataFrame) -> None:
        """Add the next resources of the delivery."""
        if resources.is_empty():
            return
        sized = resources.with_columns(size=pl.col("size") + 1)  # one byte for the end of the line
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
        """Return the files of the added resources (`FILES`), in the order of their batches."""
        rows = [(*file, *facts) for file, facts in sorted(self._files.items())]
        files = pl.DataFrame(rows, schema=[*_FILE, "bytes", "resources"], orient="row")
        files = files.cast({name: FILES[name] for name in files.columns}).with_columns(
            batch=self._number_batches(files["bytes"])
        )
        return files.with_columns(batch_id=self._compute_batch_ids(files)).select(FILES.names())

    def _number_batches(self, sizes: Iterable[int]) -> pl.Series:
        """Return the number of each file's batch; the next batch starts before a limit would be exceeded."""
        limits, numbers = self._healthlake, []
        number = count = size = 0
        for more in sizes:
            if count and (count == limits.files_per_job or size + more > limits.bytes_per_job):
                number, count, size = number + 1, 0, 0
            numbers.append(number)
            count, size = count + 1, size + more
        return pl.Series(numbers, dtype=pl.Int64)

    def _compute_batch_ids(self, files: pl.DataFrame) -> pl.Series:
        """Return the id of each file's batch; the same resources have the same id when the task runs again."""
        contents = [hashlib.sha256() for _ in range(files["batch"].n_unique())]
        kinds = pl.Schema({"content": pl.String, "batch": pl.Int64})
        with Partitions(int(files["resources"].sum())) as partitions:
            numbers = files.select(*_FILE, "batch")
            rows = (frame.join(numbers, on=_FILE).select("batch", content=_CONTENT) for frame in self._read_frames())
            for part in partitions.sorted_spool(pl.col("content"), self._sample, kinds, rows):
                for (batch,), lines in part.sort("content").group_by("batch"):
                    contents[batch].update("".join(f"{line}\n" for line in lines["content"]).encode())
        run, store = self._run, self._healthlake.datastore_id
        ids = [digest(store, run.key, run.folder, content.hexdigest()) for content in contents]
        return files["batch"].replace_strict(dict(enumerate(ids)), default=None, return_dtype=pl.String)

    def _read_frames(self) -> Iterator[pl.DataFrame]:
        return map(self._placed_rows.read, self._frame_numbers)

    def read_placed(self, files: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the added rows with ``batch_id``, ``file`` and ``staged_line``."""
        for frame in self._read_frames():
            yield frame.join(files.select(*_FILE, "batch_id"), on=_FILE, how="left", maintain_order="left")


def number_files(sizes: pl.DataFrame, limit: int, open_files: dict[str, tuple[int, int]]) -> pl.Series:
    """Return the number of each resource's file among the files of its type.

    The next file starts before the limit would be exceeded.

    Parameters
    ----------
    sizes
        Type and bytes of each resource.
    limit
        The most bytes of a file; a single resource may have more.
    open_files
        The number and bytes of the file that is not full, by type; this function updates it.
    """
    numbers = []
    for kind, more in sizes.iter_rows():
        number, size = open_files.get(kind, (0, 0))
        open_files[kind] = (number, size + more) if not size or size + more <= limit else (number + 1, more)
        numbers.append(open_files[kind][0])
    return pl.Series(numbers, dtype=pl.Int64)


def stage_batches(
    run: Run[Pipeline],
    healthlake: HealthLake,
    resources: Iterable[pl.DataFrame],
    bodies: Bodies,
    standing: Sequence[Batch] = (),
) -> list[Batch]:
    """Write the import files of these resources and the datasets of their batches; return all batches.

    Parameters
    ----------
    run
        The run.
    healthlake
        The data store and its limits.
    resources
        Frames with arrival_id, line, resource_type, resource_id, content_digest, size, patient, and the columns that
        *bodies* needs.
    bodies
        Returns the resources of one such frame with their ``body``, piece by piece, in their order.
    standing
        Existing batches, which do not change; they come first in the result.
    """
    with Placement(run, healthlake) as placement:
        for rows in resources:
            placement.add(rows)
        files = placement.files()
        batch_ids = files["batch_id"].unique(maintain_order=True)
        check_batch_count(len(standing) + batch_ids.len())
        for batch_id in batch_ids:
            _empty_prefix(run, batch_id)
        written = _write_files(run, files, placement.read_placed(files), bodies)
    write_batches(run, [*standing, *written])
    return [*standing, *written]


def _make_prefix(run: Run[Pipeline], batch_id: str) -> S3Uri:
    pipeline: Pipeline = run.pipeline
    return S3Uri.parse(pipeline.staging.uri).join(pipeline.name, run.key, batch_id, "")


def _empty_prefix(run: Run[Pipeline], batch_id: str) -> None:
    """Delete all objects under a batch's prefix: an earlier try may have left files with other contents."""
    listed = [item.key for item in run.s3.list_objects(_make_prefix(run, batch_id), placeholders=True)]
    run.s3.delete(_make_prefix(run, batch_id).bucket, listed)


def _open_unnamed_file() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="airlock-")  # a file without a name is gone when the task is killed


@dataclass
class _ImportFile:
    """An import file on the local disk, until its last resource is written."""

    key: str
    remaining: int  # resources still to come
    content: IO[bytes] = field(default_factory=_open_unnamed_file)


@dataclass
class _StagedBatch:
    """A batch whose files are being written."""

    prefix: S3Uri
    files: int
    remaining: int  # resources still to come
    rows: DatasetWriter
    bytes: int = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows of the batches dataset; the last part is written with the last resource and leaves memory."""
        self.rows.add(rows)
        self.bytes += int(rows["size"].sum())
        self.remaining -= rows.height
        if not self.remaining:
            self.rows.end_part()


def _write_files(
    run: Run[Pipeline], files: pl.DataFrame, placed: Iterable[pl.DataFrame], bodies: Bodies
) -> list[Batch]:
    """Upload each import file as soon as its last resource is written; return the batches."""
    remaining = {
        (kind, number): (batch, left)
        for kind, number, batch, left in files.select(*_FILE, "batch_id", "resources").iter_rows()
    }
    sums = files.group_by("batch_id", maintain_order=True).agg(pl.len(), pl.col("resources").sum())
    with ExitStack() as stack:
        batches = {
            batch_id: _StagedBatch(
                _make_prefix(run, batch_id),
                number,
                resources,
                stack.enter_context(run.workspace.writer(f"batches/{batch_id}", BATCHES)),
            )
            for batch_id, number, resources in sums.iter_rows()
        }
        filling: dict[tuple[str, int], _ImportFile] = {}
        for rows in placed:
            for piece in bodies(rows):
                written = _write_bodies(run, piece, remaining, filling)
                for (batch_id,), sent in written.group_by("batch_id", maintain_order=True):
                    batches[str(batch_id)].add(sent)
    return [Batch(name, str(one.prefix), one.files, one.bytes) for name, one in batches.items()]


def _write_bodies(
    run: Run[Pipeline],
    piece: pl.DataFrame,
    remaining: dict[tuple[str, int], tuple[str, int]],
    filling: dict[tuple[str, int], _ImportFile],
) -> pl.DataFrame:
    """Write bodies to their import files; return their rows of the batches dataset."""
    sizes, keys = [], []
    staging = run.pipeline.staging
    bucket = S3Uri.parse(staging.uri).bucket
    for kind, number, body in piece.select(*_FILE, "body").iter_rows():
        file = filling.get((kind, number))
        if file is None:
            batch_id, left = remaining[kind, number]
            file = filling[kind, number] = _ImportFile(
                _make_prefix(run, batch_id).join(f"{kind}.{number:05}.ndjson").key, left
            )
        sizes.append(file.content.write(body.encode() + b"\n"))
        keys.append(file.key)
        file.remaining -= 1
        if not file.remaining:
            run.s3.put_file(S3Uri(bucket, file.key), file.content, "application/fhir+ndjson")
            file.content.close()
            del filling[kind, number]
    rows = piece.with_columns(
        staged_bucket=pl.lit(bucket),
        staged_key=pl.Series(keys, dtype=pl.String),
        size=pl.Series(sizes, dtype=pl.Int64),
    )
    return rows.select(BATCHES.names()).cast(BATCHES)
