"""The clinical contract: cumulative, and revised only when its content changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from airlock.clinical.contracts import ClinicalContract, complete, draft, json_schema
from airlock.clinical.gate import subject
from airlock.pipelines import ValidationLevel
from airlock.records import subject_key
from tests.unit.airlock.clinical.books import STORE, unit

STRICT = ValidationLevel.STRICT


def drafts(
    *units: dict[str, Any], name: str = "records", level: ValidationLevel = STRICT
) -> dict[str, ClinicalContract]:
    rows = pl.DataFrame([each | {"bucket": "archive", "key": f"in/{each['arrival_id']}"} for each in units])
    return dict(draft(rows.with_columns(subject=subject()), name, STORE, level))


def references(contract: ClinicalContract) -> list[str]:
    return [one.reference for one in contract.resources]


P1, O2, O3 = unit("Patient/p1"), unit("Observation/o2"), unit("Observation/o3")


class TestDraft:
    def test_a_patients_resources_are_in_one_contract_in_order(self) -> None:
        found = drafts(P1, O3, O2, unit("Patient/p4", of="Patient/p4"))
        assert list(found) == ["Patient/p1", "Patient/p4"]
        contract = found["Patient/p1"]
        assert references(contract) == ["Observation/o2", "Observation/o3", "Patient/p1"]
        assert contract.subject_key == subject_key(STORE, "Patient/p1")
        assert (contract.subject.kind, contract.subject.reference) == ("patient", "Patient/p1")
        assert contract.resources[0].model_dump() == {
            "reference": "Observation/o2",
            "content_digest": "digest of Observation/o2",
            "source": "s3://archive/in/a",
            "line": 2,
        }

    def test_what_belongs_to_no_patient_is_in_the_contract_of_its_file(self) -> None:
        found = drafts(unit("Organization/g1", of=None), unit("Organization/g2", of=None, file="b"))
        assert list(found) == ["file/a", "file/b"]
        assert (found["file/a"].subject.kind, found["file/a"].subject.reference) == ("file", None)

    def test_the_order_of_the_rows_does_not_matter(self) -> None:
        assert drafts(P1, O2, O3) == drafts(O3, P1, O2)


class TestComplete:
    def first(self, *units: dict[str, Any]) -> ClinicalContract:
        return complete(drafts(*units)["Patient/p1"], None)

    def test_the_first_revision_is_one(self) -> None:
        assert self.first(P1).revision == 1

    def test_a_later_delivery_adds_to_it(self) -> None:
        second = complete(drafts(O2)["Patient/p1"], self.first(P1))
        assert (second.revision, references(second)) == (2, ["Observation/o2", "Patient/p1"])

    def test_new_content_takes_the_place_of_the_old(self) -> None:
        second = complete(drafts(P1 | {"content_digest": "new", "arrival_id": "b"})["Patient/p1"], self.first(P1))
        (only,) = second.resources
        assert (second.revision, only.content_digest, only.source) == (2, "new", "s3://archive/in/b")

    def test_the_same_content_changes_nothing_whoever_brings_it(self) -> None:
        first = self.first(P1, O2)
        again = drafts(O2 | {"arrival_id": "b"}, name="other", level=ValidationLevel.MINIMAL)["Patient/p1"]
        assert complete(again, first) == first

    def test_the_first_pipeline_and_the_latest_level_stay(self) -> None:
        later = drafts(O2, name="other", level=ValidationLevel.STRUCTURE_ONLY)["Patient/p1"]
        second = complete(later, self.first(P1))
        assert (second.pipeline, second.validation_level) == ("records", "structure-only")


class TestRecord:
    def test_it_survives_its_json(self) -> None:
        contract = drafts(P1, O2)["Patient/p1"]
        assert ClinicalContract.model_validate_json(contract.to_json()) == contract
        assert '"schema": "airlock.clinical/1"' in contract.to_json()

    def test_its_digest_is_that_of_the_content(self) -> None:
        contract = drafts(P1)["Patient/p1"]
        assert contract.model_copy(update={"revision": 7}).content_digest == contract.content_digest
        assert drafts(P1 | {"content_digest": "new"})["Patient/p1"].content_digest != contract.content_digest

    def test_an_error_quotes_no_value(self) -> None:
        text = drafts(P1)["Patient/p1"].to_json().replace('"revision": 0', '"revision": "Doe"')
        with pytest.raises(ValidationError) as caught:
            ClinicalContract.model_validate_json(text)
        assert "Doe" not in str(caught.value)

    def test_the_schema_names_every_field(self) -> None:
        properties = json_schema()["properties"]
        assert set(properties) == {
            *("schema", "subject_key", "revision", "pipeline", "datastore_id", "subject"),
            *("validation_level", "resources", "completeness", "override", "study_keys"),
        }


def test_the_schema_is_the_one_in_the_docs() -> None:
    """docs/schemas.md has the command that writes it."""
    page = Path(__file__).parents[4] / "docs" / "clinical-contract.schema.json"
    assert json.loads(page.read_text(encoding="utf-8")) == json_schema()
