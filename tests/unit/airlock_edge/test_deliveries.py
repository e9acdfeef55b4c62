"""A delivery is closed when nothing came for a while and all of it is on S3."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from airlock_edge.book import Book
from airlock_edge.bucket import UploadError
from airlock_edge.deliveries import Deliveries
from airlock_edge.keys import Place
from airlock_edge.metrics import Metrics
from airlock_edge.spool import Spool
from tests.unit.airlock_edge.test_book import DURABLE

PLACE = Place("2026-01-31", "0123456789abcdef", "ab" * 16, "CT1")
KEY = PLACE.key("in/", "north")
FOLDER = KEY.rpartition("/")[0]


class Bucket:
    """Keeps the manifests."""

    def __init__(self) -> None:
        self.uri = SimpleNamespace(key="in/")
        self.manifests: dict[str, Any] = {}

    def put_text(self, key: str, body: bytes) -> None:
        self.manifests[key] = json.loads(body)


@pytest.fixture
def parts(tmp_path):
    book, spool, bucket = Book(tmp_path), Spool(tmp_path), Bucket()
    spool.prepare()
    book.add([replace(DURABLE, s3_key=KEY)])
    deliveries = Deliveries(book, spool, bucket, Metrics(), site="north", quiet_seconds=0)  # type: ignore[arg-type]
    yield deliveries, spool, bucket
    book.close()


def test_a_folder_is_closed_once(parts):
    deliveries, _, bucket = parts
    deliveries.close_quiet()
    assert bucket.manifests.pop(f"{FOLDER}/delivery.json")["objects"] == 1
    deliveries.close_quiet()
    assert not bucket.manifests


def test_a_folder_is_open_while_an_object_without_a_row_is_in_the_spool(parts):
    deliveries, spool, bucket = parts
    waiting = spool.ready / replace(PLACE, content="cd" * 16).name
    waiting.write_bytes(b"acknowledged just before a kill")
    deliveries.close_quiet()
    assert not bucket.manifests
    waiting.unlink()
    deliveries.close_quiet()
    assert bucket.manifests


def test_another_studys_object_in_the_spool_keeps_no_folder_open(parts):
    deliveries, spool, bucket = parts
    (spool.ready / replace(PLACE, study="f" * 16).name).write_bytes(b"of another study")
    deliveries.close_quiet()
    assert bucket.manifests


def test_a_folder_that_s3_refuses_keeps_no_other_one_open(tmp_path):
    class Guarded(Bucket):
        def put_text(self, key: str, body: bytes) -> None:
            if not key.startswith("in/"):
                raise UploadError("AccessDenied")
            super().put_text(key, body)

    book, spool, bucket = Book(tmp_path), Spool(tmp_path), Guarded()
    spool.prepare()
    before = PLACE.key("earlier/", "north")  # destination.uri has changed, and the edge's rights with it
    book.add([replace(DURABLE, s3_key=before), replace(DURABLE, s3_key=KEY)])
    deliveries = Deliveries(book, spool, bucket, Metrics(), site="north", quiet_seconds=0)  # type: ignore[arg-type]
    with pytest.raises(UploadError, match="AccessDenied"):
        deliveries.close_quiet()
    assert list(bucket.manifests) == [f"{FOLDER}/delivery.json"]
    book.close()
    spool.close()
