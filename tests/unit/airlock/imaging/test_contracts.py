"""The study contract: what downstream systems read about a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airlock.imaging import contracts
from airlock.imaging.contracts import StudyContract, draft, with_revision
from airlock.records import study_key
from tests.unit.airlock.world import STORE, dicom, pipeline, verdicts

PAGE = Path(__file__).parents[4] / "docs" / "study-contract.schema.json"


def drafts(*files: dict[str, Any]) -> list[StudyContract]:
    texts = draft(verdicts(*files), pipeline())["contract"]
    found = [StudyContract.model_validate_json(text) for text in texts]
    assert [contract.to_json() for contract in found] == texts.to_list()
    return found


def the_draft(*files: dict[str, Any]) -> StudyContract:
    (only,) = drafts(*files)
    return only


def complete(planned: StudyContract, image_sets: dict[str, str | None], earlier: StudyContract | None) -> StudyContract:
    """Complete a draft; what comes out is written as the model itself writes it."""
    text = contracts.complete(planned.to_json(), image_sets, earlier.to_json() if earlier else None)
    contract = StudyContract.model_validate_json(text)
    assert contract.to_json() == text
    return contract


def sets(*uids: str) -> dict[str, str | None]:
    return dict.fromkeys(uids, "set-1")


def uids(contract: StudyContract) -> list[str]:
    return [one.SOPInstanceUID for series in contract.series for one in series.instances]


A = dicom("a", SOPInstanceUID="1.1.1.1")
B = dicom("b", SOPInstanceUID="1.1.1.2")
OTHER_SERIES = dicom("c", SOPInstanceUID="1.1.2.1", SeriesInstanceUID="1.1.2", Modality="SR", SeriesNumber="2")
OTHER_STUDY = dicom("d", SOPInstanceUID="1.2.1.1", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")


class TestDraft:
    def test_there_is_one_per_study_with_its_series_and_instances(self) -> None:
        one, two = drafts(OTHER_STUDY, B, OTHER_SERIES, A)
        assert (one.StudyInstanceUID, two.StudyInstanceUID) == ("1.1", "1.2")
        assert [series.SeriesInstanceUID for series in one.series] == ["1.1.1", "1.1.2"]
        assert uids(one) == ["1.1.1.1", "1.1.1.2", "1.1.2.1"]
        assert (one.NumberOfStudyRelatedSeries, one.NumberOfStudyRelatedInstances) == (2, 3)
        assert one.ModalitiesInStudy == ("CT", "SR")

    def test_it_says_whose_it_is_and_where_it_came_from(self) -> None:
        one = the_draft(dicom("é +%41//x"))
        assert (one.version, one.revision) == ("airlock.study/1", 0)
        assert (one.pipeline, one.datastore_id, one.study_key) == ("nightly", STORE, study_key("1.1"))
        (instance,) = one.series[0].instances
        assert (instance.source, instance.size) == ("s3://archive/in/é +%41//x", 1000)
        assert instance.image_set_id is None

    def test_an_attribute_is_the_first_value_that_is_there(self) -> None:
        one = the_draft(
            dicom("a", StudyDescription=""), dicom("b", StudyDescription=None), dicom("c", StudyDescription="x")
        )
        assert one.StudyDescription == "x"
        assert the_draft(dicom("a", StudyDescription="")).StudyDescription is None

    def test_no_value_keeps_the_blanks_around_it(self) -> None:
        blank = {
            "PatientID": " 4711 ",
            "PatientName": "  Doe^Jane A",
            "StudyDescription": "  ",
            "AccessionNumber": " A-1\\ A-2 ",
            "SeriesNumber": " 1",
            "InstanceNumber": " 12 ",
            "Modality": " CT",
        }
        one = the_draft(dicom("a", **blank))
        assert (one.PatientID, one.PatientName, one.StudyDescription) == ("4711", "Doe^Jane A", None)
        assert (one.AccessionNumber, one.ModalitiesInStudy) == ("A-1\\A-2", ("CT",))
        assert (one.series[0].SeriesNumber, one.series[0].instances[0].InstanceNumber) == ("1", "12")

    def test_the_order_of_the_delivery_decides_nothing(self) -> None:
        files = [A | {"StudyDescription": "x"}, B | {"StudyDescription": "y"}, OTHER_SERIES]
        assert the_draft(*files) == the_draft(*reversed(files))

    def test_of_nothing_there_are_none(self) -> None:
        assert drafts() == []


class TestComplete:
    def test_only_what_was_imported_is_in_it(self) -> None:
        done = complete(the_draft(A, B, OTHER_SERIES), sets("1.1.1.2", "9.9"), None)
        assert uids(done) == ["1.1.1.2"]
        assert done.series[0].image_set_ids == ("set-1",)
        assert done.series[0].instances[0].image_set_id == "set-1"
        assert (done.NumberOfStudyRelatedSeries, done.NumberOfStudyRelatedInstances) == (1, 1)
        assert done.ModalitiesInStudy == ("CT",)

    def test_an_instance_whose_image_set_is_unknown_is_in_it(self) -> None:
        done = complete(the_draft(A), {"1.1.1.1": None}, None)
        assert (uids(done), done.series[0].image_set_ids) == (["1.1.1.1"], ())

    def test_what_earlier_deliveries_brought_stays(self) -> None:
        first = complete(the_draft(A, OTHER_SERIES), sets("1.1.1.1", "1.1.2.1"), None)
        both = complete(the_draft(B), {"1.1.1.2": "set-2"}, first)
        assert uids(both) == ["1.1.1.1", "1.1.1.2", "1.1.2.1"]
        assert both.series[0].image_set_ids == ("set-1", "set-2")
        assert (both.NumberOfStudyRelatedSeries, both.NumberOfStudyRelatedInstances) == (2, 3)
        assert both.ModalitiesInStudy == ("CT", "SR")

    def test_what_an_earlier_delivery_said_stays_and_a_later_one_may_add(self) -> None:
        first = complete(the_draft(A | {"StudyDescription": "CT head"}), sets("1.1.1.1"), None)
        later = the_draft(B | {"StudyDescription": "other", "PatientName": "A^B", "StationName": "CT1"})
        both = complete(later, sets("1.1.1.2"), first)
        assert (both.StudyDescription, both.PatientName, both.series[0].StationName) == ("CT head", "A^B", "CT1")
        bare = complete(the_draft(B), sets("1.1.1.2"), first)
        assert bare.StudyDescription == "CT head"

    def test_auditing_an_older_delivery_again_changes_nothing(self) -> None:
        one = the_draft(A | {"StudyDescription": "one", "SeriesDescription": "one"})
        two = the_draft(B | {"StudyDescription": "two", "SeriesDescription": "two", "PatientSex": "F"})
        first = complete(one, sets("1.1.1.1"), None)
        both = complete(two, {"1.1.1.2": "set-2"}, first)
        assert complete(one, sets("1.1.1.1"), both).content_digest == both.content_digest
        assert complete(two, {"1.1.1.2": "set-2"}, both).content_digest == both.content_digest


class TestDigest:
    def test_the_revision_is_no_part_of_it(self) -> None:
        one = the_draft(A)
        assert one.model_copy(update={"revision": 7}).content_digest == one.content_digest

    @pytest.mark.parametrize(
        "change", [{"etag": "x"}, {"size": 7}, {"PatientName": "x"}, {"SeriesNumber": "9"}, {"key": "in/y"}]
    )
    def test_any_other_content_is_another(self, change: dict[str, Any]) -> None:
        assert the_draft(A | change).content_digest != the_draft(A).content_digest

    @given(st.permutations([A, B, OTHER_SERIES, dicom("e", SOPInstanceUID="1.1.1.3")]))
    def test_the_order_is_no_part_of_it(self, files: list[dict[str, Any]]) -> None:
        names = sets(*(each["SOPInstanceUID"] for each in files))
        bit_by_bit = None
        for each in files:
            bit_by_bit = complete(the_draft(each), names, bit_by_bit)
        at_once = complete(the_draft(*files), names, None)
        assert bit_by_bit is not None
        assert bit_by_bit.content_digest == at_once.content_digest


def test_the_bytes_of_a_draft_are_those_of_the_contracts_that_are_out() -> None:
    """Else every study's revision would rise by itself."""
    one = dicom(
        'b "é"', SOPInstanceUID="1.1.1.2", PatientName="Müller^É=山田\\x", StudyDescription="", InstanceNumber="2"
    )
    two = dicom(
        "a",
        SOPInstanceUID="1.1.2.1",
        SeriesInstanceUID="1.1.2",
        StudyDescription="Kopf",
        Modality=None,
        TransferSyntaxUID=None,
    )
    expected = "e257502d1a5beb73345d38230a3865f85986c187f3f6cc7ff04ee81ed1c5e9b3"
    assert bare(the_draft(one, two)).content_digest == bare(the_draft(two, one)).content_digest == expected


def bare(contract: StudyContract) -> StudyContract:
    """Return a contract as it was before it said anything of the kind of its series."""
    series = tuple(item.model_copy(update={"classification": None}) for item in contract.series)
    return contract.model_copy(update={"series": series})


SAYING = A | {
    "ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER",
    "ContrastBolusAgent": " Ultravist 370",
    "ImageLaterality": "L",
    "TimezoneOffsetFromUTC": "+0100",
    "ProcedureCodeSequence": "CTTHX\\99L\\CT Thorax",
}


class TestClassification:
    def test_a_series_says_what_its_headers_say_with_the_tags(self) -> None:
        one = the_draft(SAYING, B | {"ImageType": "DERIVED\\SECONDARY"})
        found = one.series[0].classification
        assert found is not None
        assert (found.kind.values, found.kind.tags) == (("derived", "localizer"), ("(0008,0008)",))
        assert (found.contrast.values, found.contrast.tags) == (("Ultravist 370",), ("(0018,0010)",))
        assert (found.laterality.values, found.laterality.tags) == (("L",), ("(0020,0062)",))
        assert found.sop_class_family.values == ("image",)
        assert one.TimezoneOffsetFromUTC == "+0100"
        assert [(code.code, code.scheme, code.meaning) for code in one.procedures] == [("CTTHX", "99L", "CT Thorax")]

    def test_what_no_header_has_is_left_out(self) -> None:
        content = json.loads(the_draft(A).to_json())
        assert content.keys().isdisjoint({"TimezoneOffsetFromUTC", "procedures", "labels"})
        assert "labels" not in content["series"][0]

    def test_deliveries_in_any_order_give_the_same_content(self) -> None:
        two = the_draft(B | {"ImageType": "DERIVED\\SECONDARY", "ProcedureCodeSequence": "X\\99L\\"})
        one = the_draft(SAYING)
        names = sets("1.1.1.1", "1.1.1.2")
        forth = complete(two, names, complete(one, names, None))
        back = complete(one, names, complete(two, names, None))
        assert forth.content_digest == back.content_digest
        assert len(forth.procedures) == 2

    def test_a_contract_of_an_earlier_version_keeps_its_digest_and_may_gain_facts(self) -> None:
        before = complete(bare(the_draft(A)), sets("1.1.1.1"), None)
        assert before.series[0].classification is None
        again = complete(bare(the_draft(A)), sets("1.1.1.1"), before)
        assert again.content_digest == before.content_digest
        read_again = complete(the_draft(SAYING), sets("1.1.1.1"), before)
        assert read_again.content_digest == before.content_digest, "it is not released again for what was not read"
        later = complete(the_draft(B), sets("1.1.1.2"), before)
        assert later.series[0].classification is not None

    def test_rules_label_the_whole_contract_and_without_rules_labels_stay(self) -> None:
        rules = pipeline(
            classify=[
                {
                    "label": "scout",
                    "of": "series",
                    "match": {"field": "series.classification.kind.values", "equals": "localizer"},
                },
                {"label": "ct", "match": {"field": "ModalitiesInStudy", "equals": "CT"}},
            ]
        ).classify
        text = contracts.complete(the_draft(SAYING).to_json(), sets("1.1.1.1"), None, rules=rules)
        labelled = StudyContract.model_validate_json(text)
        assert labelled.to_json() == text
        assert (labelled.labels, labelled.series[0].labels) == (("ct",), ("scout",))
        again = complete(the_draft(SAYING), sets("1.1.1.1"), labelled)
        assert again.content_digest == labelled.content_digest
        plain = complete(the_draft(SAYING), sets("1.1.1.1"), None).to_json()
        late = contracts.complete(the_draft(SAYING).to_json(), sets("1.1.1.1"), plain, rules=rules)
        assert late == plain, "another audit of an older delivery changes nothing"


class TestJson:
    def test_it_comes_back_as_it_was(self) -> None:
        done = complete(
            the_draft(A | {"PatientName": "Müller^É=山田\\x"}, OTHER_SERIES), sets("1.1.1.1", "1.1.2.1"), None
        )
        assert StudyContract.model_validate_json(done.to_json()) == done
        assert json.loads(done.to_json())["schema"] == "airlock.study/1"

    @given(texts=st.lists(st.text(), min_size=3, max_size=3), revision=st.integers(0, 10**6))
    def test_a_completed_contract_is_written_as_its_model_is(self, texts: list[str], revision: int) -> None:
        name, description, key = texts
        file = dicom(key, SOPInstanceUID="1.1.1.1", PatientName=name, SeriesDescription=description)
        done = complete(the_draft(file, B), sets("1.1.1.1"), None)
        numbered = with_revision(done.to_json(), revision)
        assert numbered == done.model_copy(update={"revision": revision}).to_json()
        assert complete(the_draft(file), sets("1.1.1.1"), done).to_json() == done.to_json()

    def test_an_error_names_the_field_and_no_value(self) -> None:
        content = json.loads(the_draft(A).to_json())
        for change in (
            {"PatientID": ["MUELLER"]},
            {"extra": "MUELLER"},
            {"revision": "MUELLER"},
            {"series": "MUELLER"},
        ):
            with pytest.raises(ValidationError, match=next(iter(change))) as info:
                StudyContract.model_validate_json(json.dumps(content | change))
            assert "MUELLER" not in str(info.value)

    def test_its_schema_is_the_one_in_the_docs(self) -> None:
        """docs/schemas.md has the command that writes it."""
        assert json.loads(PAGE.read_text()) == contracts.json_schema()
