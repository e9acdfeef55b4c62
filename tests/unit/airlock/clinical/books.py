"""A clinical delivery up to its audit: the files, what the jobs left, and a data store to read back from.

A resource is named as in FHIR, ``Patient/p1``; what a job did with it is told under that name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import outcomes as outcomes_
from airlock.clinical import result_lines
from airlock.clinical.audit import audit
from airlock.clinical.import_ import record
from airlock.clinical.manifests import LINES, RESULTS, Counters, JobOutput, Shape, spool_lines, spool_sent
from airlock.clinical.normalize import normalize
from airlock.clinical.parse import parse
from airlock.clinical.records import BATCHES, OPERATION_OUTCOMES, VERDICTS
from airlock.clinical.validate import validate
from airlock.ledger import Job
from airlock.pipelines import CcdaPipeline, ClinicalPipeline
from airlock.run import Run
from airlock.stages.batches import find_batches
from airlock.stages.buffer import buffer
from airlock.stages.resources import DISPOSITIONS, OUTCOMES
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import Partitions
from tests.servers.objects import date_objects
from tests.unit.airlock.world import NIGHT, ended_job, frame

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.stages.auditing import Audited
    from airlock.storage.spool import Spool
    from tests.unit.airlock.world import World

STORE = "f" * 32
RISK = {"workflow": "contract", "why": "the tests of what comes after an import"}
SECTIONS: dict[str, Any] = {
    "schema": "airlock.pipeline/1",
    "name": "records",
    "kind": "clinical",
    "source": {"uri": "s3://archive/in/", "order": {"across_keys": "last_modified"}},
    "workspace": "s3://work/runs/",
    "staging": {"uri": "s3://work/staging/"},
    "risk": RISK,
    "healthlake": {
        "datastore_id": STORE,
        "data_access_role_arn": "arn:aws:iam::123456789012:role/import",
        "output_uri": "s3://work/output/",
        "kms_key_id": "alias/airlock",
    },
    "audit": {"manifest_wait_seconds": 0},
    "routes": [{"name": "contracts", "uri": "s3://work/contracts/"}],
}
MINIMAL = {
    "risk": RISK | {"workflow": "throughput"},
    "review": {"by": "data quality"},
    "audit": {"manifest_wait_seconds": 0, "read_back_sample": 0, "on_hold": "review"},
}
CCDA = {
    "kind": "ccda",
    "preview": True,
    "review": {"by": "clinicians"},
    "transformation": {
        "profile_id": "a" * 32,
        "profile_version": 1,
        "min_coverage": 0,
        "output_uri": "s3://work/converted/",
    },
}

Line = dict[str, Any]
_deliveries = count()


def pipeline(**changes: Any) -> ClinicalPipeline:
    """Return a pipeline; ``changes`` replace whole sections, or add to those that are mappings."""
    content = dict(SECTIONS)
    for name, value in changes.items():
        known = content.get(name)
        content[name] = known | value if isinstance(known, dict) and isinstance(value, dict) else value
    kind = CcdaPipeline if content["kind"] == "ccda" else ClinicalPipeline
    return kind.model_validate(content)


def patient(name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": name, "active": True, **more}


def observation(name: str, of: str, **more: Any) -> dict[str, Any]:
    code = {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]}
    base = {"resourceType": "Observation", "id": name, "status": "final", "code": code}
    return base | {"subject": {"reference": f"Patient/{of}"}} | more


def organization(name: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Organization", "id": name, "name": "a clinic", **more}


def outcome(diagnostics: str = "min cardinality is 1", **issue: Any) -> dict[str, Any]:
    base = {"severity": "error", "code": "required", "diagnostics": diagnostics, "location": ["Observation.code"]}
    return {"resourceType": "OperationOutcome", "issue": [base | issue]}


def result(name: str, kind: str = "success", status: int | None = 200, blob: Any = None, **more: Any) -> Line:
    """Return a result line about a resource, with its kind under ``kind``."""
    resource_type, _, resource_id = name.partition("/")
    response = {"jsonBlob": blob} | ({} if status is None else {"statusCode": status})
    line = {"lineId": 1, "resourceId": resource_id, "resourceType": resource_type, "UpdateResourceResponse": response}
    return {"kind": kind, **line, **more}


def rejected(status: int | None = 400, blob: Any = None) -> Line:
    return result("", "failure", status, outcome() if blob is None else blob)


def warned() -> Line:
    return result("", "warning", 200, outcome(severity="warning"))


def manifest(scanned: int, imported: int | None = None, customer: int = 0, server: int = 0, **more: Any) -> Line:
    return {
        "numberOfResourcesScanned": scanned,
        "numberOfResourcesImportedSuccessfully": scanned - customer - server if imported is None else imported,
        "numberOfResourcesWithCustomerError": customer,
        "numberOfResourcesWithServerError": server,
        **more,
    }


@dataclass
class Store:
    """A data store's resources; what it is asked for is noted."""

    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        self.asked.append(f"{resource_type}/{resource_id}")
        return self.held.get(self.asked[-1])


def delivered(world: World, run_id: str, files: dict[str, Any], **changes: Any) -> Run[ClinicalPipeline]:
    """Take files (a list of resources or raw lines each, or bytes) up to the import."""
    run = Run(pipeline(**changes), run_id, None, S3Uri("archive", f"in/{run_id}/"), world.s3, world.ledger)
    put(world, run_id, files)
    for shard in buffer(run).shards:
        parse(run, shard)
    validate(run, None)
    normalize(run, run.pipeline.healthlake)
    return run


def put(world: World, folder: str, files: Mapping[str, Any]) -> None:
    """Put files into a folder of the source, as if a minute after those before."""
    moment = NIGHT + next(_deliveries) * timedelta(minutes=1)
    for name, content in files.items():
        world.put(f"s3://archive/in/{folder}/{name}", content if isinstance(content, bytes) else ndjson(content))
        date_objects("archive", [f"in/{folder}/{name}"], moment)


def ndjson(lines: list[Any]) -> bytes:
    return b"".join((line if isinstance(line, str) else json.dumps(line)).encode() + b"\n" for line in lines)


def ended(
    world: World,
    run: Run[ClinicalPipeline],
    lines: dict[str, Line | None] | None = None,
    *,
    status: str = "COMPLETED",
    message: str = "",
    written: Any = ...,
    progress: dict[str, int] | None = None,
    generation: int = 0,
) -> None:
    """End each batch's job: resources succeed unless there is a line (None for no line at all) under their name.

    The manifest counts the lines unless one is given as ``written``; None writes no manifest.
    """
    for number, batch in enumerate(find_batches(run)):
        job_id = f"job-{run.run_id}-{number}-{generation}"
        folder = S3Uri.parse(run.pipeline.healthlake.output_uri).join(f"{STORE}-FHIR_IMPORT-{job_id}", "")
        told = list(_told(run, batch.batch_id, lines or {}))
        for place in {place for place, _ in told}:
            body = ndjson([{k: v for k, v in line.items() if k != "kind"} for at, line in told if at == place])
            world.s3.put(folder.join(place), body)
        counted = _manifest([line for _, line in told]) if written is ... else written
        if counted is not None:
            world.s3.put(folder.join("Manifest.json"), json.dumps(counted).encode())
        job = Job(batch.batch_id, generation, run.key, f"token-{generation}", job_id, input_uri=batch.input_uri)
        run.ledger.record_job(job)
        properties = {"JobId": job_id, "JobStatus": status, "Message": message, "JobProgressReport": progress or {}}
        record(run, job, properties, str(folder))


def _told(run: Run[ClinicalPipeline], batch_id: str, lines: dict[str, Line | None]) -> Any:
    """Yield the place of the result file and the line of each resource of a batch."""
    rows = run.workspace.read(f"batches/{batch_id}", BATCHES)
    for row in rows.iter_rows(named=True):
        line = lines.get(f"{row['resource_type']}/{row['resource_id']}", result(""))
        if line is not None:
            own = {"resourceId": row["resource_id"], "resourceType": row["resource_type"], "lineId": row["staged_line"]}
            yield RESULTS[line["kind"]] + row["staged_key"].rpartition("/")[2], line | own


def _manifest(lines: list[Line]) -> dict[str, int]:
    failed = [line["UpdateResourceResponse"].get("statusCode") or 400 for line in lines if line["kind"] == "failure"]
    server = sum(status >= 500 for status in failed)
    return manifest(len(lines), None, len(failed) - server, server)


def audited(
    world: World, run_id: str, files: dict[str, Any], lines: dict[str, Line | None] | None = None, **changes: Any
) -> tuple[Run[ClinicalPipeline], Audited]:
    """Take files through to the end of their audit; nothing is read back."""
    run = delivered(world, run_id, files, **{"audit": {"read_back_sample": 0}} | changes)
    ended(world, run, lines)
    return run, audit(run, Store())


def words(run: Run[ClinicalPipeline]) -> dict[str, tuple[str, str | None]]:
    """Return disposition and reason of each unit, by ``Type/id`` or else by file and line."""
    rows = run.workspace.read("dispositions", DISPOSITIONS)
    return {_name(row): (row["disposition"], row["reason"]) for row in rows.iter_rows(named=True)}


def _name(row: dict[str, Any]) -> str:
    if row["resource_id"] and row["disposition"] != "duplicate":
        return f"{row['resource_type']}/{row['resource_id']}"
    return f"{row['key'].rpartition('/')[2]}:{row['line'] or ''}"


def unit(name: str, of: str | None = "Patient/p1", file: str = "a", **more: Any) -> dict[str, Any]:
    """Return a unit that is a resource, as any of the datasets has it; its line is the digits in its name."""
    resource_type, _, resource_id = name.partition("/")
    line = int("".join(each for each in resource_id if each.isdigit()) or 1)
    known = {"arrival_id": file, "line": line, "resource_type": resource_type, "resource_id": resource_id}
    staged = {"batch_id": "b1", "staged_bucket": "work", "staged_key": f"staging/b1/{resource_type}.ndjson"}
    return (
        known | staged | {"content_digest": f"digest of {name}", "size": 100, "patient": of, "staged_line": line} | more
    )


def batch(*units: dict[str, Any]) -> pl.DataFrame:
    return frame(list(units), BATCHES)


def verdicts(*units: dict[str, Any], **changes: Any) -> pl.DataFrame:
    """Return rows of the verdicts dataset, all accepted unless said otherwise."""
    return frame([{"verdict": "accept"} | each | changes for each in units], VERDICTS)


def outcomes(*units: dict[str, Any], **changes: Any) -> pl.DataFrame:
    """Return rows of the outcomes dataset, all imported by one job unless said otherwise."""
    return frame([{"job_id": "j1", "outcome": "imported"} | each | changes for each in units], OUTCOMES)


def output(*lines: tuple[str, str, int | None], found: bool = True, unreadable: int = 0, **counts: int) -> JobOutput:
    """Return a job's output of lines (kind, name and status code), each about the file of its type."""
    rows = []
    for kind, name, status in lines:
        resource_type, _, resource_id = name.partition("/")
        known = {"resource_type": resource_type, "resource_id": resource_id, "status_code": status}
        rows.append(known | {"kind": kind, "file": f"{resource_type}.ndjson"})
    unread = {Shape("FAILURE/", "no JSON", stored=False): unreadable} if unreadable else {}
    return JobOutput(found, Counters(**counts), spool_lines(None, [frame(rows, LINES)]), unread)


def lines_of(found: JobOutput) -> pl.DataFrame:
    return pl.concat([LINES.to_frame(), *found.lines])


def with_lines(found: JobOutput, **facts: str) -> JobOutput:
    """Return an output whose lines have these facts."""
    changed = lines_of(found).with_columns(pl.lit(fact).alias(name) for name, fact in facts.items())
    return replace(found, lines=spool_lines(None, [changed]))


def sent(rows: pl.DataFrame) -> Spool:
    """Return a batch's list as audit reads it."""
    return spool_sent(Partitions(0), [rows])


def account(rows: pl.DataFrame, *more: Any) -> pl.DataFrame:
    return pl.concat(outcomes_.account(sent(rows), *more))


def operation_outcomes(rows: pl.DataFrame, *more: Any) -> pl.DataFrame:
    return pl.concat([OPERATION_OUTCOMES.to_frame(), *outcomes_.operation_outcomes(sent(rows), *more)])


def find_discrepancies(rows: pl.DataFrame, *more: Any) -> list[str]:
    return outcomes_.find_discrepancies(sent(rows), *more)


def identify(rows: pl.DataFrame, *more: Any) -> JobOutput:
    return result_lines.identify(sent(rows), *more)


def names_nothing(rows: pl.DataFrame, *more: Any) -> bool:
    return result_lines.names_nothing(sent(rows), *more)


JOB = ended_job()
