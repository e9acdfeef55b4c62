"""Before a conversion: the prefix holds the batch and nothing else. After it: counts and profile version are kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from airlock.ccda.import_ import check_prefix
from airlock.records import JOBS
from airlock.stages.batches import find_batches
from airlock.stages.jobs import StagedPrefixError
from airlock_local.sample.ccda.documents import ccd
from tests.unit.airlock.ccda.world import ended, normalized, staged

if TYPE_CHECKING:
    from tests.unit.airlock.world import World


def test_a_prefix_that_holds_its_batch_passes(world: World) -> None:
    run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)})
    check_prefix(run, *find_batches(run))


def test_more_or_less_is_refused_without_a_name(world: World) -> None:
    run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)})
    (batch,) = find_batches(run)
    world.put(f"{batch.input_uri}MUELLER.xml", ccd(3))
    run.s3.delete("work", [staged(run)["a.xml"]["staged_key"]])
    with pytest.raises(
        StagedPrefixError, match="of its 2 objects 1 are missing and 0 were replaced, and 1 others"
    ) as caught:
        check_prefix(run, batch)
    assert "MUELLER" not in str(caught.value)


def test_how_the_job_ended_is_kept(world: World) -> None:
    run = normalized(world, {"a.xml": ccd(1)})
    (batch,) = find_batches(run)
    ended(world, run, {}, status="COMPLETED_WITH_ERRORS", TotalResourcesGenerated=7)
    progress = json.loads(run.s3.get(run.workspace.root.join(f"jobs/{batch.batch_id}/progress.json")))
    assert progress == {
        "profile_version": 1,
        "TotalFilesScanned": 1,
        "TotalFilesConverted": 1,
        "TotalFilesFailed": 0,
        "TotalResourcesGenerated": 7,
    }
    (job,) = run.workspace.read(f"jobs/{batch.batch_id}", JOBS).to_dicts()
    assert (job["job_id"], job["status"]) == ("job-one-0", "COMPLETED_WITH_ERRORS")
    kept = world.ledger.job(batch.batch_id)
    assert kept is not None
    assert kept.status == "COMPLETED_WITH_ERRORS"
