"""Who calls AWS by each connection, and in which Region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from airlock.stages.doctor.deployment import DEFINED
from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.stages.doctor.uses import list_aws_connections, list_stores
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World

CALLER, REGION = "identity.caller", "identity.region"
_WRONG_CREDENTIALS: Final = frozenset(
    {
        "InvalidClientTokenId",
        "ExpiredToken",
        "ExpiredTokenException",
        "SignatureDoesNotMatch",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "RequestExpired",
    }
)


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each connection's identity and Region."""
    for name in list_aws_connections(world.pipeline):
        needs = (f"{DEFINED} {name}",)
        yield Check(CALLER, name, lambda name=name: _check_caller(world, name), needs)  # type: ignore[misc]
        yield Check(REGION, name, lambda name=name: _check_region(world, name), needs)  # type: ignore[misc]


def caller_id(connection: str) -> str:
    """Return the id of the check without which nothing can be said by a connection."""
    return f"{CALLER} {connection}"


def describe_arn(arn: str) -> str:
    """Return the kind, name and account of a principal, without the session's name, which may be a person's."""
    parts = arn.split(":")
    account, path = parts[4], parts[5].split("/")
    if path == ["root"]:
        return f"the root user of account {account}"
    kind, name = ("role", path[1]) if path[0] == "assumed-role" else (path[0], path[-1])
    return f"{kind} {name} of account {account}"


def _check_caller(world: World, connection: str) -> Finding:
    try:
        access = world.connect(connection)
        arn = access.caller().arn
    except (NoCredentialsError, PartialCredentialsError):
        return failed(
            "There are no AWS credentials.", "Give the connection credentials or a role, or the machine a role."
        )
    except (ProfileNotFound, CredentialRetrievalError) as error:
        return failed(
            f"The AWS credentials cannot be read ({error_code(error)}).",
            "Correct AWS_PROFILE, or the program or file that the profile takes them from.",
        )
    except ClientError as error:
        code = error_code(error)
        if error.operation_name.startswith("AssumeRole"):  # a pod's goes on: ...WithWebIdentity (IRSA)
            return failed(
                f"AWS does not let the connection assume its role ({code}).",
                "Correct role_arn in the connection's extra (of a pod: its service account's annotation), the role's "
                "trust policy, or the credentials.",
            )
        if code not in _WRONG_CREDENTIALS:
            raise
        return failed(f"AWS refuses the credentials ({code}).", "Renew the credentials of the connection.")
    who = describe_arn(arn)
    if arn.endswith(":root") and not access.is_local("sts"):
        return warned(f"It is {who}, who may do everything.", "Give the connection a role with the rights in iam/.")
    return passed(f"It is {who}.")


def _check_region(world: World, connection: str) -> Finding:
    region = world.connect(connection).region
    if region is None:
        return failed(
            "Neither the connection nor AWS_DEFAULT_REGION names a Region.",
            'Write it into the connection\'s extra: {"region_name": "..."}.',
        )
    sections = [(store.section, store.settings) for store in list_stores(world.pipeline)]
    others = {
        f"{section} is in {settings.region_name}"
        for section, settings in sections
        if settings.aws_conn_id == connection and settings.region_name not in {None, region}
    }
    return passed(f"It is {region}." if not others else f"It is {region}; {', '.join(sorted(others))}.")
