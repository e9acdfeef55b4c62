"""Two clinical runs that settle at once on a real PostgreSQL: only those of one data store wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical import settle
from airlock.clinical.audit import audit
from airlock.ledger import Ledger, upgrade
from airlock.ledger.errors import LedgerLockedError
from tests.servers.postgres import Postgres, postgres_server, postgres_url
from tests.unit.airlock.clinical.books import Store, delivered, ended, patient, words
from tests.unit.airlock.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3

__all__ = ["Postgres", "postgres_server", "postgres_url"]

OTHER = {"name": "elsewhere", "healthlake": {"datastore_id": "e" * 32}}
SAME = {"name": "elsewhere"}


@pytest.fixture
def hasty(s3: S3, postgres_url: str) -> Iterator[World]:
    """A world whose ledger fails a writer that would have to wait."""
    upgrade(postgres_url)
    with Ledger.open(f"{postgres_url}&options=-c%20lock_timeout%3D100ms") as ledger:
        yield World(s3, ledger)


def imported(world: World, file: str, **changes: Any) -> Run[ClinicalPipeline]:
    """Take a patient up to the audit."""
    run = delivered(world, file, {f"{file}.ndjson": [patient(file)]}, audit={"read_back_sample": 0}, **changes)
    ended(world, run)
    return run


def while_settling(patch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let another run act once, within the transaction of the next run that settles."""
    record, waiting = settle._record_gates, [act]

    def record_after(*args: Any) -> None:
        if waiting:
            waiting.pop()()
        record(*args)

    patch.setattr(settle, "_record_gates", record_after)


def test_runs_of_two_data_stores_do_not_wait(hasty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = imported(hasty, "one"), imported(hasty, "two", **OTHER)
    while_settling(monkeypatch, lambda: audit(two, Store()))
    audit(one, Store())
    assert words(one) == {"Patient/one": ("released", None)}
    assert words(two) == {"Patient/two": ("released", None)}


def test_runs_of_one_data_store_wait(hasty: World, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = imported(hasty, "one"), imported(hasty, "two", **SAME)
    refused: list[LedgerLockedError] = []

    def settle_meanwhile() -> None:
        with pytest.raises(LedgerLockedError) as caught:
            audit(two, Store())
        refused.append(caught.value)

    while_settling(monkeypatch, settle_meanwhile)
    audit(one, Store())
    audit(two, Store())
    assert len(refused) == 1
    assert words(two) == {"Patient/two": ("released", None)}
