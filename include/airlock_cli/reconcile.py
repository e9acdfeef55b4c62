"""``airlock reconcile``: compare the ledger with S3 and a data store, with an estimate first and progress meanwhile."""

from __future__ import annotations

import getpass
import re
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airlock.records import study_key
from airlock.storage.s3uri import S3Uri
from airlock_cli import ledgers, workspaces
from airlock_cli.errors import RequestError, StoppedError, UnreachableError
from airlock_cli.show import Table, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import Pipeline
    from airlock.stages.reconcile import Comparer, Estimate, Request, Scope
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
) -> Scope:
    """Return what a person wants to compare.

    The content is read by default where that is little: of a sample, or of one study or patient.

    Raises
    ------
    RequestError
        If the options contradict each other.
    """
    from airlock.stages.reconcile import PARTS, Scope  # noqa: PLC0415

    if sum(given is not None for given in (study, patient, sample)) > 1:
        raise RequestError("--study, --patient and --sample exclude each other. Give one of them, or none for all.")
    if patient is not None and not re.fullmatch(r"Patient/[A-Za-z0-9.-]{1,64}", patient):
        raise RequestError("--patient is not a reference. Write it as Patient/<id>.")
    subject = patient if study is None else study if _STUDY_KEY.fullmatch(study) else study_key(study)
    is_small = subject is not None or sample is not None
    chosen = tuple(part for part in PARTS if part in parts) or PARTS
    reads = (is_small or pixels) if content is None else content
    if pixels and not reads:
        raise RequestError("--pixels compares with what --content reads. Leave --no-content out.")
    return Scope(subject, sample, chosen, reads, pixels)


def estimate(pipeline: str, scope: Scope, rates: tuple[float, float]) -> dict[str, Any]:
    """Return the requests that a reconciliation would make, their time and cost, schema `SCHEMA`; nothing is compared.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    scope
        What would be compared.
    rates
        The most requests per second to the data store, and to S3.
    """
    known = workspaces.load_named_pipeline(pipeline)
    _check_scope(known, scope)
    with _translate_errors(), ledgers.open_ledger() as ledger, _open_comparer(known, ledger, rates) as comparer:
        return _describe(pipeline, comparer.estimate(scope))


def _check_scope(pipeline: Pipeline, scope: Scope) -> None:
    """Refuse a study in a pipeline of patients, and the reverse."""
    is_patient = scope.subject is not None and "/" in scope.subject
    if scope.subject is not None and is_patient == pipeline.has_studies:
        wrong, right = ("--patient", "--study") if is_patient else ("--study", "--patient")
        raise RequestError(f"{wrong} does not fit a pipeline of kind {pipeline.kind}. Give {right}.")


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Turn errors of a comparison into errors of a command; what was compared stays."""
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    from airlock.clinical.store_search import StoreSearchError  # noqa: PLC0415
    from airlock.stages.reconcile import ReconcileError  # noqa: PLC0415
    from airlock.stages.reconcile_meter import ServiceRefusedError  # noqa: PLC0415
    from airlock.storage.aws import error_code  # noqa: PLC0415

    try:
        yield
    except ReconcileError as error:
        raise RequestError(str(error)) from None
    except (ServiceRefusedError, StoreSearchError) as error:
        raise UnreachableError(str(error)) from None
    except (ClientError, BotoCoreError) as error:
        raise UnreachableError(
            f"The data store cannot be read ({error_code(error)}). Check your AWS credentials, region and the rights "
            f"in iam/reconcile-policy.json. What was compared stays: the same command goes on."
        ) from None
    except KeyboardInterrupt:
        raise StoppedError("Stopped. What was compared stays: the same command goes on where it was.") from None


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
    pipeline: str, scope: Scope, rates: tuple[float, float], forget_at_most: int | None
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

    known = workspaces.load_named_pipeline(pipeline)
    _check_scope(known, scope)
    request = Request(scope, getpass.getuser(), forget_at_most)
    with _translate_errors(), ledgers.open_ledger() as ledger, _open_comparer(known, ledger, rates) as comparer:
        expected = _describe(pipeline, comparer.estimate(scope))
        say(_say_estimate(expected))
        return expected, _compare(known, ledger, comparer, request)


def _compare(pipeline: Pipeline, ledger: Ledger, comparer: Comparer, request: Request) -> dict[str, Any]:
    from airlock.stages.reconcile import reconcile as compare  # noqa: PLC0415
    from airlock.stages.reconcile_report import write_report  # noqa: PLC0415

    done = compare(ledger, comparer, pipeline.name, request, _Progress())
    with workspaces.open_s3(S3Uri.parse(pipeline.workspace)) as store:
        unit = "studies" if pipeline.has_studies else "resources"
        return write_report(ledger, _workspace(pipeline, store, f"reconcile/{done.comparison.number}"), done, unit)


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
def _open_comparer(pipeline: Pipeline, ledger: Ledger, rates: tuple[float, float]) -> Iterator[Comparer]:
    """Open the comparison of a pipeline's kind; nothing is asked yet."""
    from airlock.stages.decision_log import open_log  # noqa: PLC0415
    from airlock.stages.reconcile_meter import Meter  # noqa: PLC0415
    from airlock.stages.reconcile_source import Archive  # noqa: PLC0415

    with workspaces.open_s3(S3Uri.parse(pipeline.workspace)) as store:
        archive = Archive(store, Meter("S3", rates[1]))

        def workspace_of(name: str) -> Workspace:
            return _workspace(pipeline, store, name)

        kept = ledger.journaled_in(open_log(store, pipeline))
        yield _OPENED[pipeline.kind](pipeline, kept, archive, rates[0], workspace_of)


def _workspace(pipeline: Pipeline, store: S3, name: str) -> Workspace:
    """Return a folder of the pipeline in the workspace: of a comparison, or of a run."""
    from airlock.storage.workspace import Workspace  # noqa: PLC0415

    return Workspace(store, S3Uri.parse(pipeline.workspace).join(pipeline.name, name, ""))


def _open_imaging(
    pipeline: Any, ledger: Ledger, archive: Any, rate: float, workspace_of: Callable[[str], Workspace]
) -> Comparer:
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    from airlock.imaging.reconcile import ImageSetComparer  # noqa: PLC0415
    from airlock.imaging.reconcile_store import ImageSetStore  # noqa: PLC0415
    from airlock.stages.reconcile_meter import Meter  # noqa: PLC0415

    once = Config(retries={"total_max_attempts": 1})
    client = boto3.client("medical-imaging", region_name=pipeline.healthimaging.region_name, config=once)
    store = ImageSetStore(client, pipeline.datastore_id, Meter("HealthImaging", rate))
    return ImageSetComparer(
        ledger, pipeline, store, archive, workspace_of=workspace_of, random_key=lambda: secrets.token_hex(8)
    )


def _open_clinical(
    pipeline: Any, ledger: Ledger, archive: Any, rate: float, workspace_of: Callable[[str], Workspace]
) -> Comparer:
    import boto3  # noqa: PLC0415

    from airlock.ccda.records import FOLDER  # noqa: PLC0415
    from airlock.clinical.reconcile import ResourceComparer  # noqa: PLC0415
    from airlock.clinical.reconcile_store import ResourceStore  # noqa: PLC0415
    from airlock.stages.reconcile_meter import Meter  # noqa: PLC0415

    session = boto3.Session(region_name=pipeline.healthlake.region_name)
    client = session.client("healthlake")
    found = client.describe_fhir_datastore(DatastoreId=pipeline.datastore_id)["DatastoreProperties"]
    credentials = session.get_credentials()
    if credentials is None:
        raise RequestError("There are no AWS credentials. Set them as for the AWS command line.")
    url = f"{found['DatastoreEndpoint'].rstrip('/')}/"
    store = ResourceStore(url, credentials, client.meta.region_name, Meter("HealthLake", rate))
    return ResourceComparer(
        ledger,
        pipeline,
        store,
        archive,
        workspace_of=workspace_of,
        random_key=lambda: secrets.token_hex(32),
        folder=FOLDER if pipeline.kind == "ccda" else "",
    )


_OPENED: dict[str, Callable[..., Comparer]] = {
    "imaging": _open_imaging,
    "clinical": _open_clinical,
    "ccda": _open_clinical,
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
