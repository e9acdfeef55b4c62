"""The files on which contracts rest, for every kind: the contracts' own files, and the outputs of the import jobs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.columns import FindingKind
from airlock.stages.reconcile_source import REQUESTS_IN_FLIGHT
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline, ImagingPipeline, Publication
    from airlock.stages.reconcile_source import Archive

KEPT_ANSWERS = 50_000  # batches of which it is remembered whether their output is there
_OUTPUT = "output of batch {}"


class EvidenceFiles:
    """Finds files that are gone.

    Parameters
    ----------
    ledger, archive, pipeline
        The ledger, S3, and the pipeline with the workspace.
    manifests
        The names that the manifest of a job may have in its output folder.
    folder
        The folder of a run's workspace that has the chain's datasets.
    """

    def __init__(
        self,
        ledger: Ledger,
        archive: Archive,
        pipeline: ImagingPipeline | ClinicalPipeline | Publication,
        manifests: tuple[str, ...],
        folder: str,
    ) -> None:
        self._ledger = ledger
        self._s3 = archive.s3
        self._datastore_id = pipeline.datastore_id
        self._pipeline = pipeline.name
        self._root = S3Uri.parse(pipeline.workspace).join(pipeline.name)
        self._manifests = manifests
        self._folder = folder
        self._jobs: dict[str, bool] = {}  # whether the output of a batch is there

    def find_lacking_contracts(self, subject_keys: pl.Series) -> Iterator[dict[str, Any]]:
        """Yield the findings about released contracts of these subjects whose file is gone."""
        payloads = self._ledger.find_payloads(self._datastore_id, subject_keys)
        own = payloads.filter(pl.col("pipeline") == self._pipeline)
        lacking = own.filter(self._find_lacking((S3Uri.parse(address),) for address in own["payload_uri"]))
        for key in lacking["subject_key"]:
            yield describe_lacking(f"contract of {key} in {self._pipeline}", key, "the contract's file is gone")

    def find_lacking_outputs(self, batches: pl.DataFrame) -> Iterator[dict[str, Any]]:
        """Yield the findings about batches (``batch_id``, ``study_key``) whose job has no output.

        It may be in the job's own folder, or kept in the run's workspace.
        """
        rows = batches.drop_nulls("batch_id").unique("batch_id", keep="first", maintain_order=True)
        self._look_up(rows["batch_id"])
        text = "the job's row, or its output and the copy of it in the workspace, are gone"
        for batch, key in rows.select("batch_id", "study_key").iter_rows():
            if not self._jobs[batch]:
                yield describe_lacking(_OUTPUT.format(batch), key, text)

    def _look_up(self, batch_ids: pl.Series) -> None:
        if len(self._jobs) > KEPT_ANSWERS:
            self._jobs.clear()
        asked = batch_ids.filter(~batch_ids.is_in(list(self._jobs)))
        outputs = self._ledger.find_outputs(asked).drop_nulls("job_id")
        lacking = outputs.filter(self._find_lacking(map(self._places, outputs.iter_rows(named=True))))["batch_id"]
        self._jobs |= dict.fromkeys(asked, False) | dict.fromkeys(outputs["batch_id"], True)
        self._jobs |= dict.fromkeys(lacking, False)

    def _places(self, row: dict[str, Any]) -> tuple[S3Uri, ...]:
        kept = self._root.join(row["run_key"], *([self._folder] if self._folder else []), "outputs")
        own = S3Uri.parse(row["output_uri"])
        return (
            kept.join(f"{row['batch_id']}.parquet"),
            *(own.join(name) for name in self._manifests),
            kept.join(f"{row['batch_id']}.json"),
        )

    def _find_lacking(self, evidence: Iterable[tuple[S3Uri, ...]]) -> pl.Series:
        """Return of each evidence whether S3 has none of its addresses."""
        with ThreadPoolExecutor(REQUESTS_IN_FLIGHT) as pool:
            found = pool.map(lambda addresses: not any(map(self._s3.exists, addresses)), evidence)
            return pl.Series(list(found), dtype=pl.Boolean)


def rests_on(found: pl.DataFrame) -> pl.Expr:
    """Return the condition that a row (``batch_id``) rests on an output that was found to be gone, as `FOUND`."""
    return pl.format(_OUTPUT, "batch_id").is_in(found["subject"].implode()).fill_null(value=False)


def describe_lacking(name: str, study_key: str, found: str) -> dict[str, Any]:
    """Return the finding about evidence that is gone, named for people."""
    return {"kind": FindingKind.NO_EVIDENCE.value, "subject": name, "study_key": study_key, "found": found}
