"""The resources that C-CDA documents were converted to are compared like others, by the files of their own chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock_local.sample.ccda.documents import ccd
from tests.chain import Chain, ccda_pipeline, release
from tests.integration.between_runs.runs import given
from tests.integration.reconciling import Reconciler

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow


@pytest.fixture
def person(place: Place) -> Reconciler:
    """Compares a data store with the released resources of a document."""
    place.put({"1.xml": ccd(1)})
    chain = Chain(place, ccda_pipeline(), run_id="manual__1")
    chain.run()
    given(release(chain, "compared with the document")["dispositions"].keys() == {"released"})
    return Reconciler(place, ccda_pipeline())


def test_what_nobody_has_touched_differs_in_nothing(person: Reconciler) -> None:
    report = person.report(content=True)
    assert (report["findings"], report["left_out"]) == ({}, {})
    assert report["counts"]["resources"]


def test_every_seeded_difference_is_found_and_no_other(person: Reconciler) -> None:
    place, fhir = person.place, person.place.fhir()
    lost, changed = (next(iter(fhir.search(kind, {}))) for kind in ("Condition", "Patient"))
    fhir.delete("Condition", lost["id"])
    fhir.update({name: value for name, value in changed.items() if name != "meta"} | {"gender": "unknown"})
    fhir.update({"resourceType": "Patient", "id": "stranger"})
    report = person.report(content=True)
    assert person.open_findings() == {
        ("missing_in_store", f"Condition/{lost['id']}"),
        ("other_content", f"Patient/{changed['id']}"),
        ("foreign_in_store", "Patient/stranger"),
    }
    assert report["left_out"] == {}
    assert place.stored(f"Condition/{lost['id']}") is None


def test_an_output_of_the_import_that_is_gone_is_lacking_evidence(person: Reconciler) -> None:
    place = person.place
    for bucket, prefix in (("workspace", "runs/"), ("output", "")):
        for key in place.keys(bucket, prefix):
            if "/fhir/outputs/" in key or bucket == "output":
                place.s3().delete_object(Bucket=bucket, Key=key)
    assert set(person.report()["findings"]) == {"no_evidence"}
