"""The sample of C-CDA documents: every trouble is the one that its name says, by the reader of documents itself."""

from __future__ import annotations

from airlock.ccda.documents import DocumentError, read_document
from airlock_local.sample.ccda import write_ccda_sample

FOUND_LATER = {"", "duplicate_same_content", "duplicate_other_content"}  # by validate, which sees them all


def reason_of(body: bytes) -> str:
    try:
        read_document(body, 10 * 1024**2)
    except DocumentError as error:
        return str(error.reason)
    return ""


def test_each_document_is_what_it_is_said_to_be(tmp_path):
    for name, expected in write_ccda_sample(tmp_path).items():
        found = reason_of((tmp_path / name).read_bytes())
        if expected in FOUND_LATER:
            assert found == "", name
        elif expected == "sidecar":
            assert found == "not_xml", name
        else:
            assert found == expected, name


def test_it_is_written_alike_each_time(tmp_path):
    names = write_ccda_sample(tmp_path / "one")
    assert write_ccda_sample(tmp_path / "two") == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
