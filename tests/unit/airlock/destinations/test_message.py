from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

from airlock.destinations import Message
from airlock.ledger import OutboxMessage
from tests.unit.airlock.destinations.messages import BODY, MESSAGE

ROW = OutboxMessage(
    7, "nightly", "sqs:q", "k1", "a", 1, "d1", "s3://workspace/d1.json", 0, datetime(2026, 1, 1, tzinfo=UTC)
)


def test_deduplication_id_is_that_of_destination_subject_revision_and_content_alone() -> None:
    ids = {Message.of(row).deduplication_id for row in (ROW, replace(ROW, id=8, run_key="b", attempts=3))}
    assert len(ids) == 1
    for other in ({"destination": "sqs:p"}, {"subject_key": "k2"}, {"content_digest": "d2"}, {"revision": 2}):
        assert Message.of(replace(ROW, **other)).deduplication_id not in ids


def test_body_holds_addresses_and_keys_of_our_own_only() -> None:
    assert json.loads(MESSAGE.to_json()) == BODY
    assert len(MESSAGE.to_json()) < 1_000, "SQS, SNS and EventBridge take 256 KB"
