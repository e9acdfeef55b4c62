"""What revision 0012 makes of messages and unrouted contracts of older ledgers."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from airlock.ledger import Ledger, upgrade
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE
from tests.unit.airlock.ledger.test_schema import execute, upgrade_to

WHEN = "'2026-11-24 02:00:00'"
MESSAGE = (
    "INSERT INTO outbox (id, pipeline, destination, subject_key, run_key, revision, content_digest, payload_uri, "
    "state, attempts, next_attempt_at, created_at, queued_at)"
)


@pytest.fixture
def older(empty_url: str) -> str:
    """A ledger of 0011: two pipelines, messages to one destination, and a contract that no route took."""
    upgrade_to(empty_url, "0011")
    for run, pipeline in (("a", NIGHTLY), ("w", "weekly")):
        execute(
            empty_url,
            "INSERT INTO runs (run_key, pipeline, run_id, started_at, state) "
            f"VALUES ('{run}', '{pipeline}', '{run}', {WHEN}, 'audited')",
        )
    for number, (run, pipeline, subject, revision, content, state) in enumerate(
        [
            ("a", NIGHTLY, "k1", 1, "A", "pending"),  # overtaken by the next
            ("a", NIGHTLY, "k1", 2, "B", "sent"),
            ("a", NIGHTLY, "k2", 1, "C", "pending"),  # the same revision as the next, which was sent
            ("w", "weekly", "k2", 1, "D", "sent"),
            ("a", NIGHTLY, "k3", 1, "E", "pending"),
        ],
        start=1,
    ):
        values = f"{number}, '{pipeline}', 's3://to/', '{subject}', '{run}', {revision}, '{content}', 's3://w/p'"
        execute(empty_url, f"{MESSAGE} VALUES ({values}, '{state}', 0, {WHEN}, {WHEN}, {WHEN})")
    execute(
        empty_url,
        "INSERT INTO unrouted (subject_key, pipeline, datastore_id, revision, content_digest, payload_uri, run_key, "
        f"rules, released_at) VALUES ('k9', '{NIGHTLY}', '{STORE}', 3, 'F', 's3://w/k9', 'a', 'old', {WHEN})",
    )
    return empty_url


def test_no_message_is_lost_and_no_destination_gets_an_older_revision(older: str) -> None:
    upgrade(older)
    engine = create_engine(older)
    with engine.connect() as connection:
        kept = connection.execute(
            text("SELECT subject_key, revision, content_digest, state FROM outbox ORDER BY id")
        ).all()
    engine.dispose()
    assert [tuple(row) for row in kept] == [
        ("k1", 1, "A", "skipped"),
        ("k1", 2, "B", "sent"),
        ("k2", 1, "D", "sent"),
        ("k3", 1, "E", "pending"),
    ]


def test_a_contract_that_no_route_took_is_matched_with_other_rules(older: str) -> None:
    upgrade(older)
    with Ledger.open(older) as ledger:
        assert ledger.count_unrouted(NIGHTLY) == 1
        assert ledger.open_releases(NIGHTLY, STORE, "old", 10).is_empty()
        assert ledger.open_releases(NIGHTLY, STORE, "new", 10)["subject_key"].to_list() == ["k9"]
