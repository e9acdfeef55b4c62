"""HealthLake of the service under test: clients, places, and a finished import with what it wrote."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from tests.contract.localaws.endpoint import ON_AWS, hold_to_model, until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.contract.localaws.endpoint import Endpoint

ENDED = {"COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCEL_COMPLETED", "CANCEL_FAILED"}


def ndjson(*resources: dict[str, Any]) -> bytes:
    return "".join(json.dumps(resource) + "\n" for resource in resources).encode()


def patient(resource_id: str, **elements: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": resource_id, "gender": "female", **elements}


def patients(count: int) -> bytes:
    return ndjson(*(patient(f"p{number}") for number in range(count)))


@dataclass
class Import:
    """A finished job, and what it wrote: its manifest, and parsed lines by path below the job's folder."""

    properties: dict[str, Any]
    manifest: dict[str, Any]
    files: dict[str, list[dict[str, Any]]]

    @property
    def status(self) -> str:
        return str(self.properties["JobStatus"])

    def numbers(self) -> tuple[int, int, int, int]:
        """Return scanned, imported, customer errors, server errors of the manifest."""
        names = ("Scanned", "ImportedSuccessfully", "WithCustomerError", "WithServerError")
        scanned, imported, customer, server = (self.manifest[f"numberOfResources{name}"] for name in names)
        return scanned, imported, customer, server

    def ids(self, path: str) -> list[str]:
        return [line["resourceId"] for line in self.files.get(path, [])]


@dataclass
class HealthLakeEndpoint:
    """The control plane; files go through `places`, which knows the buckets and the emulator's own endpoints."""

    client: Any
    places: Endpoint
    datastore_id: str
    role_arn: str
    kms_key_id: str
    answered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        hold_to_model(self.client, self.answered)

    def output(self, uri: str | None = None) -> dict[str, Any]:
        return {"S3Configuration": {"S3Uri": uri or self.places.output_uri, "KmsKeyId": self.kms_key_id}}

    def start(self, input_uri: str, **arguments: Any) -> str:
        """Start an import; returns its ID."""
        request = {
            "InputDataConfig": {"S3Uri": input_uri},
            "JobOutputDataConfig": self.output(),
            "DatastoreId": self.datastore_id,
            "DataAccessRoleArn": self.role_arn,
            **arguments,
        }
        job_id: str = self.client.start_fhir_import_job(**request)["JobId"]
        return job_id

    def get_job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.describe_fhir_import_job(DatastoreId=self.datastore_id, JobId=job_id)
        properties: dict[str, Any] = answer["ImportJobProperties"]
        return properties

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for the end of an import; returns its properties."""
        job: dict[str, Any] = until(lambda: self.get_job(job_id), lambda seen: seen["JobStatus"] in ENDED)
        return job

    def import_files(self, files: Mapping[str, bytes], **arguments: Any) -> Import:
        """Upload, import, wait, read the output."""
        return self.read_output(self.ended(self.start(self.places.upload(files), **arguments)))

    def read_output(self, properties: dict[str, Any]) -> Import:
        folder = properties["JobOutputDataConfig"]["S3Configuration"]["S3Uri"]
        manifest = until(lambda: self.places.read(f"{folder}Manifest.json"), lambda body: body is not None)
        files = {name: json_lines(self.places.read(f"{folder}{name}")) for name in self.listed(folder)}
        files.pop("Manifest.json")
        return Import(properties, json.loads(manifest), files)

    def listed(self, uri: str) -> list[str]:
        """Return the keys below a folder, relative to it."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        listing = self.places.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", ())
        return [item["Key"].removeprefix(prefix) for item in listing]


def json_lines(body: bytes | None) -> list[Any]:
    lines = (body or b"").splitlines()
    return [json.loads(line) for line in lines] if lines and lines[0] != b"{" else []


def healthlake_of(endpoint: Endpoint) -> HealthLakeEndpoint:
    """Return HealthLake beside `endpoint`: a new data store on this machine, the environment's on AWS."""
    if ON_AWS:
        session = boto3.Session(
            profile_name=os.environ.get("AIRLOCK_CONTRACT_PROFILE", "default"),
            region_name=os.environ.get("AIRLOCK_CONTRACT_REGION"),
        )
        names = ("HEALTHLAKE_DATASTORE_ID", "HEALTHLAKE_ROLE_ARN", "KMS_KEY_ID")
        return HealthLakeEndpoint(
            session.client("healthlake"), endpoint, *(os.environ[f"AIRLOCK_CONTRACT_{name}"] for name in names)
        )
    client = local_healthlake(str(endpoint.url))
    return HealthLakeEndpoint(client, endpoint, new_datastore(client), endpoint.role_arn, "alias/contract")


def local_healthlake(url: str) -> Any:
    """Return an unmodified boto3 client for the emulator."""
    config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
    return boto3.client("healthlake", region_name="us-east-1", endpoint_url=url, config=config)


def new_datastore(client: Any, **arguments: Any) -> str:
    """Make a data store and wait until it is ACTIVE."""
    request = {"DatastoreTypeVersion": "R4", "ClientToken": uuid.uuid4().hex, **arguments}
    datastore_id: str = client.create_fhir_datastore(**request)["DatastoreId"]
    until(lambda: status_of(client, datastore_id), lambda status: status == "ACTIVE")
    return datastore_id


def status_of(client: Any, datastore_id: str) -> str:
    properties = client.describe_fhir_datastore(DatastoreId=datastore_id)["DatastoreProperties"]
    return str(properties["DatastoreStatus"])


def names_of(lines: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{line['resourceType']}/{line['resourceId']}" for line in lines]
