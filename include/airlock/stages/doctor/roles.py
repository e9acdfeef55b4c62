"""The role of each data store's jobs: that it exists, and that the service, and nobody else, may assume it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.pipelines import CcdaPipeline
from airlock.stages.doctor.findings import Check, failed, not_made, passed, warned
from airlock.stages.doctor.identity import caller_id
from airlock.stages.doctor.policies import Answer, Request, ask, has_condition, names_anybody
from airlock.stages.doctor.uses import PRINCIPALS, list_roles, list_stores
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import RoleUse, StoreUse
    from airlock.stages.doctor.world import World

EXISTS: Final = "role.exists"
_LOCAL: Final = "The local stack has no such role, and its services assume none."
_SOURCE_CONDITIONS: Final = ("aws:SourceAccount", "aws:SourceArn")


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each role."""
    for role in list_roles(world.pipeline):
        title = role_title(role)
        needs = (caller_id(role.connection),)
        yield Check(EXISTS, title, partial(_check_exists, world, role), needs, "iam:GetRole")
        yield Check("role.trust", title, partial(_check_trust, world, role), (f"{EXISTS} {title}",), "iam:GetRole")


def role_title(role: RoleUse) -> str:
    """Return a role's name and the field that names it, for messages."""
    return f"{role.name} ({role.field})"


def store_arn(world: World, store: StoreUse) -> str:
    """Return the ARN of a data store in the account of its connection."""
    access = world.connect(store.connection)
    caller = access.caller()
    region = store.settings.region_name or access.region
    kind = "datastore/fhir" if store.service == "healthlake" else "datastore"
    return f"arn:{caller.partition}:{store.service}:{region}:{caller.account}:{kind}/{store.settings.datastore_id}"


def read_role(world: World, role: RoleUse) -> dict[str, Any] | None:
    """Return a role as IAM has it; None if it does not exist."""
    try:
        found = world.connect(role.connection).client("iam").get_role(RoleName=role.name)["Role"]
    except ClientError as error:
        if error_code(error) != "NoSuchEntity":
            raise
        return None
    return dict(found) if found["Arn"] == role.arn else None


def _check_exists(world: World, role: RoleUse) -> Finding:
    access = world.connect(role.connection)
    account = access.caller().account
    if role.account != account:
        return failed(
            f"It belongs to account {role.account}, the connection to {account}: nobody can pass it to the service.",
            f"Name a role of account {account} in {role.field}, or correct the connection.",
        )
    if read_role(world, role) is None:
        if access.is_local("iam"):
            return not_made(_LOCAL)
        return failed("There is no such role.", f"Create it from iam/, or correct {role.field}.")
    return passed("It exists.")


def _check_trust(world: World, role: RoleUse) -> Finding:
    found = read_role(world, role)
    document = found["AssumeRolePolicyDocument"] if found is not None else {}
    if names_anybody(document):
        return failed("Its trust policy lets everybody assume it.", "Replace it by that of iam/.")
    for store in role.stores:
        finding = _judge_trust(document, role, store_arn(world, store))
        if finding is not None:
            return finding
    if isinstance(world.pipeline, CcdaPipeline) and role.converts:
        base = store_arn(world, list_stores(world.pipeline)[0]).partition(":datastore/")[0]
        profile = f"{base}:dataTransformationProfile/{world.pipeline.transformation.profile_id}"
        if not role.stores:
            finding = _judge_trust(document, role, profile)
            return finding or passed("The service may assume it for conversions of this account.")
        if _ask(document, role, profile) is not Answer.ALLOWED:
            return warned(
                "Its trust policy names the data store only, but a conversion has none. AWS does not say which "
                "aws:SourceArn a conversion has.",
                "Allow aws:SourceArn of dataTransformationProfile/ as well, and try one document.",
            )
    return passed("The service may assume it for this account.")


def _ask(document: dict[str, Any], role: RoleUse, source: str) -> Answer:
    context = {"aws:SourceAccount": source.split(":")[4], "aws:SourceArn": source}
    principals = frozenset({f"Service:{PRINCIPALS[role.service]}"})
    return ask(document, Request(principals, "sts:AssumeRole", context=context))


def _judge_trust(document: dict[str, Any], role: RoleUse, source: str) -> Finding | None:
    answer, principal = _ask(document, role, source), PRINCIPALS[role.service]
    if answer is Answer.OPEN:
        return warned(
            f"Whether {principal} may assume it depends on conditions that the doctor does not know.",
            "Compare its trust policy with that of iam/.",
        )
    if answer is not Answer.ALLOWED:
        named = has_condition(document, f"Service:{principal}", "aws:SourceAccount") or has_condition(
            document, f"Service:{principal}", "aws:SourceArn"
        )
        why = "for this account and data store" if named else "at all"
        return failed(
            f"Its trust policy does not let {principal} assume it {why}.",
            "Replace it by that of iam/, with this account and data store.",
        )
    if not any(has_condition(document, f"Service:{principal}", key) for key in _SOURCE_CONDITIONS):
        return warned(
            "Its trust policy has no condition: the service may assume it for other accounts' requests.",
            "Add aws:SourceAccount, as in iam/.",
        )
    return None
