"""Requests of the services' jobs as the policy of a bucket sees them: they come by a role, from AWS's own network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from airlock.stages.doctor.encryption_headers import list_encryption_values
from airlock.stages.doctor.findings import failed
from airlock.stages.doctor.policies import Answer, Request, ask
from airlock.stages.doctor.uses import Purpose, list_roles

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import Bucket, BucketUse, RoleUse, Service

_WRITE: Final = "s3:PutObject"
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
            if action is not None:
                finding = _judge(document, action, use, role)
                if finding is not None:
                    return finding
    return None


def _judge(document: dict[str, Any], action: str, use: BucketUse, role: RoleUse) -> Finding | None:
    """Return the finding on a policy that refuses one action of the jobs of a role, by what it refuses."""
    encryption = list_encryption_values(use) if action == _WRITE else {}
    if ask(document, _request(action, use, role, _OUTSIDE | encryption)) is not Answer.DENIED:
        return None
    if ask(document, _request(action, use, role, {})) is Answer.DENIED:
        return _explain_role(role)
    if ask(document, _request(action, use, role, _OUTSIDE)) is Answer.DENIED:
        return _explain_network(role)
    return _explain_encryption(use, role)


def _find_action(pipeline: Pipeline, use: BucketUse, role: RoleUse) -> str | None:
    """Return what the jobs of a role do with objects of a prefix; None if they have nothing to do with it."""
    if role.writes(use):
        return _WRITE
    is_in_place = pipeline.staging.mode == "in_place" and role.service == "medical-imaging"
    if use.purpose is Purpose.STAGING or (use.purpose is Purpose.SOURCE and is_in_place):
        return "s3:GetObject"
    return None


def _request(action: str, use: BucketUse, role: RoleUse, more: dict[str, str | None]) -> Request:
    principals = frozenset({f"AWS:{role.arn}", f"AWS:{role.account}", f"AWS:arn:aws:iam::{role.account}:root"})
    context = {
        "aws:SecureTransport": "true",
        "aws:PrincipalArn": role.arn,
        "aws:PrincipalAccount": role.account,
        "aws:PrincipalIsAWSService": "false",
        "aws:ViaAWSService": "false",
    }
    return Request(principals, action, f"arn:aws:s3:::{use.uri.bucket}/{use.uri.key}x", context | more)


def _explain_role(role: RoleUse) -> Finding:
    return failed(
        f"Its policy refuses the role {role.name} of the jobs of {_NAMES[role.service]}.",
        f"Except the role ({role.field}) from that statement.",
    )


def _explain_network(role: RoleUse) -> Finding:
    return failed(
        f"Its policy refuses requests from outside a VPC or a network, and those of the jobs of {_NAMES[role.service]} "
        f"come from AWS.",
        f"Except the role {role.name} ({role.field}) from that statement, by aws:PrincipalArn.",
    )


def _explain_encryption(use: BucketUse, role: RoleUse) -> Finding:
    jobs = f"the jobs of {_NAMES[role.service]}"
    if use.key_id is None:
        return failed(
            f"Its policy refuses writes that name no KMS key, and {jobs} name none.",
            "Remove that statement here, and make the key the bucket's default encryption.",
        )
    return failed(
        f"Its policy refuses writes with the KMS key that {jobs} name for {use.field}.",
        f"Name the policy's key in the pipeline file (buckets.{use.uri.bucket}.kms_key_id, or healthlake.kms_key_id), "
        f"or allow this key in the policy.",
    )
