"""Requests of the services' jobs as the policy of a bucket sees them: they come by a role, from AWS's own network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airlock.stages.doctor.findings import failed
from airlock.stages.doctor.policies import Answer, Request, ask
from airlock.stages.doctor.uses import Purpose, list_roles

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import Bucket, BucketUse, RoleUse, Service

_NAMES: Final[dict[Service, str]] = {"medical-imaging": "HealthImaging", "healthlake": "HealthLake"}
# A job does not pass through a VPC of the account, and its address is in no network of the hospital.
_OUTSIDE: Final = dict.fromkeys(("aws:SourceVpc", "aws:SourceVpce", "aws:VpcSourceIp", "aws:SourceIp"))


def find_refused_job(pipeline: Pipeline, bucket: Bucket, document: dict[str, Any]) -> Finding | None:
    """Return the finding on a policy that refuses what the jobs of a pipeline read or write.

    Parameters
    ----------
    pipeline
        The pipeline.
    bucket
        The bucket with the policy.
    document
        The policy.

    Returns
    -------
    Finding or None
        None if no statement is known to refuse them.
    """
    for role in list_roles(pipeline):
        for use in bucket.uses:
            action = _find_action(pipeline, use, role)
            if action is not None and ask(document, _request(action, use, role, _OUTSIDE)) is Answer.DENIED:
                from_anywhere = ask(document, _request(action, use, role, {})) is Answer.DENIED
                return _explain(role, is_by_network=not from_anywhere)
    return None


def _find_action(pipeline: Pipeline, use: BucketUse, role: RoleUse) -> str | None:
    """Return what the jobs of a role do with objects of a prefix; None if they have nothing to do with it."""
    if role.writes(use):
        return "s3:PutObject"
    is_in_place = pipeline.staging.mode == "in_place" and role.service == "medical-imaging"
    if use.purpose is Purpose.STAGING or (use.purpose is Purpose.SOURCE and is_in_place):
        return "s3:GetObject"
    return None


def _request(action: str, use: BucketUse, role: RoleUse, network: dict[str, str | None]) -> Request:
    principals = frozenset({f"AWS:{role.arn}", f"AWS:{role.account}", f"AWS:arn:aws:iam::{role.account}:root"})
    context = {
        "aws:SecureTransport": "true",
        "aws:PrincipalArn": role.arn,
        "aws:PrincipalAccount": role.account,
        "aws:PrincipalIsAWSService": "false",
        "aws:ViaAWSService": "false",
    }
    return Request(principals, action, f"arn:aws:s3:::{use.uri.bucket}/{use.uri.key}x", context | network)


def _explain(role: RoleUse, *, is_by_network: bool) -> Finding:
    jobs = f"the jobs of {_NAMES[role.service]}"
    if is_by_network:
        return failed(
            f"Its policy refuses requests from outside a VPC or a network, and those of {jobs} come from AWS.",
            f"Except the role {role.name} ({role.field}) from that statement, by aws:PrincipalArn.",
        )
    return failed(
        f"Its policy refuses the role {role.name} of {jobs}.", f"Except the role ({role.field}) from that statement."
    )
