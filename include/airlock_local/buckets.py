"""The buckets of the local stack: ``python -m airlock_local.buckets --endpoint URL --pipelines FOLDER`` makes them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from airlock.pipelines import load_pipelines
from airlock.storage.s3uri import S3Uri
from airlock_local.environment import LOCAL_CONNECTION, LOCAL_KEY, LOCAL_SECRET, REGION
from airlock_local.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.pipelines import Pipeline


def is_local(pipeline: Pipeline) -> bool:
    """Return whether a pipeline reaches nothing but the local stack."""
    return pipeline.connections() == {LOCAL_CONNECTION}


def buckets_of(pipelines: Iterable[Pipeline]) -> list[str]:
    """Return the names of the buckets that pipelines read and write, each once."""
    uris = (uri for pipeline in pipelines for uri in (pipeline.source.uri, *pipeline.own_prefixes().values()))
    return sorted({S3Uri.parse(uri).bucket for uri in uris})


def local_client(endpoint: str, service: str = "s3") -> Any:
    """Return boto3's client of a local S3, or SQS; no proxy and no credentials of the machine are used."""
    session = boto3.session.Session(LOCAL_KEY, LOCAL_SECRET, region_name=REGION)
    return session.client(service, endpoint_url=endpoint, config=Config(proxies={}, max_pool_connections=16))


def make_buckets(client: Any, buckets: Iterable[str]) -> None:
    """Make the buckets that do not exist."""
    existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for bucket in buckets:
        if bucket not in existing:
            client.create_bucket(Bucket=bucket)


def main() -> None:
    """Make the buckets of a folder's local pipelines on a local S3."""
    parser = argparse.ArgumentParser(prog="airlock_local.buckets", description=main.__doc__)
    parser.add_argument("--endpoint", required=True, help="address of the local S3")
    parser.add_argument("--pipelines", required=True, type=Path, help="folder of the pipeline files")
    given = parser.parse_args()
    pipelines, _ = load_pipelines(given.pipelines)  # wrong files are reported in the UI
    names = buckets_of(pipeline for pipeline in pipelines.values() if is_local(pipeline))
    make_buckets(local_client(given.endpoint), names)
    say(f"buckets: {', '.join(names)}")


if __name__ == "__main__":
    main()
