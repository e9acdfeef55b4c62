"""Reconciliations of a chain's ledger with its servers, as ``airlock reconcile`` makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from airlock.clinical.fhir_store import FhirStore
from airlock.clinical.reconcile import ResourceComparer
from airlock.imaging.reconcile import ImageSetComparer
from airlock.imaging.reconcile_store import ImageSetStore
from airlock.ledger.comparisons import SCOPE
from airlock.stages.decision_log import decide, open_log
from airlock.stages.reconcile import Request, reconcile
from airlock.stages.reconcile_report import write_report
from airlock.stages.reconcile_scope import Scope
from airlock.stages.reconcile_source import Archive
from airlock.storage.aws import PATIENCE
from airlock.storage.requests import RequestMeter
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace
from tests.chain import pipeline

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.stages.reconcile import Reconciliation
    from tests.chain import Place


def imaging_client(place: Place) -> Any:
    """Return a client of the emulator, which waits out refusals."""
    config = Config(inject_host_prefix=False, retries=PATIENCE)
    return boto3.client("medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config)


@dataclass
class Reconciler:
    """A person who compares."""

    place: Place
    line: Any = field(default_factory=pipeline)

    def comparer(self, ledger: Ledger) -> Any:
        """Return the comparison of the pipeline's kind."""
        kind: Any = ImageSetComparer if self.line.kind == "imaging" else ResourceComparer
        store = self._image_sets() if self.line.kind == "imaging" else self._resources()
        kept, archive = ledger.journaled_in(open_log(self._s3(), self.line)), Archive(self._s3(), RequestMeter())
        return kind(kept, self.line, store, archive, self._workspace, random_key=lambda: "8" * 16)

    def _image_sets(self) -> ImageSetStore:
        return ImageSetStore(imaging_client(self.place), self.line.datastore_id, RequestMeter())

    def _resources(self) -> FhirStore:
        session = boto3.Session(region_name="us-east-1")
        found = self.place.healthlake().describe_fhir_datastore(DatastoreId=self.line.datastore_id)
        credentials = session.get_credentials()
        assert credentials is not None
        return FhirStore(found["DatastoreProperties"]["DatastoreEndpoint"], credentials, "us-east-1")

    def _s3(self) -> S3:
        return S3(boto3.Session(region_name="us-east-1"), self.place.s3())

    def _workspace(self, name: str) -> Workspace:
        return Workspace(self._s3(), S3Uri.parse(f"{self.line.workspace}{self.line.name}/{name}/"))

    def report(self, forget_at_most: int | None = None, **scope: Any) -> dict[str, Any]:
        """Compare and return the report."""
        with self.place.ledger() as ledger:
            comparer = self.comparer(ledger)

            def write(done: Reconciliation) -> dict[str, Any]:
                folder = self._workspace(f"reconcile/{done.comparison.number}")
                return write_report(ledger, folder, done, comparer.unit)

            request = Request(Scope(**scope), "an operator", forget_at_most)
            return reconcile(comparer, self.line.name, request, write)

    def remove(self, study_key: str, why: str) -> int:
        """Decide as ``airlock ledger forget`` that a loss was on purpose; return the number of instances."""
        decision = self.line.datastore_id, study_key, "an operator", why
        with self.place.ledger() as ledger:
            return decide(self._s3(), self.line, ledger, lambda it: it.record_removal(self.line.name, *decision), SCOPE)

    def open_findings(self) -> set[tuple[str, str]]:
        """Return kind and subject of the open findings about the data store."""
        return self.findings_about(self.line.datastore_id)

    def findings_about(self, datastore_id: str) -> set[tuple[str, str]]:
        """Return kind and subject of the open findings about a data store."""
        with self.place.ledger() as ledger:
            frames = list(ledger.find_findings(datastore_id=datastore_id))
        return {pair for frame in frames for pair in frame.select("kind", "subject").iter_rows()}
