"""A message as the outbox hands it on."""

from __future__ import annotations

from typing import Any

from airlock.destinations import Message

MESSAGE = Message(
    deduplication_id="d" * 64,
    pipeline="nightly",
    run_key="one-1234",
    subject_key="0123456789abcdef",
    revision=1,
    content_digest="c" * 64,
    contract_uri="s3://workspace/runs/nightly/one-1234/contracts/0123456789abcdef/revision-000001.json",
)
BODY: dict[str, Any] = {"schema": "airlock.message/1"} | vars(MESSAGE)
