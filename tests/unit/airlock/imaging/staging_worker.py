"""A worker in a process of its own that stages one batch: ``python -m`` this module ENDPOINT LEDGER CHANGES BATCH."""

from __future__ import annotations

import json
import sys

import boto3

from airlock.imaging.stage import stage
from airlock.ledger import Ledger
from airlock.storage.s3 import S3
from tests.unit.airlock.world import World, pipeline


def main(endpoint: str, ledger_url: str, changes: str, batch_id: str) -> None:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    with Ledger.open(ledger_url) as ledger:
        world = World(S3(session, session.client("s3", endpoint_url=endpoint)), ledger)
        stage(world.run(line=pipeline(**json.loads(changes))), batch_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
