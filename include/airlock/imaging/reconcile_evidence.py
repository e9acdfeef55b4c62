"""The evidence of study contracts: the ledger's rows, the contract's file, and the outputs of the import jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.manifests import MANIFEST
from airlock.ledger.comparisons import FOUND
from airlock.stages.reconcile_source import Evidence, describe_lacking, find_lacking
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import ImagingPipeline
    from airlock.stages.reconcile_source import Archive

KEPT_ANSWERS = 50_000  # batches of which it is remembered whether their output is there


class ContractEvidence:
    """Finds contracts whose evidence is gone.

    Parameters
    ----------
    ledger, pipeline, archive
        The ledger, the pipeline with the workspace, and S3.
    """

    def __init__(self, ledger: Ledger, pipeline: ImagingPipeline, archive: Archive) -> None:
        self._ledger = ledger
        self._datastore_id = pipeline.datastore_id
        self._archive = archive
        self._root = S3Uri.parse(pipeline.workspace).join(pipeline.name)
        self._jobs: dict[str, bool] = {}  # whether the output of a batch is there

    def compare(self, uids: list[str], keys: dict[str, str], stored: pl.DataFrame) -> pl.DataFrame:
        """Find contracts whose instances, payload, arrivals or job outputs are gone."""
        rows = [*self._find_lacking_rows(uids, keys, stored), *self._find_lacking_files(keys, stored)]
        return pl.DataFrame(rows, FOUND, orient="row")

    def _find_lacking_rows(
        self, uids: list[str], keys: dict[str, str], stored: pl.DataFrame
    ) -> Iterator[dict[str, Any]]:
        contracts = self._ledger.contracts(self._datastore_id, pl.Series(uids, dtype=pl.String))
        known = set(stored["SOPInstanceUID"])
        named = {row["subject"]: name_instances(row["contract"]) - known for row in contracts.iter_rows(named=True)}
        absent = pl.Series([uid for uids in named.values() for uid in uids], dtype=pl.String)
        lost = self._ledger.find_lost(self._datastore_id, absent) if absent.len() else set()
        for uid, instances in named.items():
            number = len(instances - lost)
            if number:
                text = f"the ledger has no row of {number} instances"
                yield describe_lacking(f"instances of {keys[uid]}", keys[uid], text)
        without = stored.filter(pl.col("bucket").is_null()).group_by("StudyInstanceUID").len()
        for uid, number in without.sort("StudyInstanceUID").iter_rows():
            yield describe_lacking(f"arrivals of {keys[uid]}", keys[uid], f"the ledger has no row of {number} arrivals")

    def _find_lacking_files(self, keys: dict[str, str], stored: pl.DataFrame) -> Iterator[dict[str, Any]]:
        payloads = self._ledger.find_payloads(self._datastore_id, pl.Series(list(keys.values()), dtype=pl.String))
        asked = [
            Evidence(f"contract of {row['subject_key']} in {row['pipeline']}", row["subject_key"], (address,))
            for row in payloads.iter_rows(named=True)
            if (address := S3Uri.parse(row["payload_uri"]))
        ]
        for one in find_lacking(self._archive, asked):
            yield describe_lacking(one.name, one.study_key, "the contract's file is gone")
        batches = stored.drop_nulls("batch_id").unique("batch_id", keep="first", maintain_order=True)
        for row in batches.filter(~pl.col("batch_id").is_in(list(self._find_outputs(batches)))).iter_rows(named=True):
            name = f"output of batch {row['batch_id']}"
            text = "the job's row, or its output and the copy of it in the workspace, are gone"
            yield describe_lacking(name, keys[row["StudyInstanceUID"]], text)

    def _find_outputs(self, batches: pl.DataFrame) -> set[str]:
        """Return the batches whose job has its output: in its own folder, or kept in the run's workspace."""
        if len(self._jobs) > KEPT_ANSWERS:
            self._jobs.clear()
        asked = batches.filter(~pl.col("batch_id").is_in(list(self._jobs)))["batch_id"]
        outputs = self._ledger.find_outputs(asked)
        evidence = [
            Evidence(
                row["batch_id"],
                "",
                (
                    self._root.join(row["run_key"], "outputs", f"{row['batch_id']}.parquet"),
                    S3Uri.parse(row["output_uri"]).join(MANIFEST),
                    self._root.join(row["run_key"], "outputs", f"{row['batch_id']}.json"),
                ),
            )
            for row in outputs.drop_nulls("job_id").iter_rows(named=True)
        ]
        lacking = {one.name for one in find_lacking(self._archive, evidence)}
        self._jobs |= dict.fromkeys(asked, False) | {one.name: one.name not in lacking for one in evidence}
        return {name for name in batches["batch_id"] if self._jobs[name]}


def name_instances(contract: str) -> set[str]:
    """Return the SOPInstanceUIDs that a study contract names."""
    return {one["SOPInstanceUID"] for series in json.loads(contract)["series"] for one in series["instances"]}
