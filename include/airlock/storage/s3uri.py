"""Addresses in S3. Separate from ``s3``, so that reading a pipeline file imports no client library."""

from __future__ import annotations

import re
from dataclasses import dataclass

_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", re.DOTALL)


class S3UriError(ValueError):
    """A text is not an ``s3://bucket/prefix`` address."""


@dataclass(frozen=True, order=True)
class S3Uri:
    """An address in S3: a bucket and a key (or a prefix, which ends in ``/`` or is empty)."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> S3Uri:
        """Return the address that a text ``s3://bucket/key`` names.

        Raises
        ------
        S3UriError
            If the text is not such an address.
        """
        match = _URI.fullmatch(text)
        if match is None:
            raise S3UriError(f"{text!r} is not an S3 address: write s3://bucket/prefix/")
        return cls(match[1], match[2] or "")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def join(self, *parts: str) -> S3Uri:
        """Return an address below this prefix; a ``/`` at the end of the last part stays."""
        below = "/".join([*(part.strip("/") for part in parts[:-1]), parts[-1].lstrip("/")])
        folder = f"{self.key}/" if self.key and not self.key.endswith("/") else self.key
        return S3Uri(self.bucket, folder + below)
