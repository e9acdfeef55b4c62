"""What an import job left: every documented shape is read, and nothing that lies there breaks the audit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airlock.imaging import manifests
from airlock.imaging.manifests import (
    DETAIL_LENGTH,
    LINES,
    Counters,
    JobOutput,
    is_final,
    keep_output,
    proves_more,
    read_kept,
    read_output,
    warning_type,
)
from airlock.imaging.outcomes import account, find_discrepancies
from tests.unit.airlock.job_output import FILES, FOLDER, failure, files, leave, output, read, success, summary, warning
from tests.unit.airlock.world import ended_job

if TYPE_CHECKING:
    import polars as pl

    from tests.unit.airlock.world import World

JOB = ended_job()


def rows(found: JobOutput) -> list[dict[str, Any]]:
    return found.lines.sort("staged_key", "kind").rows(named=True)


class TestShapes:
    def test_a_manifest_with_its_counts(self, world: World) -> None:
        leave(world, summary(10, 7, 2, 1), success=[success("a")])
        found = read(world)
        assert found.manifest_found
        assert found.counters == Counters(10, 7, 2, 1)

    def test_a_success_line(self, world: World) -> None:
        leave(world, summary(1), success=[success("a")])
        (row,) = rows(read(world))
        assert row == dict.fromkeys(LINES) | {
            "staged_key": "a",
            "kind": "success",
            "image_set_id": "i1",
            "is_primary": True,
            "warnings": [],
        }

    @pytest.mark.parametrize("word", ["True", "False", "true", "false"])
    @pytest.mark.parametrize("space", ["", " ", "  "])
    def test_pythons_spelling_of_a_truth_value(self, world: World, word: str, space: str) -> None:
        line = f'{{"inputFile": "a", "importResponse": {{"imageSetId": "i1", "isPrimary"{space}:{space}{word}}}}}\n'
        leave(world, summary(1), success=line.encode())
        found = read(world)
        assert found.unreadable_lines == 0
        assert rows(found)[0]["is_primary"] is (word.lower() == "true")

    def test_a_text_that_looks_like_it_stays_as_it_is(self, world: World) -> None:
        leave(world, summary(1), failure=[failure("a", message='"isPrimary": True')])
        assert rows(read(world))[0]["detail"] == '"isPrimary": True'

    def test_a_failure_line(self, world: World) -> None:
        leave(world, summary(1, 0, 1), failure=[failure("a")])
        (row,) = rows(read(world))
        assert (row["kind"], row["exception_type"], row["detail"], row["image_set_id"]) == (
            "failure",
            "ValidationException",
            "DICOM attributes does not exist",
            None,
        )

    def test_a_warning_line(self, world: World) -> None:
        leave(world, summary(1), warning=[warning("a", "InvalidOffsetTable", "OTHER", isPrimary=False)])
        (row,) = rows(read(world))
        assert row["warnings"] == ["INVALID_OFFSET_TABLE", "OTHER"]
        assert (row["image_set_version"], row["is_primary"]) == (1, False)
        assert row["detail"] == "about InvalidOffsetTable; about OTHER"

    @pytest.mark.parametrize(
        "warnings", [..., None, [], ["text"], 5, {"type": "x"}, [{}], [{"type": None}], [{"type": 45330}]]
    )
    def test_a_warning_that_names_no_type_is_still_one(self, world: World, warnings: Any) -> None:
        line = success("a") if warnings is ... else success("a", warnings=warnings)
        leave(world, summary(1), warning=[line])
        assert rows(read(world))[0]["warnings"] == ["OTHER"]

    def test_a_warned_file_may_be_in_both_files(self, world: World) -> None:
        leave(world, summary(1), success=[success("a")], warning=[warning("a", "OTHER")])
        found = read(world)
        assert found.lines.height == 2
        (row,) = account(files("a"), JOB, found).rows(named=True)
        assert (row["outcome"], row["warnings"]) == ("imported_with_warning", ["OTHER"])
        assert find_discrepancies(files("a"), found) == []

    def test_versions_of_the_image_sets(self, world: World) -> None:
        sets = [
            {"imageSetId": "i1", "imageSetVersion": 3, "isPrimary": True},
            {"imageSetId": "i2"},
            "odd",
            {"imageSetVersion": 1},
        ]
        leave(world, summary(1, imageSetsSummary=sets), success=[success("a")])
        found = read(world)
        assert found.image_set_versions == {"i1": 3}
        assert account(files("a"), JOB, found)["image_set_version"].to_list() == [3]

    def test_a_set_that_only_the_summary_calls_non_primary(self, world: World) -> None:
        line = {"inputFile": "a", "importResponse": {"imageSetId": "i1"}}
        for primary, outcome in ((True, "imported"), (False, "non_primary"), ("no", "imported")):
            leave(world, summary(1, imageSetsSummary=[{"imageSetId": "i1", "isPrimary": primary}]), success=[line])
            assert account(files("a"), JOB, read(world))["outcome"].to_list() == [outcome]
        leave(world, summary(1, imageSetsSummary=[{"imageSetId": "i1", "isPrimary": False}]), success=[success("a")])
        assert account(files("a"), JOB, read(world))["outcome"].to_list() == ["non_primary"]

    def test_unknown_fields_are_passed_over(self, world: World) -> None:
        line = success("a", updatedMetadata={"x": 1}) | {"more": [1]}
        leave(world, summary(1, more="x") | {"more": 1}, success=[line])
        found = read(world)
        assert (found.lines.height, found.unreadable_lines) == (1, 0)

    def test_a_huge_message_is_shortened(self, world: World) -> None:
        leave(world, summary(1, 0, 1), failure=[failure("a", message="é" * 5_000_000)])
        assert rows(read(world))[0]["detail"] == "é" * DETAIL_LENGTH

    def test_odd_keys(self, world: World) -> None:
        keys = ["in/é +%41//x", 'in/"q"', "in/back\\slash", "in/line\nbreak", "in/\u2028"]
        leave(world, summary(5), success=[success(key) for key in keys])
        assert sorted(read(world).lines["staged_key"]) == sorted(keys)

    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n  \n", b""])
    def test_lines_end_as_they_like(self, world: World, end: bytes) -> None:
        body = end.join(json.dumps(success(key)).encode() for key in "ab") if end else json.dumps(success("a")).encode()
        leave(world, summary(1), success=body + end)
        found = read(world)
        assert (found.lines.height, found.unreadable_lines) == (2 if end else 1, 0)


class TestMissing:
    def test_an_empty_folder(self, world: World) -> None:
        assert read(world).lines.equals(LINES.to_frame())
        found = read(world)
        assert (found.manifest_found, found.counters, found.unreadable_lines) == (False, Counters(), 0)

    def test_result_files_without_a_manifest(self, world: World) -> None:
        leave(world, None, success=[success("a")])
        found = read(world)
        assert (found.manifest_found, found.lines.height) == (False, 1)

    def test_a_manifest_without_result_files(self, world: World) -> None:
        leave(world, summary(0))
        assert read(world).manifest_found

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"jobSummary": 1}', b"\xff", b"[" * 100_000])
    def test_a_manifest_that_is_none_counts_as_missing(self, world: World, body: bytes) -> None:
        leave(world, body, success=[success("a")])
        assert not read(world).manifest_found

    @pytest.mark.parametrize("count", [None, "10", 1.5, True, [], 10**30])
    def test_a_count_that_is_none_is_not_known(self, world: World, count: Any) -> None:
        leave(world, {"jobSummary": {"numberOfScannedFiles": count}})
        assert read(world).counters.scanned is None

    def test_a_line_that_was_cut_off_is_counted(self, world: World) -> None:
        whole, half = json.dumps(success("a")).encode(), json.dumps(success("b")).encode()[:-9]
        leave(world, summary(2), success=whole + b"\n" + half)
        found = read(world)
        assert (found.lines["staged_key"].to_list(), found.unreadable_lines) == (["a"], 1)
        assert "1 result lines cannot be read: 1 have no JSON object" in find_discrepancies(files("a", "b"), found)

    @pytest.mark.parametrize(
        "line", [b"text", b"[]", b"1", b"{}", b'{"inputFile": 1}', b'{"inputFile": null}', b"\xff", b"[" * 99_999]
    )
    def test_a_line_that_names_no_file_is_counted(self, world: World, line: bytes) -> None:
        leave(world, summary(1), success=[success("a")], failure=line)
        found = read(world)
        assert (found.lines.height, found.unreadable_lines) == (1, 1)


class TestWaiting:
    class Clock:
        """Time that passes only while someone waits, and what happens in it."""

        def __init__(self, events: dict[float, Any]) -> None:
            self.now, self.events, self.pauses = 0.0, events, 0

        def __call__(self) -> float:
            return self.now

        def pause(self, seconds: float) -> None:
            assert seconds > 0
            self.now += seconds
            self.pauses += 1
            for moment in [each for each in self.events if each <= self.now]:
                self.events.pop(moment)()

    def read(self, world: World, wait: float, **events: Any) -> tuple[JobOutput, Clock]:
        clock = self.Clock({float(name[2:]): event for name, event in events.items()})
        return read_output(world.s3, FOLDER, wait, clock=clock, pause=clock.pause), clock

    def test_what_is_whole_is_not_waited_for(self, world: World) -> None:
        leave(world, summary(1), success=[success("a")])
        assert self.read(world, 300)[1].pauses == 0

    def test_a_late_manifest_is_found(self, world: World) -> None:
        leave(world, None, success=[success("a")])
        found, clock = self.read(world, 300, at10=lambda: leave(world, summary(1)))
        assert found.manifest_found
        assert 10 <= clock.now < 15

    def test_late_lines_are_found(self, world: World) -> None:
        leave(world, summary(2), success=[success("a")])
        found, clock = self.read(world, 300, at6=lambda: leave(world, failure=[failure("b")]))
        assert found.lines.height == 2
        assert clock.now < 10

    def test_a_line_that_was_cut_off_is_read_again(self, world: World) -> None:
        leave(world, summary(), success=json.dumps(success("a")).encode()[:-5])  # without a count to wait for
        found, _ = self.read(world, 300, at4=lambda: leave(world, success=[success("a")]))
        assert (found.unreadable_lines, found.lines.height) == (0, 1)

    @pytest.mark.parametrize("wait", [0, 0.5, 7, 30])
    def test_the_wait_has_an_end(self, world: World, wait: float) -> None:
        found, clock = self.read(world, wait)
        assert not found.manifest_found
        assert clock.now == wait

    def test_what_came_at_the_last_moment_is_seen(self, world: World) -> None:
        found, _ = self.read(world, 7, at7=lambda: leave(world, summary(1), success=[success("a")]))
        assert found.manifest_found


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("InvalidOffsetTable", "INVALID_OFFSET_TABLE"),
        ("INVALID_OFFSET_TABLE", "INVALID_OFFSET_TABLE"),
        ("invalid_offset_table", "INVALID_OFFSET_TABLE"),
        ("Invalid_Offset_Table", "INVALID_OFFSET_TABLE"),
        ("Other", "OTHER"),
        ("OTHER", "OTHER"),
        ("other", "OTHER"),
        ("SopClassDataMismatch", "SOP_CLASS_DATA_MISMATCH"),
        ("SOPClassDataMismatch", "SOP_CLASS_DATA_MISMATCH"),
        ("InvalidUIDFormat", "INVALID_UID_FORMAT"),
        ("invalidUidFormat", "INVALID_UID_FORMAT"),
        ("InvalidDICOMValueLength", "INVALID_DICOM_VALUE_LENGTH"),
        ("", ""),
    ],
)
def test_a_warnings_type_is_spelled_one_way(written: str, spelled: str) -> None:
    assert warning_type(written) == spelled


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.sampled_from(["a", "i1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "inputFile",
                    "importResponse",
                    "exception",
                    "imageSetId",
                    "imageSetVersion",
                    "isPrimary",
                    "warnings",
                    "type",
                    "message",
                    "exceptionType",
                    "jobSummary",
                    "imageSetsSummary",
                    "numberOfScannedFiles",
                    "numberOfImportedFiles",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
garbage = st.binary(max_size=30) | json_values.map(lambda value: json.dumps(value).encode())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(manifest=garbage, lines=st.dictionaries(st.sampled_from([*FILES]), st.lists(garbage, max_size=3)))
def test_no_garbage_breaks_the_account(world: World, manifest: bytes, lines: dict[str, list[bytes]]) -> None:
    leave(world, manifest, **{kind: b"\n".join(each) for kind, each in lines.items()})
    found = read(world)
    batch = files("a", "b")
    accounted = account(batch, JOB, found)
    assert accounted["arrival_id"].to_list() == ["a-a", "a-b"]
    assert accounted["outcome"].null_count() == 0
    assert all(isinstance(each, str) for each in find_discrepancies(batch, found))


@pytest.mark.parametrize(
    "line",
    [
        {"inputFile": "a", "importResponse": {"imageSetVersion": 10**30, "imageSetId": "\ud800", "warnings": 5}},
        {"inputFile": "\ud800"},
        {"inputFile": "a", "exception": {"message": "\udfff", "exceptionType": "\udfff"}},
        {"inputFile": "a", "importResponse": {"warnings": [{"type": "\ud800", "message": "\ud800"}]}},
        {"inputFile": "a", "exception": {"message": ["x"]}},
        {"inputFile": "a", "importResponse": [], "exception": "text"},
    ],
)
def test_values_that_no_frame_can_hold_are_left_out(world: World, line: dict[str, Any]) -> None:
    sets = [{"imageSetId": "\ud800", "imageSetVersion": 1}, {"imageSetId": "i1", "imageSetVersion": 10**30}]
    leave(world, summary(1, imageSetsSummary=sets), success=[line], failure=[line], warning=[line])
    found = read(world)
    assert account(files("a"), JOB, found).height == 1


def test_the_made_up_outputs_of_these_tests_have_the_columns_that_are_read() -> None:
    assert output({"kind": "success", "staged_key": "a"}).lines.schema == LINES


def lines_of() -> pl.DataFrame:
    """Return lines of two files."""
    one = {"staged_key": "a", "kind": "warning", "warnings": ["OTHER"], "image_set_version": 3}
    return output(one, {"staged_key": "b", "kind": "failure", "detail": "no\n\u00e9"}).lines


SPELLINGS = st.sampled_from(
    [
        '"inputFile"', '"importResponse"', '"imageSetId"', '"imageSetVersion"', '"isPrimary"', '"i1"', '"\u00e9 /+"',
        '""', '"a\\n"', '"tab\tin"', '"x\\""', "true", "True", "false", "null", "0", "7", "-1", "01", "1.5",
        "9" * 18, "9" * 19,
        "{", "}", "[", "]", ":", ":", ",", " ", "\t", "\r",
    ]
)  # fmt: skip
FIELDS = st.lists(
    st.sampled_from(
        [
            '"imageSetId": "i1"', '"imageSetId":"i2"', '"imageSetId": "imageSetId"', '"imageSetId": ""',
            '"imageSetId": null', '"imageSetVersion" : 3', '"imageSetVersion": 10', '"imageSetVersion": "3"',
            '"isPrimary": True', '"isPrimary":\tfalse', '"isPrimary": "true"', '"warnings": []', '"more": 1',
        ]
    ),
    max_size=5,
).map(lambda fields: '{"inputFile": "a", "importResponse": {' + ", ".join(fields) + "}}")  # fmt: skip


@settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(FIELDS | st.lists(SPELLINGS, max_size=12).map("".join), max_size=4), kind=st.sampled_from([*FILES])
)
def test_usual_lines_say_read_together_what_they_say_one_by_one(world: World, lines: list[str], kind: str) -> None:
    leave(world, summary(1), **{kind: "\n".join(lines).encode()})
    together = read(world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "_PLAIN", "[^\\s\\S]")  # matches nothing
        one_by_one = read(world)
    assert together.lines.equals(one_by_one.lines)
    assert together.unreadable_lines == one_by_one.unreadable_lines


def test_usual_lines_are_read_without_looking_at_each(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [success(f"in/{n} \u00e9", imageSetVersion=n) for n in range(3)]
    leave(world, summary(4), success=[*usual, success('in/"odd"')], failure=b"\xff")
    seen: list[bytes] = []
    monkeypatch.setattr(manifests, "_row", lambda _kind, line, _shapes: seen.append(line) or {})
    assert read(world).lines["staged_key"].to_list() == []  # json.dumps has escaped their letter
    assert len(seen) == 5
    seen.clear()
    leave(world, success="\n".join(json.dumps(line, ensure_ascii=False) for line in usual).encode())
    assert read(world).lines["image_set_version"].to_list() == [0, 1, 2]
    assert seen == [b"\xff"]


class TestKept:
    def test_what_was_read_is_read_again_as_it_was(self, world: World) -> None:
        output = JobOutput(
            True, Counters(2, 1, 1, 0), lines_of(), 1, image_set_versions={"i": 2}, non_primary_sets=frozenset({"n"})
        )
        workspace = world.run().workspace
        keep_output(workspace, "b", "job", output)
        kept = read_kept(workspace, "b", "job")
        assert kept is not None
        assert kept.lines.equals(output.lines)
        assert vars(kept) | {"lines": None} == vars(output) | {"lines": None}
        assert read_kept(workspace, "b", "another job") is None
        assert read_kept(workspace, "other", "job") is None

    def test_the_older_form_is_still_read(self, world: World) -> None:
        workspace, lines = world.run().workspace, lines_of()
        about = {"manifest_found": True, "unreadable_lines": 1, "image_set_versions": {"i": 2}, "job_id": "job"}
        counters = {"scanned": 2, "imported": 1, "customer_errors": 1, "server_errors": None}
        older = about | {"counters": counters, "lines": lines.to_dicts(), "non_primary_sets": ["n"]}
        workspace.write_json("outputs/b.json", older)
        kept = read_kept(workspace, "b", "job")
        assert kept is not None
        assert kept.lines.equals(lines)
        assert (kept.counters, kept.non_primary_sets) == (Counters(2, 1, 1), frozenset({"n"}))
        assert (kept.manifest_found, kept.unreadable_lines, kept.image_set_versions) == (True, 1, {"i": 2})
        assert read_kept(workspace, "b", "another job") is None

    def test_only_a_counted_output_is_final(self) -> None:
        lines = lines_of()
        assert is_final(JobOutput(True, Counters(scanned=lines.height), lines, 0))
        assert not is_final(JobOutput(True, Counters(), lines, 0))
        assert not is_final(JobOutput(True, Counters(scanned=lines.height + 1), lines, 0))
        assert not is_final(JobOutput(True, Counters(scanned=lines.height), lines, 1))
        assert not is_final(JobOutput(False, Counters(scanned=lines.height), lines, 0))

    def test_a_manifest_proves_more_than_lines(self) -> None:
        full, empty = lines_of(), lines_of().clear()
        assert proves_more(JobOutput(True, Counters(), empty, 0), JobOutput(False, Counters(), full, 0))
        assert proves_more(JobOutput(True, Counters(), full, 0), JobOutput(True, Counters(), empty, 0))
        assert not proves_more(JobOutput(True, Counters(), full, 0), JobOutput(True, Counters(), full, 0))
