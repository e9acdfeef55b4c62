"""``airlock reconcile``: compare the ledger with S3 and a data store, with an estimate first and progress meanwhile."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airlock.records import study_key
from airlock.storage.s3uri import S3Uri
from airlock_cli import ledgers, stores, workspaces
from airlock_cli.caller import find_caller
from airlock_cli.errors import RequestError, StoppedError
from airlock_cli.show import Table, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import Pipeline, Publication
    from airlock.stages.reconcile import Reconciliation, Request
    from airlock.stages.reconcile_comparer import AnyComparer
    from airlock.stages.reconcile_scope import Estimate, Scope
    from airlock.storage.requests import RequestMeter
    from airlock.storage.s3 import S3
    from airlock.storage.workspace import Workspace

SCHEMA = "airlock.reconcile-estimate/1"
PROGRESS_SECONDS = 5.0
_STUDY_KEY = re.compile(r"[0-9a-f]{16}")


def build_scope(
    *,
    study: str | None,
    patient: str | None,
    sample: int | None,
    parts: tuple[str, ...],
    content: bool | None,
    pixels: bool,
    published: bool = False,
) -> Scope:
    """Return what a person wants to compare.

    The content is read by default where that is little: of a sample, or of one study or patient.

    Raises
    ------
    RequestError
        If the options contradict each other.
    """
    from airlock.stages.reconcile_scope import PARTS, STORE, Scope  # noqa: PLC0415

    if sum(given is not None for given in (study, patient, sample)) > 1:
        raise RequestError("--study, --patient and --sample exclude each other. Give one of them, or none for all.")
    if patient is not None and not re.fullmatch(r"Patient/[A-Za-z0-9.-]{1,64}", patient):
        raise RequestError("--patient is not a reference. Write it as Patient/<id>.")
    subject = patient if study is None else study if _STUDY_KEY.fullmatch(study) else study_key(study)
    is_small = subject is not None or sample is not None
    chosen = tuple(part for part in PARTS if part in parts) or ((STORE,) if published else PARTS)
    reads = (is_small or pixels) if content is None else content
    if pixels and not reads:
        raise RequestError("--pixels compares with what --content reads. Leave --no-content out.")
    return Scope(subject, sample, chosen, reads, pixels)


def load(pipeline: str, scope: Scope, *, published: bool) -> Pipeline | Publication:
    """Return the pipeline of this name, or its publication, to be compared.

    Raises
    ------
    RequestError
        If the scope does not fit it.
    """
    from airlock.pipelines import ImagingPipeline  # noqa: PLC0415

    known = workspaces.load_named_pipeline(pipeline)
    if not published:
        _check_scope(known, scope)
        return known
    publication = known.publication if isinstance(known, ImagingPipeline) else None
    if publication is None:
        raise RequestError(f"--published needs an imaging pipeline with healthlake, which {pipeline} is not.")
    if scope.subject is not None or scope.pixels or scope.parts != ("store",):
        raise RequestError(
            "--published compares with HealthLake only. Leave out --study, --patient, --part and --pixels."
        )
    return publication


def estimate(pipeline: Pipeline | Publication, scope: Scope, rates: tuple[float, float]) -> dict[str, Any]:
    """Return the requests that a reconciliation would make, their time and cost, schema `SCHEMA`; nothing is compared.

    Parameters
    ----------
    pipeline
        Of `load`.
    scope
        What would be compared.
    rates
        The most requests per second to the data store, and to S3.
    """
    with _translate_errors(), ledgers.open_ledger() as ledger, _open_comparer(pipeline, ledger, rates) as comparer:
        return _describe(pipeline.name, comparer.estimate(scope))


def _check_scope(pipeline: Pipeline, scope: Scope) -> None:
    """Refuse a study in a pipeline of patients, and the reverse."""
    is_patient = scope.subject is not None and "/" in scope.subject
    if scope.subject is not None and is_patient == pipeline.has_studies:
        wrong, right = ("--patient", "--study") if is_patient else ("--study", "--patient")
        raise RequestError(f"{wrong} does not fit a pipeline of kind {pipeline.kind}. Give {right}.")


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn errors of a comparison into errors of a command; what was compared stays."""
    from airlock.stages.reconcile_scope import ReconcileError  # noqa: PLC0415

    goes_on = "What was compared stays: the same command goes on where it was."
    advice = f"Check your AWS credentials, region and the rights in iam/reconcile-policy.json. {goes_on}"
    try:
        with stores.translate_errors(advice):
            yield
    except ReconcileError as error:
        raise RequestError(str(error)) from None
    except KeyboardInterrupt:
        raise StoppedError(f"Stopped. {goes_on}") from None


def _describe(pipeline: str, found: Estimate) -> dict[str, Any]:
    costs = [one.cost for one in found.requests]
    return {
        "schema": SCHEMA,
        "pipeline": pipeline,
        "requests": [asdict(one) for one in found.requests],
        "seconds": round(found.seconds, 1),
        "cost": None if None in costs else round(sum(cost or 0 for cost in costs), 6),
        "currency": found.currency,
        "notes": list(found.notes),
    }


def reconcile(
    pipeline: Pipeline | Publication, scope: Scope, rates: tuple[float, float], forget_at_most: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compare, and return the estimate and the report; a comparison of the same scope that was interrupted goes on.

    Parameters
    ----------
    pipeline, scope, rates
        As for `estimate`.
    forget_at_most
        How many missing instances or resources no longer count as stored without a further question.
    """
    from airlock.stages.reconcile import Request  # noqa: PLC0415

    request = Request(scope, find_caller(), forget_at_most)
    with _translate_errors(), ledgers.open_ledger() as ledger, _open_comparer(pipeline, ledger, rates) as comparer:
        expected = _describe(pipeline.name, comparer.estimate(scope))
        say(_say_estimate(expected))
        return expected, _compare(pipeline, ledger, comparer, request)


def _compare(
    pipeline: Pipeline | Publication, ledger: Ledger, comparer: AnyComparer, request: Request
) -> dict[str, Any]:
    from airlock.stages.reconcile import reconcile as compare  # noqa: PLC0415
    from airlock.stages.reconcile_report import write_report  # noqa: PLC0415

    def report(done: Reconciliation) -> dict[str, Any]:
        folder = comparer.workspace_of(f"reconcile/{done.comparison.number}")
        return write_report(ledger, folder, done, comparer.unit)

    return compare(comparer, pipeline.name, request, report, progress=_Progress())


class _Progress:
    """Says how far a comparison is, every few seconds."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, counts: dict[str, Any]) -> None:
        """Say the counts."""
        now = time.monotonic()
        if now - self._said < PROGRESS_SECONDS:
            return
        self._said = now
        done = [f"{counts[name]:,} {name}" for name in ("listed", "studies", "resources") if counts.get(name)]
        requests, found = sum(counts["requests"].values()), sum(counts["findings"].values())
        elapsed = timedelta(seconds=round(now - self._began))
        say(f"{elapsed}: {', '.join(done)} compared, {found:,} findings, {requests:,} requests")


def _say_estimate(found: dict[str, Any]) -> str:
    number = sum(one["number"] for one in found["requests"])
    cost = "at unknown cost" if found["cost"] is None else f"for about {found['cost']:.2f} {found['currency']}"
    return (
        f"About {number:,} requests in {timedelta(seconds=round(found['seconds']))} {cost}. Interrupt it at any time."
    )


@contextmanager
def _open_comparer(
    pipeline: Pipeline | Publication, ledger: Ledger, rates: tuple[float, float]
) -> Iterator[AnyComparer]:
    """Open the comparison of a pipeline's kind; nothing is asked yet."""
    from airlock.pipelines import Publication  # noqa: PLC0415
    from airlock.stages.decision_log import open_log  # noqa: PLC0415
    from airlock.stages.reconcile_source import Archive  # noqa: PLC0415
    from airlock.storage.requests import RequestMeter  # noqa: PLC0415

    with workspaces.open_s3(pipeline) as store, workspaces.open_s3(pipeline, is_patient=True) as objects:
        connect = _open_publication if isinstance(pipeline, Publication) else _OPENED[pipeline.kind]
        kind, compared = connect(pipeline, RequestMeter(rates[0]))
        kept, archive = ledger.journaled_in(open_log(store, pipeline)), Archive(objects, RequestMeter(rates[1]))
        yield kind(kept, pipeline, compared, archive, lambda name: _workspace(pipeline, store, name))


def _workspace(pipeline: Pipeline | Publication, store: S3, name: str) -> Workspace:
    """Return a folder of the pipeline in the workspace: of a comparison, or of a run."""
    from airlock.storage.workspace import Workspace  # noqa: PLC0415

    return Workspace(store, S3Uri.parse(pipeline.workspace).join(pipeline.name, name, ""))


def _open_imaging(pipeline: Any, meter: RequestMeter) -> tuple[type[AnyComparer], Any]:
    from boto3 import Session  # noqa: PLC0415

    from airlock.imaging.reconcile import ImageSetComparer  # noqa: PLC0415
    from airlock.imaging.reconcile_store import ImageSetStore  # noqa: PLC0415

    client = stores.connect(Session(), "medical-imaging", region_name=pipeline.healthimaging.region_name)
    return ImageSetComparer, ImageSetStore(client, pipeline.datastore_id, meter)


def _open_resources(pipeline: Any, meter: RequestMeter) -> tuple[type[AnyComparer], Any]:
    from boto3 import Session  # noqa: PLC0415

    from airlock.clinical.reconcile import ResourceComparer  # noqa: PLC0415

    session = Session(region_name=pipeline.healthlake.region_name)
    return ResourceComparer, stores.connect_fhir(session, pipeline.datastore_id, meter)


def _open_publication(pipeline: Any, meter: RequestMeter) -> tuple[type[AnyComparer], Any]:
    from airlock.clinical.reconcile import PublishedComparer  # noqa: PLC0415

    return PublishedComparer, _open_resources(pipeline, meter)[1]


_OPENED = {
    "imaging": _open_imaging,
    "clinical": _open_resources,
    "ccda": _open_resources,
}


def tables_of_estimate(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of an estimate."""
    rows = [
        (
            f"{one['number']:,}",
            one["what"],
            one["per_second"],
            "unknown" if one["cost"] is None else f"{one['cost']:.4f}",
        )
        for one in found["requests"]
    ]
    yield Table("nothing was compared; it would need about", ("requests", "of", "a second", found["currency"]), rows)
    yield Table("in all", ("",), [(_say_estimate(found),)])
    yield Table("note", ("",), [(text,) for text in found["notes"]])


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """Yield the tables of a report."""
    rows = [(name, number) for name, number in report["counts"].items() if number]
    yield Table(f"comparison {report['comparison']}", ("", ""), [*rows, ("findings in", report["findings_uri"])])
    found = [(one["findings"], kind, one["sentence"]) for kind, one in report["findings"].items()]
    yield Table("findings", ("number", "kind", "what_to_do"), found)
    yield Table("differences that are gone", ("number", "kind"), [(n, kind) for kind, n in report["closed"].items()])
    yield Table("left out", ("number", "because"), [(number, why) for why, number in report["left_out"].items()])
    if "sample" in report:
        yield Table("sample", ("",), [(_say_sample(report["sample"]),)])
    if report["still_counted_as_stored"]:
        yield Table("a question", ("",), [(_ask(report),)])


def _say_sample(sample: dict[str, Any]) -> str:
    return (
        f"{sample['differing']} of {sample['compared']} {sample['unit']} differ. With {sample['confidence']:.0%} "
        f"confidence at most {sample['at_most']:.3%} of all differ."
    )


def _ask(report: dict[str, Any]) -> str:
    number = report["still_counted_as_stored"]
    return (
        f"{number:,} missing ones still count as stored: they are more than the limit of {report['forget_at_most']:,}. "
        f"Check that the data store and the region are right. If they are really gone, repeat the command with "
        f"--forget-at-most {number}."
    )


def has_differences(report: dict[str, Any]) -> bool:
    """Return whether a report has findings, or asks a question."""
    return bool(report["findings"] or report["still_counted_as_stored"])
