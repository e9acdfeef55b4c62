"""Audit: prove, file by file or resource by resource, what arrived, and decide what is released."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from airflow.sdk.exceptions import AirflowFailException
from typing_extensions import override

from airlock.pipelines import CcdaPipeline, ClinicalPipeline, ImagingPipeline
from airlock_tasks.brake import BrakedOperator
from airlock_tasks.datastores import fhir_store
from airlock_tasks.notify import describe_holds, describe_overdue, describe_waited, notify_once
from airlock_tasks.run import RunOperator
from airlock_tasks.run_notes import KEY
from airlock_tasks.telemetry import note_run
from healthaws.hooks.healthimaging import HealthImagingHook

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airlock.run import Run
    from airlock.stages.auditing import Audited
    from airlock.stages.brake import Finding


AuditedT = TypeVar("AuditedT", bound=ImagingPipeline | ClinicalPipeline)


class BaseAuditOperator(BrakedOperator[AuditedT]):
    """An operator that writes the run's report, whether or not the books balance.

    If it would hold an absurd share of the run, it asks a person before it settles anything.
    """

    reported: Sequence[str] = ()  # the parts of the report that go to XCom
    publishes = False  # whether the publication is audited, so that unpublished studies count as held
    notifies = True  # whether people are notified of holds

    @property
    def has_final_numbers(self) -> bool:
        """Whether no publication follows, after which fewer studies are held."""
        publication = isinstance(self.pipeline, ImagingPipeline) and self.pipeline.healthlake is not None
        return self.publishes or not publication

    @abstractmethod
    def audit(self, run: Run[AuditedT]) -> Audited:
        """Audit the run."""

    @override
    def run_stage(self, run: Run[AuditedT], context: Context) -> dict[str, Any]:
        audited = self.audit(run)
        if audited.stopped_by is not None:
            self._stop(run, context, audited, audited.stopped_by)
        result = self.conclude(audited, context)
        if self.notifies:
            run.ledger.note_told(run.pipeline.name)
        return result

    @override
    def go_on(self, run: Run[AuditedT], context: Context, result: None) -> dict[str, Any]:
        return self.run_stage(run, context)

    def _stop(self, run: Run[AuditedT], context: Context, audited: Audited, finding: Finding) -> NoReturn:
        """Ask a person whether the run goes on, or fail if validate has asked and the run was not let go on.

        Raises
        ------
        AirflowFailException
            If the run was stopped before import.
        """
        from airlock.stages.brake import IMPORT, describe

        lists = f"Report: {audited.report_uri}\n\nDispositions and their reasons: {audited.dispositions_uri}"
        if finding.gate != IMPORT:
            self.ask(run, context, finding, more=lists)
        raise AirflowFailException(
            f"The run was stopped before import, so nothing is settled: {describe(run, finding)} Cure the cause, then "
            f"clear parse with its downstream; or clear validate to be asked again. {lists}"
        )

    def conclude(self, audited: Audited, context: Context) -> dict[str, Any]:
        """Log the result, notify people of holds, and return the report's address and counts.

        Raises
        ------
        AirflowFailException
            If the books do not balance; the report is written, and everything is held.
        """
        from airlock.stages.reporting import counted_apart, describe_briefly, describe_undated, summarize

        report = audited.report if self.publishes else counted_apart(audited.report)
        result = {
            "report_uri": audited.report_uri,
            "dispositions_uri": audited.dispositions_uri,
            "balanced": audited.balanced,
            "open_arrivals": audited.open_arrivals,
            **{name: report[name] for name in self.reported},
        }
        addresses = [f"Report: {audited.report_uri}", f"Dispositions and their reasons: {audited.dispositions_uri}"]
        undecided = [f"{audited.open_arrivals} files are not decided yet."] if audited.open_arrivals else []
        for line in (*summarize(report), *undecided, *addresses):
            self.log.info("%s", line)
        if self.notifies and self.has_final_numbers:
            note_run(report)
        if self.notifies:
            context["ti"].xcom_push(key=KEY, value=describe_briefly(report))
        held = describe_holds(audited.report, published=self.publishes)
        news = held, describe_overdue(audited.report), describe_waited(audited.report)
        if any(news) and self.notifies:
            notify_once(self.pipeline, "hold", context, " ".join(filter(None, (*news, *describe_undated(report)))))
        if not audited.balanced:
            # A failed task has no return value, and the report is needed most now.
            context["ti"].xcom_push(key="return_value", value=result)
            problems = "; ".join(audited.report["problems"])
            raise AirflowFailException(f"The books do not balance, so everything is held: {problems}. See the report.")
        if self.notifies and self.has_final_numbers:
            notify_once(self.pipeline, "done", context, " ".join(summarize(report)))
        return result


class AuditOperator(BaseAuditOperator[ImagingPipeline]):
    """Reads every manifest, balances the books, decides release or hold; runs even if an earlier task failed."""

    reported = ("arrivals", "dispositions", "studies")

    @override
    def audit(self, run: Run) -> Audited:
        from airlock.imaging.audit import audit
        from airlock.imaging.publication import find_published

        store = run.pipeline.healthimaging
        imaging = HealthImagingHook(aws_conn_id=store.aws_conn_id, region_name=store.region_name).conn
        return audit(run, imaging, find_published(run))


class PublicationAuditOperator(AuditOperator):
    """Audits the publication as FHIR, and then the run again: a study is released only if it is published.

    Undecided arrivals of the publication count as open, so that route fails the run.
    """

    publishes = True

    @override
    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:
        from airlock.imaging.publication import audit, count_undecided

        store = None if run.pipeline.healthlake is None else fhir_store(run.pipeline.healthlake)
        studies = audit(run, store)
        self.log.info("Of %d studies, %d are proven in HealthLake.", sum(studies.values()), studies["published"])
        result = super().run_stage(run, context)
        return result | {"open_arrivals": result["open_arrivals"] + count_undecided(run)}

    @override
    def audit(self, run: Run) -> Audited:
        from airlock.imaging.publication import end_claims

        audited = super().audit(run)
        if audited.balanced and audited.stopped_by is None:
            end_claims(run)
        return audited


class FhirAuditOperator(BaseAuditOperator[ClinicalPipeline]):
    """Reads every manifest of FHIR imports, balances the books, decides per patient and per file."""

    reported = ("arrivals", "resources", "dispositions", "patients", "files")

    @override
    def audit(self, run: Run[ClinicalPipeline]) -> Audited:
        from airlock.clinical.audit import audit

        return audit(run, fhir_store(run.pipeline.healthlake))


class CcdaAuditOperator(RunOperator[CcdaPipeline]):
    """Accounts for every document's conversion; returns the shards of converted resources for fhir.parse."""

    @override
    def run_stage(self, run: Run[CcdaPipeline], context: Context) -> list[str]:
        from airlock.ccda.audit import audit

        shards = audit(run)
        self.log.info("%d shards of converted resources", len(shards))
        return shards


class ConvertedAuditOperator(BaseAuditOperator[CcdaPipeline]):
    """Audits the import of converted resources, which stay held until a person has approved them."""

    reported = FhirAuditOperator.reported

    @override
    def audit(self, run: Run[CcdaPipeline]) -> Audited:
        from airlock.ccda.release import find_approved, prepare_documents
        from airlock.clinical.audit import audit

        documents = partial(prepare_documents, run.within(""))
        return audit(run, fhir_store(run.pipeline.healthlake), find_approved(run), documents)
