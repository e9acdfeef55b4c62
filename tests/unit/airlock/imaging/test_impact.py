"""The impact of the rules: how many studies each would hold of what earlier runs and plans have read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from airlock.imaging.impact import measure_impact
from airlock.ledger import tables
from airlock.ledger.words import VERDICTS as GIVEN
from airlock.records import VERDICTS
from tests.unit.airlock.world import dicom, frame, pipeline, unread

if TYPE_CHECKING:
    from airlock.run import Run
    from airlock.stages.plan_impact import Impact, Rule
    from tests.unit.airlock.world import World


def validated(world: World, *files: dict[str, Any], run_id: str = "one") -> Run:
    """Return a run that has left these verdicts; files are accepted unless they say otherwise."""
    run = world.run(run_id)
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    rows = [{"verdict": "quarantine" if file["reason"] else "accept"} | file for file in files]
    run.workspace.write("verdicts", VERDICTS, frame(rows, VERDICTS))
    return run


def measured(world: World, **changes: Any) -> Impact:
    return measure_impact(pipeline(**changes), world.s3, world.ledger)


def rule(world: World, name: str, **changes: Any) -> Rule:
    (found,) = [one for one in measured(world, **changes).rules if one.rule == name]
    return found


def of(world: World, name: str, **changes: Any) -> tuple[int, int]:
    found = rule(world, name, **changes)
    return found.would_hold, found.of


def study(number: int, name: str, **changes: Any) -> dict[str, Any]:
    uid = f"1.{number}"
    named = {"StudyInstanceUID": uid, "SeriesInstanceUID": f"{uid}.1", "SOPInstanceUID": f"{uid}.1.{name[-1]}"}
    return dicom(f"{number}/{name}", **(named | changes))


def test_an_unread_file_counts_for_the_study_in_its_folder(world: World) -> None:
    validated(world, study(1, "a1"), unread("1/a2", "truncated"), study(2, "a1"))
    assert of(world, "sibling_unread") == (1, 2)
    assert of(world, "sibling_unread", audit={"unread_siblings_studies": 0}) == (0, 2)


def test_it_leaves_the_ledger_as_it_is(world: World) -> None:
    validated(world, study(1, "a1"), unread("1/a2", "truncated"))
    measured(world)
    folders = select(func.count()).select_from(tables.folders)
    with world.ledger._reading() as connection:
        assert connection.execute(folders).scalar_one() == 0


def test_a_stray_file_among_many_studies_holds_none_and_is_counted(world: World) -> None:
    flat = [study(number, "a1", key=f"in/flat/{number}.dcm") for number in (1, 2, 3)]
    validated(world, *flat, unread("flat/4.dcm", "truncated"))
    found = rule(world, "sibling_unread")
    assert (found.would_hold, found.of) == (0, 3)
    assert found.note.startswith("1 unread files belong to no known study")


def test_studies_with_fewer_files_than_their_headers_declare(world: World) -> None:
    declares = {"NumberOfStudyRelatedInstances": "2"}
    validated(world, study(1, "a1", **declares), study(2, "a1", **declares), study(2, "a2"))
    validated(world, study(3, "a1", NumberOfStudyRelatedInstances="none"), study(4, "a1"), run_id="two")
    found = rule(world, "fewer_than_declared")
    assert (found.would_hold, found.of) == (1, 4)
    assert found.note == "2 studies declare a number: 1 have as many files, 0 more"


def test_a_file_that_came_in_a_later_run_counts(world: World) -> None:
    declares = {"NumberOfStudyRelatedInstances": "2"}
    validated(world, study(1, "a1", **declares))
    validated(world, study(1, "a2"), run_id="two")
    assert of(world, "fewer_than_declared") == (0, 1)


def test_copies_of_an_instance_under_another_identity(world: World) -> None:
    validated(world, study(1, "a1"), study(2, "a1"), study(3, "a1"))
    other = study(1, "b1", PatientID="another")
    same = study(2, "b1", PatientID="P1 ")  # another content of the same patient
    validated(world, other, same, study(3, "a1"), run_id="two")
    assert of(world, "identity_changed") == (1, 3)


def test_studies_that_another_run_has_not_settled(world: World) -> None:
    file = study(1, "a1")
    run = world.run("one")
    world.buffered(run, file)
    run.workspace.write("verdicts", VERDICTS, frame([{"verdict": "accept"} | file], VERDICTS))
    uids = {f"{level}_instance_uid": file[f"{name}InstanceUID"] for level, name in
            (("sop", "SOP"), ("series", "Series"), ("study", "Study"))}  # fmt: skip
    row = {"arrival_id": file["arrival_id"], "verdict": "accept"} | uids
    run.ledger.record_verdicts(run.pipeline.datastore_id, run.pipeline.name, run.key, frame([row], GIVEN))
    assert of(world, "in_flight") == (1, 1)


def test_a_plan_counts_as_the_archive_does(world: World) -> None:
    validated(world, study(1, "a1"))
    plan = world.run("plan").as_plan()
    rows = [{"verdict": "accept"} | study(2, "a1"), {"verdict": "quarantine"} | unread("2/a2", "truncated")]
    plan.workspace.write("verdicts", VERDICTS, frame(rows, VERDICTS))
    found = measured(world)
    assert (found.runs, found.runs_without_verdicts) == (2, 0)
    assert of(world, "sibling_unread") == (1, 2)


def test_a_run_without_verdicts_is_counted(world: World) -> None:
    run = world.run("one")
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write_json("arrivals/index.json", {})
    found = measured(world)
    assert (found.runs, found.runs_without_verdicts) == (0, 1)
    assert {one.would_hold for one in found.rules} == {0}


def test_a_pipeline_that_has_not_run_has_no_impact(world: World) -> None:
    assert {(one.would_hold, one.of) for one in measured(world).rules} == {(0, 0)}


def test_a_brake_that_is_off_is_no_rule(world: World) -> None:
    names = {one.rule for one in measured(world).rules}
    assert {one.rule for one in measured(world, audit={"brake": "off"}).rules} == names - {"brake"}
