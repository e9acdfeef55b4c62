"""Each bucket: that it exists, whose it is and where, how it is encrypted, versioned and closed to the public."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from airlock.pipelines import ImagingPipeline
from airlock.stages.doctor.encryption_headers import list_encryption_values
from airlock.stages.doctor.findings import Check, Result, failed, not_made, passed, warned
from airlock.stages.doctor.identity import caller_id
from airlock.stages.doctor.job_requests import find_refused_job
from airlock.stages.doctor.lifecycles import list_rules
from airlock.stages.doctor.policies import Answer, Request, ask
from airlock.stages.doctor.uses import WRITTEN, Bucket, Purpose, group_buckets, list_buckets, list_stores
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.uses import BucketUse
    from airlock.stages.doctor.world import World

EXISTS = "bucket.exists"
_MISSING: Final = frozenset({"404", "NoSuchBucket", "NotFound"})
_OWN: Final = (Purpose.STAGING, Purpose.OUTPUT, Purpose.WORKSPACE)
_LOCAL: Final = "The local S3 has no such protection."
_ALL_FOUR: Final = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each bucket of the pipeline."""
    for bucket in group_buckets(list_buckets(world.pipeline)):
        first = partial(Check, about=bucket.title, needs=(caller_id(bucket.connection),))
        yield first(EXISTS, look=partial(_check_exists, world, bucket), right="s3:ListBucket")
        then = partial(Check, about=bucket.title, needs=(exists_id(bucket),))
        looks: list[tuple[str, Callable[[World, Bucket], Finding], str]] = [
            ("bucket.region", _check_region, "s3:ListBucket"),
            ("bucket.owner", _check_owner, "s3:ListBucket"),
            ("bucket.encryption", _check_encryption, "s3:GetEncryptionConfiguration"),
            ("bucket.versioning", _check_versioning, "s3:GetBucketVersioning"),
            ("bucket.public_access", _check_public_access, "s3:GetBucketPublicAccessBlock"),
            ("bucket.policy", _check_policy, "s3:GetBucketPolicy"),
        ]
        for name, look, right in looks:
            yield then(name, look=partial(look, world, bucket), right=right)


def exists_id(bucket: Bucket) -> str:
    """Return the id of the check that a bucket exists."""
    return f"{EXISTS} {bucket.title}"


def _client(world: World, bucket: Bucket) -> Any:
    return world.connect(bucket.connection).client("s3")


def _is_local(world: World, bucket: Bucket) -> bool:
    return world.connect(bucket.connection).is_local("s3")


def _check_exists(world: World, bucket: Bucket) -> Finding:
    try:
        _client(world, bucket).head_bucket(Bucket=bucket.name)
    except ClientError as error:
        if error_code(error) not in _MISSING:
            raise
        return failed(f"There is no bucket {bucket.name}.", "Create it, or correct these fields of the pipeline file.")
    return passed("It exists.")


def find_region(world: World, bucket: Bucket) -> str | None:
    """Return the Region of a bucket, which S3 names in its answer to HeadBucket; None if there is no such bucket."""
    client = _client(world, bucket)
    try:
        headers = client.head_bucket(Bucket=bucket.name)["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:
        if error_code(error) not in _MISSING:
            raise
        return None
    return str(headers.get("x-amz-bucket-region", client.meta.region_name))


def _check_region(world: World, bucket: Bucket) -> Finding:
    found = find_region(world, bucket)
    judged = [one for use in bucket.uses if (one := _judge_region(world, use, found)) is not None]
    if judged:
        return min(judged, key=lambda one: one.result is not Result.FAIL)
    connection = world.connect(bucket.connection).region
    if found != connection:
        return passed(f"It is in {found}, the connection in {connection}: transfer between Regions costs.")
    return passed(f"It is in {found}.")


def _judge_region(world: World, use: BucketUse, found: str | None) -> Finding | None:
    """Return what is wrong with the Region of a bucket for the jobs of a data store."""
    store = next((store for store in list_stores(world.pipeline) if store.service == use.service), None)
    wanted = (store.settings.region_name or world.connect(store.connection).region) if store is not None else None
    if store is None or wanted in {None, found}:
        return None
    where = f"It is in {found}, the data store of {store.section} in {wanted}."
    if use.purpose is Purpose.OUTPUT and use.service == "healthlake":
        return failed(where, f"Name a bucket in {wanted} in {use.field}: HealthLake writes to no other Region.")
    if use.purpose is Purpose.OUTPUT or use.service == "healthlake":
        return warned(where, f"Name a bucket in {wanted} in {use.field}: AWS does not promise other Regions.")
    return None


def _check_owner(world: World, bucket: Bucket) -> Finding:
    if _is_local(world, bucket):
        return not_made("The local S3 has one account.")
    account = world.connect(bucket.connection).caller().account
    named = {use.owner for use in bucket.uses if use.owner}
    for owner in sorted(named):
        if not _belongs_to(world, bucket, owner):
            return failed(
                f"It does not belong to account {owner}, which expected_bucket_owner in the pipeline file names.",
                "Do not write there. Find out whose bucket it is, then correct its name or the account.",
            )
    if named or _belongs_to(world, bucket, account):
        return passed(f"It belongs to account {', '.join(sorted(named)) or account}.")
    return _judge_foreign(world, bucket, account)


def _judge_foreign(world: World, bucket: Bucket, account: str) -> Finding:
    """Return the finding on a bucket of an account that the pipeline file does not name."""
    pipeline = world.pipeline
    is_input = bucket.has(Purpose.STAGING) or (bucket.has(Purpose.SOURCE) and pipeline.staging.mode == "in_place")
    if is_input and isinstance(pipeline, ImagingPipeline) and pipeline.healthimaging.input_owner_account_id is None:
        return failed(
            f"It does not belong to account {account}, and jobs read it.",
            "Write its owner into healthimaging.input_owner_account_id: without it HealthImaging refuses the job.",
        )
    if bucket.has(*_OWN):
        return warned(
            f"It does not belong to account {account}, and Airlock writes patients' data there.",
            f"Find out whose it is; then name the account in buckets.{bucket.name}.expected_bucket_owner, or use a "
            f"bucket of your own.",
        )
    return passed(f"It belongs to another account than {account}.")


def _belongs_to(world: World, bucket: Bucket, account: str) -> bool:
    """Return whether S3 lets somebody who expects this owner look at a bucket that they may look at."""
    try:
        _client(world, bucket).head_bucket(Bucket=bucket.name, ExpectedBucketOwner=account)
    except ClientError as error:
        if error_code(error) not in {"403", "AccessDenied"}:
            raise
        return False
    return True


def read_encryption(world: World, bucket: str, connection: str) -> tuple[str, str | None]:
    """Return the algorithm and key by which a bucket encrypts by default."""
    try:
        answer = world.connect(connection).client("s3").get_bucket_encryption(Bucket=bucket)
    except ClientError as error:
        if error_code(error) != "ServerSideEncryptionConfigurationNotFoundError":
            raise
        return "AES256", None  # S3 has encrypted every new object since January 2023
    rule = answer["ServerSideEncryptionConfiguration"]["Rules"][0]["ApplyServerSideEncryptionByDefault"]
    return str(rule["SSEAlgorithm"]), rule.get("KMSMasterKeyID")


def _check_encryption(world: World, bucket: Bucket) -> Finding:
    algorithm, key = read_encryption(world, bucket.name, bucket.connection)
    staged = next((use for use in bucket.uses if use.purpose is Purpose.STAGING), None)
    if staged is not None and staged.key_id is None and not algorithm.startswith("aws:kms"):
        source = next(use for use in list_buckets(world.pipeline) if use.purpose is Purpose.SOURCE)
        theirs, _ = read_encryption(world, source.uri.bucket, source.connection)
        if theirs.startswith("aws:kms"):
            return warned(
                "The archive is encrypted with a KMS key, its copies here are not.",
                f"Set buckets.{bucket.name}.kms_key_id, or make SSE-KMS the bucket's default.",
            )
    default = _describe_key(world, bucket, key) if key is not None else None
    if default is not None and default["KeyState"] != "Enabled":
        return failed(
            f"The key by which it encrypts is {default['KeyState']}: nothing can be read or written.",
            "Enable the key, or cancel its deletion.",
        )
    if default is not None and not _is_named(world, bucket, default):
        return warned(
            "It encrypts by default with another key than the pipeline file names: what jobs write without naming a "
            "key, and what others write, is under that one.",
            f"Make the key in buckets.{bucket.name}.kms_key_id the default, or name the default's.",
        )
    if algorithm.startswith("aws:kms") and bucket.has(Purpose.SOURCE) and not _reads_copies(world.pipeline):
        return warned(
            "The archive is encrypted with a KMS key, so equal copies of an instance have different ETags. Without a "
            "stored checksum, they are in conflict.",
            "Set validation.dedupe to hash (docs/copies.md).",
        )
    return passed(f"It encrypts by default ({algorithm}).")


def _describe_key(world: World, bucket: Bucket, key: str) -> dict[str, Any]:
    kms = world.connect(bucket.connection).client("kms", find_region(world, bucket))
    return dict(kms.describe_key(KeyId=key)["KeyMetadata"])


def _is_named(world: World, bucket: Bucket, default: dict[str, Any]) -> bool:
    """Return whether the key that ``buckets`` names is the default one; for an alias without a key `keys` fails."""
    written = (str(use.uri) for use in bucket.uses if use.purpose in WRITTEN | {Purpose.OUTPUT})
    named = {key for uri in written if (key := world.pipeline.find_settings(uri).kms_key_id) is not None}
    try:
        found = {_describe_key(world, bucket, name)["Arn"] if "alias/" in name else name for name in named}
    except ClientError as error:
        if error_code(error) != "NotFoundException":
            raise
        return True
    return found <= {default["Arn"], default["KeyId"]}


def _reads_copies(pipeline: Pipeline) -> bool:
    """Return whether the proof that two copies are equal needs no ETags; only copies of DICOM files need one."""
    return not isinstance(pipeline, ImagingPipeline) or pipeline.validation.dedupe == "hash"


def _check_versioning(world: World, bucket: Bucket) -> Finding:
    if _is_local(world, bucket) and not bucket.has(Purpose.STAGING):
        return not_made("The local S3 is in memory.")
    status = _client(world, bucket).get_bucket_versioning(Bucket=bucket.name).get("Status", "Disabled")
    if bucket.has(Purpose.WORKSPACE) and status != "Enabled":
        return warned(
            f"Versioning is {status}. A rebuild of the ledger needs everything that is in the workspace.",
            "Enable versioning, or copy the bucket to another account (docs/backup.md).",
        )
    staged = [use for use in bucket.uses if use.purpose is Purpose.STAGING]
    if staged and status != "Disabled" and not bucket.has(Purpose.WORKSPACE, Purpose.SOURCE):
        rules = list_rules(_client(world, bucket), bucket.name)
        if not any(rule.ends_versions and rule.covers_all(use.uri.key) for rule in rules for use in staged):
            return warned(
                f"Versioning is {status}, so what is deleted in staging stays as an old version for ever.",
                "Add NoncurrentVersionExpiration to the lifecycle, or use a bucket without versioning.",
            )
    return passed(f"Versioning is {status}.")


def _check_public_access(world: World, bucket: Bucket) -> Finding:
    client, local = _client(world, bucket), _is_local(world, bucket)
    blocked: dict[str, bool] = {}
    try:
        blocked = client.get_public_access_block(Bucket=bucket.name)["PublicAccessBlockConfiguration"]
    except ClientError as error:
        if error_code(error) != "NoSuchPublicAccessBlockConfiguration":
            raise
        if local:
            return not_made(_LOCAL)
    open_ = [name for name in _ALL_FOUR if not blocked.get(name)]
    if not open_:
        return passed("All four options of Block Public Access are on.")
    fix = "Turn on all four options of Block Public Access for the bucket"
    if any(use.purpose is Purpose.OUTPUT and use.service == "healthlake" for use in bucket.uses):
        return failed(f"{', '.join(open_)} is off.", f"{fix}: HealthLake refuses the bucket as output without them.")
    if local or not _is_closed_by_account(world, bucket, open_):
        return failed(f"{', '.join(open_)} is off, and the bucket has patients' data.", f"{fix}, or for the account.")
    return passed("The account blocks public access.")


def _is_closed_by_account(world: World, bucket: Bucket, options: list[str]) -> bool:
    access = world.connect(bucket.connection)
    account = access.caller().account
    try:
        answer = access.client("s3control").get_public_access_block(AccountId=account)
    except ClientError as error:
        if error_code(error) != "NoSuchPublicAccessBlockConfiguration":
            raise
        return False
    return all(answer["PublicAccessBlockConfiguration"].get(name) for name in options)


def _check_policy(world: World, bucket: Bucket) -> Finding:
    client = _client(world, bucket)
    try:
        document = json.loads(client.get_bucket_policy(Bucket=bucket.name)["Policy"])
    except ClientError as error:
        if error_code(error) != "NoSuchBucketPolicy":
            raise
        return _judge_without_policy(world, bucket)
    if client.get_bucket_policy_status(Bucket=bucket.name)["PolicyStatus"]["IsPublic"]:
        return failed(
            "Its policy makes it public.",
            "Remove the Allow statement whose Principal is *; keep a Deny that requires TLS.",
        )
    for use in bucket.uses:
        if use.purpose in WRITTEN and ask(document, _write_to(use)) is Answer.DENIED:
            key = "names no KMS key" if use.key_id is None else "names another KMS key"
            return failed(
                f"Its policy refuses what Airlock writes for {use.field}, which {key}.",
                "Name the key in the pipeline file, or let the bucket's default encryption do without the condition.",
            )
    refused = find_refused_job(world.pipeline, bucket, document)
    if refused is not None:
        return refused
    if not _refuses_plain_http(document, bucket):
        return _judge_without_policy(world, bucket)
    return passed("Its policy requires TLS and lets Airlock write.")


def _write_to(use: BucketUse) -> Request:
    """Return how a write of Airlock looks to a bucket's policy; who writes is left to the simulation of rights."""
    context = {"aws:SecureTransport": "true"} | list_encryption_values(use)
    return Request(frozenset(), "s3:PutObject", f"arn:aws:s3:::{use.uri.bucket}/{use.uri.key}x", context)


def _refuses_plain_http(document: dict[str, Any], bucket: Bucket) -> bool:
    """Return whether a bucket's policy refuses without TLS each read and write that the pipeline has of it."""
    reads = [("s3:GetObject", use) for use in bucket.uses]
    writes = [("s3:PutObject", use) for use in bucket.uses if use.purpose in WRITTEN | {Purpose.OUTPUT}]
    return all(ask(document, _plain_request(action, use)) is Answer.DENIED for action, use in reads + writes)


def _plain_request(action: str, use: BucketUse) -> Request:
    an_object = f"arn:aws:s3:::{use.uri.bucket}/{use.uri.key}x"
    return Request(frozenset(), action, an_object, {"aws:SecureTransport": "false"})


def _judge_without_policy(world: World, bucket: Bucket) -> Finding:
    if _is_local(world, bucket) or not bucket.has(*_OWN):
        return passed("No policy refuses what Airlock does.")
    return warned(
        "No policy refuses all requests without TLS.",
        "Deny all actions if aws:SecureTransport is false (docs/doctor.md).",
    )
