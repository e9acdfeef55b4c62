"""``airlock sweep`` as a person calls it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result


@pytest.fixture(autouse=True)
def two_late(told: object, s3: Any, pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source with two objects that are overdue at once."""
    bucket = f"archive-{uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    for key in ("in/a/1", "in/a/2", "elsewhere"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    file = pipelines / "nightly.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"source": {"uri": f"s3://{bucket}/in/"}}))
    monkeypatch.setattr("airlock.stages.sweep.youth", lambda *_: -timedelta(hours=1))


def test_a_sweep_shows_its_counts_and_ends_with_1_if_an_object_is_overdue(airlock: Callable[..., Result]) -> None:
    shown = airlock("sweep", "nightly", "--dry-run")
    assert shown.exit_code == 1
    assert "a person asked for a dry run" in shown.stdout
    assert "Sweep: 2 objects are listed, of which 2 are overdue" in shown.stderr
    assert "in/a/1" not in shown.stdout + shown.stderr


def test_what_it_names_is_taken_in_with_a_reason(airlock: Callable[..., Result]) -> None:
    report: dict[str, Any] = json.loads(airlock("sweep", "nightly", "--json").stdout)
    assert (report["schema"], report["overdue"], report["asks"]) == ("airlock.sweep/1", 2, 2)
    assert report["requests"]["ListObjectsV2"] >= 2
    taken = airlock("sweep", "nightly", "--take-in", str(report["sweep"]), "--why", "a late replica")
    assert taken.exit_code == 0
    assert "2 of 2 objects are owed" in taken.stderr
    assert airlock("sweep", "nightly").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--take-in", "1"], "--take-in and --why belong together"),
        (["--why", "x"], "--take-in and --why belong together"),
        (["--take-in", "1", "--why", "x", "--dry-run"], "without --dry-run"),
        (["--take-in", "99", "--why", "x"], "has no sweep 99"),
        (["--take-in", "99999999999999999999", "--why", "x"], "less than or equal to"),
    ],
)
def test_a_wrong_request_is_refused(airlock: Callable[..., Result], options: list[str], said: str) -> None:
    refused = airlock("sweep", "nightly", *options)
    assert refused.exit_code == 2
    assert said in refused.stderr


def test_a_bucket_that_cannot_be_listed_is_named(airlock: Callable[..., Result], pipelines: Path) -> None:
    file = pipelines / "nightly.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"source": {"uri": "s3://no-such-bucket/in/"}}))
    refused = airlock("sweep", "nightly")
    assert refused.exit_code == 3
    assert "bucket 'no-such-bucket' cannot be listed (ListObjectsV2: NoSuchBucket)" in refused.stderr


def test_a_missing_workspace_is_named_and_not_the_archive(airlock: Callable[..., Result], pipelines: Path) -> None:
    file = pipelines / "nightly.yaml"
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"workspace": "s3://no-such-workspace/runs/"}))
    refused = airlock("sweep", "nightly")
    assert refused.exit_code == 3
    assert "bucket 'no-such-workspace' cannot be listed" in refused.stderr


def test_a_missing_inventory_is_a_problem(airlock: Callable[..., Result], pipelines: Path) -> None:
    file = pipelines / "nightly.yaml"
    content = yaml.safe_load(file.read_text())
    inventory = {"listing": "inventory", "inventory_uri": "s3://airlock-workspace/inventories/", "lookback_hours": 72}
    file.write_text(yaml.safe_dump(content | {"source": content["source"] | inventory}))
    refused = airlock("sweep", "nightly")
    assert refused.exit_code == 1
    assert "There is no complete inventory" in refused.stderr
