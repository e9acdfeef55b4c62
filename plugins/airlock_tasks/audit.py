"""Audit: prove, file by file or resource by resource, what arrived, and decide what is released."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from airlock_tasks.datastores import fhir_store
from airlock_tasks.notify import held_words, tell_once
from airlock_tasks.stage import StageOperator
from healthaws.hooks.healthimaging import HealthImagingHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airlock.pipelines import ClinicalPipeline, ImagingPipeline
    from airlock.run import Run
    from airlock.stages.auditing import Audited


class _AuditOperator(StageOperator):
    """An operator whose result is a report, which must be had most of all when the books do not balance."""

    reported: Sequence[str] = ()  # what of the report goes to XCom
    publishes = False  # whether what is not published by now is held
    tells = True  # whether a hold is news
    pipeline: ImagingPipeline | ClinicalPipeline

    def conclude(self, audited: Audited, context: Context) -> dict[str, Any]:
        """Return the report's address and counts.

        Raises
        ------
        AirflowFailException
            If the books do not balance; the report is written all the same, and everything is held.
        """
        from airlock.stages.reporting import counted_apart, summarize

        report = audited.report if self.publishes else counted_apart(audited.report)
        result = {
            "report_uri": audited.report_uri,
            "dispositions_uri": audited.dispositions_uri,
            "balanced": audited.balanced,
            "open_arrivals": audited.open_arrivals,
            **{name: report[name] for name in self.reported},
        }
        places = [f"Report: {audited.report_uri}", f"Dispositions and their reasons: {audited.dispositions_uri}"]
        undecided = [f"{audited.open_arrivals} files are not decided yet."] if audited.open_arrivals else []
        for line in (*summarize(report), *undecided, *places):
            self.log.info("%s", line)
        held = held_words(audited.report, published=self.publishes)
        if held and self.tells:
            tell_once(self.pipeline, "hold", context, held)
        if not audited.balanced:
            # Pushed by hand, since a failed task has no return value and the report is wanted most now.
            context["ti"].xcom_push(key="return_value", value=result)
            problems = "; ".join(audited.report["problems"])
            raise AirflowFailException(f"the books do not balance, so everything is held: {problems}; see the report")
        return result


class AuditOperator(_AuditOperator):
    """Reads every manifest, balances the books, decides release or hold; runs whatever became of the tasks before."""

    reported = ("arrivals", "dispositions", "studies")

    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:
        """Audit the import of images."""
        return self.conclude(self._audited(run), context)

    @staticmethod
    def _audited(run: Run) -> Audited:
        from airlock.imaging.audit import audit
        from airlock.imaging.publication import published_studies

        store = run.pipeline.healthimaging
        imaging = HealthImagingHook(aws_conn_id=store.aws_conn_id, region_name=store.region_name).conn
        return audit(run, imaging, published_studies(run))


class PublicationAuditOperator(AuditOperator):
    """Audits what was published as FHIR, and then the run again: only a study that is published is released."""

    publishes = True

    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:
        """Audit the publication, then the import of images again; what has no end yet shows the run as failed."""
        from airlock.imaging.publication import audit, undecided

        store = None if run.pipeline.healthlake is None else fhir_store(run.pipeline.healthlake)
        studies = audit(run, store)
        self.log.info("Of %d studies, %d are proven in HealthLake.", sum(studies.values()), studies["published"])
        result = super().run_stage(run, context)
        return result | {"open_arrivals": result["open_arrivals"] + undecided(run)}


class FhirAuditOperator(_AuditOperator):
    """The same for FHIR resources: every line of every manifest, per patient and per file."""

    reported = ("arrivals", "resources", "dispositions", "patients", "files")

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, Any]:
        """Audit the import of resources."""
        from airlock.clinical.audit import audit

        return self.conclude(audit(run, fhir_store(run.pipeline.healthlake)), context)


class CcdaAuditOperator(StageOperator):
    """Accounts for every document's conversion; returns the shards of converted resources that go on."""

    def run_stage(self, run: Run[Any], context: Context) -> list[str]:  # noqa: ARG002
        """Return the shards that fhir.parse is mapped over."""
        from airlock.ccda.audit import audit

        shards = audit(run)
        self.log.info("%d shards of converted resources", len(shards))
        return shards


class ConvertedAuditOperator(FhirAuditOperator):
    """Audits the import of converted resources, which stay held until a person has approved them."""

    def run_stage(self, run: Run[Any], context: Context) -> dict[str, Any]:
        """Audit the import as far as it has been approved."""
        from airlock.ccda.release import find_approved, record_documents
        from airlock.clinical.audit import audit

        audited = audit(run, fhir_store(run.pipeline.healthlake), find_approved(run))
        record_documents(run.within(""))
        return self.conclude(audited, context)
