"""KMS keys: that they can be used, are where the buckets are, and that workers and roles may use them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.stages.doctor.buckets import find_region, read_encryption
from airlock.stages.doctor.datastores import find_key, read_store, state_id
from airlock.stages.doctor.findings import Check, failed, not_made, passed, warned
from airlock.stages.doctor.identity import caller_id
from airlock.stages.doctor.policies import Answer, Request, ask
from airlock.stages.doctor.rights import find_principal
from airlock.stages.doctor.roles import read_role
from airlock.stages.doctor.uses import WRITTEN, Purpose, group_buckets, list_buckets, list_keys, list_roles, list_stores
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import Bucket, KeyUse, RoleUse, StoreUse
    from airlock.stages.doctor.world import Simulator, World

STATE: Final = "key.state"
_MISSING: Final = frozenset({"NotFoundException"})
_OF_BUCKET: Final = "s3:GetEncryptionConfiguration, kms:DescribeKey and kms:GetKeyPolicy"
_LOCAL: Final = "The local stack has no such key, and encrypts nothing."
_ROLE_WRITES: Final = ("kms:DescribeKey", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext")
# HealthImaging developer guide, "Data encryption"; HealthLake developer guide, "Encryption at rest". kms:CreateGrant,
# which they have besides, is for who creates a data store.
_OF_STORES: Final = ("kms:DescribeKey", "kms:Decrypt", "kms:GenerateDataKey")


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each key that the pipeline file names, and of the data stores' keys."""
    for key in list_keys(world.pipeline):
        exists = f"{STATE} {key.field}"
        needs = (caller_id(key.connection),)
        yield Check(STATE, key.field, partial(_check_state, world, key), needs, "kms:DescribeKey")
        yield Check("key.policy", key.field, partial(_check_policy, world, key), (exists,), "kms:GetKeyPolicy")
    for bucket in group_buckets(list_buckets(world.pipeline)):
        needs = (f"bucket.encryption {bucket.title}",)
        yield Check("bucket.key", bucket.title, partial(_check_bucket_key, world, bucket), needs, _OF_BUCKET)
    for store in list_stores(world.pipeline):
        look = partial(_check_store_key, world, store)
        yield Check("datastore.key", store.section, look, (state_id(store),), "kms:DescribeKey and kms:GetKeyPolicy")


def _describe(kms: Any, key_id: str) -> dict[str, Any] | None:
    try:
        return dict(kms.describe_key(KeyId=key_id)["KeyMetadata"])
    except ClientError as error:
        if error_code(error) not in _MISSING:
            raise
        return None


def _judge_state(found: dict[str, Any]) -> Finding | None:
    if found["KeyState"] != "Enabled":
        return failed(
            f"It is {found['KeyState']}: what it encrypted cannot be read.", "Enable it, or cancel its deletion."
        )
    kind = found.get("KeySpec", "SYMMETRIC_DEFAULT"), found.get("KeyUsage", "ENCRYPT_DECRYPT")
    if kind != ("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT"):
        return failed("S3 and the services cannot encrypt with it.", "Name a symmetric key for encryption.")
    return None


def _check_state(world: World, key: KeyUse) -> Finding:
    access = world.connect(key.connection)
    found = _describe(access.client("kms", key.region), key.key_id)
    if found is None:
        if access.is_local("kms"):
            return not_made(_LOCAL)
        return failed("There is no such key in this account and Region.", f"Create it, or correct {key.field}.")
    region = str(found["Arn"]).split(":")[3]
    # A key of HealthLake's output is looked for in the Region of the data store, where the bucket has to be.
    for bucket in group_buckets(use for use in key.uses if use.purpose in WRITTEN):
        place = find_region(world, bucket)
        if place not in {None, region}:
            return failed(f"It is in {region}, bucket {bucket.name} in {place}.", "Name a key of the bucket's Region.")
    return _judge_state(found) or passed("It is enabled.")


@dataclass(frozen=True)
class _User:
    """A principal that uses a key."""

    title: str
    arn: str
    actions: tuple[str, ...]


def _list_existing_roles(world: World) -> Iterator[RoleUse]:
    """Yield the roles that exist: IAM simulates no others, and `roles` says that one is missing."""
    for role in list_roles(world.pipeline):
        if read_role(world, role) is not None:
            yield role


def _list_users(world: World, key: KeyUse) -> Iterator[_User]:
    access = world.connect(key.connection)
    actions = {action for use in key.uses for action in _BY_WORKERS[use.purpose]}
    yield _User(f"connection {key.connection}", find_principal(access), tuple(sorted(actions)))
    for role in _list_existing_roles(world):
        if any(use.purpose is Purpose.STAGING for use in key.uses):
            yield _User(role.field, role.arn, _READ)
        if any(role.writes(use) for use in key.uses):
            yield _User(role.field, role.arn, _ROLE_WRITES)


def _check_policy(world: World, key: KeyUse) -> Finding:
    access = world.connect(key.connection)
    kms = access.client("kms", key.region)
    found = _describe(kms, key.key_id)
    if found is None:
        return not_made(_LOCAL)
    if access.is_local("iam"):
        return not_made("The local stack checks no rights.")
    return _read_permissions(world, key.connection, kms, found).judge(_list_users(world, key))


@dataclass(frozen=True)
class _Permissions:
    """Who may use a key: by its own policy, or where that leaves it to IAM by the principals' own.

    Parameters
    ----------
    simulator
        Asks IAM.
    key
        The key as KMS describes it.
    document
        Its policy.
    service
        The service through which the key is used.
    """

    simulator: Simulator
    key: dict[str, Any]
    document: dict[str, Any]
    service: str

    def judge(self, users: Iterable[_User]) -> Finding:
        """Return whether each user may use the key."""
        answers = [(self.ask(user, action), f"{action} by {user.title}") for user in users for action in user.actions]
        denied = [named for answer, named in answers if answer in {Answer.DENIED, Answer.SILENT}]
        if denied:
            return failed(
                f"Neither the key's policy nor IAM allows {', '.join(denied)}.",
                "Add the principal to the key's policy, or leave it to IAM there and allow it in IAM (iam/README.md).",
            )
        unsure = [named for answer, named in answers if answer is Answer.OPEN]
        if unsure:
            return warned(
                f"Whether it allows {', '.join(unsure)} depends on conditions that the doctor does not know.",
                "Compare the key's policy with iam/README.md.",
            )
        return passed("Workers and roles may use it.")

    def ask(self, user: _User, action: str) -> Answer:
        """Return whether a user may do one thing with the key."""
        arn = str(self.key["Arn"])
        _, partition, _, region, *_ = arn.split(":")
        account = user.arn.split(":")[4]
        context = {"kms:CallerAccount": account, "kms:ViaService": f"{self.service}.{region}.amazonaws.com"}
        own = ask(self.document, Request(frozenset({f"AWS:{user.arn}"}), action, arn, context))
        if own is not Answer.SILENT:
            return own
        root = frozenset({f"AWS:arn:{partition}:iam::{account}:root", f"AWS:{account}"})
        delegated = ask(self.document, Request(root, action, arn, context))
        if delegated is not Answer.ALLOWED:
            return delegated
        (simulated,) = self.simulator.simulate(user.arn, [action], arn, context)
        if simulated.is_allowed:
            return Answer.ALLOWED
        return Answer.OPEN if simulated.missing else Answer.DENIED


def _read_permissions(
    world: World, connection: str, kms: Any, found: dict[str, Any], service: str = "s3"
) -> _Permissions:
    document = json.loads(kms.get_key_policy(KeyId=found["KeyId"], PolicyName="default")["Policy"])
    return _Permissions(world.simulator(world.connect(connection)), found, document, service)


# What reading and writing objects under a bucket's default key takes; parts of a multipart upload are read again.
_READ: Final = ("kms:Decrypt",)
_WRITE: Final = ("kms:GenerateDataKey", "kms:Decrypt")
_BY_WORKERS: Final = {
    Purpose.SOURCE: _READ,
    Purpose.READ: _READ,
    Purpose.STAGING: _WRITE,
    Purpose.OUTPUT: _READ,
    Purpose.WORKSPACE: _WRITE,
    Purpose.CONTRACTS: _WRITE,
}


def _check_bucket_key(world: World, bucket: Bucket) -> Finding:
    """Return whether those who use the bucket may use the key by which it encrypts by default."""
    _, key = read_encryption(world, bucket.name, bucket.connection)
    if key is None:
        return passed("It has no KMS key of its own.")
    access = world.connect(bucket.connection)
    kms = access.client("kms", find_region(world, bucket))
    found = _describe(kms, key)
    if found is None:
        return failed("The key by which it encrypts does not exist.", "Name another key in its default encryption.")
    if found.get("KeyManager") == "AWS":
        return passed("It encrypts with a key that AWS manages for the account.")
    if access.is_local("iam"):
        return not_made("The local stack checks no rights.")
    return _read_permissions(world, bucket.connection, kms, found).judge(_list_bucket_users(world, bucket))


def _list_bucket_users(world: World, bucket: Bucket) -> Iterator[_User]:
    """Yield who reads or writes objects under the default key; requests that name a key have that one."""
    by_default = [use for use in bucket.uses if use.key_id is None]
    actions = {action for use in by_default for action in _BY_WORKERS[use.purpose]}
    if actions:
        principal = find_principal(world.connect(bucket.connection))
        yield _User(f"connection {bucket.connection}", principal, tuple(sorted(actions)))
    for role in _list_existing_roles(world):
        needed: set[str] = set()
        for use in by_default:
            in_place = use.purpose is Purpose.SOURCE and world.pipeline.staging.mode == "in_place"
            if use.purpose is Purpose.STAGING or (in_place and role.service == "medical-imaging"):
                needed.update(_READ)
            if role.writes(use):
                needed.update(_WRITE)
        if needed:
            yield _User(role.field, role.arn, tuple(sorted(needed)))


def _check_store_key(world: World, store: StoreUse) -> Finding:
    properties = read_store(world, store) or {}
    key = find_key(properties)
    if key is None:
        return passed("AWS manages its key.")
    access = world.connect(store.connection)
    kms = access.client("kms", store.settings.region_name)
    found = _describe(kms, key)
    if found is None:
        return failed(
            "Its key does not exist in this account and Region: nothing in it can be read.",
            "Ask whoever manages the account's keys; restore the key if its deletion is pending.",
        )
    broken = _judge_state(found)
    if broken is not None or access.is_local("iam"):
        return broken or passed("Its key is enabled.")
    users = [_User(f"connection {store.connection}", find_principal(access), _OF_STORES)]
    return _read_permissions(world, store.connection, kms, found, store.service).judge(users)
