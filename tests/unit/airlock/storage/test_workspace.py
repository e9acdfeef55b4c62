"""A dataset is visible whole or not at all."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.records import ARRIVALS, CLASSIFYING, GATES, HEADERS
from airlock.storage.workspace import MARKER, DatasetMissingError
from tests.unit.airlock.world import dicom, frame

if TYPE_CHECKING:
    from airlock.storage.workspace import Workspace
    from tests.unit.airlock.world import World

OLD = frame([dicom("old")], ARRIVALS)
NEW = frame([dicom("new-1"), dicom("new-2", key="in/é+%41 //\n")], ARRIVALS)


@pytest.fixture
def workspace(world: World) -> Workspace:
    return world.run().workspace


def test_what_was_written_is_read_with_its_types(workspace: Workspace) -> None:
    where = workspace.write("arrivals/0000", ARRIVALS, NEW)
    assert where.startswith("s3://work/runs/nightly/one-")
    assert where.endswith("/arrivals/0000/")
    read = workspace.read("arrivals/0000", ARRIVALS)
    assert read.equals(NEW)
    assert read.schema == ARRIVALS


def test_an_empty_dataset_is_a_dataset(workspace: Workspace) -> None:
    workspace.write("gates", GATES, GATES.to_frame())
    assert workspace.read("gates", GATES).height == 0
    assert workspace.is_committed("gates")


def test_a_part_without_its_marker_is_not_there(world: World, workspace: Workspace) -> None:
    workspace.write("arrivals/0000", ARRIVALS, NEW)
    world.s3.delete("work", [workspace.root.join("arrivals/0000", MARKER).key])
    assert not workspace.is_committed("arrivals/0000")
    assert workspace.find("arrivals/0000", ARRIVALS).equals(ARRIVALS.to_frame())
    with pytest.raises(DatasetMissingError, match=r"'arrivals/0000': clear the stage that writes it, then this one"):
        workspace.read("arrivals/0000", ARRIVALS)


def test_a_write_that_breaks_off_before_its_marker_leaves_the_old_rows(
    world: World, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.write("arrivals/0000", ARRIVALS, OLD)
    marker = workspace.s3.get(workspace.root.join("arrivals/0000", MARKER))
    workspace.write("arrivals/0000", ARRIVALS, NEW)
    assert workspace.read("arrivals/0000", ARRIVALS).equals(NEW)
    workspace.s3.put(workspace.root.join("arrivals/0000", MARKER), marker)  # as if the second marker never came
    assert workspace.read("arrivals/0000", ARRIVALS).equals(OLD)


def test_the_marker_is_written_last(world: World, workspace: Workspace) -> None:
    order: list[str] = []
    handler = world.s3.client.meta.events.register(
        "before-call.s3.PutObject", lambda params, **_: order.append(params["url_path"])
    )
    workspace.write("arrivals/0000", ARRIVALS, NEW)
    world.s3.client.meta.events.unregister("before-call.s3.PutObject", handler)
    assert [name.rpartition("/")[2].partition("-")[0] for name in order] == ["part", MARKER]


def test_the_same_rows_twice_are_one_part(world: World, workspace: Workspace) -> None:
    workspace.write("arrivals/0000", ARRIVALS, NEW)
    workspace.write("arrivals/0000", ARRIVALS, NEW)
    assert len(world.keys(f"{workspace.root}arrivals/0000/")) == 2


@pytest.mark.parametrize(
    "rows",
    [
        OLD.drop("etag"),
        OLD.with_columns(more=pl.lit(1)),
        OLD.with_columns(pl.col("size").cast(pl.Int32)),
        OLD.select(reversed(OLD.columns)),
    ],
    ids=["a column less", "a column more", "another type", "another order"],
)
def test_other_columns_than_the_schemas_are_refused(workspace: Workspace, rows: pl.DataFrame) -> None:
    with pytest.raises(pl.exceptions.SchemaError, match="dataset arrivals: columns are") as info:
        workspace.write("arrivals", ARRIVALS, rows)
    assert "in/old" not in str(info.value)
    assert not workspace.is_committed("arrivals")


def test_a_dataset_read_by_another_schema_is_refused(workspace: Workspace) -> None:
    workspace.write("arrivals", ARRIVALS, OLD)
    with pytest.raises(pl.exceptions.PolarsError):
        workspace.read("arrivals", HEADERS)


def test_the_datasets_of_a_mapped_stage_are_one_frame_and_all_must_be_there(workspace: Workspace) -> None:
    workspace.write("arrivals/0000", ARRIVALS, OLD)
    assert workspace.read_all([], ARRIVALS).equals(ARRIVALS.to_frame())
    with pytest.raises(DatasetMissingError, match="arrivals/0001"):
        workspace.read_all(["arrivals/0000", "arrivals/0001"], ARRIVALS)
    workspace.write("arrivals/0001", ARRIVALS, NEW)
    assert workspace.read_all(["arrivals/0000", "arrivals/0001"], ARRIVALS).equals(pl.concat([OLD, NEW]))


def test_some_columns_of_it_may_be_read_alone(workspace: Workspace) -> None:
    workspace.write("arrivals/0000", ARRIVALS, NEW)
    wanted = ("key", "arrival_id")
    (rows,) = workspace.find_parts("arrivals/0000", ARRIVALS, wanted)
    assert rows.select(wanted).equals(NEW.select(wanted))
    assert rows.width == 2
    assert [part.columns for part in workspace.find_parts("arrivals/0001", ARRIVALS, wanted)] == [list(wanted)]


def test_a_file_is_written_as_an_object(workspace: Workspace) -> None:
    where = workspace.write_file("audit/table.csv", io.BytesIO(b"a,b"), "text/csv")
    assert where == f"{workspace.root}audit/table.csv"
    assert workspace.s3.get(workspace.root.join("audit/table.csv")) == b"a,b"


def test_documents_lie_below_the_runs_folder(world: World, workspace: Workspace) -> None:
    where = workspace.write_json("audit/report.json", {"arrivals": 1})
    assert where == f"{workspace.root}audit/report.json"
    assert json.loads(workspace.s3.get(workspace.root.join("audit/report.json"))) == {"arrivals": 1}
    workspace.write_text("audit/x.csv", "é", "text/csv")
    assert workspace.s3.get(workspace.root.join("audit/x.csv")) == "é".encode()


def test_a_dataset_grows_part_by_part_and_counts_only_when_it_is_whole(world: World, workspace: Workspace) -> None:
    with workspace.writer("arrivals/0000", ARRIVALS, part_rows=2) as writer:
        writer.add(OLD)
        assert not world.keys(f"{workspace.root}arrivals/0000/")
        writer.add(NEW)
        assert not workspace.is_committed("arrivals/0000")
        writer.add(OLD)
    parts = list(workspace.parts("arrivals/0000", ARRIVALS))
    assert [part.height for part in parts] == [2, 1, 1]
    assert pl.concat(parts).equals(pl.concat([OLD, NEW, OLD]))
    assert workspace.read("arrivals/0000", ARRIVALS).equals(pl.concat(parts))


def test_the_writer_may_say_which_rows_are_found_together(workspace: Workspace) -> None:
    with workspace.writer("arrivals/0000", ARRIVALS, part_rows=None) as writer:
        for rows in (OLD, NEW):
            writer.add(rows)
            writer.end_part()
        writer.add(NEW)
        writer.add(OLD)
    names = workspace.part_names("arrivals/0000")
    assert [workspace.read_part("arrivals/0000", name, ARRIVALS).height for name in names] == [1, 2, 3]


def _write_and_break_off(workspace: Workspace) -> None:
    with workspace.writer("arrivals/0000", ARRIVALS, part_rows=1) as writer:
        writer.add(NEW)
        raise RuntimeError


def test_a_writer_that_breaks_off_leaves_the_old_rows(workspace: Workspace) -> None:
    workspace.write("arrivals/0000", ARRIVALS, OLD)
    with pytest.raises(RuntimeError):
        _write_and_break_off(workspace)
    assert workspace.read("arrivals/0000", ARRIVALS).equals(OLD)


def test_an_empty_dataset_has_one_empty_part(workspace: Workspace) -> None:
    workspace.write("gates", GATES, GATES.to_frame())
    assert [part.height for part in workspace.parts("gates", GATES)] == [0]
    with pytest.raises(DatasetMissingError):
        next(workspace.parts("arrivals", ARRIVALS))


class TestEarlierVersions:
    """What parse did not read yet when a run was begun is absent from its datasets."""

    EARLIER = pl.Schema({name: kind for name, kind in HEADERS.items() if name not in CLASSIFYING})

    def test_a_column_that_came_later_is_null(self, workspace: Workspace) -> None:
        workspace.write("headers/0000", self.EARLIER, frame([dicom("a", fallback=None)], self.EARLIER))
        read = workspace.read("headers/0000", HEADERS)
        assert read.schema == HEADERS
        assert read.select(CLASSIFYING).row(0) == (None,) * len(CLASSIFYING)
        assert read["PatientID"].to_list() == ["P1"]
        (some,) = workspace.parts("headers/0000", HEADERS, ["ImageType", "PatientID"])
        assert some.rows() == [(None, "P1")]

    def test_any_other_absent_column_is_refused(self, workspace: Workspace) -> None:
        other = pl.Schema({name: kind for name, kind in self.EARLIER.items() if name != "PatientID"})
        workspace.write("headers/0000", other, frame([dicom("a", fallback=None)], other))
        with pytest.raises(pl.exceptions.PolarsError):
            workspace.read("headers/0000", HEADERS)
