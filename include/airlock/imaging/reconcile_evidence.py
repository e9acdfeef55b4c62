"""The evidence of study contracts: the ledger's rows, the contract's file, and the outputs of the import jobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.manifests import MANIFEST
from airlock.ledger.comparisons import FOUND
from airlock.stages.reconcile_evidence import EvidenceFiles
from airlock.stages.reconcile_source import describe_lacking

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import ImagingPipeline
    from airlock.stages.reconcile_source import Archive


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
        self._pipeline = pipeline.name
        self._files = EvidenceFiles(
            ledger, archive, pipeline, datastore_id=pipeline.datastore_id, manifests=(MANIFEST,)
        )

    def compare(self, uids: list[str], keys: dict[str, str], stored: pl.DataFrame) -> pl.DataFrame:
        """Find contracts whose instances, payload, arrivals or job outputs are gone."""
        own = stored.filter(pl.col("pipeline") == self._pipeline)
        batches = own.with_columns(study_key=pl.col("StudyInstanceUID").replace_strict(keys, return_dtype=pl.String))
        rows = [
            *self._find_lacking_rows(uids, keys, stored),
            *self._files.find_lacking_contracts(pl.Series(list(keys.values()), dtype=pl.String)),
            *self._files.find_lacking_outputs(batches),
        ]
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


def name_instances(contract: str) -> set[str]:
    """Return the SOPInstanceUIDs that a study contract names."""
    return {one["SOPInstanceUID"] for series in json.loads(contract)["series"] for one in series["instances"]}
