"""C-CDA documents: what a header says, and what becomes of everything that is no document."""

from __future__ import annotations

import gzip
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airlock.ccda.documents import Document, DocumentError, read_document
from airlock.reasons import Reason
from airlock_local.sample.ccda.documents import (
    CCD,
    CCDA_2015,
    DOCUMENT_ROOT,
    US_REALM_HEADER,
    ccd,
    entity_bomb,
    external_entity,
    vital_signs,
    with_doctype,
    without_namespace,
)

LIMIT = 1_000_000
SOUND = ccd(sections=[vital_signs()])


def refusal(body: bytes, limit: int = LIMIT) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read_document(body, limit)
    return caught.value


def test_the_fields_of_a_header_are_read() -> None:
    assert read_document(SOUND, LIMIT) == Document(
        document_id=f"{DOCUMENT_ROOT}|doc-1",
        template_ids=(f"{US_REALM_HEADER}|{CCDA_2015}", f"{CCD}|{CCDA_2015}"),
        code="34133-9",
        problems=(),
        size=len(SOUND),
        is_gzip=False,
    )


def test_the_ids_of_sections_and_patients_are_not_taken_for_the_documents() -> None:
    assert refusal(ccd(document_id="")).reason is Reason.DOCUMENT_WITHOUT_ID
    assert refusal(ccd(document_id='<id nullFlavor="UNK"/>')).reason is Reason.DOCUMENT_WITHOUT_ID
    assert read_document(ccd(document_id='<id root="1.2.3"/>'), LIMIT).document_id == "1.2.3"


def test_gzip_is_read_and_said() -> None:
    found = read_document(gzip.compress(SOUND), LIMIT)
    assert (found.is_gzip, found.size, found.document_id) == (True, len(SOUND), f"{DOCUMENT_ROOT}|doc-1")


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + SOUND,
        SOUND.decode().replace("UTF-8", "UTF-16").encode("utf-16"),
        SOUND.replace(b"UTF-8", b"ISO-8859-1").replace(b"Testcase", b"T\xe9stcase"),
        SOUND.replace(b"UTF-8", b"windows-1252").replace(b"Testcase", b"T\x80stcase"),
    ],
    ids=["byte order mark", "UTF-16", "Latin-1", "windows-1252"],
)
def test_a_document_may_be_in_any_encoding_that_it_declares(body: bytes) -> None:
    assert read_document(body, LIMIT).document_id == f"{DOCUMENT_ROOT}|doc-1"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", Reason.EMPTY_OBJECT),
        (gzip.compress(b"", mtime=0), Reason.EMPTY_OBJECT),
        (b" \n", Reason.NOT_XML),
        (b"MSH|^~\\&|", Reason.NOT_XML),
        (b'{"resourceType": "Bundle"}', Reason.NOT_XML),
        (SOUND + b"x", Reason.NOT_XML),
        (SOUND.replace(b"</title>", b""), Reason.NOT_XML),
        (SOUND.replace(b"<title>", b"<title>&nbsp;"), Reason.NOT_XML),
        (SOUND.replace(b"<title>", b"<title>\xff"), Reason.NOT_XML),
        (SOUND.replace(b"UTF-8", b"EBCDIC-9"), Reason.NOT_XML),
        (SOUND[: len(SOUND) // 2], Reason.TRUNCATED),
        (SOUND.rstrip()[:-1], Reason.TRUNCATED),
        (gzip.compress(SOUND)[:-9], Reason.UNREADABLE),
        (b"\x1f\x8b" + SOUND, Reason.UNREADABLE),
        (b"<html xmlns='http://www.w3.org/1999/xhtml'/>", Reason.NOT_CCDA),
        (b"<Bundle xmlns='http://hl7.org/fhir'/>", Reason.NOT_CCDA),
        (without_namespace(), Reason.NOT_CCDA),
        (entity_bomb(), Reason.XML_ENTITY),
        (external_entity("file:///etc/hostname"), Reason.XML_ENTITY),
        (with_doctype('<!DOCTYPE ClinicalDocument SYSTEM "http://127.0.0.1:9/CDA.dtd">'), Reason.XML_ENTITY),
        (with_doctype("<!DOCTYPE ClinicalDocument>"), Reason.XML_ENTITY),
        (with_doctype('<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/hostname"> %p;]>'), Reason.XML_ENTITY),
    ],
)
def test_everything_else_has_a_reason(body: bytes, reason: Reason) -> None:
    assert refusal(body).reason is reason


def test_the_limit_applies_to_stored_and_to_unpacked_bytes() -> None:
    assert read_document(SOUND, len(SOUND)).size == len(SOUND)
    assert refusal(SOUND, len(SOUND) - 1).reason is Reason.FILE_TOO_LARGE
    packed = gzip.compress(SOUND)
    assert read_document(packed, len(SOUND)).size == len(SOUND)
    assert refusal(packed, len(SOUND) - 1).reason is Reason.FILE_TOO_LARGE


@pytest.mark.parametrize(
    ("present", "instead", "problem"),
    [
        (b"2.16.840.1.113883.10.20.22.1.", b"1.2.", "no templateId of C-CDA"),
        (b'<code code="34133-9"', b'<code nullFlavor="UNK"', "no code"),
        (b"effectiveTime", b"time", "no effectiveTime"),
        (b"recordTarget", b"informant", "no recordTarget"),
        (b"structuredBody", b"nonXMLBody", "no structuredBody, so that little can be converted"),
    ],
)
def test_a_missing_required_part_is_a_problem(present: bytes, instead: bytes, problem: str) -> None:
    assert read_document(SOUND.replace(present, instead), LIMIT).problems == (problem,)


def test_no_value_of_the_document_is_in_an_error() -> None:
    for body in (SOUND.replace(b"</given>", b""), SOUND.replace(b"Invented1", b"Invented1 &who;"), SOUND[:2000]):
        assert "Invented" not in str(refusal(body))


def test_a_bomb_costs_neither_memory_nor_time() -> None:
    packed = gzip.compress(b"\0" * 200_000_000, 1)
    hostile = SOUND.replace(b"<title>", b'<templateId root="1"/>' * 30_000 + b"<title>", 1)
    tracemalloc.start()
    try:
        assert refusal(packed, len(packed)).reason is Reason.FILE_TOO_LARGE
        assert refusal(entity_bomb(40)).reason is Reason.XML_ENTITY
        assert len(read_document(hostile, LIMIT).template_ids) == 100
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


def outcome(body: bytes) -> Document | Reason:
    try:
        return read_document(body, LIMIT)
    except DocumentError as error:
        return error.reason


@given(st.binary(max_size=400))
@example(b"\x1f\x8b")
@example(b"<?xml version='1.0' encoding='idna'?><a/>")
@example(b"<?xml version='1.0' encoding='utf-7'?><a/>")
@example(b"<a" + b" b" * 100)
@example(b"<a>" * 5_000)
@settings(max_examples=300)
def test_any_bytes_give_a_document_or_a_reason(body: bytes) -> None:
    assert isinstance(outcome(body), Reason)


@given(st.integers(0, len(SOUND)), st.integers(0, 60), st.binary(max_size=60), st.booleans())
@settings(max_examples=300)
def test_a_damaged_document_gives_a_document_or_a_reason(start: int, cut: int, put: bytes, packed: bool) -> None:
    body = SOUND[:start] + put + SOUND[start + cut :]
    outcome(gzip.compress(body, 1) if packed else body)
    outcome((gzip.compress(SOUND, 1) if packed else SOUND)[:start])
