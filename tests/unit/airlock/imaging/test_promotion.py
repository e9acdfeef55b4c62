"""What promotion changes in the metadata, and what it takes for proof that an image set was copied."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from airlock.imaging.promotion import ResolutionError, check_promotable, find_changes, promote
from airlock.ledger import Resolution, ResolutionRecord, ResolutionState

STUDY, SERIES, SOP = "1.2", "1.2.3", "1.2.3.4"


def document(series: str = "1.1", **elements: Any) -> dict[str, Any]:
    values = {"PatientID": "P", "StudyDate": "20260301", "AccessionNumber": "A", "StudyID": "1", "SeriesNumber": 1}
    values |= elements
    return {
        "Patient": {"DICOM": {"PatientID": values.pop("PatientID")}},
        "Study": {
            "Series": {series: {"DICOM": {"SeriesNumber": values.pop("SeriesNumber")}, "Instances": {}}},
            "DICOM": values,
        },
    }


def read(updates: dict[str, bytes]) -> dict[str, Any]:
    return {name: json.loads(body) for name, body in updates.items()}


def test_equal_elements_are_not_changed() -> None:
    assert find_changes(document(SeriesNumber="1"), [document(), document(StudyDate="20260301 ")]) == ({}, False)
    assert find_changes(document(PatientID="Q"), []) == ({}, False)


def test_only_different_elements_are_changed_to_those_of_the_primary() -> None:
    updates, force = find_changes(document(PatientID="Q"), [document()])
    assert read(updates) == {"updatableAttributes": {"SchemaVersion": 1.1, "Patient": {"DICOM": {"PatientID": "P"}}}}
    assert not force


def test_study_id_needs_force() -> None:
    updates, force = find_changes(document(StudyID="9"), [document()])
    assert read(updates)["updatableAttributes"]["Study"] == {"DICOM": {"StudyID": "1"}}
    assert force


def test_an_element_that_the_primary_does_not_have_is_removed() -> None:
    updates, _ = find_changes(document(AccessionNumber="B"), [document(AccessionNumber="")])
    assert read(updates) == {"removableAttributes": {"SchemaVersion": 1.1, "Study": {"DICOM": {"AccessionNumber": ""}}}}


def test_a_series_number_is_that_of_the_same_series() -> None:
    others = [document(series="1.2", SeriesNumber=2), document(SeriesNumber=3)]
    updates, _ = find_changes(document(), others)
    assert read(updates)["updatableAttributes"]["Study"] == {"Series": {"1.1": {"DICOM": {"SeriesNumber": 3}}}}


def held(patient: str = "P", **frames: str) -> dict[str, Any]:
    """Return a document with one frame per instance: ``SOP=frame id`` or ``SOP=id/checksum``."""
    found = document(SERIES, PatientID=patient, StudyInstanceUID=STUDY)
    for uid, told in frames.items():
        name, _, checksum = told.partition("/")
        sums = [{"Checksum": checksum}] if checksum else None
        frame = {"ID": name or None, "FrameSizeInBytes": 9, "PixelDataChecksumFromBaseToFullResolution": sums}
        found["Study"]["Series"][SERIES]["Instances"][uid] = {"DICOM": {}, "ImageFrames": [frame]}
    return found


def report(document: dict[str, Any], finding: str) -> dict[str, Any]:
    """Make the instances of a document reports."""
    instances = document["Study"]["Series"][SERIES]["Instances"]
    instances.update({uid: {"DICOM": {"ContentSequence": [{"TextValue": finding}]}} for uid in instances})
    return document


class Store:
    """A data store with a primary and a non-primary image set; `outcome` is what comes of a copy."""

    def __init__(self, outcome: str = "COPIED", *, odd: str = "new", **primary: str) -> None:
        self.sets = {"primary": held(**primary), "odd": held("OTHER", SOP=odd)}
        self.history = {"primary": ["CREATED"], "odd": ["CREATED"]}
        self.outcome = outcome
        self.copied_frame = odd
        self.copied: dict[str, Any] | None = None
        self.primary = True
        self.asked: list[str] = []

    def settled(self, name: str) -> dict[str, Any] | None:
        if name not in self.sets:
            return None
        told = {"versionId": str(len(self.history[name])), "imageSetWorkflowStatus": self.history[name][-1]}
        return {"imageSetId": name, "imageSetState": "ACTIVE", "isPrimary": name != "odd" and self.primary, **told}

    def metadata(self, name: str) -> dict[str, Any]:
        return self.sets[name]

    def versions(self, name: str) -> dict[int, str]:
        return dict(enumerate(self.history[name], start=1))

    def primaries(self, study: str, shown: str) -> list[str]:
        assert (study, shown) == (STUDY, "odd")
        return ["primary"]

    def update(self, name: str, version: str, updates: dict[str, bytes], *, force: bool) -> None:
        self.history[name].append("UPDATED")

    def promote(self, name: str, version: str) -> str:
        self.asked.append("copy")
        if self.outcome.isdigit():
            answer = {"Error": {"Code": "Refused"}, "ResponseMetadata": {"HTTPStatusCode": int(self.outcome)}}
            raise ClientError(answer, "CopyImageSet")  # type: ignore[arg-type]
        self.history["odd"][-1] = self.outcome
        self.history["primary"].append(self.outcome)
        if self.outcome == "COPIED":
            copied = self.copied or held(SOP=self.copied_frame)
            self.sets["primary"]["Study"]["Series"][SERIES]["Instances"] |= copied["Study"]["Series"][SERIES][
                "Instances"
            ]
        return "primary"

    def delete(self, name: str) -> None:
        self.asked.append("delete")
        del self.sets[name]


class Notes:
    """A ledger that keeps nothing but the steps."""

    def __init__(self) -> None:
        self.steps: list[ResolutionRecord] = []

    def advance_resolution(
        self,
        record: ResolutionRecord,
        state: ResolutionState,
        promoted_id: str | None = None,
        promoted_version: int | None = None,
        versions_before: dict[str, int] | None = None,
    ) -> ResolutionRecord:
        noted = record.versions_before if versions_before is None else versions_before
        self.steps.append(
            replace(
                record, state=state, promoted_id=promoted_id, promoted_version=promoted_version, versions_before=noted
            )
        )
        return self.steps[-1]


def resolution(state: ResolutionState, before: dict[str, int] | None = None) -> ResolutionRecord:
    return ResolutionRecord("odd", "store", "run", Resolution.PROMOTE, state, None, None, before or {})


def tried(store: Store, record: ResolutionRecord | None = None) -> ResolutionRecord:
    notes: Any = Notes()
    try:
        return promote(notes, store, record or resolution(ResolutionState.BEGUN))
    except ResolutionError:
        assert "odd" in store.sets
        return notes.steps[-1] if notes.steps else record or resolution(ResolutionState.BEGUN)


class TestProof:
    def test_a_copy_that_ended_well_is_believed(self) -> None:
        done = tried(Store())
        assert (done.state, done.promoted_id, done.promoted_version) == (ResolutionState.DELETING, "primary", 2)
        assert done.versions_before == {"primary": 1}

    def test_a_copy_that_is_accepted_and_fails_is_not(self) -> None:
        assert tried(Store("COPY_FAILED")).state is ResolutionState.BEGUN

    @pytest.mark.parametrize(("status", "state"), [("403", "BEGUN"), ("409", "BEGUN")])
    def test_a_copy_that_is_refused_can_be_given_back(self, status: str, state: str) -> None:
        assert tried(Store(status)).state is ResolutionState[state]

    def test_an_answer_that_was_lost_leaves_it_open(self) -> None:
        notes: Any = Notes()
        with pytest.raises(ClientError):
            promote(notes, Store("500"), resolution(ResolutionState.BEGUN))
        assert notes.steps[-1].state is ResolutionState.COPYING

    def test_frames_without_ids_are_told_by_their_checksums(self) -> None:
        store = Store(odd="/1")
        store.copied_frame = "/2"
        assert tried(store).state is ResolutionState.COPYING
        store = Store(odd="/1")
        assert tried(store).state is ResolutionState.DELETING

    @pytest.mark.parametrize(("finding", "state"), [("none", "DELETING"), ("tumour", "COPYING")])
    def test_a_report_has_no_frames_and_is_told_by_its_attributes(self, finding: str, state: str) -> None:
        store = Store()
        report(store.sets["odd"], "none")
        store.copied = report(held(SOP="new"), finding)
        assert tried(store).state is ResolutionState[state]

    @pytest.mark.parametrize(
        ("frame", "state"),
        [("new/1", "DELETING"), ("other/1", "DELETING"), ("other/2", "COPYING"), ("other", "COPYING")],
        ids=["same ids", "same checksums", "other checksums", "no checksums"],
    )
    def test_its_frames_are_those_of_the_source(self, frame: str, state: str) -> None:
        store = Store(odd="new/1")
        store.copied_frame = frame
        assert tried(store).state is ResolutionState[state]


class TestSharedInstances:
    def test_they_are_refused_before_anything_is_asked_for(self) -> None:
        store = Store(SOP="old")
        with pytest.raises(ResolutionError, match=r"share 1 SOP Instance UIDs.*redrive with delete.*clear validate"):
            check_promotable(store, "odd")
        assert tried(store).state is ResolutionState.BEGUN
        assert store.asked == []

    @pytest.mark.parametrize(
        "history", [["CREATED"], ["CREATED", "COPY_FAILED"], ["CREATED", "COPY_FAILED", "UPDATED"], ["COPIED"]]
    )
    @pytest.mark.parametrize("source", ["UPDATED", "COPY_FAILED", "COPIED"])
    def test_a_later_try_does_not_take_them_for_its_copy(self, history: list[str], source: str) -> None:
        store = Store(SOP="new")  # the very frames
        store.history = {"primary": history, "odd": ["CREATED", source]}
        done = tried(store, resolution(ResolutionState.COPYING, {"primary": 1}))
        assert done.state is not ResolutionState.DELETING
        assert store.asked == []


class TestLaterTry:
    def test_the_copy_of_an_earlier_one_is_found_though_the_primary_went_on(self) -> None:
        store = Store(SOP="new")
        store.history = {"primary": ["CREATED", "COPIED", "UPDATED"], "odd": ["UPDATED", "COPIED"]}
        done = tried(store, resolution(ResolutionState.COPYING, {"primary": 1}))
        assert (done.state, done.promoted_version) == (ResolutionState.DELETING, 3)
        assert store.asked == []

    @pytest.mark.parametrize("source", ["UPDATED", "COPY_FAILED"])
    def test_another_s_copy_of_the_same_frames_is_not_taken_for_it(self, source: str) -> None:
        store = Store(SOP="new")
        store.history = {"primary": ["CREATED", "COPIED"], "odd": ["CREATED", source]}
        assert tried(store, resolution(ResolutionState.COPYING, {"primary": 1})).state is ResolutionState.BEGUN

    def test_a_copy_into_another_non_primary_image_set_is_no_promotion(self) -> None:
        store = Store(SOP="new")
        store.history, store.primary = {"primary": ["CREATED", "COPIED"], "odd": ["UPDATED", "COPIED"]}, False
        assert tried(store, resolution(ResolutionState.COPYING, {"primary": 1})).state is ResolutionState.COPYING

    def test_a_copy_that_is_not_found_yet_is_not_asked_for_again(self) -> None:
        store = Store()
        store.history["odd"] = ["UPDATED", "COPIED"]
        assert tried(store, resolution(ResolutionState.COPYING, {"primary": 1})).state is ResolutionState.COPYING
        assert store.asked == []

    def test_the_proof_is_looked_at_again_before_the_source_is_deleted(self) -> None:
        store = Store()  # the copy was removed meanwhile
        store.history = {"primary": ["CREATED", "COPIED", "UPDATED"], "odd": ["UPDATED", "COPIED"]}
        record = replace(
            resolution(ResolutionState.DELETING, {"primary": 1}), promoted_id="primary", promoted_version=2
        )
        assert tried(store, record).state is ResolutionState.BEGUN

    def test_a_source_that_an_earlier_one_deleted_needs_no_proof(self) -> None:
        store = Store()
        del store.sets["odd"]
        record = replace(
            resolution(ResolutionState.DELETING, {"primary": 1}), promoted_id="primary", promoted_version=2
        )
        assert promote(Notes(), store, record) is record  # type: ignore[arg-type]

    def test_a_source_that_others_deleted_can_be_given_back(self) -> None:
        store, notes = Store(), Notes()
        del store.sets["odd"]
        with pytest.raises(ResolutionError, match="deleted outside Airlock"):
            promote(notes, store, resolution(ResolutionState.COPYING))  # type: ignore[arg-type]
        assert notes.steps[-1].state is ResolutionState.BEGUN
