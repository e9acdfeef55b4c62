"""Stacks of ``deploy/cloudformation``: their outputs are answers for a pipeline file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airlock.storage.aws import AWS_ERRORS, error_code
from airlock_cli.errors import RequestError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from boto3 import Session

_SHARED = ("ArchiveUri", "WorkspaceUri", "StagingUri", "OutputUri", "ContractsUri", "BucketKeyArn", "Region")
_OF_KIND = {
    "imaging": ("HealthImagingDatastoreId", "ImportRoleArn"),
    "clinical": ("HealthLakeDatastoreId", "FhirImportRoleArn"),
}


def read_outputs(stacks: Sequence[str], region: str | None) -> dict[str, str]:
    """Return the outputs of stacks, read with boto3's credentials.

    Parameters
    ----------
    stacks
        Their names.
    region
        Their Region; without it, boto3's.

    Raises
    ------
    RequestError
        If the stack does not exist, the Region is unknown, or AWS_PROFILE names an unknown profile.
    UnreachableError
        If CloudFormation does not answer, or denies access.
    """
    from boto3 import Session  # noqa: PLC0415  # slow to import, and most commands need none

    try:
        session = Session(region_name=region)
    except AWS_ERRORS as error:  # of AWS_PROFILE
        raise RequestError(f"The AWS credentials cannot be read: {error}. Check AWS_PROFILE.") from None
    if session.region_name is None:
        raise RequestError("The Region of the stacks is not known. Give --region, or set AWS_DEFAULT_REGION.")
    outputs: dict[str, str] = {}
    for stack in stacks:
        outputs |= _read_stack(session, stack)
    return outputs


def _read_stack(session: Session, stack: str) -> dict[str, str]:
    try:
        (found,) = session.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except AWS_ERRORS as error:
        code = error_code(error)
        if code == "ValidationError":
            raise RequestError(
                f"There is no stack {stack!r} in {session.region_name}. Check --stack and --region."
            ) from None
        raise UnreachableError(
            f"The stack {stack!r} cannot be read: {code}. Check your AWS credentials; cloudformation:DescribeStacks "
            f"is needed."
        ) from None
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())}


def datastore_and_role(outputs: Mapping[str, str], kind: str) -> tuple[str, str]:
    """Return the data store and the role for a kind of pipeline.

    Raises
    ------
    RequestError
        If the stacks lack an output that a pipeline of this kind needs.
    """
    missing = [name for name in _SHARED if name not in outputs]
    if missing:
        raise RequestError(
            f"The stacks have no output {missing[0]}. Name the one of deploy/cloudformation/airlock.yaml."
        )
    datastore, role = _OF_KIND[kind]
    if datastore not in outputs:
        raise RequestError(f"The stack knows no data store for {kind} pipelines. Deploy airlock.yaml with {datastore}.")
    return outputs[datastore], outputs[role]
