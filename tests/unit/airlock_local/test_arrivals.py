"""The demonstration of arrivals: what it refuses, its table, and the queues that it makes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock.pipelines import load_pipeline
from airlock_local.arrivals import PIECES, _pieces, demonstrate, list_dispositions
from airlock_local.buckets import local_client, make_buckets
from airlock_local.deliver import LocalFile, SourceError
from airlock_local.queues import make_queues
from airlock_local.settings import ROOT, read_settings
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = ROOT / "include/pipelines/arrivals.yaml"


def test_pieces_are_all_files_each_once(tmp_path: Path) -> None:
    files = [LocalFile(tmp_path, str(number), 1) for number in range(10)]
    pieces = list(_pieces(files))
    assert len(pieces) == PIECES
    assert sorted(file.name for piece in pieces for file in piece) == sorted(file.name for file in files)
    assert len(list(_pieces(files[:1]))) == 1


def test_table_counts_each_disposition_and_all() -> None:
    assert list_dispositions({"released": 7, "held": 0, "ignored": 3}, 10, 2)[1:] == [
        "10 files in 2 runs that no person started, as each run left them",
        "       3  ignored",
        "       7  released",
        "      10  in total",
        "Studies that are still held: ./airlock held arrivals",
    ]


@pytest.mark.parametrize("source", ["s3://airlock-inbox/arrivals/x/", None])
def test_it_refuses_what_it_cannot_show(tmp_path: Path, source: str | None) -> None:
    content: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    if source is None:
        del content["arrivals"]
    (tmp_path / "arrivals.yaml").write_text(yaml.safe_dump(content))
    settings = read_settings({"AIRLOCK_PIPELINES": str(tmp_path), "AIRLOCK_VAR": str(tmp_path / "var")})
    with pytest.raises(SourceError, match="Leave SOURCE out or name a folder"):
        demonstrate(settings, source or "", os.environ)
    assert not (tmp_path / "var").exists()


def test_bucket_tells_the_queue_of_what_is_created_below_the_source() -> None:
    pipeline = load_pipeline(SHIPPED)
    assert pipeline.arrivals is not None
    with moto_server() as endpoint:
        s3, sqs = local_client(endpoint), local_client(endpoint, "sqs")
        make_buckets(s3, ["airlock-inbox"])
        make_queues(sqs, s3, pipeline, pipeline.arrivals)
        make_queues(sqs, s3, pipeline, pipeline.arrivals)  # a second time changes nothing
        s3.put_object(Bucket="airlock-inbox", Key="arrivals/a b.dcm", Body=b"x")
        s3.put_object(Bucket="airlock-inbox", Key="elsewhere/a.dcm", Body=b"x")
        url = pipeline.arrivals.queue_url
        bodies = [
            item["Body"]
            for _ in range(3)
            for item in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=0).get("Messages", [])
        ]
    assert sum("ObjectCreated" in body for body in bodies) == 1
    assert any("a+b.dcm" in body for body in bodies)
