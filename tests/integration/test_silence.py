"""Whole runs against an emulator that answers otherwise where AWS is silent: what is released is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.chain import Chain, clinical_pipeline, pipeline
from tests.dicom_files import ct
from tests.unit.airlock.clinical.books import ndjson, observation, patient

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow
LINES = [{"fhir_result_line": "line_id", "fhir_line_id": "from_0"}, {"fhir_result_line": "status"}]


@pytest.mark.parametrize("place", [{"choices": lines} for lines in LINES], indirect=True, ids=["line_id", "status"])
def test_resources_are_released_in_whatever_shape_their_lines_are(place: Place) -> None:
    place.put({"a.ndjson": ndjson([patient("p1"), observation("o1", "p1"), patient("p2"), observation("o2", "p2")])})
    report = Chain(place, clinical_pipeline()).run()
    assert report["dispositions"] == {"released": 4}
    assert place.routed() == {"Patient/p1", "Observation/o1", "Patient/p2", "Observation/o2"}


@pytest.mark.parametrize("place", [{"choices": {"dicom_input_file": "percent_encoded"}}], indirect=True)
def test_studies_are_released_though_their_keys_are_percent_encoded(place: Place) -> None:
    names = ("a b+c.dcm", "a%20b+c.dcm")
    place.put({f"study %C3/{name}": ct(1, 1, number) for number, name in enumerate(names, 1)})
    in_place = {"uri": "s3://staging/batches/", "mode": "in_place"}
    report: dict[str, Any] = Chain(place, pipeline(staging=in_place)).run()
    assert report["studies"] == {"released": 1, "held": 0, "stopped": 0}
