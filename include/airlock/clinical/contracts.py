"""The clinical contract ``airlock.clinical/1``: the released resources of one patient, or of one file.

Resources that belong to no patient (an Organization, a Practitioner) are in the contract of the file they came in.
``json_schema()`` is published as docs/clinical-contract.schema.json. A contract is cumulative: it names every resource
that was released so far, each with its latest content, and its revision rises when, and only when, that changes.
"""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import Field

from airlock.clinical.records import file_subject
from airlock.ledger.columns import OpenState
from airlock.ledger.open_resources import FOUND_OPEN
from airlock.pipelines import ValidationLevel
from airlock.pipelines.parking import is_urgent
from airlock.pipelines.published_schema import with_head
from airlock.reasons import Reason
from airlock.records import digest, subject_key
from airlock.stages.contracts import ContractModel, ContractOverride

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ContractResource(ContractModel):
    """One released resource and where it came from."""

    reference: str = Field(description="as ResourceType/id, in the data store")
    content_digest: str = Field(description="64 hex digits, equal where the content is")
    source: str = Field(description="s3:// address of the file that brought it")
    line: int | None = Field(None, description="in that file, from 1; of a Bundle the entry")


class ContractSubject(ContractModel):
    """The patient or file that the resources belong to."""

    kind: Literal["patient", "file"]
    reference: str | None = Field(None, description="of the patient, as Patient/id")


class ClinicalCompleteness(ContractModel):
    """How much of the subject the contract has, in numbers of resources by type."""

    state: Literal["complete", "partial", "unknown"] = Field(
        description="partial if a known resource is not released; else unknown, since no list says what there is"
    )
    released: dict[str, int]
    known: dict[str, int] = Field(description="released, waiting, quarantined or parked")
    waiting: dict[str, int] = Field(description="held, or not proven to be in the data store")
    quarantined: dict[str, int] = Field(description="set aside before import, or refused by the service")
    parked: dict[str, int] = Field(
        {}, description="waiting for other resources, those of safety types first; left out if there are none"
    )


class ClinicalContract(ContractModel):
    """The released resources of one patient or file."""

    version: Literal["airlock.clinical/1"] = Field("airlock.clinical/1", alias="schema")
    subject_key: str = Field(description="Airlock's own name for the patient or file; reveals no identifier")
    revision: int = Field(0, ge=0, description="rises when the content changes")
    pipeline: str = Field(description="the pipeline that brought the first resource")
    datastore_id: str
    subject: ContractSubject
    validation_level: ValidationLevel = Field(description="with which the latest resources were imported")
    resources: tuple[ContractResource, ...] = Field(description="in the order of their references")
    completeness: ClinicalCompleteness | None = Field(
        None, description="left out in contracts of earlier versions of Airlock"
    )
    override: ContractOverride | None = Field(
        None, description="where a person released what was stored with issues; the latest such word, else left out"
    )
    study_keys: tuple[str, ...] = Field(
        (),
        description="the study_key of each study that is released for the patient by now; only on routes that are "
        "marked clinical",
        exclude_if=lambda found: not found,
    )

    def to_json(self) -> str:
        """Return the contract as the JSON that is stored and routed."""
        # What is empty is left out, so that contracts older than these fields keep their content digest.
        empty: dict[str, Any] = {name: True for name in ("override", "completeness") if getattr(self, name) is None}
        if self.completeness is not None and not self.completeness.parked:
            empty["completeness"] = {"parked"}
        return self.model_dump_json(by_alias=True, indent=1, exclude=empty or None)

    @property
    def content_digest(self) -> str:
        """The digest of the content, whatever the revision: 64 hex digits."""
        return digest(self.model_copy(update={"revision": 0}).to_json(), length=64)


def draft(
    released: pl.DataFrame, pipeline: str, datastore_id: str, level: ValidationLevel
) -> Iterator[tuple[str, ClinicalContract]]:
    """Yield each subject with the contract of the resources that a run has released.

    Parameters
    ----------
    released
        Columns ``subject``, ``line``, ``resource_type``, ``resource_id``, ``content_digest``, ``bucket``, ``key``.
    pipeline, datastore_id, level
        The fields of the contracts about the run.
    """
    # Subject by subject, since resources as objects need many times the memory of their rows.
    rows = released.sort("subject", "resource_type", "resource_id").iter_rows(named=True)
    for subject, group in groupby(rows, key=itemgetter("subject")):
        yield (
            subject,
            ClinicalContract(
                subject_key=subject_key(datastore_id, subject),
                pipeline=pipeline,
                datastore_id=datastore_id,
                subject=_subject(subject),
                validation_level=level,
                resources=_sorted(map(_resource, group)),
            ),
        )


def _resource(row: dict[str, Any]) -> ContractResource:
    return ContractResource(
        reference=f"{row['resource_type']}/{row['resource_id']}",
        content_digest=row["content_digest"],
        source=f"s3://{row['bucket']}/{row['key']}",
        line=row["line"],
    )


def _subject(subject: str) -> ContractSubject:
    if subject.startswith(file_subject("")):
        return ContractSubject(kind="file")
    return ContractSubject(kind="patient", reference=subject)


def _sorted(resources: Iterable[ContractResource]) -> tuple[ContractResource, ...]:
    return tuple(sorted(resources, key=lambda one: one.reference))


def complete(
    planned: ClinicalContract, earlier: ClinicalContract | None, missing: pl.DataFrame | None = None
) -> ClinicalContract:
    """Return the contract with the resources of earlier deliveries; the revision rises if the content changes.

    A resource that comes again with the same content stays as it is known, so that auditing an older delivery again
    changes nothing.

    Parameters
    ----------
    planned
        This delivery's draft.
    earlier
        The contract as an earlier delivery, or an earlier audit of this one, left it.
    missing
        The resources of the subject that no run has brought (`ledger.open_resources.FOUND_OPEN`), if there are any.
    """
    missing = FOUND_OPEN.to_frame() if missing is None else missing
    if earlier is None:
        return _with_completeness(planned.model_copy(update={"revision": 1}), missing)
    known = {one.reference: one for one in earlier.resources}
    changed = [one for one in planned.resources if not _is_known(one, known.get(one.reference))]
    if not changed:
        return renew(earlier, missing)
    merged = known | {one.reference: one for one in changed}
    update = {
        "pipeline": earlier.pipeline,
        "revision": earlier.revision + 1,
        "resources": _sorted(merged.values()),
        "override": planned.override or earlier.override,
    }
    return _with_completeness(planned.model_copy(update=update), missing)


def renew(contract: ClinicalContract, missing: pl.DataFrame) -> ClinicalContract:
    """Return a contract as it is, or its next revision if its completeness has changed."""
    found = _count(contract, missing)
    is_unsaid = contract.completeness is None and found.state != "partial"
    if is_unsaid or found == contract.completeness:
        return contract
    return contract.model_copy(update={"completeness": found, "revision": contract.revision + 1})


def _with_completeness(contract: ClinicalContract, missing: pl.DataFrame) -> ClinicalContract:
    return contract.model_copy(update={"completeness": _count(contract, missing)})


def _count(contract: ClinicalContract, missing: pl.DataFrame) -> ClinicalCompleteness:
    released = {one.reference for one in contract.resources}
    stopped = pl.col("state").is_in([OpenState.REFUSED.value, OpenState.STOPPED.value])
    parked = stopped & (pl.col("reason") == Reason.WAITING_FOR_RESOURCE).fill_null(value=False)
    waiting, quarantined, late = (_name(missing.filter(rows)) for rows in (~stopped, stopped & ~parked, parked))
    return ClinicalCompleteness(
        state="partial" if waiting or quarantined or late else "unknown",
        released=_count_types(released),
        known=_count_types(released | waiting | quarantined | late),
        waiting=_count_types(waiting),
        quarantined=_count_types(quarantined),
        parked=put_safety_first(_count_types(late)),
    )


def _name(missing: pl.DataFrame) -> set[str]:
    return set(missing.select(pl.format("{}/{}", "resource_type", "resource_id")).to_series())


def put_safety_first(counts: dict[str, int]) -> dict[str, int]:
    """Return counts by type, those of types that can harm a patient at once before the others."""
    return dict(sorted(counts.items(), key=lambda item: (not is_urgent(item[0]), item[0])))


def _count_types(references: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reference.partition("/")[0] for reference in references).items()))


def _is_known(one: ContractResource, known: ContractResource | None) -> bool:
    return known is not None and known.content_digest == one.content_digest


def json_schema() -> dict[str, Any]:
    """Return the contract's JSON Schema."""
    schema = ClinicalContract.model_json_schema(by_alias=True)
    return with_head(schema, "airlock.clinical/1", "The contract of a patient or file of FHIR resources")
