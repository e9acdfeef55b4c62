"""The service under test: localaws on this machine, or AWS itself when the environment says so."""

from __future__ import annotations

import json
import os
import time
import urllib.request
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import regex
from botocore.config import Config
from botocore.model import ListShape, MapShape, OperationModel, Shape, StructureShape
from botocore.validate import ParamValidator

from localaws.server import serve
from localaws.settings import Seed
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ON_AWS = os.environ.get("AIRLOCK_CONTRACT_AWS") == "1"
DATASTORE = "c" * 32
ROLE = "arn:aws:iam::123456789012:role/import"


@dataclass
class Job:
    """A finished job, and what it wrote: parsed lines by file, and the manifest's summary."""

    properties: dict[str, Any]
    summary: dict[str, Any] = field(default_factory=dict)
    success: list[dict[str, Any]] = field(default_factory=list)
    failure: list[dict[str, Any]] = field(default_factory=list)
    warning: list[dict[str, Any]] = field(default_factory=list)

    @property
    def image_set_ids(self) -> list[str]:
        return [item["imageSetId"] for item in self.summary["imageSetsSummary"]]

    def of(self, name: str) -> dict[str, Any]:
        """Return the one line about the file `name`."""
        lines = (*self.success, *self.failure, *self.warning)
        (line,) = [line for line in lines if line["inputFile"].endswith(f"/{name}")]
        return line


@dataclass
class Endpoint:
    """Clients and places; `url` is the emulator's, None on AWS."""

    imaging: Any
    s3: Any
    datastore_id: str
    role_arn: str
    input_uri: str
    output_uri: str
    url: str | None
    answered: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        hold_to_model(self.imaging, self.answered)

    def upload(self, files: Mapping[str, bytes], **arguments: Any) -> str:
        """Put files under a prefix of their own; returns its URI."""
        uri = f"{self.input_uri.rstrip('/')}/{uuid.uuid4().hex}/"
        for name, body in files.items():
            self.put(f"{uri}{name}", body, **arguments)
        return uri

    def put(self, uri: str, body: bytes, **arguments: Any) -> None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        self.s3.put_object(Bucket=bucket, Key=key, Body=body, **arguments)

    def read(self, uri: str) -> bytes | None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        try:
            body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            return None
        return body

    def start(self, input_uri: str, **arguments: Any) -> str:
        """Start a job; returns its ID."""
        request = {
            "datastoreId": self.datastore_id,
            "dataAccessRoleArn": self.role_arn,
            "inputS3Uri": input_uri,
            "outputS3Uri": self.output_uri,
            **arguments,
        }
        job_id: str = self.imaging.start_dicom_import_job(**request)["jobId"]
        return job_id

    def get_job(self, job_id: str) -> dict[str, Any]:
        answer = self.imaging.get_dicom_import_job(datastoreId=self.datastore_id, jobId=job_id)
        properties: dict[str, Any] = answer["jobProperties"]
        return properties

    def ended(self, job_id: str) -> dict[str, Any]:
        """Wait for the end of a job; returns its properties."""
        ends = {"COMPLETED", "FAILED"}
        job: dict[str, Any] = until(lambda: self.get_job(job_id), lambda seen: seen["jobStatus"] in ends)
        return job

    def import_files(self, files: Mapping[str, bytes], **arguments: Any) -> Job:
        """Upload, import, wait, read the output."""
        return self.output(self.ended(self.start(self.upload(files), **arguments)))

    def output(self, properties: dict[str, Any]) -> Job:
        """Read what a finished job wrote; AWS may write the manifest a little later."""
        folder = properties["outputS3Uri"].rstrip("/") + "/"
        if f"-DicomImport-{properties['jobId']}" not in folder:
            folder = f"{folder}{properties['datastoreId']}-DicomImport-{properties['jobId']}/"
        manifest = until(lambda: self.read(f"{folder}job-output-manifest.json"), lambda body: body is not None)
        lines = [self.read(f"{folder}{name.upper()}/{name}.ndjson") for name in ("success", "failure", "warning")]
        parsed = [[json.loads(line) for line in (body or b"").splitlines()] for body in lines]
        return Job(properties, json.loads(manifest)["jobSummary"], *parsed)

    def faults(self, *faults: dict[str, Any]) -> None:
        """Switch on exactly these faults."""
        self.control("PUT", "faults", list(faults))

    def calls(self) -> dict[str, Any]:
        counted: dict[str, Any] = self.control("GET", "calls")
        return counted

    def control(self, method: str, name: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/_localaws/{name}", data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")


def hold_to_model(client: Any, answered: set[str]) -> None:
    """Hold every answer that `client` gets against the output shape, and note the operation."""

    def check(http_response: Any, parsed: dict[str, Any], model: OperationModel, **_: Any) -> None:
        if http_response.status_code >= 300:
            return
        answered.add(model.name)
        answer = {name: value for name, value in parsed.items() if name != "ResponseMetadata"}
        report = ParamValidator().validate(answer, model.output_shape)
        assert not report.has_errors(), report.generate_report()
        assert not list(broken_rules(model.output_shape, answer)), model.name

    client.meta.events.register(f"after-call.{client.meta.service_model.service_name}", check)


def broken_rules(shape: Shape, value: Any, path: str = "$") -> Iterator[str]:
    """Yield where `value` breaks an enum or pattern; botocore's own validator looks at neither."""
    if isinstance(shape, StructureShape):
        for name, item in value.items():
            yield from broken_rules(shape.members[name], item, f"{path}.{name}")
    elif isinstance(shape, ListShape):
        for item in value:
            yield from broken_rules(shape.member, item, path)
    elif isinstance(shape, MapShape):
        for key, item in value.items():
            yield from broken_rules(shape.key, key, path)
            yield from broken_rules(shape.value, item, path)
    elif shape.type_name == "string":
        pattern = shape.metadata.get("pattern")
        if (shape.enum and value not in shape.enum) or (pattern and not regex.fullmatch(pattern, value)):
            yield path


def until(look: Any, is_there: Any, seconds: float = 900 if ON_AWS else 20) -> Any:
    """Look again and again until what is seen is what is waited for."""
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if is_there(seen):
            return seen
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(5 if ON_AWS else 0.02)


def local_imaging(url: str) -> Any:
    """Return an unmodified boto3 client for the emulator."""
    config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
    return boto3.client("medical-imaging", region_name="us-east-1", endpoint_url=url, config=config)


def local_s3(endpoint: str) -> Any:
    client = boto3.client("s3", region_name="us-east-1", endpoint_url=endpoint)
    for bucket in ("contract-input", "contract-output"):
        client.create_bucket(Bucket=bucket)
    return client


@contextmanager
def local_endpoint(**settings: Any) -> Iterator[Endpoint]:
    """Run localaws beside a moto server."""
    with (
        moto_server() as s3_endpoint,
        serve(
            s3_endpoint=s3_endpoint,
            datastore=(Seed(DATASTORE, "contract"),),
            **{"submitted_seconds": 0.02, "change_seconds": 0.05, **settings},
        ) as url,
    ):
        places = ("s3://contract-input/delivery/", "s3://contract-output/results/")
        yield Endpoint(local_imaging(url), local_s3(s3_endpoint), DATASTORE, ROLE, *places, url)


@contextmanager
def aws_endpoint() -> Iterator[Endpoint]:
    """Use a real account. The keys come from a profile: tests/conftest.py replaces those of the environment."""
    session = boto3.Session(
        profile_name=os.environ.get("AIRLOCK_CONTRACT_PROFILE", "default"),
        region_name=os.environ.get("AIRLOCK_CONTRACT_REGION"),
    )
    retries = Config(retries={"total_max_attempts": 10, "mode": "adaptive"})
    yield Endpoint(
        session.client("medical-imaging", config=retries),
        session.client("s3"),
        os.environ["AIRLOCK_CONTRACT_DATASTORE_ID"],
        os.environ["AIRLOCK_CONTRACT_ROLE_ARN"],
        os.environ["AIRLOCK_CONTRACT_INPUT_URI"],
        os.environ["AIRLOCK_CONTRACT_OUTPUT_URI"],
        url=None,
    )
