"""The files on which contracts rest, for every kind: the contracts' own files, and the outputs of the import jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.stages.reconcile_source import Evidence, describe_lacking, find_lacking
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import Pipeline
    from airlock.stages.reconcile_source import Archive

KEPT_ANSWERS = 50_000  # batches of which it is remembered whether their output is there


class EvidenceFiles:
    """Finds files that are gone.

    Parameters
    ----------
    ledger, archive
        The ledger, and S3.
    pipeline
        The pipeline with the workspace.
    datastore_id
        The data store of the contracts.
    manifests
        The names that the manifest of a job may have in its output folder.
    folder
        The folder of a run's workspace that has the chain's datasets.
    """

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        pipeline: Pipeline,
        *,
        datastore_id: str,
        manifests: tuple[str, ...],
        folder: str = "",
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._datastore_id = datastore_id
        self._pipeline = pipeline.name
        self._root = S3Uri.parse(pipeline.workspace).join(pipeline.name)
        self._manifests = manifests
        self._folder = folder
        self._jobs: dict[str, bool] = {}  # whether the output of a batch is there

    def find_lacking_contracts(self, subject_keys: pl.Series) -> Iterator[dict[str, Any]]:
        """Yield the findings about released contracts of these subjects whose file is gone."""
        payloads = self._ledger.find_payloads(self._datastore_id, subject_keys)
        asked = [
            Evidence(f"contract of {key} in {pipeline}", key, (S3Uri.parse(address),))
            for key, pipeline, address in payloads.filter(pl.col("pipeline") == self._pipeline).iter_rows()
        ]
        for one in find_lacking(self._archive, asked):
            yield describe_lacking(one.name, one.study_key, "the contract's file is gone")

    def find_lacking_outputs(self, batches: pl.DataFrame) -> Iterator[dict[str, Any]]:
        """Yield the findings about batches whose job has no output: in its own folder, or kept in the run's workspace.

        Parameters
        ----------
        batches
            ``batch_id`` and ``study_key``.
        """
        rows = batches.drop_nulls("batch_id").unique("batch_id", keep="first", maintain_order=True)
        self._look_up(rows["batch_id"])
        text = "the job's row, or its output and the copy of it in the workspace, are gone"
        for batch, key in rows.select("batch_id", "study_key").iter_rows():
            if not self._jobs[batch]:
                yield describe_lacking(f"output of batch {batch}", key, text)

    def _look_up(self, batch_ids: pl.Series) -> None:
        if len(self._jobs) > KEPT_ANSWERS:
            self._jobs.clear()
        asked = batch_ids.filter(~batch_ids.is_in(list(self._jobs)))
        outputs = self._ledger.find_outputs(asked).drop_nulls("job_id")
        evidence = [Evidence(row["batch_id"], "", self._places(row)) for row in outputs.iter_rows(named=True)]
        lacking = {one.name for one in find_lacking(self._archive, evidence)}
        self._jobs |= dict.fromkeys(asked, False) | {one.name: one.name not in lacking for one in evidence}

    def _places(self, row: dict[str, Any]) -> tuple[S3Uri, ...]:
        kept = self._root.join(row["run_key"], self._folder) if self._folder else self._root.join(row["run_key"])
        own = S3Uri.parse(row["output_uri"])
        return (
            kept.join("outputs", f"{row['batch_id']}.parquet"),
            *(own.join(name) for name in self._manifests),
            kept.join("outputs", f"{row['batch_id']}.json"),
        )
