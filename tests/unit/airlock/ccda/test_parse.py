"""Parse of documents against an S3 server: a row per document, whatever lies there, and no document ends the task."""

from __future__ import annotations

import gzip
import hashlib
from typing import TYPE_CHECKING

import pytest

from airlock.ccda.parse import parse
from airlock.storage.s3 import S3Error
from airlock_local.sample.ccda.documents import (
    DOCUMENT_ROOT,
    ccd,
    entity_bomb,
    external_entity,
    vital_signs,
    without_namespace,
)
from tests.unit.airlock.ccda.world import delivery, documents, parsed

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

SOUND = ccd(sections=[vital_signs()])


def test_a_document_is_known_by_its_id_its_code_and_its_content(world: World) -> None:
    row = documents(parsed(world, {"a.xml": SOUND}))["a.xml"]
    assert (row["reason"], row["detail"]) == (None, None)
    assert (row["document_id"], row["code"]) == (f"{DOCUMENT_ROOT}|doc-1", "34133-9")
    assert (row["is_gzip"], row["unpacked"]) == (False, len(SOUND))
    assert row["content_digest"] == hashlib.sha256(SOUND).hexdigest()


def test_a_packed_one_has_the_same_content(world: World) -> None:
    half = len(SOUND) // 2
    members = gzip.compress(SOUND[:half]) + gzip.compress(SOUND[half:])
    rows = documents(parsed(world, {"a.xml": SOUND, "b.xml.gz": gzip.compress(SOUND), "c": members}))
    assert len({row["content_digest"] for row in rows.values()}) == 1
    assert [row["is_gzip"] for row in rows.values()] == [False, True, True]
    assert {row["unpacked"] for row in rows.values()} == {len(SOUND)}


def test_a_problem_of_the_header_does_not_stop_the_document(world: World) -> None:
    row = documents(parsed(world, {"a.xml": SOUND.replace(b"effectiveTime", b"effectivetime")}))["a.xml"]
    assert (row["reason"], row["detail"]) == (None, "no effectiveTime")


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("a.xml", b"", "empty_object"),
        ("a.xml", gzip.compress(b"", mtime=0), "empty_object"),
        ("a.xml", b"no XML", "not_xml"),
        ("a.xml", SOUND.replace(b"</title>", b"</titel>", 1), "not_xml"),
        ("a.xml", SOUND[:-40], "truncated"),
        ("a.xml", entity_bomb(), "xml_entity"),
        ("a.xml", external_entity("file:///etc/passwd"), "xml_entity"),
        ("a.xml", external_entity("http://127.0.0.1:9/x"), "xml_entity"),
        ("a.xml", without_namespace(), "not_ccda"),
        ("a.xml", b"<html/>", "not_ccda"),
        ("a.xml", b'{"resourceType":"Patient","id":"p1"}', "not_xml"),
        ("a.xml", ccd(document_id=""), "document_without_id"),
        ("a.xml.gz", gzip.compress(SOUND)[:-9], "unreadable"),
        ("notes.txt", b"left by the exporter", "sidecar"),
        ("_SUCCESS", b"", "sidecar"),
        ("index.html", b"<html/>", "sidecar"),
    ],
)
def test_an_object_that_is_not_a_document_has_a_reason(world: World, name: str, body: bytes, reason: str) -> None:
    rows = documents(parsed(world, {name: body, "good.xml": SOUND}))
    assert rows[name]["reason"] == reason
    assert (rows[name]["document_id"], rows[name]["content_digest"]) == (None, None)
    assert rows["good.xml"]["reason"] is None


@pytest.mark.parametrize("body", [ccd() + b" " * 3_000_000, gzip.compress(ccd() + b" " * 3_000_000)])
def test_a_document_that_is_too_large_is_told_packed_or_not(world: World, body: bytes) -> None:
    limits = {"document_mib": 1}
    assert documents(parsed(world, {"a.xml": body}, transformation=limits))["a.xml"]["reason"] == "file_too_large"


def test_objects_that_changed_or_went_have_their_reason(world: World) -> None:
    run = delivery(world, {"a.xml": SOUND, "b.xml": SOUND, "c.xml": SOUND})
    world.put("s3://archive/in/one/a.xml", ccd(2))
    world.s3.delete("archive", ["in/one/b.xml"])
    counts = parse(run, "0000")
    assert {name: row["reason"] for name, row in documents(run).items()} == {
        "a.xml": "object_changed",
        "b.xml": "object_gone",
        "c.xml": None,
    }
    assert counts == {"arrivals": 3, "unread": 2}


def test_a_bucket_that_is_gone_ends_the_task_and_names_no_document(world: World) -> None:
    run = delivery(world, {"MUELLER.xml": SOUND})
    world.s3.delete("archive", ["in/one/MUELLER.xml"])
    world.s3.client.delete_bucket(Bucket="archive")
    with pytest.raises(S3Error) as caught:
        parse(run, "0000")
    assert "MUELLER" not in str(caught.value)


def test_progress_is_told(world: World) -> None:
    run = delivery(world, {"a.xml": SOUND, "b.xml": b""})
    seen: list[tuple[int, int]] = []
    parse(run, "0000", lambda *numbers: seen.append(numbers))
    assert seen == [(1, 2), (2, 2)]
