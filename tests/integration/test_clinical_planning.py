"""Plans of clinical and C-CDA pipelines through their own operators: what they say is what the run in earnest does."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airlock.stages.plan import read_plan
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.ccda.documents import ccd, entity_bomb
from tests.chain import HEALTHLAKE, Chain, ccda_pipeline, clinical_pipeline
from tests.clinical_files import delivery, ndjson, observation, organization, packed, patient, transaction

if TYPE_CHECKING:
    from airlock.pipelines import Pipeline
    from airlock.stages.plan import Plan
    from tests.chain import Place

pytestmark = pytest.mark.slow

WORDS = {"quarantine": "quarantined", "duplicate": "duplicate", "ignore": "ignored", "park": "parked"}
ASKING = {"validation": {"service_check": "all"}}
BAD = {
    "lines.ndjson": ndjson(patient("p9"), "not json", observation("o9", of="p9"), observation("o10", of="nobody")),
    "twice.ndjson": ndjson(observation("o2", of="p9"), observation("o2", of="p9", status="amended")),
    "same.ndjson": ndjson(observation("o3", of="p9"), observation("o3", of="p9")),
    "r5.ndjson": ndjson(observation("o5", of="p9", triggeredBy=[{"type": "reflex"}])),
    "cut.ndjson.gz": packed(observation("o8", of="p9"))[:-12],
    "empty.ndjson": b"",
    "image.dcm": bytes(128) + b"DICM",
    "_SUCCESS": b"",
}
GOOD = delivery(patients=2, observations=3) | {
    "visit.json": transaction(patient("p3"), observation("o33", "p3")),
    "Organization.ndjson": ndjson(organization()),
}


def planned(place: Place, pipeline: Pipeline) -> tuple[Plan, Chain]:
    """Take a run through as a plan, as far as Airflow would; it leaves no trace but itself."""
    chain = Chain(place, pipeline, params={"plan_only": True})  # a person signs for what converts documents
    before = ledger(place), place.keys("staging"), place.keys("output"), place.jobs()
    chain.until("normalize")
    assert list(chain._operators("import")) == []
    with pytest.raises(AirflowSkipException):
        chain.task(chain.dag.get_task("audit").prepare_for_execution(), 0)
    assert (ledger(place), place.keys("staging"), place.keys("output"), place.jobs()) == before
    return read_plan(place._wrapped, pipeline, chain.run_id), chain


def ledger(place: Place) -> bytes:
    return Path(place.ledger_url.removeprefix("sqlite:///")).read_bytes()


def set_aside(plan: Plan) -> dict[tuple[str, str | None], int]:
    counted = [(item, item.arrivals if item.units is None else item.units) for item in plan.findings]
    return {(WORDS[item.verdict], item.reason): number for item, number in counted if item.verdict in WORDS}


def requests(plan: Plan) -> dict[str, int]:
    return {item.what: item.number for item in plan.cost.requests}


class TestClinical:
    def test_what_a_plan_says_is_what_the_run_does_and_the_run_finds_everything(self, place: Place) -> None:
        place.put(GOOD | BAD)
        pipeline = clinical_pipeline(healthlake=HEALTHLAKE | {"files_per_job": 2, "bytes_per_file": 1_000})
        plan, _ = planned(place, pipeline)

        # In earnest under the same run id, as Airflow's backfill repeats an interval.
        real = Chain(place, pipeline)
        report = real.run()
        assert (plan.arrivals, plan.bytes) == (report["arrivals"], report["bytes"])
        assert {item.verdict.value: item.units for item in plan.findings if item.reason is None} == {
            "accept": report["verdicts"]["accept"]
        }
        done = Counter((row["disposition"], row["reason"]) for row in real.lines)
        assert set_aside(plan) == done

        assert plan.resources is not None
        assert plan.resources.total == report["dispositions"]["released"]
        assert plan.resources.patients == report["patients"]["released"]
        assert plan.resources.validation_level == report["validation_level"]
        released = [name for contract in place.contracts() for name in contract["resources"]]
        assert plan.resources.by_type == Counter(item["reference"].partition("/")[0] for item in released)

        staged = place.keys("staging")
        assert plan.batches.jobs == len(place.jobs()) == len(report["jobs"]) > 1
        assert plan.batches.files == len(staged) > plan.batches.jobs
        assert requests(plan)["HealthLake StartFHIRImportJob"] == place.calls("StartFHIRImportJob")

    def test_the_bytes_are_those_that_are_staged_where_no_reference_is_rewritten(self, place: Place) -> None:
        place.put(delivery(patients=2, observations=3))
        plan, chain = planned(place, clinical_pipeline())
        Chain(place, chain.pipeline).until("normalize")
        sizes = [item.size for item in place._wrapped.list_objects(S3Uri("staging"))]
        assert (plan.batches.bytes, plan.batches.files) == (sum(sizes), len(sizes))

    def test_references_are_looked_up_and_validate_is_not_asked(self, place: Place) -> None:
        place.put({"a.ndjson": ndjson(patient("p1"), observation("o1"), observation("o2", of="nobody"))})
        plan, _ = planned(place, clinical_pipeline(**ASKING))
        assert requests(plan)["HealthLake reads, by validate"] == 1
        assert requests(plan)["HealthLake $validate, by validate"] == 3
        assert any("The plan did not ask" in text for text in plan.assumptions)

    def test_what_was_brought_is_no_work_any_more_not_even_under_the_same_run_id(self, place: Place) -> None:
        place.put({"a.ndjson": ndjson(patient("p1"), observation("o1"))})
        Chain(place, clinical_pipeline()).run()
        place.put({"b.ndjson": ndjson(patient("p1"), observation("o2"))})
        plan, _ = planned(place, clinical_pipeline())
        assert (plan.settled, plan.arrivals) == (1, 1)
        assert set_aside(plan) == {("duplicate", "duplicate_same_content"): 1}
        assert plan.resources is not None
        assert (plan.resources.total, plan.batches.jobs) == (1, 1)


class TestCcda:
    def test_what_a_plan_says_is_what_the_run_does_and_the_run_finds_everything(self, place: Place) -> None:
        files = {f"{number}.xml": ccd(number) for number in (1, 2, 3)}
        bad = {"cut.xml": ccd(4)[:-200], "again.xml": ccd(1), "bomb.xml": entity_bomb(), "readme.txt": b"exported"}
        place.put(files | bad)
        section: dict[str, Any] = ccda_pipeline().transformation.model_dump() | {"documents_per_job": 2}
        plan, chain = planned(place, ccda_pipeline(transformation=section))
        real = Chain(place, chain.pipeline)
        real.until("fhir.audit")
        report = real.report
        assert (plan.arrivals, plan.bytes) == (report["arrivals"], report["bytes"])
        done = Counter((row["disposition"], row["reason"]) for row in real.lines if row["disposition"] != "held")
        assert set_aside(plan) == done
        assert plan.resources is None
        assert plan.batches.files == sum(key.endswith(".xml") for key in place.keys("staging"))
        assert plan.batches.jobs == place.calls("StartDataTransformationJob") == 2

    def test_what_follows_the_conversion_has_no_part(self, place: Place) -> None:
        place.put({"1.xml": ccd(1)})
        _, chain = planned(place, ccda_pipeline())
        for name in ("fhir.validate", "fhir.audit", "route"):
            with pytest.raises(AirflowSkipException):
                chain.task(chain.dag.get_task(name).prepare_for_execution(), 0)


@pytest.mark.parametrize(
    ("pipeline", "files"),
    [
        (clinical_pipeline(), {"CANARY-ID.ndjson": ndjson(patient("CANARY-ID"), observation("CANARY-1", "CANARY-2"))}),
        (ccda_pipeline(), {"CANARY-ID.xml": ccd(1), "CANARY-cut.xml": ccd(2)[:-100]}),
    ],
    ids=["clinical", "ccda"],
)
def test_nothing_of_a_patient_is_in_xcom_the_plan_or_the_log(
    place: Place,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    pipeline: Pipeline,
    files: dict[str, bytes],
) -> None:
    place.put(files)
    plan, chain = planned(place, pipeline)
    said = caplog.text + "".join(capfd.readouterr())
    assert "nothing was claimed, staged or imported" in said
    assert "canary" not in (said + plan.to_json() + str(dict(chain.xcom))).lower()
