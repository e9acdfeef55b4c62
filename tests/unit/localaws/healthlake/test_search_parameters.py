"""The shipped search parameters: R4's own, for every resource type."""

from __future__ import annotations

import gzip
import json

from localaws.healthlake.search_parameters import REDUCED, ElementPath, Step, resource_types


def test_the_file_says_where_it_comes_from() -> None:
    source = json.loads(gzip.decompress(REDUCED.read_bytes()))["source"]
    assert source["fhirVersion"] == "4.0.1"
    assert "CC0" in source["licence"]


def test_every_type_has_the_parameters_of_all_types() -> None:
    assert {
        "Patient",
        "ImagingStudy",
        "Endpoint",
        "Practitioner",
        "Encounter",
        "Observation",
    } <= resource_types().keys()
    for known in resource_types().values():
        assert {"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source"} <= known.parameters.keys()


def test_a_parameter_without_paths_is_a_composite_one() -> None:
    parameters = [item for known in resource_types().values() for item in known.parameters.values()]
    assert {item.kind for item in parameters if not item.paths} == {"composite"}


def test_parameters_that_healthlake_lacks_are_left_out() -> None:
    assert "near" not in resource_types()["Location"].parameters
    assert "composition" not in resource_types()["Bundle"].parameters


def test_elements_of_a_choice_and_mandatory_ones_are_known() -> None:
    observation = resource_types()["Observation"]
    assert observation.choices["effectiveDateTime"] == "effective"
    assert observation.required == {"status", "code"}


def test_a_path_with_a_filter_and_a_target_is_read() -> None:
    path = ElementPath.read("telecom[system=email].x:Reference(Patient)")
    assert path == ElementPath((Step("telecom", "system", "email"), Step("x")), "Reference", "Patient")
