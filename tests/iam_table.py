"""The one table of which rights each request to AWS takes, and of who makes which requests. A person reviews it.

The rights are those of AWS's own tables: for S3 the user guide's "Required permissions for Amazon S3 API operations",
for the other services the Service Authorization Reference ("API operations" and "Resource types"). The rights on keys
are of the same page for S3, and of HealthImaging's "Data encryption" and HealthLake's "Encryption at rest" for the data
stores; the two name the actions by reads and writes, not by operations.

An operation that is missing here fails the tests: look its rights up, then add it here and to the policy of its caller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

READ_KEY, WRITE_KEY = "kms:Decrypt", "kms:GenerateDataKey"


@dataclass(frozen=True)
class Right:
    """An action that an operation takes.

    Parameters
    ----------
    action
        As in ``s3:GetObject``.
    on
        The kind of resource, a key of `RESOURCES`; "" for an action without resource types, which takes ``*``.
    version
        Whether it is taken for a request that names a version, or for one that does not; None for both.
    """

    action: str
    on: str
    version: bool | None = None


RESOURCES = {  # the kinds of resources, as regular expressions of their ARNs in a policy
    "bucket": r"arn:aws:s3:::[^/]+",
    "object": r"arn:aws:s3:::[^/]+/.+",
    "source": r"arn:aws:s3:::[^/]+/.+",  # of a copy
    "key": r"arn:aws:kms:.+:key/.+",
    "image data store": r"arn:aws:medical-imaging:.+:datastore/[^/]+",
    "image set": r"arn:aws:medical-imaging:.+:datastore/[^/]+/(imageset/)?\*",
    "records data store": r"arn:aws:healthlake:.+:datastore/fhir/[^/]+",
    "profile": r"arn:aws:healthlake:.+:dataTransformationProfile/[^/]+",
    "queue": r"arn:aws:sqs:.+",
    "topic": r"arn:aws:sns:.+",
    "bus": r"arn:aws:events:.+:event-bus/.+",
    "rule": r"arn:aws:events:.+:rule/.+",
    "role": r"arn:aws:iam::.+:role/.+",
    "stack": r"arn:aws:cloudformation:.+:stack/.+",
    "": r"\*",
}


def _s3_read(on: str) -> tuple[Right, ...]:
    return Right("s3:GetObject", on, version=False), Right("s3:GetObjectVersion", on, version=True)


def _images(action: str, *keys: str, image_set: bool = False) -> tuple[Right, ...]:
    """Return the rights of an operation of HealthImaging, on the data store and, where it has one, on its image set."""
    name = f"medical-imaging:{action}"
    store = Right(name, "image data store")
    return (store, *([Right(name, "image set")] if image_set else []), *(Right(key, "key") for key in keys))


def _records(action: str, *keys: str) -> tuple[Right, ...]:
    return Right(f"healthlake:{action}", "records data store"), *(Right(key, "key") for key in keys)


_DESCRIBE, _REENCRYPT = "kms:DescribeKey", ("kms:ReEncryptFrom", "kms:ReEncryptTo")
_PASS_ROLE = Right("iam:PassRole", "role")
_PUT = Right("s3:PutObject", "object")

OPERATIONS: dict[str, tuple[Right, ...]] = {
    "s3:ListObjectsV2": (Right("s3:ListBucket", "bucket"),),
    "s3:HeadBucket": (Right("s3:ListBucket", "bucket"),),
    "s3:HeadObject": (Right("s3:GetObject", "object"), Right(READ_KEY, "key")),
    "s3:GetObject": (*_s3_read("object"), Right(READ_KEY, "key")),
    "s3:PutObject": (_PUT, Right(WRITE_KEY, "key")),
    "s3:CopyObject": (*_s3_read("source"), _PUT, Right(READ_KEY, "key"), Right(WRITE_KEY, "key")),
    "s3:CreateMultipartUpload": (_PUT, Right(WRITE_KEY, "key")),
    "s3:UploadPart": (_PUT, Right(READ_KEY, "key"), Right(WRITE_KEY, "key")),
    "s3:UploadPartCopy": (*_s3_read("source"), _PUT, Right(READ_KEY, "key"), Right(WRITE_KEY, "key")),
    "s3:CompleteMultipartUpload": (_PUT, Right(READ_KEY, "key")),
    "s3:AbortMultipartUpload": (Right("s3:AbortMultipartUpload", "object"),),
    "s3:DeleteObjects": (Right("s3:DeleteObject", "object"),),
    "s3:GetBucketEncryption": (Right("s3:GetEncryptionConfiguration", "bucket"),),
    "s3:GetBucketVersioning": (Right("s3:GetBucketVersioning", "bucket"),),
    "s3:GetBucketLifecycleConfiguration": (Right("s3:GetLifecycleConfiguration", "bucket"),),
    "s3:GetBucketNotificationConfiguration": (Right("s3:GetBucketNotification", "bucket"),),
    "s3:GetBucketPolicy": (Right("s3:GetBucketPolicy", "bucket"),),
    "s3:GetBucketPolicyStatus": (Right("s3:GetBucketPolicyStatus", "bucket"),),
    "s3:GetPublicAccessBlock": (Right("s3:GetBucketPublicAccessBlock", "bucket"),),
    "s3control:GetPublicAccessBlock": (Right("s3:GetAccountPublicAccessBlock", ""),),
    "medical-imaging:GetDatastore": _images("GetDatastore", _DESCRIBE),
    "medical-imaging:StartDICOMImportJob": (*_images("StartDICOMImportJob", _DESCRIBE, WRITE_KEY), _PASS_ROLE),
    "medical-imaging:GetDICOMImportJob": _images("GetDICOMImportJob"),
    "medical-imaging:ListDICOMImportJobs": _images("ListDICOMImportJobs"),
    "medical-imaging:SearchImageSets": _images("SearchImageSets", _DESCRIBE, READ_KEY),
    "medical-imaging:GetImageSet": _images("GetImageSet", _DESCRIBE, READ_KEY, image_set=True),
    "medical-imaging:GetImageSetMetadata": _images("GetImageSetMetadata", _DESCRIBE, READ_KEY, image_set=True),
    "medical-imaging:ListImageSetVersions": _images("ListImageSetVersions", _DESCRIBE, READ_KEY, image_set=True),
    "medical-imaging:UpdateImageSetMetadata": _images(
        "UpdateImageSetMetadata", _DESCRIBE, READ_KEY, WRITE_KEY, *_REENCRYPT, image_set=True
    ),
    "medical-imaging:CopyImageSet": _images(
        "CopyImageSet", _DESCRIBE, READ_KEY, WRITE_KEY, *_REENCRYPT, image_set=True
    ),
    "medical-imaging:DeleteImageSet": _images("DeleteImageSet", _DESCRIBE, image_set=True),
    "healthlake:DescribeFHIRDatastore": _records("DescribeFHIRDatastore", _DESCRIBE),
    "healthlake:ListFHIRDatastores": (Right("healthlake:ListFHIRDatastores", ""),),
    "healthlake:StartFHIRImportJob": (*_records("StartFHIRImportJob", _DESCRIBE, WRITE_KEY), _PASS_ROLE),
    "healthlake:DescribeFHIRImportJob": _records("DescribeFHIRImportJob"),
    "healthlake:ListFHIRImportJobs": _records("ListFHIRImportJobs"),
    "healthlake:StartFHIRExportJob": (*_records("StartFHIRExportJob", _DESCRIBE, READ_KEY), _PASS_ROLE),
    "healthlake:DescribeFHIRExportJob": _records("DescribeFHIRExportJob"),
    "healthlake:ListFHIRExportJobs": _records("ListFHIRExportJobs"),
    "healthlake:StartDataTransformationJob": (Right("healthlake:StartDataTransformationJob", "profile"), _PASS_ROLE),
    "healthlake:GetDataTransformationProfile": (Right("healthlake:GetDataTransformationProfile", "profile"),),
    "healthlake:DescribeDataTransformationJob": (Right("healthlake:DescribeDataTransformationJob", ""),),
    "healthlake:ListDataTransformationJobs": (Right("healthlake:ListDataTransformationJobs", ""),),
    # The FHIR interface: neither botocore nor AWS's table has operations, the actions are one for each interaction.
    "fhir:read": (
        Right("healthlake:ReadResource", "records data store", version=False),
        Right("healthlake:VersionReadResource", "records data store", version=True),
        Right(_DESCRIBE, "key"),
        Right(READ_KEY, "key"),
    ),
    "fhir:search": _records("SearchWithPost", _DESCRIBE, READ_KEY),
    "fhir:validate": _records("ValidateResource"),
    "fhir:create": _records("CreateResource", _DESCRIBE, WRITE_KEY),
    "fhir:update": _records("UpdateResource", _DESCRIBE, WRITE_KEY),
    "fhir:delete": _records("DeleteResource", _DESCRIBE, WRITE_KEY),
    "fhir:bundle": _records("ProcessBundle", _DESCRIBE, WRITE_KEY),
    "fhir:await_transaction": _records("ProcessBundle", _DESCRIBE, READ_KEY),
    "sqs:ReceiveMessage": (Right("sqs:ReceiveMessage", "queue"),),
    "sqs:DeleteMessageBatch": (Right("sqs:DeleteMessage", "queue"),),
    "sqs:ChangeMessageVisibilityBatch": (Right("sqs:ChangeMessageVisibility", "queue"),),
    "sqs:GetQueueAttributes": (Right("sqs:GetQueueAttributes", "queue"),),
    "sqs:SendMessage": (Right("sqs:SendMessage", "queue"),),
    "sns:Publish": (Right("sns:Publish", "topic"),),
    "sns:ListSubscriptionsByTopic": (Right("sns:ListSubscriptionsByTopic", "topic"),),
    "sns:GetTopicAttributes": (Right("sns:GetTopicAttributes", "topic"),),
    "events:PutEvents": (Right("events:PutEvents", "bus"),),
    "events:DescribeEventBus": (Right("events:DescribeEventBus", "bus"),),
    "events:DescribeRule": (Right("events:DescribeRule", "rule"),),
    "events:ListRuleNamesByTarget": (Right("events:ListRuleNamesByTarget", ""),),
    "iam:GetRole": (Right("iam:GetRole", "role"),),
    "iam:SimulatePrincipalPolicy": (Right("iam:SimulatePrincipalPolicy", "role"),),
    "kms:DescribeKey": (Right("kms:DescribeKey", "key"),),
    "kms:GetKeyPolicy": (Right("kms:GetKeyPolicy", "key"),),
    "sts:AssumeRole": (Right("sts:AssumeRole", "role"),),
    "sts:GetCallerIdentity": (),  # AWS answers whoever asks
    "cloudformation:DescribeStacks": (Right("cloudformation:DescribeStacks", "stack"),),
}

# What the provider package offers and Airlock does not call. tests/integration/test_rights.py runs whole pipelines, and
# none of these is among their requests.
UNUSED = {
    "healthlake:ListFHIRDatastores": "for users of the package; a pipeline names its data store",
    "healthlake:StartFHIRExportJob": "for users of the package; Airlock exports nothing",
    "healthlake:DescribeFHIRExportJob": "as above",
    "healthlake:ListFHIRExportJobs": "as above",
    "fhir:create": "for users of the package; Airlock writes to the data store by import jobs only",
    "fhir:update": "as above",
    "fhir:delete": "as above",
    "fhir:bundle": "as above",
    "fhir:await_transaction": "as above: the answer to a Bundle",
}

# What no policy of iam/ allows.
WITHOUT_POLICY = {
    "sts:AssumeRole": "the credentials of a connection with role_arn do; the policies of iam/ are that role's",
    "cloudformation:DescribeStacks": "airlock pipelines new --stack, by who deploys; docs/cli.md says so",
}


@dataclass(frozen=True)
class Caller:
    """Who holds a policy, and which code acts in that name.

    Parameters
    ----------
    runs
        Modules, and waiter models, whose requests it makes.
    also
        Operations that it makes through another module, with the module or function that does.
    but
        Operations of its modules that it does not make, with the reason.
    unused
        Actions that the policy allows beyond that, with the reason.
    """

    runs: tuple[str, ...]
    also: dict[str, str] = field(default_factory=dict)
    but: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


_HOOKS = "plugins/healthaws/hooks"
_WAITERS = "plugins/healthaws/waiters"
_DOCTOR = "include/airlock/stages/doctor"

CALLERS: dict[str, Caller] = {
    "worker-policy.json": Caller(
        runs=(
            "include/airlock/storage/s3.py",
            "include/airlock/storage/listing.py",
            "include/airlock/storage/copy_requests.py",
            "include/airlock/dicom/fetch.py",
            "include/airlock/imaging/adopt.py",
            "include/airlock/imaging/read_back.py",
            f"{_HOOKS}/healthimaging.py",
            f"{_HOOKS}/healthimaging_import_jobs.py",
            f"{_WAITERS}/medical-imaging.json",
        ),
    ),
    "resolve-worker-policy.json": Caller(runs=(f"{_HOOKS}/healthimaging_image_sets.py",)),
    "fhir-worker-policy.json": Caller(
        runs=(
            f"{_HOOKS}/healthlake.py",
            f"{_HOOKS}/healthlake_fhir.py",
            f"{_HOOKS}/healthlake_import_jobs.py",
            f"{_WAITERS}/healthlake.json",
        ),
        but={"healthlake:DescribeDataTransformationJob": "of ccda-worker-policy.json: the waiters share a file"},
    ),
    "ccda-worker-policy.json": Caller(
        runs=(f"{_HOOKS}/healthlake_transformation_jobs.py", "include/airlock_cli/sign_off.py"),
        also={
            "s3:ListObjectsV2": "airlock.ccda.manifests lists the folder of a conversion",
            "s3:GetObject": "airlock.ccda.manifests and airlock.clinical.parse read it",
        },
    ),
    "arrivals-policy.json": Caller(runs=("plugins/airlock_tasks/arrivals.py", "plugins/airlock_console/account.py")),
    "routes-policy.json": Caller(
        runs=(
            "include/airlock/destinations/eventbridge.py",
            "include/airlock/destinations/sns.py",
            "include/airlock/destinations/sqs.py",
        )
    ),
    "edge-policy.json": Caller(
        runs=("include/airlock_edge/bucket.py", "include/airlock_edge/commitment/told.py"),
    ),
    "reconcile-policy.json": Caller(
        runs=(
            "include/airlock/imaging/reconcile_store.py",
            "include/airlock/clinical/fhir_store.py",
            "include/airlock_cli/stores.py",
        ),
        also={
            "medical-imaging:SearchImageSets": "airlock.imaging.adopt.ImageSets lists the data store",
            "s3:HeadObject": "airlock.stages.reconcile_source looks objects up",
            "s3:GetObject": "airlock.imaging.reconcile_pixels reads files of the archive",
            "s3:PutObject": "the listing and the report are written to the workspace",
            "s3:CreateMultipartUpload": "S3.put_file does so above 1 GiB",
            "s3:UploadPart": "as above",
            "s3:CompleteMultipartUpload": "as above",
            "s3:AbortMultipartUpload": "as above, if the upload breaks off",
        },
        but={"fhir:validate": "airlock validate does, whose caller needs fhir-worker-policy.json"},
        unused={"s3:ListBucket": "without it S3 answers 403 for an object that is gone, which counts as unreadable"},
    ),
    "doctor-policy.json": Caller(
        runs=(
            f"{_DOCTOR}/arrivals.py",
            f"{_DOCTOR}/buckets.py",
            f"{_DOCTOR}/datastores.py",
            f"{_DOCTOR}/identity.py",
            f"{_DOCTOR}/keys.py",
            f"{_DOCTOR}/lifecycles.py",
            f"{_DOCTOR}/machine.py",
            f"{_DOCTOR}/receivers.py",
            f"{_DOCTOR}/rights.py",
            f"{_DOCTOR}/roles.py",
            f"{_DOCTOR}/sources.py",
            "include/airlock_cli/aws_access.py",
        ),
    ),
}

# Rights of an operation that a caller does not take, by its policy and the action.
NOT_TAKEN = {
    ("fhir-worker-policy.json", "healthlake:VersionReadResource"): "Airlock reads current versions",
    ("reconcile-policy.json", "healthlake:VersionReadResource"): "as above",
    ("ccda-worker-policy.json", "s3:GetObjectVersion"): "the files of a conversion are read as they are listed",
    ("reconcile-policy.json", "s3:GetObjectVersion"): "the command reads objects as they are now",
}

# The roles that AWS's services assume, and the rights that AWS's pages ask for. No code of ours shows what they call.
_ENCRYPTED_S3 = {READ_KEY: "the batch, if its bucket has a key", WRITE_KEY: "the results, if their bucket has a key"}
SERVICE_ROLES: dict[str, dict[str, str]] = {
    "import-role-policy.json": {  # HealthImaging developer guide, "Setting up", the role for imports
        "s3:ListBucket": "both buckets",
        "s3:GetObject": "the batch",
        "s3:PutObject": "the results",
        **_ENCRYPTED_S3,  # not on that page: AWS names no rights on keys for this role
    },
    "fhir-import-role-policy.json": {  # HealthLake developer guide, "Setting up permissions for import jobs"
        "s3:ListBucket": "both buckets",
        "s3:GetBucketPublicAccessBlock": "both buckets",
        "s3:GetEncryptionConfiguration": "both buckets",
        "s3:GetObject": "the batch",
        "s3:PutObject": "the results",
        "kms:DescribeKey": "the key that the request names",
        "kms:GenerateDataKeyWithoutPlaintext": "the results: AWS asks for kms:GenerateDataKey*",
        **_ENCRYPTED_S3,
    },
    "ccda-transformation-role-policy.json": {  # as above, "Setting up permissions to do data transformation jobs"
        "s3:ListBucket": "both buckets",
        "s3:GetObject": "the documents, and what an earlier step of the job has written",
        "s3:PutObject": "the converted files, manifest and drift reports",
        "kms:DescribeKey": "the key that the request names",
        **_ENCRYPTED_S3,
    },
}
