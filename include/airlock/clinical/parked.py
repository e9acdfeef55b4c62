"""Parked resources: their bodies, and the objects in which a run takes them in.

The body of a resource that waits is an object below ``parked/`` of the pipeline's folder in the workspace, since its
source may expire. It is there before the ledger knows of it, and is deleted after the ledger has forgotten it. Its name
is that of its line in the run that copies it, so that it stays until this run is settled, below the digest of its
bytes: what comes in under the digest of a content has to be that content. A run takes in what is due as lines of NDJSON
objects below ``taken/`` of its own folder; these are arrivals of the run like any other. Beside each of them is a table
(`TAKEN`) of what the lines are: which file brought each resource first, and with which clock, so that it does not
become newer by waiting.
"""

from __future__ import annotations

import io
import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import IO, TYPE_CHECKING

import polars as pl

from airlock.clinical import gate
from airlock.clinical.bodies import read_bodies
from airlock.clinical.records import TAKEN, VERDICTS
from airlock.ledger.arrivals import LISTED
from airlock.ledger.open_resources import scope
from airlock.ledger.origin_words import ORIGINS
from airlock.ledger.parked import PARKED
from airlock.pipelines.parking import choose_days
from airlock.reasons import Reason
from airlock.records import TIMESTAMP, Verdict, arrival_id, digest, schema
from airlock.stages.buffer import TakenIn, find_shards, read_arrivals
from airlock.stages.resources import FILES, IDENTITY, UNIT
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline, Pipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import DatasetWriter

_log = logging.getLogger(__name__)
BODIES = "parked"  # in the pipeline's folder of the workspace
OBJECTS = "taken"  # in the run's folder
_PER_OBJECT = 1_000  # resources
_IN_FLIGHT = 16  # bodies that are read or written at a time
_MIB = 1024**2
_LINES, _TABLE = ".ndjson", ".parquet"
_ORIGINS = schema(dict.fromkeys(("arrival_id", "taken_as", "key"), pl.String))
_BODIES = schema({"body_uri": pl.String, "last_modified": TIMESTAMP})
_LOST_BODY = b"{}"  # the line of a resource whose body is gone; an empty object cannot be imported


def take_in(run: Run[ClinicalPipeline]) -> TakenIn | None:
    """Write what is due to objects for a run to claim; None if nothing is."""
    pipeline, now, most = run.pipeline, run.ledger.database_time(), run.pipeline.validation.park_units_per_run
    due = run.ledger.find_due(pipeline.datastore_id, pipeline.name, most, now)
    if due.is_empty():
        return None
    tables = list(_write_objects(run, due, now))
    units = pl.concat([rows for _, rows in tables]).select("taken_as", arrival_id="origin_id", line="origin_line")

    def record(ledger: Ledger) -> None:
        ledger.take_parked(pipeline.datastore_id, pipeline.name, run.key, units)

    return TakenIn(pl.concat([arrival for arrival, _ in tables]), record, (scope(pipeline.datastore_id),))


def _write_objects(
    run: Run[ClinicalPipeline], due: pl.DataFrame, now: datetime
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Write resources (`ledger.parked.DUE`) as objects that parse can read; yield each as `_write_object` does."""
    most = min(_PER_OBJECT, run.pipeline.parse.max_units)
    while due.height:
        arrival, table = _write_object(run, due.head(most), now)
        yield arrival, table
        due = due.slice(table.height)


def _write_object(run: Run[ClinicalPipeline], due: pl.DataFrame, now: datetime) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Write the first resources as one object with its table; return it as an arrival, and the table."""
    with tempfile.TemporaryFile(prefix="airlock-") as file:  # a file without a name is gone when the task is killed
        is_lost = _write_lines(run, due["body_uri"], file)
        written = due.head(len(is_lost))
        name = digest(*(f"{arrival}-{line}" for arrival, line in written.select([*UNIT]).iter_rows()))
        where = run.workspace.root.join(OBJECTS, f"{name}{_LINES}")
        table = _describe(written, is_lost, now)
        run.s3.put(S3Uri(where.bucket, _name_table(where.key)), _to_parquet(table))
        run.s3.put_file(where, file, "application/x-ndjson")
    found = run.s3.find(where)
    if found is None:
        raise FileNotFoundError("the object of parked resources is gone before its run has claimed it: clear buffer")
    own_id = arrival_id(where.bucket, where.key, None, found["etag"], found["size"])
    facts = {"arrival_id": own_id, "bucket": where.bucket, "key": where.key, "version_id": None, "site": ""}
    return pl.DataFrame([found | facts], schema=LISTED), table.with_columns(taken_as=pl.lit(own_id))


def _write_lines(run: Run[ClinicalPipeline], uris: pl.Series, file: IO[bytes]) -> list[bool]:
    """Write the bodies as lines, as many as parse reads of a file; return of each whether it is gone."""
    limits, is_lost = run.pipeline.parse, list[bool]()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for start in range(0, len(uris), _IN_FLIGHT):
            for body in pool.map(lambda uri: find_body(run.s3, uri), uris[start : start + _IN_FLIGHT]):
                line = (_LOST_BODY if body is None else body) + b"\n"
                is_large = file.tell() + len(line) > limits.unpacked_mib * _MIB
                if is_lost and (is_large or sum(is_lost) + (body is None) > limits.max_faulty):
                    return is_lost
                file.write(line)
                is_lost.append(body is None)
    return is_lost


def find_body(s3: S3, uri: str) -> bytes | None:
    """Return the copy of a parked resource; None if it is gone, or if somebody has changed it since."""
    where = S3Uri.parse(uri)
    try:
        body = s3.get(where)
    except FileNotFoundError:
        return None
    is_same = digest(body.decode("utf-8", "surrogateescape")) == where.key.split("/")[-2]
    return body if is_same else None


def _describe(due: pl.DataFrame, is_lost: list[bool], now: datetime) -> pl.DataFrame:
    """Return the table of an object's lines, without the id of its arrival."""
    origin = {"origin_id": "arrival_id", "origin_line": "line", "origin_bucket": "bucket", "origin_key": "key"}
    facts = due.with_columns(**{name: pl.col(column) for name, column in origin.items()}).with_columns(
        arrival_id=pl.lit(None, pl.String),
        line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
        has_ended=pl.col("parked_until") <= now,
        is_lost=pl.Series(is_lost, dtype=pl.Boolean),
    )
    return facts.select(TAKEN.names()).cast(TAKEN)


def _to_parquet(rows: pl.DataFrame) -> bytes:
    body = io.BytesIO()
    rows.write_parquet(body)
    return body.getvalue()


def _name_table(key: str) -> str:
    return key.removesuffix(_LINES) + _TABLE


def _is_taken(pipeline: Pipeline) -> pl.Expr:
    """Return whether an arrival is an object in which a run has taken in parked resources, in any workspace so far."""
    source, key = S3Uri.parse(pipeline.source.uri), pl.col("key")
    is_delivered = (pl.col("bucket") == source.bucket) & key.str.starts_with(source.key)
    return ~is_delivered & key.str.contains(rf"/{OBJECTS}/[0-9a-f]+\{_LINES}$")


def read_taken(run: Run[ClinicalPipeline]) -> pl.DataFrame:
    """Return the parked resources that a run has taken in, or redrives, as `TAKEN`: at most those of some runs.

    Raises
    ------
    RuntimeError
        If nobody knows what the lines of an object are: they must not come in as if they were new.
    """
    found = [TAKEN.to_frame()]
    for rows in read_arrivals(run):
        for name, bucket, key in rows.filter(_is_taken(run.pipeline)).select("arrival_id", "bucket", "key").iter_rows():
            found.append(_read_table(run, S3Uri(bucket, key)).with_columns(arrival_id=pl.lit(name)))
    return pl.concat(found)


def _read_table(run: Run[ClinicalPipeline], where: S3Uri) -> pl.DataFrame:
    """Return the table of an object; an empty one if both are gone."""
    try:
        return pl.read_parquet(io.BytesIO(run.s3.get(S3Uri(where.bucket, _name_table(where.key)))), schema=TAKEN)
    except FileNotFoundError:
        if run.s3.exists(where):
            raise RuntimeError(
                "The table of an object of parked resources is gone. Restore what was deleted below taken/ of the run; "
                "or give the run back (airlock ledger release), and the next one takes the resources in."
            ) from None
        return TAKEN.to_frame()


def restore(units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Return a chunk's units with what was known of them when they came first; stop those without a body."""
    if taken.is_empty():
        return units
    names = (*IDENTITY, "content_digest", "clock", "patient")
    known = taken.select(*UNIT, "is_lost", *(pl.col(name).alias(f"parked_{name}") for name in names))
    joined = units.join(known, on=[*UNIT], how="left", maintain_order="left")
    lost, gone = pl.col("is_lost").fill_null(value=False), pl.lit("its copy in the workspace is gone or was changed")
    return joined.with_columns(
        *(pl.coalesce(f"parked_{name}", name).alias(name) for name in names),
        reason=pl.when(lost).then(pl.lit(str(Reason.WAITED_TOO_LONG))).otherwise("reason"),
        detail=pl.when(lost).then(gone).otherwise("detail"),
    ).drop("is_lost", *(f"parked_{name}" for name in names))


def select_ended(units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Return the units that have waited for as long as they may."""
    return units.join(taken.filter("has_ended"), on=[*UNIT], how="semi", maintain_order="left")


def select_whole(files: pl.DataFrame, taken: pl.DataFrame) -> pl.Series:
    """Return the ids of those files (`FILES`) that are objects of parked resources and that parse has read to the end.

    A row that is missing would be a resource that is in no one's books.
    """
    known = files.join(taken.group_by("arrival_id").agg(lines=pl.len().cast(pl.Int64)), on="arrival_id")
    return known.filter(pl.col("reason").is_null() & (pl.col("units") == pl.col("lines")))["arrival_id"]


def write_parked(
    run: Run[ClinicalPipeline],
    units: pl.DataFrame,
    rewrites: pl.DataFrame,
    waits: pl.DataFrame,
    taken: pl.DataFrame,
    *,
    writer: DatasetWriter,
    now: datetime,
) -> None:
    """Copy the bodies of a part's parked units, and add their rows for the ledger (`ledger.parked.PARKED`).

    Parameters
    ----------
    run
        The run.
    units
        Decided units (`verdicts.UNITS`).
    rewrites
        Their `records.REWRITES`: the other entries of a Bundle will not be there later.
    waits
        `WAITS` of the same part. A parked unit without any waits for its turn, so for itself.
    taken
        `TAKEN`
    writer
        Of the dataset ``parked``.
    now
        The database's time, from which on what is new waits.
    """
    waiting = units.filter((pl.col("verdict") == Verdict.PARK) & pl.col("resource_id").is_not_null())
    if waiting.is_empty():
        return
    rows = _name_first(waiting, taken, run.pipeline.validation.park_days, now)
    rows = pl.concat([_put_bodies(run, piece) for piece in read_bodies(run, rows, rewrites)])
    rows = rows.join(waits, on="row", how="left", maintain_order="left")
    waits_itself = pl.col("waits_for_id").is_null()
    writer.add(
        rows.with_columns(
            held_as="arrival_id",
            arrival_id="origin_id",
            line="origin_line",
            waits_for_type=pl.when(waits_itself).then("resource_type").otherwise("waits_for_type"),
            waits_for_id=pl.when(waits_itself).then("resource_id").otherwise("waits_for_id"),
        )
        .select(PARKED.names())
        .cast(PARKED)
    )


def _put_bodies(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Copy the bodies of units, and return the units with ``body_uri`` in the place of ``body``."""
    folder, named = _find_folder(run.pipeline), units.select("body", *UNIT).iter_rows()
    uris = [str(folder.join(digest(body), f"{arrival}-{line}.json")) for body, arrival, line in named]

    def put(uri: str, body: str) -> None:
        run.s3.put(S3Uri.parse(uri), body.encode(), "application/fhir+json")

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        list(pool.map(put, uris, units["body"]))
    return units.with_columns(body_uri=pl.Series(uris, dtype=pl.String)).drop("body")


def _name_first(waiting: pl.DataFrame, taken: pl.DataFrame, park_days: dict[str, int], now: datetime) -> pl.DataFrame:
    """Return parked units with the arrival and line that brought them first, since when, and until when."""
    known = taken.select(*UNIT, "origin_id", "origin_line", "site", "parked_at", "parked_until")
    rows = waiting.join(known, on=[*UNIT], how="left", maintain_order="left")
    days = {kind: choose_days(park_days, kind) for kind in rows["resource_type"].unique()}
    until = pl.lit(now) + pl.duration(days=pl.col("resource_type").replace_strict(days, return_dtype=pl.Int64))
    return rows.with_columns(
        origin_id=pl.coalesce("origin_id", "arrival_id"),
        origin_line=pl.coalesce("origin_line", "line"),
        parked_at=pl.coalesce("parked_at", pl.lit(now)).cast(TIMESTAMP),
        parked_until=pl.coalesce("parked_until", until).cast(TIMESTAMP),
    )


def _find_folder(pipeline: Pipeline) -> S3Uri:
    """Return the folder of a pipeline's parked bodies; the ledger reads the arrival from their names."""
    return S3Uri.parse(pipeline.workspace).join(pipeline.name, BODIES, "")


@dataclass(frozen=True)
class ParkedUnits:
    """What a run parks, and what becomes of the parked resources that it has taken in, as an audit settles it."""

    rows: Callable[[], Iterator[pl.DataFrame]]  # of the dataset ``parked``
    taken: pl.DataFrame  # `records.TAKEN`
    read: pl.Series  # the objects of taken resources that parse has read as a whole
    unread: pl.Series  # the others
    origins: pl.DataFrame = field(default_factory=ORIGINS.to_frame)  # the files that brought taken resources first

    @classmethod
    def find(cls, run: Run[ClinicalPipeline]) -> ParkedUnits:
        """Return the parked units of a run by its datasets, as far as they exist."""
        taken = read_taken(run)
        names = taken["arrival_id"].unique().sort()
        shards = find_shards(run) if len(names) else ()
        files = (rows for shard in shards for rows in run.workspace.find_parts(f"files/{shard}", FILES))
        whole = pl.concat([pl.Series([], dtype=pl.String), *(select_whole(rows, taken) for rows in files)])
        read, unread = (names.filter(names.is_in(whole.implode()) == is_read) for is_read in (True, False))
        return cls(lambda: run.workspace.find_parts("parked", PARKED), taken, read, unread)

    @property
    def names(self) -> pl.Series:
        """The ids of the objects in which the run has taken in parked resources."""
        return pl.concat([self.read, self.unread])

    def with_origins(self, dispositions: Iterable[pl.DataFrame]) -> ParkedUnits:
        """Return these with what becomes of the files that brought taken resources first, by the units' words."""
        return self if self.taken.is_empty() else replace(self, origins=_name_origins(dispositions, self.taken))

    def find_settled(self, files: Iterable[pl.DataFrame]) -> ParkedUnits:
        """Return the units of files (``arrival_id``, ``is_open``) that the run has decided on."""
        none = pl.Series([], dtype=pl.String)
        open_ids = pl.concat([none, *(rows.filter("is_open")["arrival_id"] for rows in files)])
        if open_ids.is_empty():
            return self
        is_open = open_ids.implode()
        # A file of which one resource is undecided has no word yet: it comes with that resource's.
        undecided = self.taken.filter(pl.col("arrival_id").is_in(is_open))["origin_id"]
        return replace(
            self,
            rows=lambda: (rows.filter(~pl.col("held_as").is_in(is_open)) for rows in self.rows()),
            read=self.read.filter(~self.read.is_in(is_open)),
            unread=self.unread.filter(~self.unread.is_in(is_open)),
            origins=self.origins.filter(~pl.col("arrival_id").is_in(undecided.implode())),
        )


def _name_origins(dispositions: Iterable[pl.DataFrame], taken: pl.DataFrame) -> pl.DataFrame:
    """Return the files that brought taken resources first, each with the gravest disposition of these (`ORIGINS`)."""
    known = taken.select(*UNIT, "origin_id", "origin_line", "origin_key")
    sums, objects = [gate.SUMMED.to_frame()], [_ORIGINS.to_frame()]
    for rows in dispositions:
        origin = {"taken_as": "arrival_id", "arrival_id": "origin_id", "line": "origin_line"}
        own = rows.join(known, on=[*UNIT]).with_columns(**origin)
        sums.append(gate.sum_dispositions(own))
        objects.append(own.select("arrival_id", "taken_as", key="origin_key"))
    files = pl.concat(objects).sort("taken_as").unique("arrival_id", keep="first", maintain_order=True)
    decided = gate.decide_file_dispositions(files.with_columns(size=pl.lit(None, pl.Int64)), pl.concat(sums))
    return decided.join(files.select("arrival_id", "taken_as"), on="arrival_id").select(ORIGINS.names())


def remove_bodies(run: Run[ClinicalPipeline], taken: pl.DataFrame) -> None:
    """Delete the bodies of what a run had taken in and what has left; call it after the transaction that settles."""
    if taken.is_empty():
        return
    spare = run.ledger.find_spare_bodies(taken["body_uri"])
    _remove(run.s3, spare.filter("is_settled")["body_uri"])


def sweep_bodies(pipeline: ClinicalPipeline, s3: S3, ledger: Ledger) -> int:
    """Delete the bodies that nothing needs any more, and return their number.

    Those of files that the ledger does not know stay for as long as a resource may wait: the ledger may have been lost.
    """
    removed = 0
    begun = ledger.database_time() - timedelta(days=max(pipeline.validation.park_days.values()))
    for bodies in _list_bodies(s3, _find_folder(pipeline)):
        spare = ledger.find_spare_bodies(bodies["body_uri"]).join(bodies, on="body_uri", maintain_order="left")
        removed += _remove(s3, spare.filter(pl.col("is_settled") | (pl.col("last_modified") < begun))["body_uri"])
    return removed


def _list_bodies(s3: S3, folder: S3Uri) -> Iterator[pl.DataFrame]:
    rows: list[tuple[str, datetime]] = []
    for item in s3.list_objects(folder):
        rows.append((str(S3Uri(folder.bucket, item.key)), item.last_modified))
        if len(rows) == _PER_OBJECT:
            yield pl.DataFrame(rows, schema=_BODIES, orient="row")
            rows = []
    yield pl.DataFrame(rows, schema=_BODIES, orient="row")


def _remove(s3: S3, uris: pl.Series) -> int:
    gone = [S3Uri.parse(uri) for uri in uris]
    try:
        for bucket in {where.bucket for where in gone}:
            s3.delete(bucket, [where.key for where in gone if where.bucket == bucket])
    except OSError as error:  # refused, or no answer: the next sweep tries again
        told = "%d copies of resources that are not parked any more stay (%s). Give the role s3:DeleteObject on them."
        _log.warning(told, len(gone), type(error).__name__)
        return 0
    return len(gone)


def name_sources(resources: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Return resources (arrival_id, line, bucket, key) with the file and line that brought each of them first."""
    if taken.is_empty():
        return resources
    origin = taken.select(*UNIT, "origin_bucket", "origin_key", "origin_line")
    joined = resources.join(origin, on=[*UNIT], how="left", maintain_order="left")
    return joined.with_columns(
        bucket=pl.coalesce("origin_bucket", "bucket"),
        key=pl.coalesce("origin_key", "key"),
        line=pl.coalesce("origin_line", "line"),
    ).drop("origin_bucket", "origin_key", "origin_line")


def count_ended(run: Run[ClinicalPipeline], taken: pl.DataFrame) -> list[dict[str, object]]:
    """Return how many resources have waited too long, by type, the types that they waited for, and site."""
    ended = taken.filter(pl.col("has_ended") | pl.col("is_lost"))
    found = [schema(dict.fromkeys(("resource_type", "detail", "site"), pl.String)).to_frame()]
    for rows in run.workspace.find_parts("verdicts", VERDICTS) if ended.height else ():
        stopped = rows.filter(pl.col("reason") == Reason.WAITED_TOO_LONG)
        found.append(stopped.join(ended.select(*UNIT, "site"), on=[*UNIT]).select("resource_type", "detail", "site"))
    counted = pl.concat(found).group_by("resource_type", "detail", "site").agg(resources=pl.len())
    return counted.sort("resource_type", "detail", "site").to_dicts()
