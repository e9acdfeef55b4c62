"""The study contract ``airlock.study/1``: the stable, versioned record of one study that downstream systems read.

Attribute names are DICOM keywords (PS3.6). ``json_schema()`` is published as docs/study-contract.schema.json.
A contract is cumulative: it names every instance of the study that was imported so far, from this delivery or an
earlier one, and its revision rises when, and only when, that changes.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import Field
from pydantic_core import from_json, to_json

from airlock.imaging.classification import (
    PROCEDURE_TAG,
    SERIES_VALUES,
    describe_procedures,
    describe_series,
    distinct,
    merge_procedures,
    merge_series,
)
from airlock.imaging.completeness import FOREIGN, judge
from airlock.imaging.labels import keep_labels, set_labels
from airlock.pipelines.published_schema import with_head
from airlock.records import PROCEDURE_CODES, STUDIES, digest, study_key
from airlock.stages.contracts import ContractModel, ContractOverride

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airlock.pipelines import Classify, ImagingPipeline


class ContractInstance(ContractModel):
    """One imported SOP instance and the object it came from."""

    SOPInstanceUID: str
    SOPClassUID: str
    TransferSyntaxUID: str | None = None
    InstanceNumber: str | None = None
    NumberOfFrames: str | None = None
    image_set_id: str | None = None
    source: str = Field(description="s3:// address of the object that was imported")
    etag: str = Field(description="of that object, when it was listed")
    size: int = Field(description="bytes")


class ContractFact(ContractModel):
    """What headers say about a series in one respect."""

    values: tuple[str, ...] = Field((), description="distinct values of all its instances, in order")
    tags: tuple[str, ...] = Field((), description="the attributes that they came from, as (gggg,eeee)")


class ContractClassification(ContractModel):
    """What headers alone say about a series; nothing is derived, and it decides on no release."""

    kind: ContractFact = Field(description="original, derived or localizer, by ImageType")
    sop_class_family: ContractFact = Field(
        description="image, structured_report, key_object, presentation_state, waveform, encapsulated_document, "
        "radiotherapy, segmentation, registration, raw_data or other; none for a class that PS3.6 does not have"
    )
    contrast: ContractFact = Field(description="ContrastBolusAgent; its absence does not say that none was given")
    laterality: ContractFact = Field(description="Laterality or ImageLaterality as stored")


class ContractProcedure(ContractModel):
    """A coded procedure that a header has."""

    code: str | None = None
    scheme: str | None = Field(None, description="CodingSchemeDesignator, for example SCT or 99LOCAL")
    meaning: str | None = None
    tag: str = Field(PROCEDURE_TAG, description="the sequence whose first item has the code")


class ContractSeries(ContractModel):
    """One series and the image sets that hold it."""

    SeriesInstanceUID: str
    SeriesNumber: str | None = None
    Modality: str | None = None
    SeriesDescription: str | None = None
    BodyPartExamined: str | None = None
    StationName: str | None = None
    classification: ContractClassification | None = Field(
        None,
        description="what headers say of the series, each with its tags; left out in contracts from before Airlock "
        "read it",
        exclude_if=lambda found: found is None,
    )
    image_set_ids: tuple[str, ...] = ()
    instances: tuple[ContractInstance, ...]
    labels: tuple[str, ...] = Field(
        (), description="set by rules of the pipeline file; left out without any", exclude_if=lambda found: not found
    )


class FhirReferences(ContractModel):
    """Where a study is in HealthLake, each as ``Type/id``."""

    datastore_id: str = Field(description="the HealthLake data store")
    Patient: str
    ImagingStudy: str
    Endpoint: tuple[str, ...] = Field(description="first the study's, then one per image set")
    ServiceRequest: str | None = None


class Completeness(ContractModel):
    """How much of a study the contract has, as far as Airlock knows."""

    state: Literal["complete", "partial", "unknown"] = Field(
        description="complete: all that a manifest or the source's list declares; partial: an instance is known to be "
        "missing, fewer are released than declared, or the data store has image sets of others; unknown: nobody "
        "outside the files says how many there are"
    )
    released: int = Field(description="instances in this contract")
    known: int = Field(description="instances that Airlock knows of: released, waiting and quarantined")
    declared: int | None = Field(None, description="the number that the source declares; null if it declares none")
    declared_by: Literal["manifest", "header"] | None = Field(
        None,
        description="manifest: the delivery's manifest or the source's list; header: NumberOfStudyRelatedInstances of "
        "its files, the greatest",
    )
    waiting: int = Field(0, description="instances on their way, or waiting for a person")
    quarantined: int = Field(0, description="instances that were stopped or not imported")
    unattributed: int = Field(
        0, description="files of the same sites and the same run that could not be read, and may belong to any study"
    )
    foreign_image_sets: int = Field(
        0,
        description="image sets of the study that others had stored when the data store was adopted; left out where 0",
        exclude_if=lambda number: number == 0,
    )


class MatchedPatient(ContractModel):
    """What is known of the patient, where the pipeline looks for the Patient in HealthLake."""

    outcome: Literal["matched", "none", "ambiguous", "unguarded"] = Field(
        description="matched: fhir.Patient was there already and is the patient; none: no Patient has the identifier; "
        "ambiguous, unguarded: in doubt, a person is asked, and fhir.Patient is one of Airlock's own meanwhile"
    )
    patient: str | None = Field(None, description="the existing Patient, as Patient/<id>")
    means: Literal["identifier", "crosswalk", "person"] | None = Field(None, description="by what it was found")
    question: str | None = Field(None, description="what a person is asked, as a code of airlock patient")
    order: str | None = Field(None, description="the existing ServiceRequest, as ServiceRequest/<id>")


_LEFT_OUT = ("fhir", "override", "completeness", "patient_match", "patient_key")  # where they are empty


class StudyContract(ContractModel):
    """One study."""

    version: Literal["airlock.study/1"] = Field("airlock.study/1", alias="schema")
    study_key: str = Field(description="Airlock's own name for the study; reveals no identifier")
    revision: int = Field(
        0, ge=0, description="rises when the content changes, of a held study too: a number may be left out"
    )
    pipeline: str = Field(description="the pipeline that brought the study first")
    datastore_id: str
    StudyInstanceUID: str
    StudyDate: str | None = None
    StudyTime: str | None = None
    StudyID: str | None = None
    StudyDescription: str | None = None
    AccessionNumber: str | None = None
    RequestedProcedureID: str | None = None
    ReferringPhysicianName: str | None = None
    InstitutionName: str | None = None
    PatientID: str | None = None
    IssuerOfPatientID: str | None = None
    PatientName: str | None = None
    PatientBirthDate: str | None = None
    PatientSex: str | None = None
    TimezoneOffsetFromUTC: str | None = Field(
        None, description="of the times; left out where no header has it", exclude_if=lambda found: found is None
    )
    procedures: tuple[ContractProcedure, ...] = Field(
        (), description="coded procedures; left out where no header has one", exclude_if=lambda found: not found
    )
    labels: tuple[str, ...] = Field(
        (), description="set by rules of the pipeline file; left out without any", exclude_if=lambda found: not found
    )
    ModalitiesInStudy: tuple[str, ...] = ()
    NumberOfStudyRelatedSeries: int = Field(description="series in this contract")
    NumberOfStudyRelatedInstances: int = Field(description="instances in this contract")
    series: tuple[ContractSeries, ...]
    fhir: FhirReferences | None = Field(None, description="where the study is published; left out where it is not")
    override: ContractOverride | None = Field(
        None, description="where a person released what the audit held; the latest such word, else left out"
    )

    completeness: Completeness | None = Field(
        None, description="how much of the study this is; left out in contracts from before Airlock said so"
    )
    patient_match: MatchedPatient | None = Field(
        None, description="what is known of the patient; left out where the pipeline does not look for the Patient"
    )
    patient_key: str | None = Field(
        None,
        description="the subject_key of the contract of the patient's records; only on routes that are marked clinical",
    )

    def to_json(self) -> str:
        """Return the contract as the JSON that is stored and routed."""
        # Empty fields are left out, so that contracts older than these fields keep their content digest.
        absent = {name for name in _LEFT_OUT if getattr(self, name) is None}
        return self.model_dump_json(by_alias=True, indent=1, exclude=absent)

    @property
    def content_digest(self) -> str:
        """The digest of the content, whatever the revision: 64 hex digits."""
        return digest(self.model_copy(update={"revision": 0}).to_json(), length=64)


STUDY_ATTRIBUTES = (
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "RequestedProcedureID",
    "ReferringPhysicianName",
    "InstitutionName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "TimezoneOffsetFromUTC",
)
SERIES_ATTRIBUTES = ("SeriesNumber", "Modality", "SeriesDescription", "BodyPartExamined", "StationName")
INSTANCE_ATTRIBUTES = ("SOPClassUID", "TransferSyntaxUID", "InstanceNumber", "NumberOfFrames")
_TEXTS = tuple(
    dict.fromkeys((*STUDY_ATTRIBUTES, *SERIES_ATTRIBUTES, *INSTANCE_ATTRIBUTES, *SERIES_VALUES, PROCEDURE_CODES))
)
_OF_SOME_HEADERS = ("TimezoneOffsetFromUTC", "procedures")  # left out of a study's JSON where no header has them
_STUDY_ORDER = tuple(item.alias or name for name, item in StudyContract.model_fields.items())
_SERIES_ORDER = tuple(ContractSeries.model_fields)


def draft(accepted: pl.DataFrame, pipeline: ImagingPipeline) -> pl.DataFrame:
    """Return the planned contract of each study among accepted arrivals, before anything is imported.

    The JSON is that of `StudyContract.to_json`. A model of each instance would take twice the time.

    Parameters
    ----------
    accepted
        Rows of the verdicts dataset, whole studies.
    pipeline
        The pipeline that the contracts name.

    Returns
    -------
    polars.DataFrame
        Rows of the studies dataset.
    """
    ordered = accepted.sort("StudyInstanceUID", "SeriesInstanceUID", "key", "arrival_id").with_columns(
        _strip_each(pl.col(*_TEXTS))
    )
    studies = ordered.group_by("StudyInstanceUID", maintain_order=True).agg(
        *map(_first_value, STUDY_ATTRIBUTES), procedures=distinct(PROCEDURE_CODES)
    )
    drafted = studies.join(_describe_series(ordered), on="StudyInstanceUID", how="left", maintain_order="left")
    whose = {"pipeline": pipeline.name, "datastore_id": pipeline.healthimaging.datastore_id}
    rows = []
    for values in drafted.iter_rows(named=True):  # columns and structs have the order of the models' fields
        uid = values["StudyInstanceUID"]
        head = {"schema": "airlock.study/1", "study_key": study_key(uid), "revision": 0} | whose
        content = head | _describe(values)
        rows.append((head["study_key"], uid, to_json(content, indent=1).decode()))
    return pl.DataFrame(rows, schema=STUDIES, orient="row")


def _describe(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a study with what its headers' distinct values say, without what no header has."""
    values["procedures"] = describe_procedures(values["procedures"])
    for item in values["series"]:
        item["classification"] = describe_series(item["classification"])
    return {name: value for name, value in values.items() if value or name not in _OF_SOME_HEADERS}


def _describe_series(ordered: pl.DataFrame) -> pl.DataFrame:
    """Return the fields of `StudyContract` about series, for each StudyInstanceUID: counts and a list of structs."""
    source = pl.concat_str(pl.lit("s3://"), "bucket", pl.lit("/"), "key").alias("source")
    image_set = pl.lit(None, pl.String).alias("image_set_id")
    image_sets = pl.lit([], pl.List(pl.String)).alias("image_set_ids")
    instance = pl.struct("SOPInstanceUID", *INSTANCE_ATTRIBUTES, image_set, source, "etag", "size")
    said = pl.struct(*SERIES_VALUES).alias("classification")
    series = ordered.group_by("StudyInstanceUID", "SeriesInstanceUID", maintain_order=True).agg(
        *map(_first_value, SERIES_ATTRIBUTES),
        *map(distinct, SERIES_VALUES),
        instances=instance.sort_by("SOPInstanceUID"),
    )
    return series.group_by("StudyInstanceUID", maintain_order=True).agg(
        ModalitiesInStudy=pl.col("Modality").drop_nulls().unique().sort(),
        NumberOfStudyRelatedSeries=pl.len(),
        NumberOfStudyRelatedInstances=pl.col("instances").list.len().sum(),
        series=pl.struct("SeriesInstanceUID", *SERIES_ATTRIBUTES, said, image_sets, "instances"),
    )


def _strip_each(values: pl.Expr) -> pl.Expr:
    """Return multiple values without the blanks around each (PS3.5 section 6.2: the blanks have no meaning)."""
    return values.str.strip_chars().str.replace_all(r"\s*\\\s*", "\\")


def _first_value(keyword: str) -> pl.Expr:
    """Return a group's first value that is not empty. The rows are in a fixed order, so it is always the same value."""
    return pl.col(keyword).filter(pl.col(keyword) != "").first()


def complete(
    planned: str,
    image_sets: Mapping[str, str | None],
    earlier: str | None,
    override: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    *,
    rules: Sequence[Classify] = (),
) -> str:
    """Return the contract of the imported instances as `StudyContract.to_json` would; its revision is the draft's.

    What an earlier contract says stays, and so does what it leaves out, unless an instance is new: another audit of an
    older delivery changes nothing. The draft's JSON is changed in place of models: an object for each instance of a
    large delivery took longer than everything else.

    Parameters
    ----------
    planned
        The JSON of this delivery's draft.
    image_sets
        Image set id by SOPInstanceUID, for the instances that were imported; the others are left out.
    earlier
        The JSON of the contract as an earlier delivery left it, whose other instances are kept.
    override
        The fields of `ContractOverride` where a person released the study; of this and an earlier one the later stays.
    facts
        The counts for the field ``completeness``, as `completeness.describe` returns them; without, it is left out.
    rules
        The rules that set labels; without any, the labels stay as they are.
    """
    contract = from_json(planned)
    before = StudyContract.model_validate_json(earlier).model_dump(mode="json", by_alias=True) if earlier else {}
    series = {item["SeriesInstanceUID"]: item for item in before.get("series", ())}
    adds = False
    for item in contract["series"]:
        imported = [
            one | {"image_set_id": image_sets[one["SOPInstanceUID"]]}
            for one in item["instances"]
            if one["SOPInstanceUID"] in image_sets
        ]
        if imported:
            uid = item["SeriesInstanceUID"]
            known_series = series.get(uid, {})
            adds |= _is_new(imported, known_series)
            series[uid] = _merge_series(item, imported, known_series)
    known = _keep_known(before, ("pipeline", *STUDY_ATTRIBUTES))
    counted = _count_series([series[uid] for uid in sorted(series)])
    if not adds:
        contract = {name: value for name, value in contract.items() if name not in _OF_SOME_HEADERS}
    known |= _add_procedures(before, contract)
    whole = contract | known | counted | _latest_override(before, override)
    if facts is not None:
        whole["completeness"] = judge(whole["NumberOfStudyRelatedInstances"], facts)
    whole |= _keep_known(before, ("patient_match",))  # until a publication has looked again
    labelled = set_labels(whole, rules) if rules and adds else keep_labels(whole, before)
    return to_json(_in_order(labelled), indent=1).decode()


def _in_order(content: dict[str, Any]) -> dict[str, Any]:
    """Return a contract with its fields in the order of the models: its digest is that of its text."""
    series = [{name: item[name] for name in _SERIES_ORDER if name in item} for item in content["series"]]
    return {name: content[name] for name in _STUDY_ORDER if name in content} | {"series": series}


def _add_procedures(earlier: dict[str, Any], contract: dict[str, Any]) -> dict[str, Any]:
    codes = merge_procedures(earlier.get("procedures", ()), contract.get("procedures", ()))
    return {"procedures": codes} if codes else {}


def renew_completeness(contract: str, *, lacks_none: bool) -> str:
    """Return the JSON of a contract whose study waits for nothing any more; it says so if it says anything of it.

    With *lacks_none* the study lacks no instance that was stopped either.
    """
    content = from_json(contract)
    said = content.get("completeness")
    if said is None:
        return contract
    facts = {name: said[name] for name in ("declared", "declared_by")} | {"waiting": 0}
    facts |= {name: said.get(name, 0) for name in ("unattributed", FOREIGN)}
    facts["quarantined"] = 0 if lacks_none else said["quarantined"]
    renewed = content | {"completeness": judge(content["NumberOfStudyRelatedInstances"], facts)}
    return to_json(renewed, indent=1).decode()


def with_revision(contract: str, revision: int, before: int = 0) -> str:
    """Return a contract's JSON with another revision. The field comes before any value from a file."""
    return contract.replace(f'\n "revision": {before},', f'\n "revision": {revision},', 1)


def _keep_known(earlier: dict[str, Any], keywords: tuple[str, ...]) -> dict[str, Any]:
    """Return the values of an earlier contract."""
    return {keyword: earlier[keyword] for keyword in keywords if earlier.get(keyword) is not None}


def _latest_override(earlier: dict[str, Any], override: Mapping[str, Any] | None) -> dict[str, Any]:
    given = [one for one in (earlier.get("override"), override) if one]
    return {"override": max(given, key=lambda one: datetime.fromisoformat(one["overridden_at"]))} if given else {}


def _is_new(imported: list[dict[str, Any]], earlier: dict[str, Any]) -> bool:
    """Return whether one of these instances is not in the earlier contract's series, or not with this content."""
    known = {(one["SOPInstanceUID"], one["etag"]) for one in earlier.get("instances", ())}
    return any((one["SOPInstanceUID"], one["etag"]) not in known for one in imported)


def _merge_series(item: dict[str, Any], imported: list[dict[str, Any]], earlier: dict[str, Any]) -> dict[str, Any]:
    by_uid = {one["SOPInstanceUID"]: one for one in (*earlier.get("instances", ()), *imported)}
    instances = [by_uid[uid] for uid in sorted(by_uid)]
    sets = sorted({one["image_set_id"] for one in instances if one["image_set_id"]})
    said = item.pop("classification", None)
    facts = merge_series(earlier.get("classification"), said if _is_new(imported, earlier) else None)
    kept = _keep_known(earlier, (*SERIES_ATTRIBUTES, "labels")) | ({"classification": facts} if facts else {})
    return item | kept | {"instances": instances, "image_set_ids": sets}


def _count_series(series: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "ModalitiesInStudy": sorted({item["Modality"] for item in series if item["Modality"]}),
        "NumberOfStudyRelatedSeries": len(series),
        "NumberOfStudyRelatedInstances": sum(len(item["instances"]) for item in series),
        "series": series,
    }


def json_schema() -> dict[str, Any]:
    """Return the contract's JSON Schema."""
    schema = StudyContract.model_json_schema(by_alias=True)
    return with_head(schema, "airlock.study/1", "The contract of a released study")
