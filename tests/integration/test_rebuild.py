"""A ledger that was lost is rebuilt from the workspaces: all tables are as before, the next night brings nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException
from botocore.exceptions import ClientError

from airlock.ledger import Ledger, upgrade
from airlock.records import study_key
from airlock.stages.rebuild import rebuild
from airlock_tasks.run import connect_s3
from tests.chain import HEALTHLAKE, Chain, clinical_pipeline, pipeline
from tests.clinical_files import delivery
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import BAD, before_request, by_hand, given, key_of, redrive
from tests.integration.reconciling import Reconciler
from tests.integration.seeded_differences import Differences
from tests.rebuilt_ledger import differences, lose_and_rebuild, read_tables, rebuild_into

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airlock.stages.rebuild import Rebuilt
    from tests.chain import Place

pytestmark = pytest.mark.slow

SETTLEMENT = 3  # of the entries that an audit writes: open_run, add_folders and record_imported come first


def rebuilt(place: Place, folder: Path, *chains: Chain) -> Rebuilt:
    """Lose the ledger, rebuild it and require that it is as it was."""
    before = read_tables(place.ledger_url)
    lines = {chain.pipeline.name: chain.pipeline for chain in chains}
    report = lose_and_rebuild(place.ledger_url, folder / "ledger.db", connect_s3("aws_default"), lines.values())
    assert not differences(before, read_tables(place.ledger_url))
    assert not report.refused
    return report


def dump(folder: Path) -> None:
    """Back the ledger up."""
    with closing(sqlite3.connect(folder / "ledger.db")) as ledger:
        ledger.execute(f"VACUUM INTO '{folder}/backup.db'")


def restore(place: Place, folder: Path) -> None:
    """Put the backup in the place of the ledger, and rebuild what came after it."""
    for file in folder.glob("ledger.db*"):
        file.unlink()
    (folder / "backup.db").rename(folder / "ledger.db")
    with Ledger.open(place.ledger_url, rebuilding=True) as restored:
        s3 = connect_s3("aws_default")
        rebuild(restored, s3, [pipeline()], "an operator", lambda _: None, onto_backup=True)


def test_a_ledger_of_one_run_is_rebuilt_and_the_next_run_brings_nothing(place: Place, tmp_path: Path) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2), "003.dcm": ct(2, 1, 1), "bad.dcm": BAD})
    one = by_hand(place, "one")
    one.run()
    report = rebuilt(place, tmp_path, one)
    assert report.runs == 1
    jobs, contracts = place.jobs(), place.contracts()
    again = by_hand(place, "two")
    again.run()
    assert again.report["arrivals"] == 0
    assert (place.jobs(), place.contracts()) == (jobs, contracts)


def test_the_run_that_a_lost_ledger_stopped_is_cleared_after_the_rebuild(place: Place, tmp_path: Path) -> None:
    place.put({"001.dcm": ct(1, 1, 1)})
    one = by_hand(place, "one")
    one.run()
    before = read_tables(place.ledger_url)
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    upgrade(place.ledger_url)
    two = by_hand(place, "two")
    with pytest.raises(AirflowFailException):
        two.run()
    assert two.states["receive"] == "failed"
    assert read_tables(place.ledger_url)["runs"]  # the audit has opened it
    assert not rebuild_into(place.ledger_url, connect_s3("aws_default"), [one.pipeline]).refused
    lost = {name: rows["lost"] for name, rows in differences(before, read_tables(place.ledger_url)).items()}
    assert not any(lost.values())
    assert two.run()["arrivals"] == 0
    assert len(place.jobs()) == 1


def test_a_restored_backup_catches_up_with_the_night_after_it(place: Place, tmp_path: Path) -> None:
    """The way of docs/backup.md."""
    place.put({"001.dcm": ct(1, 1, 1)})
    by_hand(place, "one").run()
    dump(tmp_path)
    place.put({"002.dcm": ct(1, 1, 2), "003.dcm": ct(2, 1, 1)})
    by_hand(place, "two").run()
    before, jobs, contracts = read_tables(place.ledger_url), place.jobs(), place.contracts()

    restore(place, tmp_path)
    assert not differences(before, read_tables(place.ledger_url))
    assert by_hand(place, "three").run()["arrivals"] == 0
    assert (place.jobs(), place.contracts()) == (jobs, contracts)


@pytest.fixture
def lost(place: Place, tmp_path: Path) -> Reconciler:
    """A place whose data store has lost a released study, and a person who has noticed."""
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)})
    by_hand(place, "one").run()
    with place.ledger() as ledger:
        differences = Differences(place, tmp_path / "localaws.db", ledger)
        differences.delete_sets([1])
        differences.settle()
    dump(tmp_path)
    person = Reconciler(place)
    given(person.report()["counts"]["forgotten"] == 2)
    return person


def lose(place: Place, folder: Path) -> None:
    """Lose the ledger, and rebuild it from nothing."""
    rebuilt = lose_and_rebuild(place.ledger_url, folder / "ledger.db", connect_s3("aws_default"), [pipeline()])
    given(not rebuilt.is_incomplete)


@pytest.mark.parametrize("rebuild_ledger", [lose, restore])
def test_no_contract_names_what_was_known_to_be_lost_before_a_rebuild(
    lost: Reconciler, place: Place, tmp_path: Path, rebuild_ledger: Callable[[Place, Path], None]
) -> None:
    rebuild_ledger(place, tmp_path)
    place.put({"003.dcm": ct(1, 1, 3)})
    two = by_hand(place, "two")
    assert two.run()["dispositions"] == {"held": 1}
    assert two.rows["003.dcm"]["reason"] == "study_incomplete"
    assert set(lost.report()["findings"]) == {"missing_in_store"}
    three = by_hand(place, "three", redrive_findings=True, redrive_why="somebody deleted it")
    assert three.run()["dispositions"] == {"released": 3}
    assert lost.report()["findings"] == {}


def test_what_was_removed_on_purpose_before_a_rebuild_lacks_no_evidence(
    lost: Reconciler, place: Place, tmp_path: Path
) -> None:
    lost.remove(study_key(study_uid(1)), "wrong patient")
    lose(place, tmp_path)
    assert lost.report()["findings"] == {}


def test_a_redrive_and_a_second_audit_are_rebuilt(place: Place, tmp_path: Path) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": BAD})
    one = by_hand(place, "one")
    one.run()
    place.put({"002.dcm": ct(1, 1, 2)})
    two = redrive(place, "two", "element_too_long")
    two.run()
    one.onward("audit")
    rebuilt(place, tmp_path, one, two)


def test_a_ledger_of_several_kinds_over_one_data_store_is_rebuilt(place: Place, tmp_path: Path) -> None:
    place.put({"001.dcm": ct(1, 1, 1)}, "in/a/")
    place.put({"002.dcm": ct(1, 1, 2)}, "in/b/")
    place.put(delivery(patients=2, observations=1), "fhir/")
    source = {"uri": "s3://archive/fhir/", "order": {"across_keys": "last_updated"}}
    first = by_hand(place, "one", "a")
    second = by_hand(place, "one", "b", line=pipeline("second", healthlake=HEALTHLAKE))
    records = Chain(place, clinical_pipeline(source=source))
    for chain in (first, second, records):
        chain.run()
    rebuilt(place, tmp_path, first, second, records)
    later = Chain(place, records.pipeline, run_id="manual__later")
    assert later.run()["arrivals"] == 0


def delete_entries(place: Place, chain: Chain, *numbers: int) -> None:
    """Delete entries of a run's journal, as a lifecycle rule or a person does."""
    keys = sorted(key for key in place.keys("workspace") if key.endswith(".entry") and f"/{key_of(chain)}/" in key)
    for number in numbers:
        place.s3().delete_object(Bucket="workspace", Key=keys[number])


def test_a_release_whose_entry_s3_refused_is_sent_after_a_rebuild(place: Place, tmp_path: Path) -> None:
    """Airflow tries the audit again, then the DAG run is deleted before it routes."""
    place.put({"001.dcm": ct(1, 1, 1)})
    one = by_hand(place, "one")
    one.until("import")
    written = count()

    def refuse(asked: dict[str, Any]) -> None:
        if asked.get("Key", "").endswith(".entry") and next(written) == SETTLEMENT:
            response = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
            raise ClientError(response, "PutObject")  # type: ignore[arg-type]

    with before_request("PutObject", refuse):
        one.stage("audit")
    assert len(one.errors) == 1, "the settlement was refused, and the second try was not"
    assert not rebuilt(place, tmp_path, one).is_incomplete
    place.put({"002.dcm": ct(2, 1, 1)})
    by_hand(place, "two").run()
    assert len({contract["study_key"] for contract in place.contracts()}) == 2


@pytest.mark.parametrize(
    "numbers", [(0, 1), (4,), (-2,)], ids=["the first two", "one in the middle", "the last but one"]
)
def test_a_journal_that_was_cut_off_in_part_stops_the_next_night(
    place: Place, tmp_path: Path, numbers: tuple[int, ...]
) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)})
    one = by_hand(place, "one")
    one.run()
    delete_entries(place, one, *numbers)
    report = lose_and_rebuild(place.ledger_url, tmp_path / "ledger.db", connect_s3("aws_default"), [one.pipeline])
    assert report.missing == {f"nightly/{key_of(one)}": len(numbers)}
    assert report.closed == [one.pipeline.datastore_id]
    two = by_hand(place, "two")
    with pytest.raises(AirflowFailException):
        two.run()
    assert two.states["receive"] == "failed"
    assert len(place.jobs()) == 1
