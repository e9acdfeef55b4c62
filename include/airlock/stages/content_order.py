"""The order of the contents of a FHIR resource, by the pipeline's ``source.order``.

A content's clocks are one text, for the ledger: ``place=<digest of bucket and key> last_updated=<microseconds>
last_modified=<microseconds>``, with the declared clock and those that follow it. A time in the future is not among
them: ``future=last_updated`` says that there was one.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from airlock.reasons import Reason
from airlock.records import Verdict, digest, schema
from airlock.stages.receive import get_manifest
from airlock.stages.resources import IDENTITY
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import ClinicalPipeline, Order
    from airlock.run import Run

CLOCKS = ("last_updated", "key_date", "manifest", "last_modified")  # a clock that does not order falls to the next
FILE_CLOCKS = schema(
    {"arrival_id": pl.String, "place": pl.String},
    dict.fromkeys(("key_date", "manifest", "last_modified"), pl.Int64),  # microseconds since 1970
)
DECIDED = ("order_verdict", "order_reason", "order_detail")
_FIELD = "as_of"  # of a delivery's manifest
# Of equal copies, one that may follow the known content counts before one in doubt, and that before an older one.
_TURNS = {Verdict.ACCEPT.value: 1, Verdict.QUARANTINE.value: 2, Verdict.IGNORE.value: 3}


def list_clocks(order: Order) -> tuple[str, ...]:
    """Return the declared clock and those that it falls to, in order."""
    return CLOCKS[CLOCKS.index(order.across_keys) :]


def read_time(text: str | None) -> int | None:
    """Return the microseconds since 1970 of an ISO 8601 time, which is in UTC without a zone; None if it is none."""
    try:
        moment = datetime.fromisoformat(text or "")
        aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return (aware - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        return None


def read_last_updated(body: str = "body") -> pl.Expr:
    """Return meta.lastUpdated of a column of resources, in microseconds since 1970."""
    text = pl.col(body).str.json_path_match("$.meta.lastUpdated")
    return text.map_elements(read_time, return_dtype=pl.Int64).alias("last_updated")


@dataclass
class FileClocks:
    """Reads the clocks of files: the dates in their keys, and ``as_of`` of the manifests beside or above them."""

    run: Run[ClinicalPipeline]
    _as_of: dict[S3Uri, int | None] = field(default_factory=dict)  # by the manifest's address

    def read(self, arrivals: pl.DataFrame) -> pl.DataFrame:
        """Return `FILE_CLOCKS` of arrivals: arrival_id, bucket, key, last_modified."""
        clocks = list_clocks(self.run.pipeline.order)
        rows = [
            (
                arrival_id,
                digest(bucket, key, length=16),
                self._find_key_date(key) if "key_date" in clocks else None,
                self._find_as_of(S3Uri(bucket, key)) if "manifest" in clocks else None,
                changed,
            )
            for arrival_id, bucket, key, changed in arrivals.select(
                "arrival_id", "bucket", "key", pl.col("last_modified").dt.epoch("us")
            ).iter_rows()
        ]
        return pl.DataFrame(rows, schema=FILE_CLOCKS, orient="row")

    def _find_key_date(self, key: str) -> int | None:
        found = re.search(self.run.pipeline.source.key_date_pattern, key)
        if found is None:
            return None
        try:
            year, month, day = (int(part or "") for part in found.group("year", "month", "day"))
            return read_time(date(year, month, day).isoformat())
        except (ValueError, OverflowError):  # no such day
            return None

    def _find_as_of(self, file: S3Uri) -> int | None:
        """Return ``as_of`` of the nearest manifest in the file's folder or one above it, within the source."""
        for folder in _list_folders(file, S3Uri.parse(self.run.pipeline.source.uri)):
            manifest = folder.join(self.run.pipeline.receive.manifest)
            if manifest not in self._as_of:
                self._as_of[manifest] = _read_as_of(self.run, manifest)
            if self._as_of[manifest] is not None:
                return self._as_of[manifest]
        return None


def _list_folders(file: S3Uri, source: S3Uri) -> Iterator[S3Uri]:
    """Yield the folders of a file from its own up to the source."""
    key = file.key
    while len(key) > len(source.key):
        key = key.rstrip("/").rpartition("/")[0] + "/"
        if not key.startswith(source.key):
            return
        yield S3Uri(file.bucket, key)


def _read_as_of(run: Run[ClinicalPipeline], manifest: S3Uri) -> int | None:
    try:
        content = json.loads(get_manifest(run.s3, manifest, run.pipeline.receive))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    said = content.get(_FIELD) if isinstance(content, dict) else None
    return read_time(said) if isinstance(said, str) else None


def format_clock(order: Order, now: datetime) -> pl.Expr:
    """Return the clocks of contents as texts, from columns as those of `FILE_CLOCKS` and ``last_updated``.

    Parameters
    ----------
    order
        The declared order.
    now
        The database's time, for times in the future.
    """
    latest = read_time((now + timedelta(hours=order.future_tolerance_hours)).isoformat())
    parts = [pl.format("place={}", "place")]
    for name in list_clocks(order):
        told = pl.when(pl.col(name) > latest).then(pl.lit(f"future={name}")).otherwise(pl.format(f"{name}={{}}", name))
        parts.append(told)
    return pl.concat_str(parts, separator=" ", ignore_nulls=True).alias("clock")


def read_clock(name: str, clock: str = "clock") -> pl.Expr:
    """Return one clock of a column of texts of `format_clock`, in microseconds; null where it is missing."""
    return pl.col(clock).str.extract(rf"\b{name}=(-?\d+)").cast(pl.Int64)


def _compare(name: str) -> pl.Expr:
    """Return 1 where the content is newer than the known one by a clock, -1 where it is older, null where unknown."""
    sign = (read_clock(name) - read_clock(name, "known_clock")).sign()
    return pl.when(sign != 0).then(sign)


def _is_same_place() -> pl.Expr:
    place = r"\bplace=([0-9a-f]+)"
    return (pl.col("clock").str.extract(place) == pl.col("known_clock").str.extract(place)).fill_null(value=False)


def _reason_where(condition: pl.Expr, reason: Reason) -> pl.Expr:
    return pl.when(condition).then(pl.lit(str(reason)))


def find_late(run: Run[ClinicalPipeline], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
    """Return the contents that are not newer than another content that the data store has, or may have.

    Parameters
    ----------
    run
        The run.
    datastore_id
        The data store, or the name that stands for it in the ledger.
    claims
        `ledger.resources.CLAIMS`; those of the run itself do not count as known.

    Returns
    -------
    polars.DataFrame
        Columns ``arrival_id``, ``resource_type``, ``resource_id``, ``content_digest`` and those of `decide_order`:
        contents that are not accepted, or have a note.
    """
    known = run.ledger.contents_of(datastore_id, claims.select(*IDENTITY), except_run=run.holder)
    return judge(run, claims.join(known, on=[*IDENTITY]))


def select_superseded(
    run: Run[ClinicalPipeline], datastore_id: str, stopped: pl.DataFrame, *, released: bool
) -> pl.DataFrame:
    """Return the contents of which other runs have brought newer content, or the same: nothing is missing for them.

    Parameters
    ----------
    run, datastore_id
        As for `find_late`.
    stopped
        Units with ``resource_type``, ``resource_id``, ``content_digest`` and ``clock``.
    released
        Whether content that its run holds or doubts does not count.
    """
    keys = stopped.select(*IDENTITY)
    known = run.ledger.contents_of(datastore_id, keys, except_run=run.holder, released=released)
    both = stopped.join(known, on=[*IDENTITY])
    decided = decide_order(_complete_clocks(run, both), run.pipeline.order)
    is_same, is_newer = pl.col("known_digest") == pl.col("content_digest"), pl.col("order_verdict") == Verdict.IGNORE
    return decided.filter(is_same | is_newer).select(stopped.columns).unique(maintain_order=True)


def select_outdated(run: Run[ClinicalPipeline], contents: pl.DataFrame) -> pl.DataFrame:
    """Return the stopped contents (`ledger.open_resources.STOPPED_CONTENTS`) of which the brought content is older."""
    differing = contents.filter(pl.col("known_digest").ne_missing(pl.col("content_digest")))
    swapped = _complete_clocks(run, differing).rename({"clock": "known_clock", "known_clock": "clock"})
    decided = decide_order(swapped, run.pipeline.order)
    return decided.filter(pl.col("order_verdict") == Verdict.IGNORE).select(*IDENTITY)


def find_spare(run: Run[ClinicalPipeline], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
    """Return the copies that do not count, of claims that have one content for each resource.

    The content of a resource is as new as its newest copy. Of copies that the known content allows alike, the one with
    the newest clocks counts, and of those the first.

    Parameters
    ----------
    run, datastore_id, claims
        As for `find_late`; more columns stay.
    """
    copies = claims.filter(pl.len().over(*IDENTITY) > 1).with_row_index("copy")
    if copies.is_empty():
        return claims.clear()
    newest = [read_clock(name) for name in list_clocks(run.pipeline.order)]
    in_order = copies.sort(newest, descending=True, nulls_last=True, maintain_order=True)
    of_files = in_order.unique(["arrival_id", *IDENTITY], keep="first", maintain_order=True)
    late = find_late(run, datastore_id, of_files).select("arrival_id", *IDENTITY, "order_verdict")
    judged = of_files.join(late, on=["arrival_id", *IDENTITY], how="left", maintain_order="left")
    turn = pl.col("order_verdict").replace_strict(_TURNS, default=0, return_dtype=pl.Int64)
    counting = judged.sort(turn, maintain_order=True).unique([*IDENTITY], keep="first", maintain_order=True)
    return copies.join(counting, on="copy", how="anti", maintain_order="left").drop("copy")


def judge(run: Run[ClinicalPipeline], contested: pl.DataFrame) -> pl.DataFrame:
    """Return `find_late` of claims with what is known of their resources, `ledger.resources.CONTESTED`."""
    differing = contested.filter(pl.col("known_digest").ne_missing(pl.col("content_digest")))
    decided = decide_order(_complete_clocks(run, differing), run.pipeline.order)
    content = ["arrival_id", *IDENTITY, "content_digest"]  # parked resources come in with several contents in one file
    late = decided.filter(pl.col("order_reason").is_not_null()).select(*content, *DECIDED)
    return late.unique(content, keep="first", maintain_order=True)


def refuse_late(run: Run[ClinicalPipeline], contested: pl.DataFrame) -> pl.DataFrame:
    """Return the contents of `judge` that are not accepted, with ``reason`` and ``detail``."""
    late = judge(run, contested).filter(pl.col("order_verdict") != Verdict.ACCEPT)
    return late.rename({"order_reason": "reason", "order_detail": "detail"})


def _complete_clocks(run: Run[ClinicalPipeline], contested: pl.DataFrame) -> pl.DataFrame:
    """Give known contents that were recorded without clocks those of the file that brought them."""
    lacks = pl.col("known_clock").is_null() & pl.col("key").is_not_null()
    if not contested.select(lacks.any()).item():
        return contested
    file = ["bucket", "key", "last_modified"]
    files = contested.filter(lacks).select(file).unique().with_row_index("arrival_id").cast({"arrival_id": pl.String})
    clocks = FileClocks(run).read(files).with_columns(last_updated=pl.lit(None, pl.Int64))
    told = clocks.select("arrival_id", of_file=format_clock(run.pipeline.order, run.ledger.database_time()))
    known = contested.join(files.join(told, on="arrival_id").drop("arrival_id"), on=file, how="left")
    return known.with_columns(known_clock=pl.coalesce("known_clock", "of_file")).drop("of_file")


def find_confirmed(run: Run[ClinicalPipeline], datastore_id: str, claims: pl.DataFrame) -> pl.DataFrame:
    """Return the contents of the data store that newer files bring unchanged, as `ledger.resources.CONFIRMED`."""
    known = run.ledger.contents_of(datastore_id, claims.select(*IDENTITY), except_run=run.holder)
    same = claims.join(known, on=[*IDENTITY]).filter(pl.col("known_digest") == pl.col("content_digest"))
    seen = same.with_columns(seen_clock="known_clock")
    decided = decide_order(_complete_clocks(run, seen), run.pipeline.order)
    newer = decided.filter(pl.col("order_verdict") == Verdict.ACCEPT)
    names = [*IDENTITY, "content_digest", "clock"]
    return newer.sort("clock").unique([*IDENTITY], keep="last").select(*names, known_clock="seen_clock")


def decide_order(rows: pl.DataFrame, order: Order) -> pl.DataFrame:
    """Return whether contents may follow the known contents of their resources, as verdicts.

    Parameters
    ----------
    rows
        With ``resource_type``, ``clock`` and ``known_clock``.
    order
        The declared order.

    Returns
    -------
    polars.DataFrame
        The rows with ``order_verdict``, ``order_reason`` and ``order_detail``. An accepted content that only a later
        clock orders has the reason ``order_unknown`` as its note.
    """
    declared, *others = list_clocks(order)
    signs = {name: _compare(name).alias(f"sign_{name}") for name in (declared, *others)}
    later = [pl.col(f"sign_{name}") for name in others]
    by_later = pl.coalesce(*later) if later else pl.lit(None, pl.Int64)
    safety = pl.col("resource_type").is_in(order.safety_types).fill_null(value=False)
    older_version = read_clock("last_modified") < read_clock("last_modified", "known_clock")
    compared = rows.with_columns(
        *signs.values(),
        same_place=_is_same_place(),
        future=pl.col("clock").str.contains(rf"\bfuture={declared}\b").fill_null(value=False),
        older_version=older_version.fill_null(value=False),
    ).with_columns(
        by_declared=pl.col(f"sign_{declared}"),
        by_later=pl.when(~safety).then(by_later),
        clock_used=pl.coalesce(*(_reason_clock(name) for name in others), pl.lit(None, pl.String)),
    )
    decided = compared.with_columns(order_reason=_decide_reason(), order_detail=_explain(declared))
    noted = (pl.col("order_reason") == Reason.ORDER_UNKNOWN) & (pl.col("by_later") > 0).fill_null(value=False)
    verdict = (
        pl.when(pl.col("order_reason").is_null() | noted)
        .then(pl.lit(Verdict.ACCEPT.value))
        .when(pl.col("order_reason") == Reason.NEWER_CONTENT)
        .then(pl.lit(Verdict.IGNORE.value))
        .otherwise(pl.lit(Verdict.QUARANTINE.value))
    )
    return decided.with_columns(order_verdict=verdict).select(*rows.columns, *DECIDED)


def _reason_clock(name: str) -> pl.Expr:
    return pl.when(pl.col(f"sign_{name}").is_not_null()).then(pl.lit(name))


def _decide_reason() -> pl.Expr:
    """Return the reason by the comparisons; null where the content is newer by the declared order."""
    known = pl.col("by_declared")
    return (
        pl.when("same_place")
        .then(_reason_where(pl.col("older_version"), Reason.NEWER_CONTENT))
        .when("future")
        .then(pl.lit(str(Reason.FUTURE_TIMESTAMP)))
        .when(known.is_not_null())
        .then(_reason_where(known < 0, Reason.NEWER_CONTENT))
        .when((pl.col("by_later") < 0).fill_null(value=False))
        .then(pl.lit(str(Reason.NEWER_CONTENT)))
        .otherwise(pl.lit(str(Reason.ORDER_UNKNOWN)))
    )


def _explain(declared: str) -> pl.Expr:
    """Return which clock ordered the contents where the declared one did not."""
    lacking = f"{declared} is missing or equal"
    unsure = ~pl.col("same_place") & ~pl.col("future") & pl.col("by_declared").is_null()
    told = (
        pl.when(pl.col("by_later").is_not_null())
        .then(pl.format(f"{lacking}: ordered by {{}}", "clock_used"))
        .otherwise(pl.lit(lacking))
    )
    return pl.when(unsure).then(told)
