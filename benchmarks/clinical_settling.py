"""How long a clinical run that settles keeps others waiting: its whole run is one transaction.

Run it::

    python -m benchmarks.clinical_settling                   # 50,000 patients of 4 resources
    python -m benchmarks.clinical_settling --patients 5000

Measured as in `benchmarks.settling`. All resources are imported and released. One process wants the lock of the data
store's resources, as another run does that claims or settles resources there; another one wants that of the pipeline's
arrivals, as a run does that claims its delivery.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from itertools import starmap
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import gate
from airlock.clinical.parked import ParkedUnits
from airlock.clinical.records import GATES, TAKEN, VERDICTS
from airlock.clinical.settle import Decided
from airlock.clinical.settle import settle as settle_run
from airlock.ledger import Ledger, arrivals, open_resources, upgrade
from airlock.ledger.open_resources import OPEN
from airlock.ledger.resources import CLAIMS
from airlock.pipelines import ClinicalPipeline
from airlock.records import ARRIVALS, DISPOSITIONS, schema
from airlock.run import Run
from airlock.stages.resources import OUTCOMES
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import FrameFile, Partitions, zip_partitions
from benchmarks.clinical import PIPELINE
from benchmarks.settling import PayloadlessS3, analyze, measure_on_postgres, race

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.ledger.database import Scope
    from airlock.storage.s3 import ListedObject

STORE, OF_PATIENT, OF_FILE = "b" * 32, 4, 4_000
_SENT = schema(OUTCOMES, {"uncertain": pl.Boolean}, dict.fromkeys(("disposition", "word", "bucket", "key"), pl.String))


class NothingListed(PayloadlessS3):
    """S3 that stores nothing and has nothing."""

    def list_objects(self, *_: Any, **__: Any) -> Iterator[ListedObject]:
        """Yield no object."""
        return iter(())


def open_run(ledger_url: str) -> Run[ClinicalPipeline]:
    """Return the run that settles."""
    nobody: Any = None
    pipeline, s3 = ClinicalPipeline.model_validate(PIPELINE), NothingListed(nobody, nobody)
    return Run(pipeline, "settles", None, S3Uri.parse(pipeline.source.uri), s3, Ledger.open(ledger_url))


def make_files(patients: int) -> pl.DataFrame:
    """Return the arrivals of so many patients."""
    number = pl.int_range(-(-patients * OF_PATIENT // OF_FILE), eager=True).alias("number")
    given = {
        "arrival_id": pl.col("number").cast(pl.String).str.zfill(40),
        "bucket": pl.lit("archive"),
        "key": pl.format("in/{}.ndjson", "number"),
        "etag": pl.format("{}", "number"),
        "size": pl.lit(4_000_000, pl.Int64),
        "last_modified": pl.lit(datetime(2026, 1, 1, tzinfo=UTC)),
    }
    columns = (given.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in ARRIVALS.items())
    return pl.DataFrame(number).select(*columns)


def make_sent(patients: int) -> pl.DataFrame:
    """Return the resources of so many patients, all imported and released."""
    number = pl.int_range(patients * OF_PATIENT, eager=True).alias("number")
    of, is_patient = pl.col("number") // OF_PATIENT, pl.col("number") % OF_PATIENT == 0
    file = pl.col("number") // OF_FILE
    given = {
        "arrival_id": file.cast(pl.String).str.zfill(40),
        "line": pl.col("number") % OF_FILE + 1,
        "resource_type": pl.when(is_patient).then(pl.lit("Patient")).otherwise(pl.lit("Observation")),
        "resource_id": pl.when(is_patient).then(pl.format("p{}", of)).otherwise(pl.format("o{}", "number")),
        "batch_id": pl.lit("b"),
        "job_id": pl.lit("j"),
        "outcome": pl.lit("imported"),
        "content_digest": pl.col("number").hash().cast(pl.String).str.zfill(64),
        "patient": pl.format("Patient/p{}", of),
        "uncertain": pl.lit(value=False),
        "disposition": pl.lit("released"),
        "bucket": pl.lit("archive"),
        "key": pl.format("in/{}.ndjson", file),
    }
    columns = (given.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in _SENT.items())
    return pl.DataFrame(number).select(*columns)


def prepare(run: Run[ClinicalPipeline], ledger_url: str, patients: int) -> None:
    """Bring a run to the point where audit decides."""
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.ledger.claim(run.pipeline.name, run.key, make_files(patients))
    clock = pl.lit("place=0 last_modified=1767225600000000").alias("clock")
    claims = make_sent(patients).with_columns(clock).select(CLAIMS.names())
    run.ledger.claim_resources(STORE, run.pipeline.name, run.key, claims)
    analyze(ledger_url)


def settle(ledger_url: str, patients: int) -> None:
    """Settle the run, as audit does."""
    run, sent = open_run(ledger_url), make_sent(patients)
    files = make_files(patients).select("arrival_id", "key", "size", disposition=pl.lit("released"))
    missing = {name: pl.lit(None, kind) for name, kind in DISPOSITIONS.items() if name not in files.columns}
    words = files.with_columns(**missing, is_open=pl.lit(value=False))
    with run.ledger, Partitions(sent.height) as partitions, FrameFile() as doubts:
        by_subject = partitions.spool(gate.subject(), _SENT, [sent])
        missed = partitions.spool(pl.col("patient"), OPEN)
        gates = partitions.spool(pl.col("subject"), GATES, starmap(_decide, zip_partitions(by_subject)))
        doubts.add_all(gate.DOUBTS.to_frame() for _ in range(by_subject.partitions))
        none = pl.Series([], dtype=pl.String)
        parked = ParkedUnits(lambda: iter(()), TAKEN.to_frame(), none, none)
        settle_run(run, Decided(by_subject, missed, gates, [words], doubts, {}, parked))


def _decide(sent: pl.DataFrame) -> pl.DataFrame:
    settings = ClinicalPipeline.model_validate(PIPELINE).audit
    return gate.decide_patients(STORE, VERDICTS.to_frame(), sent, settings, balanced=True)


def measure(ledger_url: str, patients: int) -> dict[str, Any]:
    """Return the seconds that settling took, and the longest waits of others meanwhile."""
    upgrade(ledger_url)
    run = open_run(ledger_url)
    with run.ledger:
        prepare(run, ledger_url, patients)
    wanted: dict[str, Sequence[Scope]] = {
        "the resources of the data store": [open_resources.scope(STORE)],
        "the arrivals of the pipeline": [arrivals.scope(run.pipeline.name)],
    }
    seconds, waits = race(ledger_url, settle, patients, wanted)
    return {"patients": patients, "resources": patients * OF_PATIENT, "seconds": seconds, "waits": waits}


def main() -> None:
    """Measure on a PostgreSQL of its own, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=50_000)
    measure_on_postgres(measure, parser.parse_args().patients)


if __name__ == "__main__":
    main()
