"""A data store that others have filled: no run imports into it before a person has adopted it, and then with care."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
import pytest
import yaml
from airflow.sdk.exceptions import AirflowFailException
from botocore.config import Config
from typer.testing import CliRunner

from airlock_cli.app import app
from tests.chain import DATASTORE, RECORDS, ROLE, adopt_images, clinical_pipeline, pipeline
from tests.clinical_files import ndjson
from tests.dicom_files import ct
from tests.integration.between_runs.runs import by_hand
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.pipelines import Pipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow


def store_by_others(place: Place, *bodies: bytes) -> None:
    """Import files that the ledger knows nothing of."""
    for number, body in enumerate(bodies):
        place.s3().put_object(Bucket="staging", Key=f"others/{number}.dcm", Body=body)
    config = Config(inject_host_prefix=False)
    client = boto3.client(
        "medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config
    )
    to = {"inputS3Uri": "s3://staging/others/", "outputS3Uri": "s3://output/others/", "dataAccessRoleArn": ROLE}
    job = client.start_dicom_import_job(datastoreId=DATASTORE, jobName="others", **to)["jobId"]

    def is_through() -> bool:
        found = client.get_dicom_import_job(datastoreId=DATASTORE, jobId=job)["jobProperties"]
        return bool(found["jobStatus"] == "COMPLETED")

    until("the import by others is COMPLETED", is_through, 20)


@pytest.fixture
def command(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls ``airlock ledger adopt`` for a data store, against the emulator."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    for line in (pipeline(), clinical_pipeline()):
        (folder / f"{line.name}.yaml").write_text(yaml.safe_dump(_content(line)))
    for name, value in {
        "AIRLOCK_LEDGER_URL": place.ledger_url,
        "AIRLOCK_PIPELINES": str(folder),
        "AWS_ENDPOINT_URL": place.s3_endpoint,
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": place.imaging_endpoint,
        "AWS_ENDPOINT_URL_HEALTHLAKE": place.imaging_endpoint,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
    }.items():
        monkeypatch.setenv(name, value)

    def call(datastore: str, *options: str) -> Any:
        return CliRunner().invoke(app, ["ledger", "adopt", "--datastore", datastore, *options])

    return call


def _content(line: Pipeline) -> dict[str, Any]:
    content: dict[str, Any] = line.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return content | {"schema": "airlock.pipeline/1", "kind": line.kind}


def test_image_sets_of_others_are_adopted_and_the_stopped_run_goes_on(place: Place, command: Any) -> None:
    store_by_others(place, ct(1, 1, 1), ct(2, 1, 1))
    place.put({"001.dcm": ct(3, 1, 1)})
    chain = by_hand(place, "one")
    with pytest.raises(AirflowFailException, match="but a search finds image sets in it"):
        chain.stage("receive")
    with place.ledger() as ledger:
        assert ledger.pipelines() == set()  # nothing is claimed: a rebuild is still possible

    looked = command(DATASTORE, "--dry-run")
    assert looked.exit_code == 0
    assert "A search for image sets finds 2." in looked.output
    with pytest.raises(AirflowFailException):
        chain.stage("receive")

    assert command(DATASTORE).exit_code == 2  # no reason
    done = command(DATASTORE, "--why", "the old PACS filled it", "--json")
    assert done.exit_code == 0
    assert '"foreign": 2' in done.output
    assert place.keys("workspace", "runs/nightly/decisions/")  # a rebuild repeats the adoption
    assert chain.run()["dispositions"] == {"released": 1}
    assert command(DATASTORE, "--why", "again").exit_code == 2


def test_resources_of_others_are_adopted(place: Place, command: Any) -> None:
    for number in range(3):
        place.fhir().update({"resourceType": "Patient", "id": f"p{number}"})
    place.fhir().update({"resourceType": "Medication", "id": "m"})
    chain = by_hand(place, "one", line=clinical_pipeline())
    place.put({"patients.ndjson": ndjson({"resourceType": "Patient", "id": "q1"})})
    with pytest.raises(AirflowFailException, match="but a search finds resources of type Patient in it"):
        chain.stage("receive")
    done = command(RECORDS, "--why", "the old system filled it", "--json")
    assert done.exit_code == 0, done.output
    assert "(Medication 1, Patient 3) finds 4" in done.output
    assert '"foreign": 4' in done.output
    assert chain.run()["balanced"]


def test_a_data_store_that_no_pipeline_names_is_not_adopted(command: Any) -> None:
    refused = command("e" * 32, "--why", "w")
    assert refused.exit_code == 2
    assert "No valid pipeline file names the data store" in " ".join(refused.output.split())


def test_an_empty_data_store_needs_no_adoption(command: Any) -> None:
    done = command(DATASTORE, "--why", "w")
    assert done.exit_code == 0
    assert "Nothing is to be adopted" in " ".join(done.output.split())  # wherever its lines end


class TestANewFile:
    """Others have stored one slice of series 1 of study 1."""

    @pytest.fixture(autouse=True)
    def stored(self, place: Place) -> None:
        store_by_others(place, ct(1, 1, 1))
        adopt_images(place)

    def run(self, place: Place, body: bytes) -> Any:
        place.put({"001.dcm": body})
        chain = by_hand(place, "one")
        chain.run()
        return chain

    def test_of_another_study_is_released_as_ever(self, place: Place) -> None:
        assert self.run(place, ct(2, 1, 1)).report["dispositions"] == {"released": 1}
        (contract,) = place.contracts()
        assert contract["completeness"]["state"] == "unknown"
        assert "foreign_image_sets" not in contract["completeness"]

    @pytest.mark.parametrize("slice_", [1, 2])
    def test_of_their_series_waits_for_a_person(self, place: Place, slice_: int) -> None:
        chain = self.run(place, ct(1, 1, slice_))
        assert (chain.rows["001.dcm"]["disposition"], chain.rows["001.dcm"]["reason"]) == ("held", "version_above_one")
        assert place.contracts() == []

    def test_that_contradicts_their_study_waits_for_a_person(self, place: Place) -> None:
        chain = self.run(place, ct(1, 1, 2, PatientID="another"))
        assert (chain.rows["001.dcm"]["disposition"], chain.rows["001.dcm"]["reason"]) == ("held", "non_primary")

    def test_of_another_series_is_released_with_a_contract_that_says_what_it_lacks(self, place: Place) -> None:
        assert self.run(place, ct(1, 2, 1)).report["dispositions"] == {"released": 1}
        (contract,) = place.contracts()
        assert contract["completeness"]["state"] == "partial"
        assert contract["completeness"]["foreign_image_sets"] == 1
