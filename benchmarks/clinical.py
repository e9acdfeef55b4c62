"""``make bench-clinical``: a FHIR delivery through parse, validate, normalize and audit; seconds and memory of each.

Each stage runs in a process of its own, so that its peak memory is measured alone. The S3 is `loopback_s3`, the ledger
SQLite. The benchmark writes the output of the import jobs itself; it does not call ``$validate`` and reads no resource
back. ``RESOURCES=200000`` by default. As in bulk exports, a file has one type and at most `PER_FILE` lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from airlock.ledger import Job, Ledger, upgrade
from airlock.pipelines import ClinicalPipeline
from airlock.run import Run
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from benchmarks.chain import peak_mib
from benchmarks.loopback_s3 import loopback_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PER_PATIENT = 20  # resources, the Patient included
PER_FILE = 50_000  # lines
STAGES = ("buffer", "parse", "validate", "normalize", "import", "audit")
MEASURED = ("parse", "validate", "normalize", "audit")
PIPELINE = {
    "schema": "airlock.pipeline/1",
    "name": "bench",
    "kind": "clinical",
    "source": {"uri": "s3://archive/in/", "order": {"across_keys": "last_updated"}},
    "workspace": "s3://work/runs/",
    "staging": {"uri": "s3://work/staging/"},
    "risk": {"workflow": "contract", "why": "nothing is imported here"},
    "healthlake": {
        "datastore_id": "b" * 32,
        "data_access_role_arn": "arn:aws:iam::123456789012:role/bench",
        "output_uri": "s3://work/output/",
        "kms_key_id": "alias/bench",
    },
    "audit": {"manifest_wait_seconds": 0, "read_back_sample": 0, "brake": {"held": 1}},  # no share is above 1
}


def make_patient(number: int) -> dict[str, Any]:
    """Return the Patient with this number."""
    return {
        "resourceType": "Patient",
        "id": f"p{number}",
        "identifier": [{"system": "urn:oid:1.2.3", "value": f"{number:08}"}],
        "name": [{"family": f"Family{number}", "given": ["Given"]}],
        "gender": "other",
        "birthDate": "1970-01-01",
    }


def make_observation(number: int, of_patient: int) -> dict[str, Any]:
    """Return a vital sign of a patient, as large as those of real exports."""
    category = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "vital-signs"}
    return {
        "resourceType": "Observation",
        "id": f"o{number}",
        "status": "final",
        "category": [{"coding": [category]}],
        "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2", "display": "Body height"}]},
        "subject": {"reference": f"Patient/p{of_patient}"},
        "effectiveDateTime": "2026-01-10T08:00:00Z",
        "valueQuantity": {"value": 170.5, "unit": "cm", "system": "http://unitsofmeasure.org", "code": "cm"},
    }


def write_delivery(folder: Path, resources: int) -> None:
    """Write the files of a delivery: Patients, and Observations in the order of their dates, not of patients."""
    patients = -(-resources // PER_PATIENT)
    _write_files(folder / "Patient", map(make_patient, range(patients)))
    _write_files(folder / "Observation", (make_observation(n, n % patients) for n in range(resources - patients)))


def _write_files(start: Path, resources: Iterable[dict[str, Any]]) -> None:
    file = None
    for number, resource in enumerate(resources):
        if number % PER_FILE == 0:
            if file:
                file.close()
            file = start.with_name(f"{start.name}.{number // PER_FILE:04}.ndjson").open("w", encoding="utf-8")
        assert file is not None  # noqa: S101  # for mypy: the first number is 0
        file.write(json.dumps(resource) + "\n")
    if file:
        file.close()


def open_run(endpoint: str, ledger_url: str) -> Run[ClinicalPipeline]:
    """Return a run of the benchmark's pipeline."""
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    pipeline = ClinicalPipeline.model_validate(PIPELINE)
    s3 = S3(session, session.client("s3", endpoint_url=endpoint))
    return Run(pipeline, "bench", None, S3Uri.parse(pipeline.source.uri), s3, Ledger.open(ledger_url))


# The stages. Each imports its modules itself, so that a process loads only those of its stage.


def buffer(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Run buffer; return the number of shards."""
    from airlock.stages.buffer import buffer as stage  # noqa: PLC0415

    return {"shards": len(stage(run).shards)}


def parse(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Run the parse tasks one after the other; return the number of units."""
    from airlock.clinical.parse import parse as stage  # noqa: PLC0415
    from airlock.stages.buffer import find_shards  # noqa: PLC0415

    return {"units": sum(stage(run, shard)["units"] for shard in find_shards(run))}


def validate(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Run validate; return the number of units by verdict."""
    from airlock.clinical.validate import validate as stage  # noqa: PLC0415

    return stage(run, None)


def normalize(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Run normalize; return the numbers of batches and import files."""
    from airlock.clinical.normalize import normalize as stage  # noqa: PLC0415

    batches = stage(run, run.pipeline.healthlake)
    return {"batches": len(batches), "files": sum(batch.files for batch in batches)}


def import_(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Write the output of the import jobs: a success line per resource, and a manifest per job."""
    from airlock.clinical.import_ import record  # noqa: PLC0415
    from airlock.clinical.records import BATCHES  # noqa: PLC0415
    from airlock.stages.batches import find_batches  # noqa: PLC0415

    for number, batch in enumerate(find_batches(run)):
        rows = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
        folder = S3Uri.parse(run.pipeline.healthlake.output_uri).join(f"job-{number}", "")
        for (key,), part in rows.group_by("staged_key"):
            lines = part.select("resource_type", "resource_id", "staged_line").iter_rows()
            body = "".join(_make_success_line(*line) for line in lines).encode()
            run.s3.put(folder.join("SUCCESS", str(key).rpartition("/")[2]), body)
        counts = {"numberOfResourcesScanned": rows.height, "numberOfResourcesImportedSuccessfully": rows.height}
        run.s3.put(folder.join("Manifest.json"), json.dumps(counts).encode())
        job = Job(batch.batch_id, 0, run.key, f"token-{number}", f"job-{number}", input_uri=batch.input_uri)
        run.ledger.record_job(job)
        record(run, job, {"JobId": job.job_id, "JobStatus": "COMPLETED"}, str(folder))
    return {}


def _make_success_line(resource_type: str, resource_id: str, line: int) -> str:
    response = {"jsonBlob": None, "statusCode": 200}
    named = {"lineId": line, "resourceId": resource_id, "resourceType": resource_type}
    return json.dumps({**named, "UpdateResourceResponse": response}) + "\n"


def audit(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Run audit; return the counts of its report.

    Raises
    ------
    RuntimeError
        If the books do not balance.
    """
    from airlock.clinical.audit import audit as stage  # noqa: PLC0415

    content = stage(run, NoStore()).report
    if not content["balanced"]:
        raise RuntimeError(f"the books of the benchmark do not balance: {content['problems']}")
    return {name: content[name] for name in ("outcomes", "dispositions", "patients")}


class NoStore:
    """A data store without resources, since the benchmark reads none back."""

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:  # noqa: ARG002
        """Return None for every resource."""
        return None


_STAGES: dict[str, Callable[[Run[ClinicalPipeline]], dict[str, Any]]] = {
    "buffer": buffer,
    "parse": parse,
    "validate": validate,
    "normalize": normalize,
    "import": import_,
    "audit": audit,
}


def run_stage(stage: str, endpoint: str, ledger_url: str) -> dict[str, Any]:
    """Run one stage in this process and return its figures."""
    run = open_run(endpoint, ledger_url)
    began = time.perf_counter()
    result = _STAGES[stage](run)
    return {"seconds": round(time.perf_counter() - began, 1), "peak_mib": peak_mib(), "result": result}


# The whole chain, stage by stage in child processes.


def measure_chain(resources: int) -> dict[str, Any]:
    """Run all stages on a delivery; return seconds and peak MiB by stage, and their sum and maximum over `MEASURED`."""
    with tempfile.TemporaryDirectory(prefix="airlock-clinical-") as name, loopback_s3(Path(name)) as endpoint:
        folder = Path(name) / "archive" / "in"
        folder.mkdir(parents=True)
        write_delivery(folder, resources)
        ledger_url = f"sqlite:///{Path(name) / 'ledger.db'}"
        upgrade(ledger_url)
        stages = {stage: _run_child(stage, endpoint, ledger_url) for stage in STAGES}
    measured = [stages[stage] for stage in MEASURED]
    total = {"seconds": round(sum(one["seconds"] for one in measured), 1)}
    return {"resources": resources, **total, "peak_mib": max(one["peak_mib"] for one in measured), "stages": stages}


def _run_child(stage: str, endpoint: str, ledger_url: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.clinical", stage, endpoint, ledger_url]
    reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
    return dict(json.loads(reply.stdout))


def format_table(figures: dict[str, Any]) -> str:
    """Return the figures as text."""
    lines = [f"{figures['resources']:,} resources, on {os.cpu_count()} cores; the sum leaves out the stages with *"]
    for name, stage in figures["stages"].items():
        mark = " " if name in MEASURED else "*"
        lines.append(f" {mark}{name:11}{stage['seconds']:8.1f} s {stage['peak_mib']:7} MiB   {stage['result']}")
    lines.append(f"  {'without *':11}{figures['seconds']:8.1f} s {figures['peak_mib']:7} MiB, the largest")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        sys.stdout.write(json.dumps(run_stage(*sys.argv[1:])))
    else:
        sys.stdout.write(f"{format_table(measure_chain(int(os.environ.get('RESOURCES', '200000'))))}\n")
