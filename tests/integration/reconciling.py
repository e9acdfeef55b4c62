"""Reconciliations of a chain's ledger with its servers, as ``airlock reconcile`` makes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from airlock.clinical.reconcile import ResourceComparer
from airlock.clinical.reconcile_store import ResourceStore
from airlock.imaging.reconcile import ImageSetComparer
from airlock.imaging.reconcile_store import ImageSetStore
from airlock.stages.reconcile import Request, Scope, reconcile
from airlock.stages.reconcile_meter import Meter
from airlock.stages.reconcile_report import write_report
from airlock.stages.reconcile_source import Archive
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace
from tests.chain import pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.ledger import Ledger
    from airlock.stages.reconcile import Reconciliation
    from tests.chain import Place

RATE = 10_000.0


def imaging_client(place: Place) -> Any:
    """Return a client of the emulator that does not repeat requests by itself."""
    config = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
    return boto3.client("medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config)


@dataclass
class Reconciler:
    """A person who compares."""

    place: Place
    line: Any = field(default_factory=pipeline)
    rate: float = RATE
    pause: Callable[[float], None] = lambda _: None

    @property
    def unit(self) -> str:
        """What a sample consists of."""
        return "studies" if self.line.kind == "imaging" else "resources"

    def comparer(self, ledger: Ledger) -> Any:
        """Return the comparison of the pipeline's kind."""
        if self.line.kind != "imaging":
            return self._resources(ledger)
        store = ImageSetStore(
            imaging_client(self.place), self.line.datastore_id, Meter("HealthImaging", self.rate, pause=self.pause)
        )
        archive = Archive(self._s3(), Meter("S3", RATE))
        return ImageSetComparer(
            ledger, self.line, store, archive, workspace_of=self._workspace, random_key=lambda: "8" * 16
        )

    def _resources(self, ledger: Ledger) -> ResourceComparer:
        session = boto3.Session(region_name="us-east-1")
        found = self.place.healthlake().describe_fhir_datastore(DatastoreId=self.line.datastore_id)
        credentials = session.get_credentials()
        assert credentials is not None
        url = found["DatastoreProperties"]["DatastoreEndpoint"]
        meter = Meter("HealthLake", self.rate, pause=self.pause)
        store = ResourceStore(url, credentials, "us-east-1", meter)
        archive = Archive(self._s3(), Meter("S3", RATE))
        folder = "fhir" if self.line.kind == "ccda" else ""
        return ResourceComparer(
            ledger, self.line, store, archive, workspace_of=self._workspace, random_key=lambda: "8" * 64, folder=folder
        )

    def _s3(self) -> S3:
        return S3(boto3.Session(region_name="us-east-1"), self.place.s3())

    def _workspace(self, name: str) -> Workspace:
        return Workspace(self._s3(), S3Uri.parse(f"{self.line.workspace}{self.line.name}/{name}/"))

    def compare(self, ledger: Ledger, forget_at_most: int | None = None, **scope: Any) -> Reconciliation:
        """Compare and return the result."""
        request = Request(Scope(**scope), "an operator", forget_at_most)
        return reconcile(ledger, self.comparer(ledger), self.line.name, request)

    def report(self, forget_at_most: int | None = None, **scope: Any) -> dict[str, Any]:
        """Compare and return the report."""
        with self.place.ledger() as ledger:
            done = self.compare(ledger, forget_at_most, **scope)
            return write_report(ledger, self._workspace(f"reconcile/{done.comparison.number}"), done, self.unit)

    def open_findings(self) -> set[tuple[str, str]]:
        """Return kind and subject of the open findings about the data store."""
        with self.place.ledger() as ledger:
            frames = list(ledger.find_findings(datastore_id=self.line.datastore_id))
        return {pair for frame in frames for pair in frame.select("kind", "subject").iter_rows()}
