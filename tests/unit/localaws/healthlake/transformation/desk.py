"""Data transformation without HTTP: the operations held to the model, and jobs advanced step by step."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from localaws.events import Events
from localaws.faults import FaultBoard
from localaws.healthlake.transformation.jobs import ADVANCE, TransformationJobs
from localaws.healthlake.transformation.service import handlers
from localaws.healthlake.transformation.tables import TABLES
from localaws.json_protocol import JsonService
from localaws.runtime import Runtime
from localaws.schedule import Schedule
from localaws.settings import Settings
from localaws.shapes import problems
from localaws.state import State

if TYPE_CHECKING:
    from concurrent.futures import Executor
    from pathlib import Path

ROLE = "arn:aws:iam::123456789012:role/transform"
KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
STARTER = {"StarterProfile": {"StarterProfileName": "ccda-starter-kit-v1"}}


class StepByStep(Schedule):
    """A schedule that runs a step when the test says so, and stops the emulator in the middle of one."""

    files_until_stop: int | None = None

    def check(self) -> None:
        if self.files_until_stop is not None:
            self.files_until_stop -= 1
            if self.files_until_stop < 0:
                self.stop()
        super().check()

    def step(self, job_id: str) -> float | None:
        return self._steps[ADVANCE](job_id)


class Desk:
    """The service, and short forms of its calls.

    Parameters
    ----------
    path : Path
        The state file; two desks on one file are an emulator before and after a restart.
    """

    def __init__(self, path: Path, executor: Executor, s3: Any = None, **changes: Any) -> None:
        settings = replace(Settings(state=path, submitted_seconds=0.0), **changes)
        self.state = State(path, [TABLES])
        self.schedule = StepByStep(self.state, executor)
        self.faults = FaultBoard(self.state)
        runtime = Runtime(settings, self.state, self.schedule, self.faults, Events(settings))
        self.jobs = TransformationJobs(runtime)
        self.service = JsonService("healthlake", handlers(runtime, self.jobs))
        self.s3 = s3

    def call(self, operation: str, **params: Any) -> Any:
        """Call an operation; request and answer must fit the model."""
        model = self.service.model.operation_model(operation)
        assert not list(problems(model.input_shape, params))
        answer = self.service.handle(model, params)
        return json.loads(answer.body)

    def profile(self, *, versions: int = 1, **params: Any) -> str:
        request = {"SourceFormat": "CCDA", "Source": STARTER, "ProfileName": "intake", **params}
        profile_id: str = self.call("CreateDataTransformationProfile", **request)["ProfileId"]
        for _ in range(versions):
            self.publish(profile_id, SourceFormat=request["SourceFormat"])
        return profile_id

    def publish(self, profile_id: str, **params: Any) -> int:
        request = {"ProfileId": profile_id, "SourceFormat": "CCDA", **params}
        version: int = self.call("PublishDataTransformationProfile", **request)["Version"]
        return version

    def upload(self, files: dict[str, bytes]) -> str:
        """Put files under a prefix of their own; returns its URI."""
        prefix = f"in/{len(self.s3.list_objects_v2(Bucket='documents').get('Contents', ()))}/"
        for name, body in files.items():
            self.s3.put_object(Bucket="documents", Key=f"{prefix}{name}", Body=body)
        return f"s3://documents/{prefix}"

    def start(self, profile_id: str, uri: str, token: str = "token", **params: Any) -> str:
        request = {
            "InputDataConfig": {"S3Uri": uri},
            "OutputDataConfig": {"S3Configuration": {"S3Uri": "s3://converted/out/", "KmsKeyId": KEY}},
            "DataAccessRoleArn": ROLE,
            "ClientToken": token,
            "ProfileId": profile_id,
            **params,
        }
        job_id: str = self.call("StartDataTransformationJob", **request)["JobId"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        properties: dict[str, Any] = self.call("DescribeDataTransformationJob", JobId=job_id)
        return properties["TransformationJobProperties"]  # type: ignore[no-any-return]

    def run(self, job_id: str) -> dict[str, Any]:
        """Do every step of a job; returns it as it is then described."""
        for _ in range(20):
            if self.schedule.step(job_id) is None:
                return self.job(job_id)
        raise AssertionError("the job does not end")

    def convert(self, files: dict[str, bytes], **params: Any) -> dict[str, Any]:
        """Upload, convert to the end; returns the job."""
        return self.run(self.start(self.profile(ProfileName=f"for-{len(files)}"), self.upload(files), **params))

    def output(self, job: dict[str, Any]) -> dict[str, bytes]:
        """Return what a job wrote: content by path below its own folder."""
        folder = job["OutputDataConfig"]["S3Configuration"]["S3Uri"].removeprefix("s3://converted/")
        found = self.s3.list_objects_v2(Bucket="converted", Prefix=folder).get("Contents", ())
        keys = [item["Key"] for item in found]
        return {
            key.removeprefix(folder): self.s3.get_object(Bucket="converted", Key=key)["Body"].read() for key in keys
        }
