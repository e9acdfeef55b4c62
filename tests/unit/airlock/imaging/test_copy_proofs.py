"""S3's checksums prove that contents are the same; copies are read only if the pipeline asks for it, within limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.imaging.copy_proofs import Copy, CopyProofs, Likeness
from airlock.pipelines import Validate
from airlock.storage.s3 import S3Error
from tests.dicom_files import ct

if TYPE_CHECKING:
    from airlock.storage.s3 import S3

SAME, PIXELS, UNPROVEN = Likeness.SAME_CONTENT, Likeness.SAME_PIXELS, Likeness.UNPROVEN


def put(s3: S3, key: str, body: bytes, algorithm: str | None = None) -> Copy:
    """Store an object with SSE-KMS: its etag is not a hash of its content."""
    wanted = {"ServerSideEncryption": "aws:kms"} | ({"ChecksumAlgorithm": algorithm} if algorithm else {})
    etag = s3.client.put_object(Bucket="archive", Key=key, Body=body, **wanted)["ETag"].strip('"')
    return Copy("archive", key, etag, len(body))


def compare(s3: S3, *pairs: tuple[Copy, Copy], **settings: Any) -> list[Likeness]:
    return CopyProofs(s3, Validate(**settings)).compare(pairs)


def pieces(s3: S3, key: str, *bodies: bytes) -> Copy:
    """Upload an object in parts: it has another etag than in one piece."""
    where = {"Bucket": "archive", "Key": key}
    upload = s3.client.create_multipart_upload(**where)["UploadId"]
    parts = [
        {"PartNumber": n, "ETag": s3.client.upload_part(**where, UploadId=upload, PartNumber=n, Body=body)["ETag"]}
        for n, body in enumerate(bodies, start=1)
    ]
    reply = s3.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts})
    return Copy("archive", key, reply["ETag"].strip('"'), sum(map(len, bodies)))


class TestChecksums:
    @pytest.mark.parametrize(("algorithm", "found"), [("SHA256", SAME), ("SHA1", SAME), ("CRC32", UNPROVEN)])
    def test_one_strong_checksum_of_both_proves_the_same_content(self, s3: S3, algorithm: str, found: Likeness) -> None:
        one, other = (put(s3, key, b"same", algorithm) for key in "ab")
        assert one.etag != other.etag
        assert compare(s3, (one, other)) == [found]

    def test_contents_that_differ_or_have_no_checksum_are_unproven(self, s3: S3) -> None:
        one, two = put(s3, "a", b"one!", "SHA256"), put(s3, "b", b"two!", "SHA256")
        bare = put(s3, "c", b"one!")
        assert compare(s3, (one, two), (one, bare)) == [UNPROVEN, UNPROVEN]

    def test_copies_of_different_sizes_are_not_asked_about(self, s3: S3) -> None:
        absent = Copy("no-such-bucket", "a", "e", 1), Copy("no-such-bucket", "b", "e", 2)
        assert compare(s3, absent) == [UNPROVEN]

    def test_an_object_that_is_gone_or_was_replaced_proves_nothing(self, s3: S3) -> None:
        one, other = (put(s3, key, b"same", "SHA256") for key in "ab")
        put(s3, "b", b"else", "SHA256")
        gone = Copy("archive", "gone", "e", 4)
        assert compare(s3, (one, other), (one, gone), dedupe="hash") == [UNPROVEN, UNPROVEN]

    def test_an_outage_ends_the_task_instead_of_a_verdict(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> dict[str, Any]:
            raise S3Error("an object cannot be looked up", "HeadObject", "503")

        monkeypatch.setattr(s3, "head", fail)
        with pytest.raises(S3Error, match="S3 is busy; clear the task later"):
            compare(s3, (Copy("archive", "a", "e", 1), Copy("archive", "b", "f", 1)))


class TestHashes:
    def test_the_same_bytes_under_other_etags_are_the_same_content(self, s3: S3) -> None:
        body = ct() + bytes(5 * 1024**2)
        pair = put(s3, "a", body), pieces(s3, "b", body[: 5 * 1024**2], body[5 * 1024**2 :])
        assert compare(s3, pair) == [UNPROVEN]
        assert compare(s3, pair, dedupe="hash") == [SAME]

    def test_another_header_over_the_same_pixels(self, s3: S3) -> None:
        one, corrected = put(s3, "a", ct()), put(s3, "b", ct(PatientName="Corrected"))
        other, text = put(s3, "c", ct(pixel=1)), put(s3, "d", b"no DICOM")
        pairs = [(one, corrected), (one, other), (one, text)]
        assert compare(s3, *pairs, dedupe="hash") == [PIXELS, UNPROVEN, UNPROVEN]

    def test_what_the_limits_leave_out_proves_nothing(self, s3: S3) -> None:
        small = put(s3, "a", ct()), put(s3, "b", ct(PatientName="Corrected"))
        large = put(s3, "c", ct() + bytes(1024**2)), put(s3, "d", ct(PatientName="Corrected") + bytes(1024**2))
        found = compare(s3, large, small, dedupe="hash", dedupe_file_mib=1)
        assert found == [UNPROVEN, PIXELS]
        proofs = CopyProofs(s3, Validate(dedupe="hash", dedupe_run_gib=sum(one.size for one in small) / 1024**3))
        assert proofs.compare([small]) == [PIXELS]
        assert proofs.compare([small]) == [UNPROVEN]  # nothing of the run's limit is left
