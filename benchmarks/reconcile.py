"""Seconds, memory and requests of ``airlock reconcile`` over many image sets in the emulator.

    python -m benchmarks.reconcile 100000

It fills a ledger by its own methods and the emulator's state by the emulator's own store, makes a difference of a
thousand image sets, and compares everything. The rate is not limited: AWS's quota, 25 requests a second, would be the
limit of the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger import Ledger, upgrade
from airlock.ledger.columns import StoreOrigin
from airlock.ledger.instances import IMPORTS
from airlock.ledger.studies import SERIES, STUDIES
from airlock.ledger.words import VERDICTS
from airlock.records import ARRIVALS, DISPOSITIONS
from benchmarks.machine import cpu_seconds, peak_rss_mib

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE, PIPELINE, ROLE = "d" * 32, "bench", "arn:aws:iam::123456789012:role/import"
SETS_PER_STUDY, PART = 4, 20_000
ONE_IN = 100  # image sets differ from the ledger: half of these are gone, half have another version
_EMPTY = (
    "reason",
    "detail",
    "batch_id",
    "job_id",
    "StudyDate",
    "AccessionNumber",
    "SeriesNumber",
    "StudyID",
    "IssuerOfPatientID",
)

UID = "1.2.826.0.1.3680043.10.1580"


def _frame(first: int, end: int) -> pl.DataFrame:
    """Return the numbered image sets, each with one instance, and the columns of all tables."""
    number = pl.col("number")
    return pl.DataFrame({"number": pl.int_range(first, end, eager=True)}).with_columns(
        arrival_id=pl.format("{}", number).str.zfill(32),
        bucket=pl.lit("archive"),
        key=pl.format("in/{}.dcm", number),
        version_id=pl.lit(None, pl.String),
        etag=pl.format("etag{}", number),
        size=pl.lit(500_000, pl.Int64),
        last_modified=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)),
        StudyInstanceUID=pl.format(f"{UID}.{{}}", number // SETS_PER_STUDY),
        SeriesInstanceUID=pl.format(f"{UID}.{{}}.{{}}", number // SETS_PER_STUDY, number),
        SOPInstanceUID=pl.format(f"{UID}.{{}}.{{}}.1", number // SETS_PER_STUDY, number),
        image_set_id=pl.format("{}", number).str.zfill(32),
        image_set_version=pl.lit(1, pl.Int64),
        state=pl.lit("imported"),
        verdict=pl.lit("accept"),
        disposition=pl.lit("released"),
        stage=pl.lit("audit"),
        PatientID=pl.lit("P"),
        **{name: pl.lit(None, pl.String) for name in _EMPTY},
    )


def _shape(rows: pl.DataFrame, columns: pl.Schema) -> pl.DataFrame:
    names = {"sop_instance_uid": "SOPInstanceUID", "series_instance_uid": "SeriesInstanceUID"}
    names |= {"study_instance_uid": "StudyInstanceUID"}
    return rows.select(pl.col(names.get(name, name)).alias(name) for name in columns).cast(dict(columns))


def fill_ledger(folder: Path, sets: int) -> None:
    """Let runs import and release this many image sets."""
    url = f"sqlite:///{folder}/ledger.db"
    upgrade(url)
    with Ledger.open(url) as ledger:
        ledger.note_store(STORE, StoreOrigin.IMPORTED)
        for first in range(0, sets, PART):
            rows, run = _frame(first, min(first + PART, sets)), f"run-{first}"
            ledger.open_run(run, PIPELINE, run, None)
            ledger.claim(PIPELINE, run, _shape(rows, ARRIVALS))
            ledger.record_verdicts(STORE, PIPELINE, run, _shape(rows, VERDICTS))
            elements = (_shape(rows, columns) for columns in (STUDIES, SERIES))
            studies, series = (one.unique(maintain_order=True) for one in elements)
            ledger.record_imported(STORE, run, _shape(rows, IMPORTS), studies, series)
            ledger.settle(PIPELINE, run, _shape(rows, DISPOSITIONS))
            ledger.close_run(run, "audited", {})


def fill_store(folder: Path, sets: int) -> None:
    """Store the image sets in a state of the emulator, some of them not, and some with another version."""
    from localaws.healthlake import tables as healthlake  # noqa: PLC0415
    from localaws.healthlake.transformation import tables as transformation  # noqa: PLC0415
    from localaws.imaging import tables as imaging  # noqa: PLC0415
    from localaws.imaging.store import Status, add_image_set, add_version, version_row  # noqa: PLC0415
    from localaws.server import serve  # noqa: PLC0415
    from localaws.settings import Seed  # noqa: PLC0415
    from localaws.state import State  # noqa: PLC0415

    path = folder / "localaws.db"
    with serve(state=path, datastore=(Seed(STORE, "bench"),)):
        pass  # it makes the tables
    state = State(path, [imaging.TABLES, healthlake.TABLES, transformation.TABLES])
    for first in range(0, sets, PART):
        with state.write() as connection:
            for row in _frame(first, min(first + PART, sets)).iter_rows(named=True):
                if row["number"] % (2 * ONE_IN) == 0:
                    continue
                instances = {row["SOPInstanceUID"]: {"DICOM": {}, "ImageFrames": [{"ID": "f"}]}}
                series = {"DICOM": {"SeriesInstanceUID": row["SeriesInstanceUID"]}, "Instances": instances}
                study = {"StudyInstanceUID": row["StudyInstanceUID"]}
                document = {
                    "DatastoreID": STORE,
                    "ImageSetID": row["image_set_id"],
                    "Patient": {"DICOM": {"PatientID": "P"}},
                    "Study": {"DICOM": study, "Series": {row["SeriesInstanceUID"]: series}},
                }
                add_image_set(connection, document, True, Status("CREATED"))
                if row["number"] % (2 * ONE_IN) == ONE_IN:
                    current = version_row(connection, STORE, row["image_set_id"])
                    add_version(connection, current, document, Status("UPDATED"))
    state.close()


def compare(folder: Path, imaging: str, s3: str) -> dict[str, Any]:
    """Compare everything; return the figures of this process."""
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    from airlock.imaging.reconcile import ImageSetComparer  # noqa: PLC0415
    from airlock.imaging.reconcile_store import ImageSetStore  # noqa: PLC0415
    from airlock.pipelines import ImagingPipeline  # noqa: PLC0415
    from airlock.stages.reconcile import Request, reconcile  # noqa: PLC0415
    from airlock.stages.reconcile_scope import Scope  # noqa: PLC0415
    from airlock.stages.reconcile_source import Archive  # noqa: PLC0415
    from airlock.storage.requests import RequestMeter  # noqa: PLC0415
    from airlock.storage.s3 import S3  # noqa: PLC0415
    from airlock.storage.s3uri import S3Uri  # noqa: PLC0415
    from airlock.storage.workspace import Workspace  # noqa: PLC0415

    session = boto3.Session("testing", "testing", region_name="us-east-1")
    store = S3(session, session.client("s3", endpoint_url=s3))
    store.client.create_bucket(Bucket="workspace")
    config = Config(inject_host_prefix=False)
    client = session.client("medical-imaging", endpoint_url=imaging, config=config)
    content = {"schema": "airlock.pipeline/1", "name": PIPELINE, "kind": "imaging", "workspace": "s3://workspace/runs/"}
    content |= {"source": {"uri": "s3://archive/in/"}, "receive": {"mode": "quiet_period"}}
    content |= {"staging": {"uri": "s3://staging/batches/"}}
    content["healthimaging"] = {"datastore_id": STORE, "data_access_role_arn": ROLE, "output_uri": "s3://output/x/"}
    line = ImagingPipeline.model_validate(content)
    with Ledger.open(f"sqlite:///{folder}/ledger.db") as ledger:
        comparer = ImageSetComparer(
            ledger,
            line,
            ImageSetStore(client, STORE, RequestMeter()),
            Archive(store, RequestMeter()),
            lambda name: Workspace(store, S3Uri("workspace", f"runs/{PIPELINE}/{name}/")),
        )
        before, began = peak_rss_mib(), time.perf_counter()
        done = reconcile(comparer, PIPELINE, Request(Scope(parts=("store",)), "bench", 10**9), lambda one: one)
        counts = done.counts
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(cpu_seconds(), 1),
        "mib_before": round(before),
        "mib_peak": round(peak_rss_mib()),
        "requests": counts["requests"],
        "findings": counts["findings"],
        "forgotten": counts["forgotten"],
        "studies": counts["studies"],
    }


@contextmanager
def _servers(folder: Path) -> Iterator[list[str]]:
    """Run the emulator and an S3 in a process of their own, and yield their addresses."""
    command = [sys.executable, "-m", "benchmarks.reconcile", "serve", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as own:  # noqa: S603  # ourselves
        if own.stdin is None or own.stdout is None:
            raise RuntimeError("the process of the servers has no standard input or output")
        yield own.stdout.readline().split()
        own.stdin.close()


def serve_until_told(folder: Path) -> None:
    """Serve until standard input ends."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    from localaws.server import serve  # noqa: PLC0415

    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with serve(state=folder / "localaws.db") as imaging:
        print(imaging, f"http://{host}:{port}", flush=True)  # noqa: T201  # its parent reads it
        sys.stdin.read()
    moto.stop()


def measure(sets: int) -> dict[str, Any]:
    """Fill, serve and compare, each in a process of its own; return the figures."""
    with tempfile.TemporaryDirectory(prefix="airlock-bench-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "benchmarks.reconcile"]
        for part in ("ledger", "store"):
            subprocess.run([*command, part, name, str(sets)], check=True)  # noqa: S603  # ourselves
        with _servers(folder) as urls:
            asked = [*command, "compare", name, *urls]
            ended = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
    return {"image_sets": sets} | json.loads(ended.stdout)


def main(arguments: list[str]) -> None:
    """Measure, or do one part of it."""
    first, *rest = arguments or ["100000"]
    if first == "ledger":
        fill_ledger(Path(rest[0]), int(rest[1]))
    elif first == "store":
        fill_store(Path(rest[0]), int(rest[1]))
    elif first == "serve":
        serve_until_told(Path(rest[0]))
    elif first == "compare":
        print(json.dumps(compare(Path(rest[0]), *rest[1:])))  # noqa: T201
    else:
        for sets in arguments or [first]:
            print(json.dumps(measure(int(sets)), indent=1))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
