"""A study with its series and instances, after R4's mapping from DICOM."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom.sr.codedict import codes

from airlock.imaging.fhir.identifiers import endpoint_id, patient_id, service_request_id
from airlock.imaging.fhir.imaging_study import NOT_ACQUIRED, build_imaging_study, count_bytes
from tests.unit.airlock.imaging.fhir.studies import CT_STORAGE, instance, publishing, series, study


def built(*parts: Any, **changes: Any) -> dict[str, Any]:
    return build_imaging_study(study(*parts, **changes), publishing())


def the_series(**changes: Any) -> dict[str, Any]:
    (only,) = built(series(**changes))["series"]
    assert isinstance(only, dict)
    return only


class TestStudy:
    def test_it_is_what_the_header_says(self) -> None:
        found = built()
        assert found["status"] == "available"
        assert [one["value"] for one in found["identifier"]] == ["urn:oid:1.2.1", "A1", "S1"]
        assert found["subject"] == {"reference": f"Patient/{patient_id(study(), publishing())}"}
        assert found["endpoint"] == [{"reference": f"Endpoint/{endpoint_id(study())}"}]
        assert found["started"] == "2024-01-31"
        assert found["description"] == "Thorax"
        assert found["referrer"] == {"display": "Dr Gregory House"}
        assert "note" not in found

    def test_it_counts_what_the_contract_holds(self) -> None:
        found = built(series("1.2.1.1", 3), series("1.2.1.2", 2))
        assert (found["numberOfSeries"], found["numberOfInstances"]) == (2, 5)
        assert [one["numberOfInstances"] for one in found["series"]] == [3, 2]

    def test_a_zone_gives_it_a_time(self) -> None:
        found = build_imaging_study(study(), publishing(timezone="Asia/Tokyo"))
        assert found["started"] == "2024-01-31T10:11:12+09:00"

    def test_what_is_not_known_is_left_out(self) -> None:
        names = ("StudyDate", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName")
        found = built(**dict.fromkeys(names))
        assert not {"started", "description", "referrer", "basedOn"} & set(found)
        assert len(found["identifier"]) == 1

    def test_it_is_based_on_an_order_where_those_are_published(self) -> None:
        wanted = publishing(service_requests=True)
        order = service_request_id(study(), wanted)
        assert build_imaging_study(study(), wanted)["basedOn"] == [{"reference": f"ServiceRequest/{order}"}]
        assert "basedOn" not in build_imaging_study(study(AccessionNumber=None), wanted)
        assert "basedOn" not in built()


class TestModality:
    def test_the_study_has_those_that_acquire_images_once_each(self) -> None:
        parts = [
            series(f"1.2.1.{n}", Modality=name) for n, name in enumerate(("MR", "CT", "MR", "SR", "PR", None, "ct"))
        ]
        assert [one["code"] for one in built(*parts)["modality"]] == ["CT", "MR"]

    def test_a_study_of_reports_has_none(self) -> None:
        assert "modality" not in built(series(Modality="SR"))

    def test_the_others_are_those_of_dicom(self) -> None:
        """pydicom carries PS3.16's context groups of an older edition: later ones only add."""
        acquire = {concept.value for concept in codes.CID29.concepts.values()}
        all_of_them = {concept.value for concept in codes.CID33.concepts.values()}
        assert all_of_them - acquire <= NOT_ACQUIRED
        assert not acquire & NOT_ACQUIRED

    def test_a_series_has_its_code(self) -> None:
        assert the_series()["modality"] == {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "CT"}

    def test_what_is_no_code_is_shown_and_what_is_not_there_is_said_to_be_unknown(self) -> None:
        assert the_series(Modality="ct\\mr")["modality"] == {"display": "ct\\mr"}
        for absent in (None, "", " "):
            (extension,) = the_series(Modality=absent)["modality"]["extension"]
            assert extension["valueCode"] == "unknown"


class TestSeries:
    def test_it_is_what_the_header_says(self) -> None:
        found = the_series(SeriesDescription="Axial", BodyPartExamined="CHEST")
        assert (found["uid"], found["number"], found["description"]) == ("1.2.1.1", 2, "Axial")
        assert found["bodySite"] == {"display": "CHEST"}
        assert found["endpoint"] == [{"reference": f"Endpoint/{endpoint_id(study(), 'a' * 32)}"}]

    @pytest.mark.parametrize("number", ["-1", "99999999999", "", None, "x"])
    def test_a_number_that_is_none_is_left_out(self, number: str | None) -> None:
        assert "number" not in the_series(SeriesNumber=number)

    def test_an_instance_is_its_uid_its_class_and_its_number(self) -> None:
        assert the_series()["instance"] == [
            {
                "uid": "1.2.1.1.1",
                "sopClass": {"system": "urn:ietf:rfc:3986", "code": f"urn:oid:{CT_STORAGE}"},
                "number": 1,
            }
        ]

    def test_a_class_that_is_no_oid_is_shown_as_it_is(self) -> None:
        (one,) = the_series(instances=(instance("1.5", SOPClassUID="1.2.03"),))["instance"]
        assert one["sopClass"] == {"display": "1.2.03"}

    def test_a_uid_that_fhir_cannot_hold_is_counted_and_not_listed(self) -> None:
        found = built(series("1.2_1", 2), series("1.2.1.2", instances=(instance("1.5"), instance("1." * 40))))
        assert (found["numberOfSeries"], found["numberOfInstances"]) == (2, 4)
        (only,) = found["series"]
        assert (only["numberOfInstances"], len(only["instance"])) == (2, 1)
        assert "note" in found
        assert found["note"][0]["text"].startswith("4 series or instances are not listed")


class TestSize:
    PARTS = (series("1.2.1.1", 30), series("1.2.1.2", 200), series("1.2.1.3", 100))

    def limited(self, limit: int) -> dict[str, Any]:
        return build_imaging_study(study(*self.PARTS), publishing(max_resource_bytes=limit))

    def listed(self, limit: int) -> list[int]:
        return [len(item.get("instance", ())) for item in self.limited(limit)["series"]]

    def test_the_largest_series_keep_their_counts_and_list_no_instances(self) -> None:
        whole = count_bytes(built(*self.PARTS))
        assert self.listed(whole + 1000) == [30, 200, 100]
        assert self.listed(whole - 1000) == [30, 0, 100]
        assert self.listed(whole // 3) == [30, 0, 0]
        assert [item["numberOfInstances"] for item in self.limited(whole // 3)["series"]] == [30, 200, 100]

    @pytest.mark.parametrize("limit", [4_000, 20_000, 40_000, 60_000])
    def test_it_fits_then_and_says_so(self, limit: int) -> None:
        found = self.limited(limit)
        assert count_bytes(found) <= limit
        assert ("note" in found) == (self.listed(limit) != [30, 200, 100])

    def test_there_is_room_for_saying_so(self) -> None:
        without_largest = count_bytes(
            built(self.PARTS[0], self.PARTS[1].model_copy(update={"instances": ()}), self.PARTS[2])
        )
        for spare in (10, 100, 200):
            assert count_bytes(self.limited(without_largest + spare)) <= without_largest + spare

    def test_it_says_how_many(self) -> None:
        (note,) = self.limited(10_000)["note"]
        assert note["text"].startswith("2 series list no instances: the resource would be larger than 10000 bytes")

    def test_of_equal_ones_the_first_gives_way(self) -> None:
        equal = study(series("1.2.1.1", 100), series("1.2.1.2", 100))
        whole = count_bytes(build_imaging_study(equal, publishing()))
        found = build_imaging_study(equal, publishing(max_resource_bytes=whole - 1))
        assert ["instance" in item for item in found["series"]] == [False, True]
