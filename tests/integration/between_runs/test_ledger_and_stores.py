"""The ledger agrees with the archive, the data store and Airflow, whatever was lost, deleted or replaced there."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.sdk.exceptions import AirflowFailException
from botocore.config import Config

from airlock.ledger import LedgerError, upgrade
from tests.chain import DATASTORE, pipeline
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import before_request, by_hand, given
from tests.integration.reconciling import Reconciler
from tests.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chain import Place

pytestmark = pytest.mark.slow

ONE, TWO = {"001.dcm": ct(1, 1, 1)}, {"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)}


def empty_ledger(place: Place, folder: Path) -> None:
    """Put an empty ledger in the place of the one there is."""
    for file in folder.glob("ledger.db*"):
        file.unlink()
    upgrade(place.ledger_url)


def delete_image_sets(place: Place) -> None:
    config = Config(inject_host_prefix=False)
    imaging = boto3.client(
        "medical-imaging", endpoint_url=place.imaging_endpoint, region_name="us-east-1", config=config
    )

    def left() -> list[str]:
        found = imaging.search_image_sets(datastoreId=DATASTORE)["imageSetsMetadataSummaries"]
        return [item["imageSetId"] for item in found]

    for image_set in left():
        imaging.delete_image_set(datastoreId=DATASTORE, imageSetId=image_set)
    until("the image sets are gone", lambda: not left(), 30)


def test_a_run_on_an_empty_ledger_imports_nothing_over_a_filled_data_store(place: Place, tmp_path: Path) -> None:
    place.put(ONE)
    by_hand(place, "one").run()
    empty_ledger(place, tmp_path)
    with suppress(AirflowFailException):
        by_hand(place, "two").run()
    assert len(place.jobs()) == 1


def test_a_run_cleared_on_a_ledger_from_before_it_claims_again_or_fails(place: Place, tmp_path: Path) -> None:
    place.put(TWO)
    chain = by_hand(place, "one")
    chain.until("import")
    empty_ledger(place, tmp_path)  # a backup from before the run
    with suppress(AirflowFailException, LedgerError):  # the audit refuses as buffer does
        chain.onward("buffer")
    assert chain.states["buffer"] == "failed" or chain.report["arrivals"] == 2


def test_a_file_that_comes_corrected_after_its_image_set_was_deleted_is_imported(place: Place) -> None:
    place.put(ONE)
    by_hand(place, "one").run()
    delete_image_sets(place)
    assert Reconciler(place).report()["counts"]["forgotten"] == 1
    place.put({"001.dcm": ct(1, 1, 1, pixel=1)})
    assert by_hand(place, "two").run()["dispositions"] == {"released": 1}


def test_a_study_is_held_whose_object_was_replaced_when_its_job_in_place_began(place: Place) -> None:
    def replace(_: dict[str, Any]) -> None:
        place.put({"002.dcm": ct(7, 1, 7)}, "in/s/")  # of another patient

    place.put(TWO, "in/s/")
    in_place = {"uri": "s3://staging/batches/", "mode": "in_place"}
    chain = by_hand(place, "one", line=pipeline(staging=in_place, audit={"manifest_wait_seconds": 3}))
    with before_request("StartDICOMImportJob", replace):
        chain.run()
    given(len(place.jobs()) == 1)
    assert "released" not in chain.report["dispositions"]
    assert place.contracts() == []


def test_the_next_run_routes_what_a_run_released_that_never_came_to_route(place: Place) -> None:
    place.put(ONE)
    one = by_hand(place, "one")
    one.until("audit")  # then somebody deletes the DAG run
    given(one.report["studies"]["released"] == 1)
    place.put({"002.dcm": ct(2, 1, 1)})
    by_hand(place, "two").run()
    assert {contract["StudyInstanceUID"] for contract in place.contracts()} == {study_uid(1), study_uid(2)}
