"""The S3 side of HealthLake's jobs: the shared one, and a check of their buckets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from localaws import objects
from localaws.errors import AwsError, invalid
from localaws.objects import split_uri

if TYPE_CHECKING:
    from collections.abc import Iterable

ACCESS_CHECK = ".healthlake_write_access_check_file.temp"
MISSING, DENIED = frozenset({"404", "NoSuchBucket"}), frozenset({"403", "AccessDenied"})


class Objects(objects.Objects):
    """The shared S3 side, with HealthLake's check of a job's buckets."""

    def check(self, inputs: Iterable[str], output_uri: str) -> None:
        """Check that the buckets of a job exist, and that the output's is writable, by an empty object.

        Raises
        ------
        AwsError
            ValidationException: a bucket does not exist. AccessDeniedException: it may not be used.
            FailedDependencyException: S3 does not answer.
        """
        for uri in (*inputs, output_uri):
            self._call_bucket(uri, lambda bucket: self._client.head_bucket(Bucket=bucket))
        key = f"{split_uri(output_uri)[1].rstrip('/')}/{ACCESS_CHECK}".lstrip("/")
        self._call_bucket(output_uri, lambda bucket: self._client.put_object(Bucket=bucket, Key=key, Body=b""))

    @staticmethod
    def _call_bucket(uri: str, call: Any) -> None:
        bucket = split_uri(uri)[0]
        try:
            call(bucket)
        except ClientError as error:
            raise _refusal(bucket, str(error.response["Error"]["Code"])) from error
        except BotoCoreError as error:
            message = f"Amazon S3 did not answer for the bucket {bucket}: {type(error).__name__}."
            raise AwsError("FailedDependencyException", message) from error


def _refusal(bucket: str, code: str) -> AwsError:
    if code in MISSING:
        return invalid(f"The bucket {bucket} does not exist; make it, or correct the S3 URI.")
    if code in DENIED:
        message = f"The data access role may not use the bucket {bucket}; grant it what HealthLake's guide lists."
        return AwsError("AccessDeniedException", message)
    return AwsError("FailedDependencyException", f"Amazon S3 refused the bucket {bucket}: {code}.")
