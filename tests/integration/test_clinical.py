"""FHIR deliveries through the whole chain: NDJSON, gzip and Bundles, good and bad, into the store and downstream."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError

from tests.chain import HEALTHLAKE, Chain, clinical_pipeline
from tests.clinical_files import delivery, ndjson, observation, organization, packed, patient, transaction

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow


def test_lines_gzip_and_bundles_are_released_stored_and_routed_by_patient(place: Place) -> None:
    bundle = transaction(patient("p3"), observation("o3", "p3"))
    place.put(
        delivery(patients=2, observations=1) | {"visit.json": bundle, "Organization.ndjson": ndjson(organization())}
    )
    chain = Chain(place, clinical_pipeline())
    report = chain.run()
    assert report["balanced"]
    assert report["dispositions"] == {"released": 7}
    assert report["patients"] == {"released": 3, "held": 0}
    assert chain.lines == []
    assert len(place.jobs()) == 1

    names = [{resource["reference"] for resource in contract["resources"]} for contract in place.contracts()]
    assert sorted(names, key=min) == [
        {"Observation/o1-1", "Patient/p1"},
        {"Observation/o2-1", "Patient/p2"},
        {"Observation/o3", "Patient/p3"},
        {"Organization/clinic"},
    ]
    for name in place.routed():
        assert place.version(name) == 1, name


def test_every_bad_thing_costs_itself_alone(place: Place) -> None:
    files = {
        "lines.ndjson": ndjson(patient("p1"), "", "not json", '{"resourceType":"Patient"', observation("o1"), "[]"),
        "twice.ndjson": ndjson(observation("o2"), observation("o2", status="amended")),
        "same.ndjson": ndjson(observation("o3"), observation("o3")),
        "mixed.ndjson": ndjson(observation("o4"), '{"resourceType":"Bundle","type":"batch","entry":[]}'),
        "r5.ndjson": ndjson(observation("o5", triggeredBy=[{"type": "reflex"}])),
        "nowhere.ndjson": ndjson(observation("o6", of="nobody"), observation("o7")),
        "cut.ndjson.gz": packed(observation("o8"))[:-12],
        "empty.ndjson": b"",
        "image.dcm": bytes(128) + b"DICM",
        "_SUCCESS": b"",
    }
    place.put(files)
    chain = Chain(place, clinical_pipeline())
    report = chain.run()
    assert report["balanced"]
    assert place.routed() == {"Patient/p1", *(f"Observation/o{number}" for number in (1, 3, 4, 7))}
    assert sum(report["dispositions"].values()) == 5 + len(chain.lines)
    assert chain.words == {
        "lines.ndjson:3": ("quarantined", "not_json"),
        "lines.ndjson:4": ("quarantined", "not_json"),
        "lines.ndjson:6": ("quarantined", "not_json"),
        "Observation/o2": ("quarantined", "duplicate_other_content"),
        "same.ndjson:2": ("duplicate", "duplicate_same_content"),
        "mixed.ndjson:2": ("quarantined", "mixed_file"),
        "Observation/o5": ("quarantined", "fhir_version"),
        "Observation/o6": ("parked", "waiting_for_resource"),
        "cut.ndjson.gz": ("quarantined", "truncated"),
        "empty.ndjson": ("quarantined", "empty_object"),
        "image.dcm": ("quarantined", "not_fhir"),
        "_SUCCESS": ("ignored", "sidecar"),
    }


def test_what_could_mislead_downstream_is_stopped_and_every_digit_is_stored(place: Place) -> None:
    exact = {"value": 0.5, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"}
    digits = ("100000000000000000000.5", "1.10", "1e2")
    weights = [
        json.dumps(observation(f"o{number}", valueQuantity=exact)).replace("0.5", text)
        for number, text in enumerate(digits)
    ]
    conditional = json.loads(transaction(patient("p2"), patient("p3")))
    conditional["entry"][0]["request"] = {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=s|1"}
    place.put(
        {
            "good.ndjson": ndjson(patient("p1"), *weights),
            "bomb.ndjson.gz": packed(*(patient(f"b{number}") for number in range(20))),
            "conditional.json": json.dumps(conditional).encode(),
            "control.ndjson": ndjson(patient("p4", name=[{"family": "a\x01b"}])),
        }
    )
    chain = Chain(place, clinical_pipeline(parse={"max_units": 10}))
    report = chain.run()
    assert report["balanced"]
    assert chain.words == {
        "bomb.ndjson.gz": ("quarantined", "file_too_large"),
        "conditional.json:1": ("quarantined", "unsupported_entry"),
        "Patient/p4": ("quarantined", "control_character"),
    }
    assert place.routed() == {"Patient/p1", "Patient/p3", "Observation/o0", "Observation/o1", "Observation/o2"}


def test_empty_delivery_ends_well_and_starts_nothing(place: Place) -> None:
    report = Chain(place, clinical_pipeline()).run()
    assert (report["arrivals"], report["balanced"], report["jobs"]) == (0, True, [])
    assert place.jobs() == []


def test_delivery_in_many_jobs_is_one_contract_per_patient(place: Place) -> None:
    place.put(delivery(patients=2, observations=2))
    chain = Chain(place, clinical_pipeline(healthlake=HEALTHLAKE | {"files_per_job": 1}))
    report = chain.run()
    assert report["dispositions"] == {"released": 6}
    assert [job["resources"] for job in report["jobs"]] == [4, 2]
    assert [len(contract["resources"]) for contract in place.contracts()] == [3, 3]


class TestPreconditions:
    """What is wrong with the data store or the pipeline is one sentence, before anything is done."""

    @staticmethod
    def refused(place: Place, why: str, **changes: Any) -> None:
        chain = Chain(place, clinical_pipeline(healthlake=HEALTHLAKE | changes))
        with pytest.raises(AirflowFailException, match=why):
            chain.stage("receive")
        assert place.jobs() == []

    def test_data_store_that_is_not_there(self, place: Place) -> None:
        self.refused(place, "data store 0{32} does not exist. Correct healthlake.datastore_id", datastore_id="0" * 32)

    def test_data_store_that_is_not_active(self, place: Place) -> None:
        place.healthlake().delete_fhir_datastore(DatastoreId=HEALTHLAKE["datastore_id"])
        self.refused(place, "is DELET(ING|ED). Correct healthlake.datastore_id of the pipeline 'records'")

    def test_output_without_a_key(self) -> None:
        with pytest.raises(ValidationError, match="kms_key_id"):
            clinical_pipeline(healthlake={name: value for name, value in HEALTHLAKE.items() if name != "kms_key_id"})

    def test_role_that_cannot_be_assumed(self, place: Place) -> None:
        place.put(delivery(patients=1, observations=1))
        place.faults({"kind": "role_not_assumable"})
        chain = Chain(place, clinical_pipeline(), tries=1)
        chain.until("normalize")
        (operator,) = chain._operators("import")
        operator.role_timeout = 0  # a role may be new; here it is wrong
        with pytest.raises(AirflowFailException, match=r"^StartFHIRImportJob was rejected: .* cannot assume"):
            chain.task(operator, 0)
        assert place.jobs() == []
