"""One pipeline's places for the tests of the stages, and rows as the stages hand them on.

A file is named by one short word. `dicom` gives it a complete CT header, which a test changes where it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.copy_proofs import Likeness
from airlock.pipelines import ImagingPipeline
from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS, OUTCOMES, VERDICTS, arrival_id
from airlock.run import Run
from airlock.stages import buffer
from airlock.stages.buffer import INDEX
from airlock.stages.jobs import EndedJob
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.imaging.copy_proofs import Pair
    from airlock.ledger import Ledger
    from airlock.records import Window
    from airlock.storage.s3 import S3

STORE = "d" * 32
NIGHT = datetime(2026, 11, 24, 2, tzinfo=UTC)
BUCKETS = ("archive", "work")
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
SECTIONS: dict[str, Any] = {
    "schema": "airlock.pipeline/1",
    "name": "nightly",
    "kind": "imaging",
    "source": {"uri": "s3://archive/in/"},
    "workspace": "s3://work/runs/",
    "staging": {"uri": "s3://work/staging/"},
    "healthimaging": {
        "datastore_id": STORE,
        "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
        "output_uri": "s3://work/output/",
    },
    "routes": [{"name": "contracts", "uri": "s3://work/contracts/"}],
    "settle_minutes": 0,
}
CT = {
    "TransferSyntaxUID": "1.2.840.10008.1.2.1",
    "SOPClassUID": CT_STORAGE,
    "StudyDate": "20261123",
    "AccessionNumber": "A1",
    "Modality": "CT",
    "PatientID": "P1",
    "IssuerOfPatientID": "site",
    "StudyInstanceUID": "1.1",
    "SeriesInstanceUID": "1.1.1",
    "StudyID": "S1",
    "SeriesNumber": "1",
}


def read_arrivals(run: Run[Any]) -> pl.DataFrame:
    """Return a run's whole delivery."""
    return pl.concat([ARRIVALS.to_frame(), *buffer.read_arrivals(run)])


def pipeline(**changes: Any) -> ImagingPipeline:
    """Return a pipeline; ``changes`` replace whole sections, or add to those that are mappings."""
    content = dict(SECTIONS)
    for name, value in changes.items():
        known = content.get(name)
        content[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    return ImagingPipeline.model_validate(content)


def dicom(name: str, **changes: Any) -> dict[str, Any]:
    """Return an arrival joined with its header; its SOPInstanceUID and content are its own unless said otherwise."""
    row = dict.fromkeys(ATTRIBUTES) | CT | {"SOPInstanceUID": f"1.1.1.{sum(name.encode())}.{len(name)}"}
    row |= {"bucket": "archive", "key": f"in/{name}", "version_id": None, "etag": f"etag-{name}", "size": 1000}
    row |= {"last_modified": NIGHT, "reason": None, "detail": None, "warning": None, "bytes_read": 0, "requests": 1}
    row |= changes
    key = arrival_id(row["bucket"], row["key"], row["version_id"], row["etag"], row["size"])
    return row | {"arrival_id": key}


def unread(name: str, reason: str, detail: str | None = None) -> dict[str, Any]:
    """Return an arrival whose header could not be read."""
    return dicom(name, **dict.fromkeys(ATTRIBUTES), reason=reason, detail=detail)


def ended_job(**facts: Any) -> EndedJob:
    """Return a completed job of batch b1."""
    uris = {"input_uri": "s3://work/staging/b1/", "output_uri": "s3://work/output/j1/"}
    known = {"batch_id": "b1", "generation": 0, "job_id": "j1", "status": "COMPLETED", "message": ""}
    return EndedJob(**(known | uris | facts))


def frame(rows: list[dict[str, Any]], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame([[row.get(name) for name in schema] for row in rows], schema=schema, orient="row")


JOINED = pl.Schema({**ARRIVALS, **HEADERS})


def joined(*files: dict[str, Any]) -> pl.DataFrame:
    """Return arrivals with their headers, as the rules of validate see them."""
    return frame(list(files), JOINED)


def verdicts(*files: dict[str, Any], **changes: Any) -> pl.DataFrame:
    """Return rows of the verdicts dataset, all accepted unless said otherwise."""
    return frame([{"verdict": "accept"} | file | changes for file in files], VERDICTS)


def outcomes(*files: dict[str, Any], **changes: Any) -> pl.DataFrame:
    """Return rows of the outcomes dataset, all imported unless said otherwise."""
    base = {"outcome": "imported", "batch_id": "b1", "job_id": "j1", "warnings": [], "image_set_id": "i1"}
    return frame([{**file, "reason": None, "detail": None, **base, **changes} for file in files], OUTCOMES)


def by_name(rows: pl.DataFrame, column: str) -> dict[str, Any]:
    """Return one column by the files' names."""
    return {key.removeprefix("in/"): value for key, value in rows.select("key", column).iter_rows()}


class Unproven:
    """Proves nothing about copies with different etags, as where S3 stores no checksums."""

    def compare(self, pairs: Sequence[Pair]) -> list[Likeness]:
        return [Likeness.UNPROVEN] * len(pairs)


@dataclass(frozen=True)
class World:
    """An S3 server with the pipeline's buckets, and an empty ledger."""

    s3: S3
    ledger: Ledger

    def run(
        self,
        name: str = "one",
        line: ImagingPipeline | None = None,
        window: Window | None = None,
        prefix: str | None = None,
    ) -> Run:
        """Return a run of the pipeline by its name."""
        line = line or pipeline()
        return Run(line, name, window, S3Uri.parse(prefix or line.source.uri), self.s3, self.ledger)

    def put(self, uri: str, body: bytes = b"x") -> str:
        """Store an object and return its etag."""
        where = S3Uri.parse(uri)
        reply = self.s3.client.put_object(Bucket=where.bucket, Key=where.key, Body=body)
        return str(reply["ETag"]).strip('"')

    def keys(self, uri: str) -> list[str]:
        """Return the keys below a prefix, without it."""
        where = S3Uri.parse(uri)
        return [item.key.removeprefix(where.key) for item in self.s3.list_objects(where)]

    def buffered(self, run: Run, *files: dict[str, Any]) -> None:
        """Claim arrivals and freeze them with their headers, as buffer and parse would: one shard of all."""
        arrivals = frame(list(files), ARRIVALS)
        run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)
        run.ledger.claim(run.pipeline.name, run.key, arrivals)
        assert run.ledger.held_total(run.pipeline.name, run.key)[0] == arrivals.height
        run.workspace.write("arrivals/0000", ARRIVALS, arrivals)
        run.workspace.write("headers/0000", HEADERS, frame(list(files), HEADERS))
        index = {"shards": ["0000"], "arrivals": len(files), "settled": 0, "claimed_elsewhere": 0, "undated": 0}
        run.workspace.write_json(INDEX, index)
