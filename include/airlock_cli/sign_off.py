"""``airlock sign-off``: record that a version of a conversion profile may be used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airlock.ledger import SignOff
from airlock.pipelines import CcdaPipeline
from airlock_cli import workspaces
from airlock_cli.caller import find_caller
from airlock_cli.errors import RequestError, UnreachableError
from airlock_cli.ledgers import open_ledger
from airlock_cli.show import Table
from airlock_cli.stores import connect, translate_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = "airlock.sign-off/1"
_NOT_FOUND = "ResourceNotFoundException"


def sign(pipeline: str, sample: str, coverage: float, why: str) -> dict[str, Any]:
    """Sign for the version that a pipeline names, and return the sign-off, schema `SCHEMA`.

    Raises
    ------
    RequestError
        If the pipeline converts nothing, the service has no such version, or a text cannot be stored.
    UnreachableError
        If the service does not answer, or the decision cannot be copied to the workspace.
    """
    from airlock.ccda import sign_off as stage  # noqa: PLC0415  # only this command needs it
    from airlock.stages.decision_log import DecisionNotKeptError  # noqa: PLC0415  # polars is slow to import

    known = workspaces.load_named_pipeline(pipeline)
    if not isinstance(known, CcdaPipeline):
        raise RequestError(f"Pipeline {pipeline!r} is of kind {known.kind} and converts nothing. Name a ccda one.")
    _require_version(known)
    profile = known.transformation
    by = find_caller(), why.strip(), datetime.now(UTC)
    given = SignOff(profile.profile_id, profile.profile_version, sample.strip(), coverage, *by)
    with open_ledger() as ledger, workspaces.open_s3(known) as s3:
        try:
            stage.sign_off(s3, known, ledger, given)
        except stage.SignOffError as error:
            raise RequestError(str(error)) from None
        except DecisionNotKeptError as error:
            raise UnreachableError(str(error)) from None
    facts = {"profile_id": given.profile_id, "profile_version": given.profile_version, "sample": given.sample}
    said = {"coverage": coverage, "signed_by": given.decided_by, "why": given.why, "signed_at": given.decided_at}
    return {"schema": SCHEMA, "pipeline": pipeline, **facts, **said}


def _require_version(pipeline: CcdaPipeline) -> None:
    """Refuse a version that the service does not have: whoever signs for it has seen something else."""
    from boto3 import Session  # noqa: PLC0415  # slow to import
    from botocore.exceptions import ClientError  # noqa: PLC0415

    from airlock.storage.aws import error_code  # noqa: PLC0415

    profile = pipeline.transformation
    with translate_errors(f"Check your AWS credentials, and the region of pipeline {pipeline.name!r}."):
        client = connect(Session(), "healthlake", region_name=pipeline.healthlake.region_name)
        try:
            client.get_data_transformation_profile(ProfileId=profile.profile_id, ProfileVersion=profile.profile_version)
        except ClientError as error:
            if error_code(error) != _NOT_FOUND:
                raise
            raise RequestError(
                f"HealthLake has no version {profile.profile_version} of profile {profile.profile_id}: it was deleted, "
                f"or never published. Name a published one under transformation in the file of {pipeline.name!r}."
            ) from None


def tables(signed: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a sign-off."""
    rows = [(name.replace("_", " "), value) for name, value in signed.items() if name != "schema"]
    yield Table("sign-off", ("", ""), rows)
