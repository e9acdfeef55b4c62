"""Rows for the ledger's tests. An arrival is named by one short word, which becomes its key and its UIDs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.instances import CLAIMS, IMPORTS
from airlock.ledger.studies import SERIES, STUDIES
from airlock.ledger.words import VERDICTS
from airlock.records import ARRIVALS, DISPOSITIONS, arrival_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.ledger import Ledger

STORE = "0123456789abcdef0123456789abcdef"
NIGHTLY = "nightly"
SEEN_AT = datetime(2026, 3, 1, 4, 5, 6, 789_012, tzinfo=UTC)


def id_of(name: str) -> str:
    return arrival_id("archive", f"in/{name}", None, f"etag-{name}", 100)


def ids_of(names: Iterable[str]) -> set[str]:
    return {id_of(name) for name in names}


def arrivals(*names: str) -> pl.DataFrame:
    rows = [(id_of(name), "archive", f"in/{name}", None, f"etag-{name}", 100, SEEN_AT) for name in names]
    return pl.DataFrame(rows, schema=ARRIVALS, orient="row")


def content(key: str, number: int) -> pl.DataFrame:
    """Return an arrival of the n-th content under a key."""
    etag = f"content-{number}"
    rows = arrivals(key).with_columns(
        arrival_id=pl.lit(arrival_id("archive", f"in/{key}", None, etag, 100)),
        etag=pl.lit(etag),
        last_modified=pl.lit(SEEN_AT + timedelta(days=number)),
    )
    return rows.with_columns(pl.col("last_modified").cast(arrivals("x").schema["last_modified"]))


def held_after(ledger: Ledger, run: str, listing: pl.DataFrame, pipeline: str = NIGHTLY) -> pl.DataFrame:
    """Claim a listing for a run and return all that the run holds then."""
    ledger.claim(pipeline, run, listing)
    return ledger.held_by(pipeline, run)


def claims(*pairs: tuple[str, str]) -> pl.DataFrame:
    """Pairs of an arrival's name and the SOP Instance UID that it brings."""
    rows = [(id_of(name), uid, f"{uid}.series", "1.study") for name, uid in pairs]
    return pl.DataFrame(rows, schema=CLAIMS, orient="row")


def verdicts(*pairs: tuple[str, str], verdict: str = "accept") -> pl.DataFrame:
    """Pairs of an arrival's name and the study that its file belongs to."""
    rows = [(id_of(name), verdict, f"1.{name}", "1.series", uid) for name, uid in pairs]
    return pl.DataFrame(rows, schema=VERDICTS, orient="row")


def imports(*pairs: tuple[str, str], state: str = "imported") -> pl.DataFrame:
    return claims(*pairs).select(
        "*",
        state=pl.lit(state),
        image_set_id=pl.lit("image-set"),
        image_set_version=pl.lit(1, pl.Int64),
        batch_id=pl.lit("batch"),
    ).select(list(IMPORTS))  # fmt: skip


def study(uid: str = "1.study", patient: str = "P1") -> pl.DataFrame:
    return pl.DataFrame([(uid, "20260301", "A1", patient, None, "")], schema=STUDIES, orient="row")


def series(uid: str = "1.series", study_uid: str = "1.study", number: str | None = "1") -> pl.DataFrame:
    return pl.DataFrame([(uid, study_uid, number)], schema=SERIES, orient="row")


NO_STUDIES, NO_SERIES = STUDIES.to_frame(), SERIES.to_frame()


def dispositions(*names: str, word: str = "released", study_uid: str | None = "1.study") -> pl.DataFrame:
    rows = [
        (id_of(name), f"in/{name}", 100, f"1.{name}", "1.series", study_uid, word, "audit", None, None, "b", "j", "i")
        for name in names
    ]
    return pl.DataFrame(rows, schema=DISPOSITIONS, orient="row")


def ids(frame: pl.DataFrame) -> set[str]:
    return set(frame["arrival_id"])


def begin(ledger: Ledger, *runs: str, pipeline: str = NIGHTLY) -> None:
    for run in runs:
        ledger.open_run(run, pipeline, f"scheduled__{run}", None)


def uids(*values: str) -> pl.Series:
    return pl.Series(values, dtype=pl.String)
