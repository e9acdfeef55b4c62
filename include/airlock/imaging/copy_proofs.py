"""Proofs that two copies of an instance are the same: by the checksums that S3 stores, or by reading both copies whole.

An etag proves that two contents are the same, but not that they differ: after a multipart upload or with SSE-KMS it is
not a hash of the content. S3 may store a checksum as well; asking for it reads no content. Copies are read only where
the pipeline asks for it (``validation.dedupe: hash``), each up to a limit, and all of a run up to another.
"""

from __future__ import annotations

import hashlib
import tempfile
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from airlock.dicom.pixels import digest_pixels
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.pipelines import Validate
    from airlock.storage.s3 import S3

_MIB, _GIB = 1024**2, 1024**3
_REQUESTS_IN_FLIGHT = 16
_FILES_IN_FLIGHT = 4  # each is on the local disk while it is read
# 32-bit checksums are left out: among millions of copies two contents of one size would have the same by chance.
_CHECKSUMS = ("ChecksumSHA256", "ChecksumSHA512", "ChecksumSHA1", "ChecksumCRC64NVME")
# The object is gone, was replaced, may not be read, or is archived or encrypted with a key that Airlock does not have.
_NO_PROOF = frozenset(
    {"404", "NotFound", "NoSuchKey", "412", "PreconditionFailed", "403", "AccessDenied", "400", "InvalidRequest"}
    | {"InvalidObjectState", "NoSuchBucket", "405", "MethodNotAllowed"}
)


class Copy(NamedTuple):
    """One object that is a copy of an instance."""

    bucket: str
    key: str
    etag: str
    size: int  # bytes


Pair = tuple[Copy, Copy]


class Likeness(StrEnum):
    """How far two copies are proven to be the same."""

    SAME_CONTENT = "same_content"
    SAME_PIXELS = "same_pixels"
    UNPROVEN = "unproven"


class _Hashes(NamedTuple):
    content: str
    pixels: str | None  # None if the file has no pixels that can be compared


class CopyProofs:
    """Proofs about the copies of one run.

    Parameters
    ----------
    s3
        The account of the source.
    settings
        Whether copies are read, and how much.
    """

    def __init__(self, s3: S3, settings: Validate) -> None:
        self._s3 = s3
        self._reads = settings.dedupe == "hash"
        self._most_bytes = settings.dedupe_file_mib * _MIB
        self._bytes_left = int(settings.dedupe_run_gib * _GIB)

    def compare(self, pairs: Sequence[Pair]) -> list[Likeness]:
        """Return how far the copies of each pair are proven to be the same."""
        same = self._have_same_checksum(pairs)
        found = [Likeness.SAME_CONTENT if proven else Likeness.UNPROVEN for proven in same]
        if self._reads:
            unproven = [number for number, proven in enumerate(same) if not proven]
            hashes = self._read_all([pairs[number] for number in unproven])
            for number in unproven:
                found[number] = _compare_hashes(*(hashes.get(copy) for copy in pairs[number]))
        return found

    def _have_same_checksum(self, pairs: Sequence[Pair]) -> list[bool]:
        """Return of each pair whether S3 stores the same checksum of both; only copies of one size can be the same."""
        asked = {copy: None for pair in pairs if pair[0].size == pair[1].size for copy in pair}
        with ThreadPoolExecutor(_REQUESTS_IN_FLIGHT) as pool:
            stored = dict(zip(asked, pool.map(self._find_checksums, asked), strict=True))
        return [bool(stored.get(one, set()) & stored.get(other, set())) for one, other in pairs]

    def _find_checksums(self, copy: Copy) -> set[tuple[str, str]]:
        try:
            reply = self._s3.head(S3Uri(copy.bucket, copy.key), copy.etag)
        except S3Error as error:
            if error.code not in _NO_PROOF:
                raise
            return set()
        return {(name, reply[name]) for name in _CHECKSUMS if reply.get(name)}

    def _read_all(self, pairs: Sequence[Pair]) -> dict[Copy, _Hashes]:
        """Read the copies of these pairs as far as the limits allow; a pair is read as a whole or not at all."""
        chosen: dict[Copy, None] = {}
        for pair in pairs:
            new = [copy for copy in dict.fromkeys(pair) if copy not in chosen]
            needed = sum(copy.size for copy in new)
            if max(copy.size for copy in pair) <= self._most_bytes and needed <= self._bytes_left:
                self._bytes_left -= needed
                chosen |= dict.fromkeys(new)
        with ThreadPoolExecutor(_FILES_IN_FLIGHT) as pool:
            hashes = zip(chosen, pool.map(self._read, chosen), strict=True)
            return {copy: read for copy, read in hashes if read is not None}

    def _read(self, copy: Copy) -> _Hashes | None:
        content = hashlib.sha256()
        with tempfile.TemporaryFile(prefix="airlock-") as file:
            try:
                for piece in self._s3.stream(S3Uri(copy.bucket, copy.key), copy.etag):
                    content.update(piece)
                    file.write(piece)
            except S3Error as error:
                if error.code not in _NO_PROOF:
                    raise
                return None
            file.flush()
            return _Hashes(content.hexdigest(), digest_pixels(file, file.tell())) if file.tell() else None


def _compare_hashes(one: _Hashes | None, other: _Hashes | None) -> Likeness:
    if one is None or other is None:
        return Likeness.UNPROVEN
    if one.content == other.content:
        return Likeness.SAME_CONTENT
    return Likeness.SAME_PIXELS if one.pixels and one.pixels == other.pixels else Likeness.UNPROVEN
