"""Objects as archives hold them: under a KMS key, uploaded in parts, replicated from another bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


def encrypt_bucket(s3: Any, bucket: str) -> None:
    """Encrypt what comes into a bucket under a KMS key: etags are no MD5 then."""
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "alias/archive"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def put_in_parts(s3: Any, bucket: str, key: str, body: bytes) -> None:
    """Upload an object in one part: its etag ends in ``-1``."""
    where = {"Bucket": bucket, "Key": key}
    upload = s3.create_multipart_upload(**where)["UploadId"]
    etag = s3.upload_part(**where, UploadId=upload, PartNumber=1, Body=body)["ETag"]
    parts = [{"PartNumber": 1, "ETag": etag}]
    s3.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})


def date_objects(bucket: str, keys: Iterable[str], moment: datetime) -> None:
    """Give objects one LastModified, in UTC: that of an earlier day, or of the original, as S3 replication does.

    The server is one of this process.
    """
    for key in keys:
        stored: Any = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].get_object(bucket, key)
        stored.last_modified = moment.replace(tzinfo=None)  # moto's are naive
