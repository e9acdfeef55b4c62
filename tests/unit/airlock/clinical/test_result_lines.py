"""Which resource a result line is about, in whatever shape AWS writes it; what is not certain is nobody's line."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.clinical.audit import audit
from airlock.clinical.manifests import RESULTS, Counters, is_final, keep_output, read_kept, read_output
from airlock.clinical.result_lines import NO_BASE
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace
from tests.unit.airlock.clinical.books import (
    JOB,
    Store,
    account,
    batch,
    delivered,
    ended,
    find_discrepancies,
    identify,
    lines_of,
    manifest,
    names_nothing,
    ndjson,
    outcome,
    patient,
    result,
    unit,
    words,
)

if TYPE_CHECKING:
    import polars as pl

    from airlock.clinical.manifests import JobOutput
    from airlock.storage.s3 import S3
    from tests.unit.airlock.world import World

FOLDER = S3Uri("work", "output/f-FHIR_IMPORT-j1/")
SHAPES = ("type_and_id", "json_blob", "json_text", "line_from_0", "line_from_1")
Told = dict[str, tuple[str, str]]  # by the resource: its kind and its shape


def line(row: dict[str, Any], kind: str, shape: str) -> dict[str, Any]:
    """Return the line of a resource, in a shape; what is refused has its OperationOutcome and no name in it."""
    blob = {"resourceType": row["resource_type"], "id": row["resource_id"]} if kind == "success" else outcome()
    response = {"jsonBlob": blob, "statusCode": 400 if kind == "failure" else 201}
    own = {"resourceType": row["resource_type"], "resourceId": row["resource_id"]}
    if shape == "type_and_id" or (shape.startswith("json") and kind != "success"):
        return own | {"UpdateResourceResponse": response}
    if shape == "json_text":
        return {"UpdateResourceResponse": response | {"jsonBlob": json.dumps(blob)}}
    if shape == "json_blob":
        return {"UpdateResourceResponse": response}
    line_id = row["staged_line"] - (shape == "line_from_0")
    return {"lineId": line_id, "UpdateResourceResponse": {"statusCode": response["statusCode"]}}


class Folder(dict[str, bytes]):
    """An output folder in memory, as far as it is read, for hundreds of them."""

    def list_objects(self, below: S3Uri) -> list[SimpleNamespace]:
        return [SimpleNamespace(key=key, etag=key) for key in self if key.startswith(below.key)]

    def get(self, where: S3Uri) -> bytes:  # type: ignore[override]
        return self[where.key]

    def stream(self, where: S3Uri) -> list[bytes]:
        return [self[where.key]]

    def read(self, counted: Any = None) -> JobOutput:
        self[FOLDER.join("Manifest.json").key] = json.dumps(counted or {}).encode()
        return read_output(self, FOLDER, 0)  # type: ignore[arg-type]


def written(sent: pl.DataFrame, told: Told) -> JobOutput:
    """Return what is read of an output with the lines of these resources."""
    folder = Folder()
    for row in sent.iter_rows(named=True):
        kind, shape = told.get(row["resource_id"], (None, ""))
        if kind is not None:
            place = FOLDER.join(RESULTS[kind] + row["staged_key"].removeprefix("staging/b1/")).key
            folder[place] = folder.setdefault(place, b"") + ndjson([line(row, kind, shape)])
    return folder.read()


def left(results: dict[str, list[Any]], **counts: int) -> JobOutput:
    """Return what is read of an output with these lines."""
    folder = Folder({FOLDER.join(place).key: ndjson(lines) for place, lines in results.items()})
    return folder.read(manifest(**counts) if counts else {})


def outcomes(sent: pl.DataFrame, output: JobOutput) -> list[str]:
    return account(sent, JOB, identify(sent, JOB, output))["outcome"].to_list()


def files(*sizes: int) -> pl.DataFrame:
    """Return a batch of files with so many Patients each."""
    units = []
    for number, size in enumerate(sizes):
        for staged in range(1, size + 1):
            name = f"Patient/f{number}-{staged}"
            units.append(unit(name, staged_key=f"staging/b1/Patient.{number:05}.ndjson", staged_line=staged))
    return batch(*units)


@st.composite
def batches(draw: st.DrawFn) -> tuple[pl.DataFrame, dict[str, str | None]]:
    """Return a batch, and the kind of line that each of its resources has; None for no line."""
    sent = files(*draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    kinds = st.sampled_from([*RESULTS, "success", "success", None])
    return sent, {name: draw(kinds) for name in sent["resource_id"]}


MANY = settings(max_examples=60)


@MANY
@given(made=batches(), shape=st.sampled_from(SHAPES))
def test_every_shape_says_what_the_usual_one_says(made: tuple[pl.DataFrame, dict[str, str | None]], shape: str) -> None:
    sent, kinds = made
    usual = outcomes(sent, written(sent, {name: (kind, SHAPES[0]) for name, kind in kinds.items() if kind}))
    found = outcomes(sent, written(sent, {name: (kind, shape) for name, kind in kinds.items() if kind}))
    undecided = ["unaccounted"] * sent.height  # where lines are missing, their numbers may fit both bases
    assert found == usual or (None in kinds.values() and shape.startswith("line") and found == undecided)


@MANY
@given(made=batches(), data=st.data())
def test_mixed_shapes_never_say_anything_else(
    made: tuple[pl.DataFrame, dict[str, str | None]], data: st.DataObject
) -> None:
    sent, kinds = made
    base = data.draw(st.sampled_from(SHAPES[3:]))
    shapes = st.sampled_from([*SHAPES[:3], base])
    usual = outcomes(sent, written(sent, {name: (kind, SHAPES[0]) for name, kind in kinds.items() if kind}))
    mixed = {name: (kind, data.draw(shapes)) for name, kind in kinds.items() if kind}
    found = outcomes(sent, written(sent, mixed))
    assert all(one in (other, "unaccounted") for one, other in zip(found, usual, strict=True))


numbers = st.integers(-1, 5) | st.none() | st.sampled_from([2**70, "1", 1.0, True])


@MANY
@given(data=st.data())
def test_no_hostile_number_imports_what_has_no_line_of_its_own(data: st.DataObject) -> None:
    """Whatever numbers are written, never are more Patients imported than there are different numbers."""
    lines = data.draw(st.lists(st.fixed_dictionaries({"lineId": numbers}), max_size=3))
    sent = files(2)
    output = Folder({FOLDER.join("SUCCESS/Patient.00000.ndjson").key: ndjson(lines)}).read()
    distinct = {one["lineId"] for one in lines if type(one["lineId"]) is int and one["lineId"] in range(3)}
    assert outcomes(sent, output).count("imported") <= len(distinct)


class TestLineId:
    def at(self, *lines: dict[str, Any], sizes: tuple[int, ...] = (3,)) -> tuple[list[str], list[str]]:
        sent = files(*sizes)
        output = identify(sent, JOB, left({"SUCCESS/Patient.00000.ndjson": list(lines)}))
        return outcomes(sent, output), find_discrepancies(sent, JOB, output, Counters())

    def test_lines_that_fit_both_bases_prove_nothing_and_are_told(self) -> None:
        found, odd = self.at({"lineId": 1}, {"lineId": 2})
        assert found == ["unaccounted"] * 3
        assert odd == [f"2 result lines cannot be read or name no resource: 2 in SUCCESS/ have {NO_BASE}"]

    def test_a_line_that_names_its_resource_too_decides_for_the_job(self) -> None:
        named = {"lineId": 0, "resourceType": "Patient", "resourceId": "f0-1"}
        assert self.at(named, {"lineId": 1})[0] == ["imported", "imported", "unaccounted"]

    def test_lines_that_contradict_each_other_about_the_base_decide_nothing(self) -> None:
        first = {"lineId": 0, "resourceType": "Patient", "resourceId": "f0-1"}
        second = {"lineId": 2, "resourceType": "Patient", "resourceId": "f0-2"}
        assert self.at(first, second, {"lineId": 3})[0] == ["imported", "imported", "unaccounted"]

    @pytest.mark.parametrize(
        "odd", [{"lineId": 4}, {"lineId": -1}, {"lineId": 0}, {"lineId": 2, "resourceType": "Group"}]
    )
    def test_one_line_that_fits_no_base_leaves_all_numbers_without_meaning(self, odd: dict[str, Any]) -> None:
        assert self.at({"lineId": 1}, {"lineId": 3}, odd)[0] == ["unaccounted"] * 3

    def test_a_number_that_counts_over_all_files_is_none_of_a_file(self) -> None:
        sent = files(1, 1)
        told: dict[str, list[Any]] = {f"SUCCESS/Patient.0000{n}.ndjson": [{"lineId": n + 1}] for n in (0, 1)}
        assert outcomes(sent, left(told)) == ["unaccounted"] * 2

    def test_the_same_number_twice_is_odd(self) -> None:
        _, odd = self.at({"lineId": 3}, {"lineId": 3})
        assert odd == ["1 result lines repeat another one"]

    def test_a_failure_without_a_name_is_one_of_its_line(self) -> None:
        told = {"SUCCESS/Patient.00000.ndjson": [{"lineId": 1}], "FAILURE/Patient.00000.ndjson": [{"lineId": 2}]}
        assert outcomes(files(2), left(told)) == ["imported", "rejected"]


def test_a_line_that_names_two_resources_names_none() -> None:
    blob = {"resourceType": "Patient", "id": "f0-2"}
    two = result("Patient/f0-1", blob=blob)
    sent, output = files(2), left({"SUCCESS/Patient.00000.ndjson": [two]})
    assert outcomes(sent, output) == ["unaccounted"] * 2
    assert output.unreadable_lines == 1


OWN = {"resourceType": "Patient", "resourceId": "f0-1"}


@pytest.mark.parametrize(
    "response",
    [{"statusCode": status} for status in ("400", "500", "x", "", 500.0, True, [400], 0)]
    + [{"jsonBlob": outcome()}, {"statusCode": 201, "jsonBlob": json.dumps(outcome(severity="fatal"))}],
)
def test_a_line_that_denies_that_its_resource_is_stored_does_not_count_as_a_success(response: dict[str, Any]) -> None:
    for name in (OWN, {"lineId": 1}):
        output = left({"SUCCESS/Patient.00000.ndjson": [name | {"UpdateResourceResponse": response}]}, scanned=1)
        assert outcomes(files(1), output) == ["unaccounted"]


@pytest.mark.parametrize("response", [{"statusCode": "201"}, {"jsonBlob": outcome(severity="information")}, {}])
def test_a_line_that_does_not_deny_it_counts_as_one(response: dict[str, Any]) -> None:
    output = left({"SUCCESS/Patient.00000.ndjson": [OWN | {"UpdateResourceResponse": response}]}, scanned=1)
    assert outcomes(files(1), output) == ["imported"]


def test_a_failure_with_an_odd_severity_and_status_is_still_a_rejection() -> None:
    response = {"statusCode": [400], "jsonBlob": outcome(severity=["error"])}
    output = left({"FAILURE/Patient.00000.ndjson": [OWN | {"UpdateResourceResponse": response}]}, scanned=1)
    assert outcomes(files(1), output) == ["rejected"]


def test_shapes_name_fields_and_never_values() -> None:
    response = {"jsonBlob": {"resourceType": "Patient", "name": [{"family": "CANARY"}]}, "CANARY^JANE": 1}
    lines = [{"line": "CANARY", "UpdateResourceResponse": response}, "CANARY"]
    output = left({"SUCCESS/Patient.00000.ndjson": lines})
    row = account(files(1), JOB, output).row(0, named=True)
    shape = "UpdateResourceResponse(?, jsonBlob(name, resourceType)), line"
    assert row["detail"] == f"1 in SUCCESS/ have {shape}; 1 in SUCCESS/ have no JSON object"
    assert "CANARY" not in str(find_discrepancies(files(1), JOB, output, Counters()))


def test_many_shapes_are_counted_and_not_all_told() -> None:
    output = left({"SUCCESS/Patient.00000.ndjson": [{f"field{n}": n} for n in range(100)]})
    assert output.unreadable_lines == 100
    assert len(output.unread) == 21


def test_lines_with_numbers_are_kept_with_them(s3: S3) -> None:
    workspace, sent = Workspace(s3, S3Uri("work", "runs/one/")), files(2)
    output = left({"SUCCESS/Patient.00000.ndjson": [{"lineId": 0}, {"lineId": 1}, {"what": 1}]}, scanned=2)
    keep_output(workspace, "b1", "j1", output)
    kept = read_kept(workspace, "b1", "j1")
    assert kept is not None
    assert kept.unread == output.unread
    assert outcomes(sent, kept) == ["imported"] * 2


def test_what_an_older_version_has_kept_is_still_read(s3: S3) -> None:
    workspace, sent = Workspace(s3, S3Uri("work", "runs/one/")), files(1)
    output = left({"SUCCESS/Patient.00000.ndjson": [result("Patient/f0-1")]}, scanned=1)
    older = lines_of(output).drop("line_id")
    workspace.write("outputs/b1/j1", older.schema, older)
    kept = {"job_id": "j1", "manifest_found": True, "counters": {"scanned": 1}, "unreadable_lines": 0}
    workspace.write_json("outputs/b1.json", kept | {"lines": "outputs/b1/j1"})
    found = read_kept(workspace, "b1", "j1")
    assert found is not None
    assert is_final(found)
    assert outcomes(sent, found) == ["imported"]


NAMELESS = {"UpdateResourceResponse": {"statusCode": 201}}


class TestNamesNothing:
    """The last resort: a job that claims to have stored all, in as many lines without a name."""

    def claims(self, lines: Any = (NAMELESS, NAMELESS), progress: Counters | None = None, **changes: Any) -> bool:
        counts = {"scanned": 2} | {name: value for name, value in changes.items() if name != "status"}
        output = left({"SUCCESS/Patient.00000.ndjson": list(lines)}, **counts)
        job = replace(JOB, status=changes.get("status", "COMPLETED"))
        return names_nothing(files(2), job, identify(files(2), job, output), progress or Counters())

    def test_is_one_that_agrees_in_every_count(self) -> None:
        assert self.claims(numberOfScannedFiles=1, progress=Counters(2, 2, 0, None, 1))

    @pytest.mark.parametrize(
        "lines",
        [
            (NAMELESS,),
            (NAMELESS, NAMELESS, NAMELESS),
            (NAMELESS, "no JSON"),
            (NAMELESS, {"UpdateResourceResponse": {"statusCode": 400}}),
            (NAMELESS, result("Patient/f0-1")),
            (NAMELESS, {"lineId": 2}),
            (NAMELESS, result("Patient/f0-1", blob={"resourceType": "Patient", "id": "f0-2"})),
        ],
    )
    def test_is_none_where_a_line_says_anything_else(self, lines: Any) -> None:
        assert not self.claims(lines)

    @pytest.mark.parametrize(
        "counts",
        [
            {"scanned": 3},
            {"imported": 1},
            {"customer": 1, "imported": 2},
            {"server": 1, "imported": 2},
            {"numberOfScannedFiles": 2},
            {"status": "COMPLETED_WITH_ERRORS"},
            {"progress": Counters(imported=1)},
            {"progress": Counters(customer_errors=1)},
        ],
    )
    def test_is_none_where_a_count_differs(self, counts: dict[str, Any]) -> None:
        assert not self.claims(**counts)

    @pytest.mark.parametrize("folder", [RESULTS["failure"], RESULTS["warning"]])
    def test_is_none_with_a_line_in_another_folder(self, folder: str) -> None:
        lines = {"SUCCESS/Patient.00000.ndjson": [NAMELESS], f"{folder}Patient.00000.ndjson": [NAMELESS]}
        assert not names_nothing(files(2), JOB, left(lines, scanned=2), Counters())


class TestReadById:
    P1, P2 = patient("p1"), patient("p2")
    RELEASED = ("released", None)

    def sent(self, world: World, **changes: Any) -> Any:
        run = delivered(world, "one", {"a.ndjson": [self.P1, self.P2]}, audit={"read_back_sample": 0}, **changes)
        ended(world, run, {"Patient/p1": None, "Patient/p2": None}, written=manifest(2))
        (folder,) = {item.key.rpartition("/")[0] for item in world.s3.list_objects(S3Uri("work", "output/"))}
        world.s3.put(S3Uri("work", f"{folder}/SUCCESS/Patient.00000.ndjson"), ndjson([NAMELESS, NAMELESS]))
        return run

    def test_a_job_whose_lines_name_nothing_is_proven_by_a_read_of_every_resource(self, world: World) -> None:
        run, store = self.sent(world), Store({"Patient/p1": self.P1, "Patient/p2": self.P2})
        assert audit(run, store).balanced
        assert words(run) == {"Patient/p1": self.RELEASED, "Patient/p2": self.RELEASED}
        assert store.asked == ["Patient/p1", "Patient/p2"]

        for prefix in ("output/", "staging/"):
            world.s3.delete("work", [item.key for item in world.s3.list_objects(S3Uri("work", prefix))])
        audit(run, Store())
        assert set(words(run).values()) == {self.RELEASED}, "what was read stays proven"

    def test_a_batch_of_several_partitions_is_proven_too(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airlock.storage.spool.PARTITION_ROWS", 1)
        run = self.sent(world)
        found = audit(run, Store({"Patient/p1": self.P1, "Patient/p2": self.P2}))
        assert found.report["jobs"][0]["discrepancies"] == []
        assert set(words(run).values()) == {self.RELEASED}

    def test_one_that_reads_otherwise_holds_the_batch(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airlock.clinical.read_back.TRIES", 1)
        run = self.sent(world)
        audit(run, Store({"Patient/p1": self.P1, "Patient/p2": self.P2 | {"active": False}}))
        assert words(run)["Patient/p1"] == ("held", "job_counts_disagree")
        assert words(run)["Patient/p2"] == ("failed", "not_in_manifest")

    def test_a_batch_above_the_limit_is_held_and_not_read(self, world: World) -> None:
        run, store = self.sent(world, healthlake={"most_reads_by_id": 1}), Store()
        audit(run, store)
        assert store.asked == []
        assert set(words(run).values()) == {("failed", "not_in_manifest")}
