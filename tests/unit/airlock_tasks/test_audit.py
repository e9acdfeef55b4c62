"""What the task audit says of a run: in its log a few sentences, in XCom the same numbers."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from structlog.testing import capture_logs

from airlock.stages.auditing import Audited
from airlock.stages.brake import Finding
from airlock_tasks.audit import AuditOperator, FhirAuditOperator, PublicationAuditOperator
from airlock_tasks.notify import describe_overdue
from airlock_tasks.run_notes import KEY
from tests.chain import clinical_pipeline, pipeline

if TYPE_CHECKING:
    from airlock.run import Run

IMAGING: dict[str, Any] = {
    "arrivals": 509,
    "dispositions": {"held": 388, "quarantined": 104, "ignored": 15, "duplicate": 2},
    "reasons": {
        "not_published": {"arrivals": 369, "sentence": "..."},
        "study_incomplete": {"arrivals": 19, "sentence": "..."},
    },
    "studies": {"released": 0, "held": 161, "stopped": 2},
    "publication": {"published": 0, "waiting": 154},
    "balanced": True,
    "problems": [],
}
CLINICAL: dict[str, Any] = {
    "arrivals": 12,
    "resources": 209,
    "dispositions": {"released": 193, "quarantined": 28, "failed": 3, "duplicate": 1},
    "reasons": {"rejected": {"units": 3, "sentence": "..."}},
    "patients": {"released": 20, "held": 1},
    "files": {"released": 11, "held": 1},
    "balanced": True,
    "problems": [],
}
REST = "19 held, 104 quarantined, 15 ignored, 2 duplicates"
PLACES = ["Report: s3://w/report.json", "Dispositions and their reasons: s3://w/dispositions.csv"]


def with_xcoms(kept: dict[str, Any] | None = None) -> Any:
    """Return a task's context, of which only the XComs are kept."""
    xcoms = {} if kept is None else kept
    return {"ti": SimpleNamespace(xcom_push=lambda key, value: xcoms.update({key: value}))}


def concluded(task: Any, report: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return what an audit task returns, and the lines of its log."""
    audited = Audited(report, "s3://w/report.json", "s3://w/dispositions.csv", 0)
    task.notifies = False
    with capture_logs() as logged:
        result = task.conclude(audited, {})
    return result, [entry["event"] % entry.get("positional_args", ()) for entry in logged]


def test_what_waits_for_its_publication_is_told_apart_from_what_is_held() -> None:
    result, lines = concluded(AuditOperator(task_id="audit", pipeline=pipeline()), IMAGING)
    assert result["dispositions"] == IMAGING["dispositions"] | {"held": 19, "awaiting_publication": 369}
    assert result["studies"] == {"released": 0, "held": 7, "stopped": 2, "awaiting_publication": 154}
    assert lines == [
        f"The books balance. Of 509 files: 0 released, 369 waiting for their publication, {REST}.",
        "Studies: 0 released, 154 waiting for their publication, 7 held, 2 without an accepted file.",
        *PLACES,
    ]


def test_after_the_publication_what_is_not_published_is_held() -> None:
    task = PublicationAuditOperator(task_id="audit", pipeline=pipeline())
    result, lines = concluded(task, IMAGING)
    assert result["dispositions"] == IMAGING["dispositions"]
    assert lines[1] == "Studies: 0 released, 161 held, 2 without an accepted file."


def test_resources_are_counted_with_their_patients_and_files() -> None:
    task = FhirAuditOperator(task_id="audit", pipeline=clinical_pipeline())
    result, lines = concluded(task, CLINICAL)
    assert result["dispositions"] == CLINICAL["dispositions"]
    counted = "193 released, 28 quarantined, 3 failed, 1 duplicate"
    assert lines == [
        f"The books balance. Of 225 units in 12 files (209 resources): {counted}.",
        "Patients: 20 released, 1 held.",
        "Files: 11 released, 1 held.",
        *PLACES,
    ]


def test_overdue_objects_are_in_the_log_and_in_the_news_until_people_were_told() -> None:
    reasons = {
        "object_gone": {"objects": 5, "overdue": 2, "sentence": "..."},
        "access_denied": {"objects": 1, "overdue": 0, "sentence": "..."},
    }
    report = IMAGING | {"owed": {"waiting": 4, "overdue": 2, "untold": 1, "reasons": reasons}}
    _, lines = concluded(PublicationAuditOperator(task_id="audit", pipeline=pipeline()), report)
    assert "Overdue objects: 2. See airlock held." in lines
    assert describe_overdue(report) == "Overdue: 2 objects could not be taken, 1 of them new. By reason: object_gone 2."
    assert not describe_overdue(report | {"owed": report["owed"] | {"untold": 0}})
    assert not describe_overdue(IMAGING)


def test_undated_objects_are_in_the_log_and_in_news_of_holds_but_are_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    holds = lambda _, event, *news: told.append(news[-1]) if event == "hold" else None  # noqa: E731
    monkeypatch.setattr("airlock_tasks.audit.notify_once", holds)
    task = PublicationAuditOperator(task_id="audit", pipeline=pipeline())
    sentence = "Undated: 4 objects have no valid date in their key, so the run did not take them."
    for report in (IMAGING | {"undated": 4}, IMAGING | {"undated": 4, "dispositions": {"released": 1}}):
        assert sentence in concluded(task, report)[1]
        task.notifies = True
        task.conclude(Audited(report, "s3://w/report.json", "s3://w/dispositions.csv", 0), with_xcoms())
    assert len(told) == 1
    assert told[0].endswith(f" {sentence}")


FINDING = Finding("audit", "held", 9, 10, 0.2)


@pytest.mark.parametrize(
    ("balanced", "stopped_by", "ends"), [(True, None, True), (False, None, False), (True, FINDING, False)]
)
def test_a_publication_gives_its_resources_up_once_its_studies_are_settled(
    monkeypatch: pytest.MonkeyPatch, balanced: bool, stopped_by: Finding | None, ends: bool
) -> None:
    ended: list[Run] = []
    audited = Audited(IMAGING | {"balanced": balanced}, "s3://w/report.json", "s3://w/dispositions.csv", 0, stopped_by)
    monkeypatch.setattr(AuditOperator, "audit", lambda *_: audited)
    monkeypatch.setattr("airlock.imaging.publication.end_claims", ended.append)
    run: Any = object()
    assert PublicationAuditOperator(task_id="audit", pipeline=pipeline()).audit(run) is audited
    assert ended == [run] * ends


@pytest.mark.parametrize(
    ("operator", "publishes", "balanced", "told"),
    [
        (AuditOperator, False, True, True),
        (AuditOperator, True, True, False),  # the publication follows, and has the final numbers
        (PublicationAuditOperator, True, True, True),
        (AuditOperator, False, False, False),  # the run fails, which is news of its own
    ],
)
def test_the_last_audit_of_a_run_tells_that_it_is_done(
    monkeypatch: pytest.MonkeyPatch, operator: type[AuditOperator], publishes: bool, balanced: bool, told: bool
) -> None:
    news: list[str] = []
    monkeypatch.setattr(
        "airlock_tasks.audit.notify_once", lambda _, event, __, what: news.append(what) if event == "done" else None
    )
    store = clinical_pipeline().healthlake if publishes else None
    task = operator(task_id="audit", pipeline=pipeline().model_copy(update={"healthlake": store}))
    report = IMAGING | {"balanced": balanced, "problems": [] if balanced else ["one is missing"]}
    audited = Audited(report, "s3://w/report.json", "s3://w/dispositions.csv", 0)
    xcoms: dict[str, Any] = {}
    context = with_xcoms(xcoms)
    with nullcontext() if balanced else pytest.raises(AirflowFailException):
        task.conclude(audited, context)
    assert bool(news) is told
    assert all("The books balance." in text for text in news)
    assert xcoms[KEY].startswith("balanced, " if balanced else "NOT BALANCED, ")
