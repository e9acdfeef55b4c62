"""The audit of a run whose job left this or that: outcomes, gates, contracts, ledger and report agree."""

from __future__ import annotations

import csv
import io
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging import audit as audit_module
from airlock.imaging import settle
from airlock.imaging.audit import audit
from airlock.imaging.contracts import StudyContract
from airlock.imaging.import_ import record
from airlock.imaging.manifests import read_output
from airlock.imaging.reading import Reading, keep_reading
from airlock.imaging.stage import find_staged
from airlock.imaging.validate import validate
from airlock.ledger import Job, Ledger
from airlock.records import ARRIVALS, BATCHES, CONTRACTS, DISPOSITIONS, GATES, OUTCOMES, VERDICTS, study_key
from airlock.stages.batches import find_batches
from airlock.storage import spool
from airlock.storage.s3uri import S3Uri
from tests.ledger_rows import count_arrivals, count_instances, read_dispositions
from tests.unit.airlock.imaging.batches import stage_all
from tests.unit.airlock.job_output import FILES, failure, success, summary, warning
from tests.unit.airlock.world import STORE, dicom, frame, pipeline, unread

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.imaging.manifests import JobOutput
    from airlock.run import Run
    from airlock.stages.auditing import Audited
    from airlock.storage.s3 import S3
    from tests.unit.airlock.world import World

NO_WAIT = {"manifest_wait_seconds": 0}
A = dicom("a", SOPInstanceUID="1.1.1.1")
B = dicom("b", SOPInstanceUID="1.1.1.2")
C = dicom("c", SOPInstanceUID="1.2.1.1", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
BAD = unread("bad", "not_dicom")


def staged(world: World, *files: dict[str, Any], run_id: str = "one", **changes: Any) -> Run:
    """Take files up to the import: their objects are there, decided on and staged."""
    run = world.run(run_id, pipeline(**({"audit": NO_WAIT} | changes)))
    rows = []
    for each in files:
        body = f"{each['key']} {each['etag']}".encode()
        rows.append(dicom("", **(each | {"etag": world.put(f"s3://archive/{each['key']}", body), "size": len(body)})))
    world.buffered(run, *rows)
    validate(run)
    stage_all(run)
    return run


def imported(
    world: World, run: Run, status: str = "COMPLETED", message: str = "", generation: int = 0, **lines: Any
) -> None:
    """End each batch's job. Files succeed unless ``lines`` has a line (None for no line at all) under their name."""
    for number, batch in enumerate(find_staged(run, batch.batch_id) for batch in find_batches(run)):
        job_id = f"job-{run.run_id}-{number}"
        folder = S3Uri.parse(run.pipeline.healthimaging.output_uri).join(f"{STORE}-DicomImport-{job_id}", "")
        found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in FILES}
        for key, name in names_of(run, batch.batch_id):
            line = lines.get(name, success(key, imageSetId=f"set-{batch.batch_id[:4]}"))
            if line is not None:
                line = line | {"inputFile": key}
                kind = (
                    "failure"
                    if "exception" in line
                    else "warning"
                    if "warnings" in line["importResponse"]
                    else "success"
                )
                found[kind].append(line)
        failed = len(found["failure"])
        total = sum(map(len, found.values()))
        manifest = lines.get("manifest", summary(total, total - failed, failed))
        if manifest is not None:
            world.s3.put(folder.join("job-output-manifest.json"), json.dumps(manifest).encode())
        for kind, each in found.items():
            world.s3.put(folder.join(FILES[kind]), b"\n".join(json.dumps(line).encode() for line in each))
        job = Job(batch.batch_id, generation, run.key, "token", job_id, input_uri=batch.input_uri)
        run.ledger.record_job(job)
        record(run, job, {"jobId": job_id, "jobStatus": status, "message": message}, str(folder))


def names_of(run: Run, batch_id: str) -> list[tuple[str, str]]:
    """Return the staged key and the name of each file of a batch."""
    rows = run.workspace.read(f"batches/{batch_id}", BATCHES)
    keys = run.workspace.read("verdicts", VERDICTS).select("arrival_id", "key")
    return [
        (staged, key[3:]) for staged, key in rows.join(keys, on="arrival_id").select("staged_key", "key").iter_rows()
    ]


def words(run: Run) -> dict[str, tuple[str, str | None]]:
    rows = run.workspace.read("dispositions", DISPOSITIONS)
    return {key[3:]: (word, why) for key, word, why in rows.select("key", "disposition", "reason").iter_rows()}


def contracts(run: Run) -> dict[str, StudyContract]:
    rows = run.workspace.read("contracts", CONTRACTS)
    return {
        uid: StudyContract.model_validate_json(text) for uid, text in rows.select("subject", "contract").iter_rows()
    }


def done(world: World, *files: dict[str, Any], run_id: str = "one", **lines: Any) -> tuple[Run, Audited]:
    run = staged(world, *files, run_id=run_id)
    imported(world, run, **lines)
    return run, audit(run, None)


class TestGoodRun:
    def test_everything_agrees(self, world: World) -> None:
        run, audited = done(world, A, B, C, BAD)
        assert audited.balanced
        assert audited.open_arrivals == 0
        assert words(run) == dict.fromkeys("abc", ("released", None)) | {"bad": ("quarantined", "not_dicom")}
        assert audited.report["studies"] == {"released": 2, "held": 0, "stopped": 0}
        (job,) = audited.report["jobs"]
        assert (job["files"], job["status"], job["discrepancies"]) == (3, "COMPLETED", [])
        assert count_arrivals(world.ledger, "nightly") == {"released": 3, "quarantined": 1}
        assert count_instances(world.ledger, STORE) == {"imported": 3}
        record_ = world.ledger.run(run.key)
        assert record_ is not None
        assert (record_.state, record_.report) == ("audited", audited.report)

    def test_studies_are_settled_in_pieces(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        """As long as one transaction lasts, others wait."""
        whole, _ = done(world, A, B, C, BAD)
        monkeypatch.setattr(settle, "MOST_STUDIES", 1)
        pieces = []
        part = audit_module.settle_part
        monkeypatch.setattr(audit_module, "settle_part", lambda *args: pieces.append(args[1]) or part(*args))
        before = words(whole), contracts(whole)
        audit(whole, None)
        assert (words(whole), contracts(whole)) == before
        assert len(pieces) == 3  # for two studies, and a file without one
        studies = [piece.verdicts["StudyInstanceUID"].unique().drop_nulls() for piece in pieces]
        assert sorted(pl.concat(studies)) == ["1.1", "1.2"], "each study is whole in one piece"
        assert sum(piece.verdicts.height for piece in pieces) == 4

    def test_the_report_lies_beside_the_audit(self, world: World) -> None:
        run, audited = done(world, A, BAD)
        assert audited.report_uri == f"{run.workspace.root}audit/report.json"
        assert json.loads(world.s3.get(S3Uri.parse(audited.report_uri))) == audited.report
        table = csv.DictReader(io.StringIO(world.s3.get(S3Uri.parse(audited.dispositions_uri)).decode()))
        assert {row["key"]: row["disposition"] for row in table} == {"in/a": "released", "in/bad": "quarantined"}

    def test_the_report_has_the_cost_of_reading_headers(self, world: World) -> None:
        run = staged(world, A, B)
        keep_reading(
            run.workspace, "0000", Reading(arrivals=2, requests=3, bytes_read=48 * 1024, fallbacks={"text": 1})
        )
        cost = audit(run, None).report["reading"]
        assert (cost["requests_per_arrival"], cost["kib_per_arrival"], cost["fallbacks"]) == (1.5, 24.0, {"text": 1})

    def test_a_released_study_is_a_contract_with_its_image_sets(self, world: World) -> None:
        run, _ = done(world, A, B, C)
        found = contracts(run)
        assert set(found) == {"1.1", "1.2"}
        assert found["1.1"].revision == 1
        assert [one.SOPInstanceUID for one in found["1.1"].series[0].instances] == ["1.1.1.1", "1.1.1.2"]
        assert found["1.1"].series[0].image_set_ids == (f"set-{find_batches(run)[0].batch_id[:4]}",)

    def test_auditing_again_gives_the_same(self, world: World) -> None:
        run, first = done(world, A, B, C, BAD, b=failure(""))
        datasets = {
            name: run.workspace.read(name, schema)
            for name, schema in (
                ("outcomes", OUTCOMES),
                ("gates", GATES),
                ("dispositions", DISPOSITIONS),
                ("contracts", CONTRACTS),
            )
        }
        kept = read_dispositions(world.ledger, "nightly", run.key)
        second = audit(run, None)
        assert second == first
        for name, rows in datasets.items():
            assert run.workspace.read(name, rows.schema).equals(rows), name
        assert read_dispositions(world.ledger, "nightly", run.key).equals(kept)
        assert count_instances(world.ledger, STORE) == {"imported": 2}

    def test_contracts_are_written_a_second_time_only_to_be_published(self, world: World) -> None:
        run, _ = done(world, A)
        assert run.workspace.is_committed("contracts")
        assert not run.workspace.is_committed("publishable")

    def test_an_empty_delivery_balances(self, world: World) -> None:
        run = staged(world)
        audited = audit(run, None)
        assert (audited.balanced, audited.report["arrivals"], audited.open_arrivals) == (True, 0, 0)


class TestBadOutput:
    def test_a_completed_job_that_rejected_everything_releases_nothing(self, world: World) -> None:
        run, audited = done(world, A, B, a=failure("", message="no"), b=failure(""))
        assert audited.balanced
        assert words(run) == dict.fromkeys("ab", ("failed", "rejected"))
        assert contracts(run) == {}
        assert count_instances(world.ledger, STORE) == {}  # a later delivery may bring them

    def test_a_completed_job_over_nothing_proves_nothing(self, world: World) -> None:
        run, audited = done(world, A, B, a=None, b=None, manifest=summary(0))
        assert words(run) == dict.fromkeys("ab", ("failed", "not_in_manifest"))
        assert audited.report["jobs"][0]["discrepancies"] == ["the job scanned 0 files, the batch has 2"]

    @pytest.mark.parametrize("scanned", [1, 3])
    def test_another_number_scanned_holds_the_whole_batch(self, world: World, scanned: int) -> None:
        run, _ = done(world, A, C, manifest=summary(scanned, 2))
        assert words(run) == dict.fromkeys("ac", ("held", "job_counts_disagree"))
        assert contracts(run) == {}

    def test_lines_without_a_manifest_are_held(self, world: World) -> None:
        run, _ = done(world, A, manifest=None)
        assert words(run) == {"a": ("held", "job_counts_disagree")}

    def test_a_failed_jobs_message_is_kept(self, world: World) -> None:
        run = staged(world, A)
        imported(world, run, "FAILED", "no access", a=None, manifest=None)
        audited = audit(run, None)
        rows = run.workspace.read("dispositions", DISPOSITIONS)
        assert rows.select("disposition", "reason", "detail").row(0) == ("failed", "job_failed", "no access")
        assert (audited.balanced, audited.open_arrivals) == (True, 0)

    def test_a_non_primary_file_is_in_the_store_but_in_no_contract(self, world: World) -> None:
        run, _ = done(world, A, B, C, b=success("", isPrimary=False))
        assert words(run) == {"a": ("held", "study_held"), "b": ("held", "non_primary"), "c": ("released", None)}
        assert set(contracts(run)) == {"1.2"}
        assert count_instances(world.ledger, STORE) == {"imported": 2, "non_primary": 1}

    def test_a_file_whose_line_does_not_say_that_it_is_primary_is_held(self, world: World) -> None:
        run, audited = done(world, A, B, C, b=success("", isPrimary=None))
        assert words(run) == {"a": ("held", "study_held"), "b": ("held", "primary_unknown"), "c": ("released", None)}
        assert "notes" not in audited.report["jobs"][0]

    @pytest.mark.parametrize(("answer", "word"), [(True, ("released", None)), (False, ("held", "non_primary"))])
    def test_where_no_line_of_a_job_says_so_its_image_sets_decide_and_the_report_says_so_once(
        self, world: World, answer: bool, word: tuple[str, str | None]
    ) -> None:
        run = staged(world, A, B)
        imported(world, run, a=success("", isPrimary=None), b=success("", isPrimary=None))
        audited = audit(run, SimpleNamespace(get_image_set=lambda **_: {"isPrimary": answer}))
        assert words(run) == dict.fromkeys("ab", word)
        assert len(audited.report["jobs"][0]["notes"]) == 1

    def test_a_non_primary_file_does_not_determine_its_study(self, world: World) -> None:
        done(world, A, a=success("", isPrimary=False))
        assert world.ledger.known_studies(STORE, pl.Series(["1.1"])).is_empty()
        assert world.ledger.known_series(STORE, pl.Series(["1.1.1"])).is_empty()

    @pytest.mark.parametrize("types", [(), ("ElementsDiscarded",)])
    def test_a_version_above_one_of_a_new_series_is_flagged(self, world: World, types: tuple[str, ...]) -> None:
        line = warning("", *types) if types else success("")
        line["importResponse"]["imageSetVersion"] = 2
        run, _ = done(world, A, a=line)
        assert words(run) == {"a": ("held", "version_above_one")}

    def test_a_version_above_one_of_a_known_series_is_normal(self, world: World) -> None:
        done(world, A)
        run, _ = done(world, B, run_id="two", b=success("", imageSetVersion=2))
        assert words(run) == {"b": ("released", None)}

    def test_a_version_above_one_of_a_series_in_two_jobs_is_normal(self, world: World) -> None:
        run = staged(world, A, B, limits={"files_per_job": 1})
        imported(world, run, a=success("", imageSetVersion=1), b=success("", imageSetVersion=2))
        audit(run, None)
        assert words(run) == dict.fromkeys("ab", ("released", None))

    def test_a_version_above_one_after_a_failed_first_job_is_normal(self, world: World) -> None:
        run = staged(world, A)
        imported(world, run, generation=1, a=success("", imageSetVersion=2))
        audit(run, None)
        assert words(run) == {"a": ("released", None)}

    def test_an_instance_that_another_run_brought_meanwhile_is_flagged(self, world: World) -> None:
        """This run could not account for the file and gave it up; another brought it; then the manifest came."""
        one = staged(world, A)
        imported(world, one, a=None, manifest=None)
        audit(one, None)
        done(world, A | {"key": "in/again"}, run_id="two")
        imported(world, one)
        audit(one, None)
        assert words(one) == {"a": ("held", "version_above_one")}

    def test_an_object_that_changed_before_it_was_staged_fails_alone_and_holds_its_study(self, world: World) -> None:
        run = world.run("one", pipeline(audit=NO_WAIT))
        etag = world.put("s3://archive/in/a", b"in/a")
        world.buffered(run, dicom("", **(A | {"etag": etag, "size": 4})), dicom("", **(B | {"etag": "old", "size": 4})))
        world.put("s3://archive/in/b", b"new content")
        validate(run)
        stage_all(run)
        imported(world, run, b=None)
        audited = audit(run, None)
        assert words(run) == {"a": ("held", "study_incomplete"), "b": ("failed", "object_changed")}
        assert audited.report["jobs"][0]["discrepancies"] == []

    def test_the_equal_copy_of_an_object_that_changed_before_it_was_staged_is_there_for_the_next_run(
        self, world: World
    ) -> None:
        run = world.run("one", pipeline(audit=NO_WAIT))
        etag, _ = (world.put(f"s3://archive/in/{name}", b"same") for name in "ab")
        files = [dicom("", **(A | {"key": f"in/{name}", "etag": etag, "size": 4})) for name in "ab"]
        world.buffered(run, *files)
        validate(run)
        world.put("s3://archive/in/a", b"new content")
        stage_all(run)
        assert audit(run, None).balanced
        assert words(run) == dict.fromkeys("ab", ("failed", "object_changed"))
        next_run = world.run("two")
        world.ledger.open_run(next_run.key, next_run.pipeline.name, next_run.run_id, None)
        listing = frame(files[1:], ARRIVALS)
        world.ledger.claim(next_run.pipeline.name, next_run.key, listing)
        assert world.ledger.held_by(next_run.pipeline.name, next_run.key)["key"].to_list() == ["in/b"]
        assert world.ledger.known_instances(STORE, pl.Series([A["SOPInstanceUID"]])).is_empty()


class TestBrokenOff:
    def test_before_parse_every_arrival_is_undecided(self, world: World) -> None:
        run = world.run()
        world.buffered(run, A, B)
        audited = audit(run, None)
        assert not audited.balanced
        assert audited.open_arrivals == 2
        assert words(run) == dict.fromkeys("ab", ("failed", "undecided"))
        assert audited.report["dispositions"] == {"failed": 2}
        assert count_arrivals(world.ledger, "nightly") == {"claimed": 2}

    def test_before_buffer_there_is_a_report_of_nothing(self, world: World) -> None:
        run = world.run()
        audited = audit(run, None)
        assert audited.report["arrivals"] == 0
        assert not audited.balanced, "or a run whose buffer failed would end well"
        assert "buffer has not frozen a delivery" in audited.report["problems"][0]

    @pytest.mark.parametrize(("started", "reason"), [(False, "job_not_started"), (True, "job_unfinished")])
    def test_before_a_job_ended_its_arrivals_stay_open_and_claimed(
        self, world: World, started: bool, reason: str
    ) -> None:
        run = staged(world, A, BAD)
        (batch,) = find_batches(run)
        if started:
            run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job-1", input_uri=batch.input_uri))
        audited = audit(run, None)
        assert (audited.balanced, audited.open_arrivals) == (True, 1)
        assert words(run)["a"] == ("failed", reason)
        assert count_arrivals(world.ledger, "nightly") == {"claimed": 1, "quarantined": 1}
        assert count_instances(world.ledger, STORE) == {"claimed": 1}
        record_ = world.ledger.run(run.key)
        assert record_ is not None
        assert record_.state == "open"
        assert len(audited.report["jobs"]) == started

    def test_once_the_job_has_ended_the_audit_comes_to_an_end(self, world: World) -> None:
        run = staged(world, A)
        audit(run, None)
        imported(world, run)
        assert audit(run, None).open_arrivals == 0
        assert words(run) == {"a": ("released", None)}

    def test_books_that_do_not_balance_hold_everything_and_settle_nothing(self, world: World) -> None:
        run = staged(world, A, C)
        imported(world, run)
        run.workspace.write("arrivals/0000", ARRIVALS, run.workspace.read("arrivals/0000", ARRIVALS)[:1])
        audited = audit(run, None)
        assert not audited.balanced
        assert "verdicts: 1 arrivals do not belong there" in audited.report["problems"]
        assert set(words(run).values()) == {("held", "run_unbalanced")}
        assert contracts(run) == {}
        assert count_arrivals(world.ledger, "nightly") == {"claimed": 2}

    def test_jobs_without_output_share_one_wait(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []

        def counted(s3: S3, folder: S3Uri, wait_seconds: float) -> JobOutput:
            waits.append(wait_seconds)
            return read_output(s3, folder, wait_seconds)

        monkeypatch.setattr("airlock.imaging.manifests.read_output", counted)
        monkeypatch.setattr("airlock.stages.outputs.BATCHES_AT_A_TIME", 1)
        run = staged(world, A, C, audit={"manifest_wait_seconds": 0.2}, limits={"files_per_job": 1})
        imported(world, run, "FAILED", manifest=None, a=None, c=None)
        audit(run, None)
        assert 0 < waits[0] <= 0.2
        assert waits[1:] == [0.0]
        assert {reason for _, reason in words(run).values()} == {"job_failed"}


MANY = [
    dicom(
        f"{study}-{n}",
        SOPInstanceUID=f"1.{study}.1.{n}",
        StudyInstanceUID=f"1.{study}",
        SeriesInstanceUID=f"1.{study}.1",
    )
    for study in range(1, 6)
    for n in range(1, 4)
] + [unread(f"odd-{n}", "not_dicom") for n in range(3)]
LINES: dict[str, Any] = {
    "1-2": failure(""),
    "2-1": success("", isPrimary=False),
    "3-3": None,
    "4-1": warning("", "ElementsDiscarded", imageSetId="w"),
    "5-1": success("", imageSetVersion=2),
}
WORDS = {
    "1-1": ("held", "study_incomplete"),
    "1-2": ("failed", "rejected"),
    "1-3": ("held", "study_incomplete"),
    "2-1": ("held", "non_primary"),
    "2-2": ("held", "study_held"),
    "2-3": ("held", "study_held"),
    "3-1": ("held", "job_counts_disagree"),
    "3-2": ("held", "job_counts_disagree"),
    "3-3": ("failed", "not_in_manifest"),
    "4-1": ("released", "service_warning"),
    "4-2": ("released", None),
    "4-3": ("released", None),
    "5-1": ("held", "version_above_one"),
    "5-2": ("held", "study_held"),
    "5-3": ("held", "study_held"),
} | {f"odd-{n}": ("quarantined", "not_dicom") for n in range(3)}
KEPT = (
    ("verdicts", VERDICTS),
    ("outcomes", OUTCOMES),
    ("gates", GATES),
    ("dispositions", DISPOSITIONS),
    ("contracts", CONTRACTS),
)


def kept(world: World, run: Run) -> dict[str, Any]:
    """Return all that an audit leaves, in the workspace and in the ledger."""
    names = {name: run.workspace.read(name, schema) for name, schema in KEPT}
    found: dict[str, Any] = {name: rows.sort(rows.columns[0]).rows() for name, rows in names.items()}
    found |= {
        name: world.s3.get(run.workspace.root.join("audit", name)) for name in ("dispositions.csv", "report.json")
    }
    found["settled"] = read_dispositions(world.ledger, "nightly", run.key).rows()
    found["decided"] = world.ledger.gates_of(STORE, run.key).drop("decided_at").rows()
    found["ledger"] = world.ledger.contracts(STORE, pl.Series([f"1.{study}" for study in range(1, 6)])).rows()
    return found | {"instances": count_instances(world.ledger, STORE)}


class TestPartitions:
    """What is decided does not depend on how much of it is in memory at a time."""

    @pytest.fixture
    def run(self, world: World) -> Run:
        run = staged(world, *MANY, limits={"files_per_job": 4})
        imported(world, run, **LINES)
        return run

    def test_tiny_ones_give_the_same_result_as_one(
        self, world: World, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        audit(run, None)
        one = kept(world, run)
        assert words(run) == WORDS
        monkeypatch.setattr(spool, "PARTITION_ROWS", 4)
        assert audit(run, None).balanced
        assert kept(world, run) == one

    @pytest.mark.parametrize("lost", ["odd-1", "4-1", "4-2", "4-3", "5-1", "5-2"])
    def test_unbalanced_books_are_found_in_any(self, run: Run, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
        """Also what is in the store is decided on beside its siblings, though nothing says of which study it is."""
        verdicts = run.workspace.read("verdicts", VERDICTS).filter(pl.col("key") != f"in/{lost}")
        run.workspace.write("verdicts", VERDICTS, verdicts)
        one = audit(run, None)
        monkeypatch.setattr(spool, "PARTITION_ROWS", 4)
        tiny = audit(run, None)
        assert tiny.report == one.report
        assert not tiny.balanced
        assert tiny.report["problems"][0] == "verdicts: 1 arrivals are missing"

    @pytest.mark.parametrize(
        ("method", "at"),
        [("record_imported", 1), ("drop_instances", 2), ("revise_contracts", 2), ("record_releases", 1)],
    )
    def test_broken_off_between_two_it_gives_the_same_when_run_again(
        self, world: World, run: Run, monkeypatch: pytest.MonkeyPatch, method: str, at: int
    ) -> None:
        monkeypatch.setattr(spool, "PARTITION_ROWS", 4)
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, method, broken_off(getattr(Ledger, method), at))
            with pytest.raises(ConnectionError):
                audit(run, None)
        with world.ledger._reading() as connection:
            split = "SELECT study_key FROM arrival_states WHERE study_key IS NOT NULL GROUP BY study_key HAVING "
            assert connection.exec_driver_sql(split + "count(disposition) NOT IN (0, count(*))").all() == [], (
                "by halves"
            )
        audit(run, None)
        again = kept(world, run)
        assert words(run) == WORDS
        assert [row[2] for row in again["ledger"]] == [1] * len(again["ledger"]), "no revision is counted twice"
        monkeypatch.undo()
        audit(run, None)
        assert kept(world, run) == again


def broken_off(method: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Return a method of the ledger of which that call ends in an error, after it has done its work."""
    calls: list[None] = []

    def call(*arguments: Any, **named: Any) -> Any:
        result = method(*arguments, **named)
        calls.append(None)
        if len(calls) == at:
            raise ConnectionError("broken off")
        return result

    return call


class TestContracts:
    def test_a_later_delivery_adds_to_the_contract(self, world: World) -> None:
        done(world, A)
        run, _ = done(world, B, run_id="two")
        (contract,) = contracts(run).values()
        assert contract.revision == 2
        assert contract.NumberOfStudyRelatedInstances == 2

    def test_auditing_the_earlier_run_again_makes_no_new_revision(self, world: World) -> None:
        one, _ = done(world, A | {"StudyDescription": "one"})
        two, _ = done(world, B | {"StudyDescription": "two"}, run_id="two")
        audit(one, None)
        assert contracts(one)["1.1"] == contracts(two)["1.1"]
        assert contracts(one)["1.1"].revision == 2

    def test_of_a_held_study_it_is_kept_but_not_among_the_released_ones(self, world: World) -> None:
        one, _ = done(world, A, manifest=None)
        assert contracts(one) == {}
        assert world.ledger.contracts(STORE, pl.Series(["1.1"]))["revision"].to_list() == [1]

    def test_a_file_that_earlier_did_not_come_in_holds_the_study_until_it_does(self, world: World) -> None:
        done(world, A, B, b=failure(""))
        two, _ = done(world, dicom("d", SOPInstanceUID="1.1.1.9"), run_id="two")
        assert words(two) == {"d": ("held", "study_incomplete")}
        three, _ = done(world, B | {"key": "in/b-again"}, run_id="three")
        assert words(three) == {"b-again": ("released", None)}
        assert contracts(three)["1.1"].NumberOfStudyRelatedInstances == 3
        audit(two, None)
        assert words(two) == {"d": ("released", None)}

    def test_a_file_that_waits_for_a_person_is_in_no_released_contract(self, world: World) -> None:
        lax = NO_WAIT | {"hold_incomplete_studies": False}
        one = staged(world, A, audit=lax)
        imported(world, one, a=warning("", "InvalidOffsetTable"))
        audit(one, None)
        assert words(one) == {"a": ("held", "service_warning")}
        two = staged(world, B, run_id="two", audit=lax)
        imported(world, two)
        audit(two, None)
        assert words(two) == {"b": ("held", "study_held")}
        assert contracts(two) == {}

    def test_by_policy_a_file_that_earlier_did_not_come_in_does_not_hold(self, world: World) -> None:
        done(world, A, B, b=failure(""))
        lenient = {"audit": NO_WAIT | {"hold_incomplete_studies": False}}
        two = staged(world, dicom("d", SOPInstanceUID="1.1.1.9"), run_id="two", **lenient)
        imported(world, two)
        audit(two, None)
        assert words(two) == {"d": ("released", None)}

    def test_no_policy_releases_a_file_that_waits_for_a_person(self, world: World) -> None:
        done(world, A, B, b=success("", isPrimary=False))
        lenient = {"audit": NO_WAIT | {"hold_incomplete_studies": False}}
        two = staged(world, dicom("d", SOPInstanceUID="1.1.1.9"), run_id="two", **lenient)
        imported(world, two)
        audit(two, None)
        assert words(two) == {"d": ("held", "study_held")}


def test_the_report_names_no_key_and_no_uid(world: World) -> None:
    _, audited = done(
        world,
        dicom("MUELLER", PatientName="MUELLER", SOPInstanceUID="1.99"),
        BAD,
        MUELLER=failure("", message="MUELLER"),
    )
    text = json.dumps(audited.report)
    assert "MUELLER" not in text
    assert "1.99" not in text
    assert study_key("1.1") in text
