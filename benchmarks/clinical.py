"""``make bench-clinical``: a delivery of FHIR resources through parse, validate and normalize; seconds and memory.

A real S3 server in a process of its own, the stages in another one, so that the memory is theirs alone. The ledger is
SQLite, ``$validate`` is not asked. ``RESOURCES=200000`` by default.
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
from tests.servers.moto import moto_server

from airlock.clinical.normalize import normalize
from airlock.clinical.parse import parse
from airlock.clinical.validate import validate
from airlock.ledger import Ledger, upgrade
from airlock.pipelines import ClinicalPipeline
from airlock.run import Run
from airlock.stages.buffer import buffer
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKETS = ("bench-archive", "bench-work")
PER_PATIENT = 20  # resources, the Patient included
PIPELINE = {
    "schema": "airlock.pipeline/1",
    "name": "bench",
    "kind": "clinical",
    "source": {"uri": "s3://bench-archive/in/"},
    "workspace": "s3://bench-work/runs/",
    "staging": {"uri": "s3://bench-work/staging/"},
    "risk": {"workflow": "contract", "why": "nothing is imported here"},
    "healthlake": {
        "datastore_id": "b" * 32,
        "data_access_role_arn": "arn:aws:iam::123456789012:role/bench",
        "output_uri": "s3://bench-work/output/",
        "kms_key_id": "alias/bench",
    },
}


def patient(number: int) -> dict[str, Any]:
    """Return a Patient."""
    return {
        "resourceType": "Patient",
        "id": f"p{number}",
        "identifier": [{"system": "urn:oid:1.2.3", "value": f"{number:08}"}],
        "name": [{"family": f"Family{number}", "given": ["Given"]}],
        "gender": "other",
        "birthDate": "1970-01-01",
    }


def observation(number: int, of_patient: int) -> dict[str, Any]:
    """Return a vital sign of a patient, of the size that exporters write."""
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


def lines(resources: int) -> Iterator[str]:
    """Yield a delivery, a line per resource."""
    for number in range(resources):
        whose = number // PER_PATIENT
        yield json.dumps(observation(number, whose) if number % PER_PATIENT else patient(whose))


def connect(endpoint: str) -> S3:
    """Return S3 at an endpoint on this machine."""
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    return S3(session, session.client("s3", endpoint_url=endpoint))


def measure(endpoint: str, ledger_url: str) -> None:
    """Run the stages and print a line of JSON per figure."""
    upgrade(ledger_url)
    pipeline = ClinicalPipeline.model_validate(PIPELINE)
    run = Run(pipeline, "bench", None, S3Uri.parse(pipeline.source.uri), connect(endpoint), Ledger.open(ledger_url))
    at_start = peak_mib()
    shards = buffer(run).shards
    for name, stage in (
        ("parse", lambda: [parse(run, shard) for shard in shards]),
        ("validate", lambda: validate(run, None)),
        ("normalize", lambda: normalize(run, pipeline.healthlake)),
    ):
        began = time.perf_counter()
        stage()
        seconds = time.perf_counter() - began
        sys.stdout.write(json.dumps({"stage": name, "seconds": round(seconds, 1), "peak_mib": peak_mib()}) + "\n")
    sys.stdout.write(json.dumps({"stage": "imports alone", "seconds": 0, "peak_mib": at_start}) + "\n")


def peak_mib() -> int:
    """Return the most memory that this process has had, in MiB, by Linux; getrusage would count its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


def main() -> None:
    """Print a table."""
    resources = int(os.environ.get("RESOURCES", "200000"))
    with moto_server() as endpoint, tempfile.TemporaryDirectory() as folder:
        s3 = connect(endpoint)
        for bucket in BUCKETS:
            s3.client.create_bucket(Bucket=bucket)
        body = "\n".join(lines(resources)).encode()
        s3.put(S3Uri.parse("s3://bench-archive/in/delivery.ndjson"), body)
        ledger = f"sqlite:///{Path(folder) / 'ledger.db'}"
        command = [sys.executable, "-m", "benchmarks.clinical", endpoint, ledger]
        reply = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ourselves
    rows = [json.loads(line) for line in reply.stdout.splitlines()]
    sys.stdout.write(f"{resources} resources, {len(body) / 1e6:.0f} MB, on {os.cpu_count()} cores\n")
    for row in rows:
        sys.stdout.write(f"  {row['stage']:14} {row['seconds']:6.1f} s   peak {row['peak_mib']} MiB so far\n")
    sys.stdout.write(f"  {'together':14} {sum(row['seconds'] for row in rows):6.1f} s\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
    else:
        main()
