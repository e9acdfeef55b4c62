"""The S3 side of an import job: list the input, read it, write the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from localaws.aws_clients import local_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localaws.settings import Settings


@dataclass(frozen=True)
class InputFile:
    """One object under the input prefix."""

    key: str
    size: int


def split_uri(uri: str) -> tuple[str, str]:
    """Return bucket and key (or prefix) of an ``s3://`` URI; the key is never decoded."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


class Objects:
    """S3 through boto3, as a service reaches it with the role of a job."""

    def __init__(self, settings: Settings) -> None:
        self._client = local_client("s3", settings.region, settings.s3_endpoint, connections=settings.readers + 4)

    def list(self, uri: str, owner: str | None) -> Iterator[InputFile]:
        """Yield the objects under a prefix, without folder markers.

        The prefix is S3's: ``s3://bucket/1.2.3`` also takes in ``1.2.34/``.

        Raises
        ------
        botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError
            The bucket cannot be listed.
        """
        bucket, prefix = split_uri(uri)
        expected = {"ExpectedBucketOwner": owner} if owner else {}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **expected)
        for listing in pages:
            for item in listing.get("Contents", ()):
                if not item["Key"].endswith("/"):
                    yield InputFile(item["Key"], item["Size"])

    def read(self, uri: str, key: str) -> tuple[bytes, str]:
        """Return the bytes and the Content-Encoding of an object in the bucket of `uri`."""
        answer = self._client.get_object(Bucket=split_uri(uri)[0], Key=key)
        return answer["Body"].read(), answer.get("ContentEncoding", "")

    def write(self, uri: str, body: bytes) -> None:
        """Write an object."""
        bucket, key = split_uri(uri)
        self._client.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")

    def open(self, uri: str, key: str) -> tuple[IO[bytes], str]:
        """Return the stream and the Content-Encoding of an object in the bucket of `uri`."""
        answer = self._client.get_object(Bucket=split_uri(uri)[0], Key=key)
        return answer["Body"], answer.get("ContentEncoding", "")

    def upload(self, uri: str, body: IO[bytes]) -> None:
        """Write an object from a file, in parts if it is large."""
        bucket, key = split_uri(uri)
        self._client.upload_fileobj(body, bucket, key)
