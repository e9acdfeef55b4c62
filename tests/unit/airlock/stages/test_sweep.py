"""A sweep finds every object below the source that is no arrival, whatever its date, and every arrival that is gone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError, upgrade
from airlock.ledger.columns import FindingKind
from airlock.records import Window
from airlock.run import Run
from airlock.stages import sweep as sweeps
from airlock.stages.buffer import buffer
from airlock.stages.journal import keep_journal
from airlock.stages.rebuild import rebuild
from airlock.stages.sweep import sweep, youth
from airlock.stages.sweep_answer import SweepAnswerError, answer
from airlock.storage import key_ranges
from airlock.storage.s3 import S3, S3Error
from airlock.storage.s3uri import S3Uri
from tests.explore.memory_s3 import MemoryS3
from tests.rebuilt_ledger import differences, read_tables
from tests.servers.ledger import new_ledger, restore
from tests.unit.airlock.world import BUCKETS, pipeline, read_arrivals

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.pipelines import ImagingPipeline
    from airlock.stages.sweep_work import Swept

OLD, YOUNG = timedelta(days=9), timedelta(hours=1)
NIGHT = Window(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))


class Archive:
    """A source in memory, its pipeline and its ledger."""

    def __init__(self, ledger: Ledger, **changes: Any) -> None:
        self.client = MemoryS3(lambda: datetime.now(UTC))
        for bucket in BUCKETS:
            self.client.create_bucket(Bucket=bucket)
        self.s3 = S3(None, self.client)
        self.ledger = ledger
        self.line = pipeline(**changes)

    def put(self, *names: str, age: timedelta = OLD, body: bytes = b"x") -> None:
        for name in names:
            self.client.store("archive", f"in/{name}", body, last_modified=datetime.now(UTC) - age)

    def remove(self, *names: str) -> None:
        self.s3.delete("archive", [f"in/{name}" for name in names])

    def take(self, run_id: str = "manual__1", window: Window | None = None) -> list[str]:
        """Buffer a run, and return the names of what it holds."""
        run = keep_journal(Run(self.line, run_id, window, S3Uri("archive", "in/"), self.s3, self.ledger))
        buffer(run)
        return sorted(key.removeprefix("in/") for key in read_arrivals(run)["key"])

    def run_key(self, run_id: str) -> str:
        return Run(self.line, run_id, None, S3Uri("archive", "in/"), self.s3, self.ledger).key

    def sweep(self, **given: Any) -> Swept:
        return sweep(self.line, self.s3, self.ledger, "ada", **given)

    def answer(self, number: int, *, take_in: bool = True, why: str = "a late replica") -> tuple[int, int]:
        return answer(self.line, self.s3, self.ledger, number, take_in=take_in, person="ada", why=why)

    def change(self, **changes: Any) -> ImagingPipeline:
        self.line = pipeline(**changes)
        return self.line

    def read_csv(self, found: Swept, name: str) -> pl.DataFrame:
        return pl.read_csv(self.s3.get(S3Uri.parse(found.report[f"{name}_uri"])), infer_schema=False)


@pytest.fixture
def archive(ledger: Ledger) -> Archive:
    """An archive of which a run has taken all, and which was swept once."""
    archive = Archive(ledger)
    archive.put("a/1", "a/2", "b/1")
    archive.take()
    archive.sweep()
    return archive


def totals(found: Swept) -> dict[str, int]:
    return {kind: found.counts.total(kind) for kind in ("young", "overdue", "vanished") if found.counts.total(kind)}


class TestCounts:
    def test_of_a_source_that_runs_have_taken_it_finds_nothing(self, archive: Archive) -> None:
        found = archive.sweep()
        assert (found.counts.listed, found.counts.owed, totals(found), found.caution) == (3, 0, {}, None)

    def test_an_object_that_is_no_arrival_is_young_and_then_overdue(self, archive: Archive) -> None:
        archive.put("a/3", age=YOUNG)
        archive.put("a/4")
        found = archive.sweep()
        assert totals(found) == {"young": 1, "overdue": 1}
        assert archive.read_csv(found, "overdue").select("key", "taken_in").rows() == [("in/a/4", "yes")]

    def test_counts_are_by_site(self, archive: Archive) -> None:
        archive.change(source={"site_pattern": "^in/(?P<site>[^/]+)/"})
        archive.put("a/3", "a/4", "b/2")
        archive.remove("b/1")
        sites = archive.sweep().counts.sites
        assert {site: (of["overdue"], of["vanished"]) for site, of in sites.items()} == {"a": (2, 0), "b": (1, 1)}

    def test_without_a_pattern_the_source_is_one_site(self, archive: Archive) -> None:
        archive.put("Doe^Jane/1")
        assert archive.sweep().counts.sites.keys() == {""}

    def test_a_changed_content_and_one_that_returns_are_objects_of_their_own(self, archive: Archive) -> None:
        archive.put("a/1", body=b"new", age=OLD - timedelta(days=1))
        assert totals(archive.sweep()) == {"overdue": 1}
        assert archive.take("manual__2") == ["a/1"]
        archive.put("a/1", body=b"x", age=OLD - timedelta(days=2))
        assert totals(archive.sweep()) == {"overdue": 1}
        assert archive.take("manual__3") == ["a/1"]
        assert totals(archive.sweep()) == {}

    def test_folder_placeholders_and_objects_beside_the_source_are_none_of_it(self, archive: Archive) -> None:
        archive.client.store("archive", "in/empty/", b"", last_modified=datetime.now(UTC) - OLD)
        archive.client.store("archive", "out/1", b"x", last_modified=datetime.now(UTC) - OLD)
        assert totals(archive.sweep()) == {}

    @pytest.mark.parametrize(
        ("changes", "hours"),
        [
            ({}, 48),
            ({"source": {"lookback_hours": 100}}, 124),
            ({"schedule": {"cron": "0 2 * * 1-5"}}, 72 + 24),
            ({"schedule": {"cron": None}}, 48),
            ({"source": {"window": "key_date", "lookback_days": 5}}, 6 * 24),
        ],
        ids=["nightly", "look-back", "weekdays", "no schedule", "days"],
    )
    def test_an_object_is_young_for_an_interval_and_the_look_back(self, changes: dict[str, Any], hours: int) -> None:
        assert youth(pipeline(**changes), datetime(2026, 11, 24, tzinfo=UTC)) == timedelta(hours=hours)


class TestTakingIn:
    def test_the_next_nightly_takes_what_is_overdue_whatever_its_date(self, archive: Archive) -> None:
        archive.put("a/3", "b/2", age=timedelta(days=999))
        assert archive.take("scheduled__2", NIGHT) == []
        found = archive.sweep()
        assert (found.taken_in, found.asks) == (2, 0)
        assert archive.take("scheduled__3", NIGHT) == ["a/3", "b/2"]
        assert totals(archive.sweep()) == {}

    def test_what_it_has_taken_in_is_owed_until_then(self, archive: Archive) -> None:
        archive.put("a/3")
        archive.sweep()
        again = archive.sweep()
        assert (totals(again), again.counts.owed) == ({}, 1)

    def test_above_the_limit_it_names_all_and_asks(self, archive: Archive) -> None:
        archive.change(sweep={"take_at_most": 1})
        archive.put("a/3", "a/4")
        found = archive.sweep()
        assert (found.taken_in, found.asks) == (0, 2)
        assert archive.take("scheduled__2", NIGHT) == []
        assert set(archive.read_csv(found, "overdue")["taken_in"]) == {"no"}

    def test_below_a_folder_that_is_new_it_asks_and_takes_in_the_others(self, archive: Archive) -> None:
        archive.put("a/3", "new/1", "new/2", "beside")
        found = archive.sweep()
        assert (found.taken_in, found.asks, found.report["new_folders"]) == (2, 2, ["new"])
        assert archive.take("scheduled__2", NIGHT) == ["a/3", "beside"]

    def test_a_folder_is_known_by_an_arrival_that_is_gone(self, archive: Archive) -> None:
        archive.remove("b/1")
        archive.put("b/2")
        assert archive.sweep().taken_in == 1

    def test_a_pipeline_may_take_in_new_folders_too(self, archive: Archive) -> None:
        archive.change(sweep={"new_folders": "take"})
        archive.put("new/1")
        assert (archive.sweep().taken_in, archive.take("scheduled__2", NIGHT)) == (1, ["new/1"])

    def test_a_persons_answer_takes_in_exactly_what_was_named(self, archive: Archive) -> None:
        archive.put("new/1", "new/2")
        found = archive.sweep()
        archive.put("new/3")
        assert archive.answer(found.number) == (2, 2)
        assert archive.take("scheduled__2", NIGHT) == ["new/1", "new/2"]
        assert archive.answer(found.number) == (2, 0)

    def test_a_rebuilt_ledger_owes_what_a_sweep_and_a_person_have_taken_in(
        self, archive: Archive, tmp_path: Path
    ) -> None:
        archive.put("a/3", "new/1")
        archive.answer(archive.sweep().number)
        url = f"sqlite:///{tmp_path}/again.db"
        upgrade(url)
        with Ledger.open(url, rebuilding=True) as again:
            rebuild(again, archive.s3, [archive.line], "an operator", lambda _: None)
            assert not differences(read_tables(f"sqlite:///{tmp_path}/ledger.db"), read_tables(url))
            archive.ledger = again
            assert archive.take("scheduled__2", NIGHT) == ["a/3", "new/1"]

    def test_an_answer_may_leave_them(self, archive: Archive) -> None:
        archive.put("new/1")
        assert archive.answer(archive.sweep().number, take_in=False) == (1, 0)
        assert archive.take("scheduled__2", NIGHT) == []

    def test_an_answer_without_a_reason_or_about_nothing_is_refused(self, archive: Archive) -> None:
        archive.put("new/1")
        found = archive.sweep()
        with pytest.raises(SweepAnswerError, match="The reason is empty"):
            archive.answer(found.number, why=" ")
        with pytest.raises(SweepAnswerError, match="has no sweep 99"):
            archive.answer(99)
        with pytest.raises(SweepAnswerError, match="named no objects"):
            archive.answer(1)


class TestCaution:
    def test_the_first_sweep_of_a_pipeline_only_names(self, ledger: Ledger) -> None:
        archive = Archive(ledger)
        archive.put("a/1")
        found = archive.sweep()
        assert (found.taken_in, found.asks, found.caution) == (0, 1, "it is the pipeline's first")
        assert archive.take("scheduled__1", NIGHT) == []
        assert archive.answer(found.number) == (1, 1)
        assert archive.take("scheduled__2", NIGHT) == ["a/1"]

    def test_a_dry_run_changes_nothing_and_counts_as_the_first(self, ledger: Ledger) -> None:
        archive = Archive(ledger)
        archive.put("beside")
        assert archive.sweep(dry_run=True).caution == "a person asked for a dry run"
        assert ledger.count_owed("nightly").is_empty()
        assert (archive.sweep().taken_in, archive.sweep(dry_run=True).counts.owed) == (1, 1)

    def test_one_after_a_change_of_the_source_only_names(self, archive: Archive) -> None:
        archive.put("a/deep/1")
        archive.change(source={"uri": "s3://archive/in/a/"})
        found = archive.sweep()
        assert (found.taken_in, found.asks) == (0, 1)
        assert found.caution == "source.uri has changed since the last one"
        assert totals(found) == {"overdue": 1}
        assert archive.sweep().asks == 1  # below a new folder

    def test_one_after_a_restore_of_the_ledger_only_names(self, archive: Archive, tmp_path: Path) -> None:
        ledger_file = tmp_path / "ledger.db"
        backup = ledger_file.read_bytes()
        archive.put("a/3")
        archive.take("manual__2")
        restore(ledger_file, backup)
        found = archive.sweep()
        assert (found.taken_in, found.asks) == (0, 1)
        assert str(found.caution).startswith("the workspace has runs or sweeps that the ledger does not know")
        assert archive.sweep().taken_in == 1

    def test_the_first_one_after_a_loss_of_the_ledger_tells_of_it(self, archive: Archive, tmp_path: Path) -> None:
        with Ledger.open(new_ledger(tmp_path / "new.db")) as archive.ledger:
            assert "restored or lost" in str(archive.sweep().caution)

    def test_a_sweep_that_the_ledger_lacks_means_a_restore_too(self, archive: Archive, tmp_path: Path) -> None:
        ledger_file = tmp_path / "ledger.db"
        backup = ledger_file.read_bytes()
        archive.sweep()
        restore(ledger_file, backup)
        assert "restored or lost" in str(archive.sweep().caution)

    def test_the_first_one_after_a_rebuild_onto_a_backup_only_names(self, archive: Archive, tmp_path: Path) -> None:
        ledger_file = tmp_path / "ledger.db"
        backup = ledger_file.read_bytes()
        archive.put("a/3")
        archive.take("manual__2")
        ledger_file.write_bytes(backup)
        rebuild(archive.ledger, archive.s3, [archive.line], "ada", lambda _: None, onto_backup=True)
        archive.put("a/4")
        found = archive.sweep()
        assert (found.taken_in, found.caution) == (0, "the ledger was rebuilt since the last one")
        assert archive.sweep().taken_in == 1

    def test_an_interrupted_sweep_does_not_go_on_in_a_restored_ledger(
        self, archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(sweeps, "compare_arrivals", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                archive.sweep()
        backup = (tmp_path / "ledger.db").read_bytes()
        archive.put("a/3")
        archive.take("manual__2")
        restore(tmp_path / "ledger.db", backup)
        assert "restored or lost" in str(archive.sweep().caution)

    def test_a_plan_in_the_workspace_means_none(self, archive: Archive) -> None:
        plan = Run(archive.line, "plan", None, S3Uri("archive", "in/"), archive.s3, archive.ledger).as_plan()
        buffer(plan)
        assert archive.sweep().caution is None


class TestVanished:
    def open_findings(self, archive: Archive) -> list[str]:
        found = archive.ledger.find_findings(FindingKind.VANISHED, pipeline="nightly")
        ids = pl.concat([pl.Series("arrival_id", dtype=pl.String), *(rows["arrival_id"] for rows in found)])
        return archive.ledger.describe_vanished("nightly", ids)["key"].to_list()

    def test_an_arrival_whose_object_is_gone_is_a_finding_until_it_is_back(self, archive: Archive) -> None:
        archive.remove("a/1")
        found = archive.sweep()
        assert totals(found) == {"vanished": 1}
        assert archive.read_csv(found, "vanished")["key"].to_list() == ["in/a/1"]
        assert self.open_findings(archive) == ["in/a/1"]
        assert totals(archive.sweep()) == {"vanished": 1}
        assert self.open_findings(archive) == ["in/a/1"]
        archive.put("a/1")
        assert totals(archive.sweep()) == {}
        assert self.open_findings(archive) == []

    def test_a_dry_sweep_records_none(self, archive: Archive) -> None:
        archive.remove("a/1")
        assert totals(archive.sweep(dry_run=True)) == {"vanished": 1}
        assert self.open_findings(archive) == []

    def test_one_whose_key_has_another_content_has_not_vanished(self, archive: Archive) -> None:
        archive.put("a/1", body=b"new")
        assert totals(archive.sweep()) == {"overdue": 1}

    def test_an_arrival_of_another_source_has_not_vanished(self, archive: Archive) -> None:
        archive.change(source={"uri": "s3://archive/in/a/"})
        assert totals(archive.sweep()) == {}

    def test_one_that_came_while_the_sweep_listed_has_not_vanished(
        self, archive: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compare = sweeps._compare_frame

        def take_meanwhile(*given: Any) -> None:
            archive.put("a/0", age=timedelta())
            archive.take("manual__2")
            compare(*given)

        monkeypatch.setattr(sweeps, "_compare_frame", take_meanwhile)
        assert totals(archive.sweep()) == {}


class TestInterrupted:
    @pytest.fixture
    def large(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Archive:
        """An archive whose folders are listed in many frames."""
        for name, value in {"FRAME_ROWS": 1000, "_PAGES_PER_CUT": 2, "_KNOWN_PAGES": 1, "_LEAST_PAGES": 1}.items():
            monkeypatch.setattr(key_ranges, name, value)
        take_all = {"take_at_most": 10**6, "new_folders": "take"}
        archive = Archive(ledger, source={"listings": 2}, sweep=take_all)
        for folder in "abc":
            archive.put(*(f"{folder}/{number:04}" for number in range(2500)))
        archive.take()
        archive.sweep()
        for folder in "abc":
            archive.put(*(f"{folder}/{number:04}-late" for number in range(0, 2500, 500)))
            archive.remove(f"{folder}/0001", f"{folder}/2400")
        return archive

    @pytest.mark.parametrize("calls", [1, 2, 4, 7])
    def test_it_goes_on_at_its_position_and_ends_as_any_other(
        self, large: Archive, monkeypatch: pytest.MonkeyPatch, calls: int
    ) -> None:
        pages = large.client.list_objects_v2
        left = calls

        def fail(**request: Any) -> Any:
            nonlocal left
            left -= "Delimiter" not in request  # folders of the workspace
            if left < 0:
                raise S3Error("bucket 'archive' cannot be listed", "ListObjectsV2", "SlowDown")
            return pages(**request)

        monkeypatch.setattr(large.client, "list_objects_v2", fail)
        with pytest.raises(S3Error):
            large.sweep()
        monkeypatch.setattr(large.client, "list_objects_v2", pages)
        found = large.sweep()
        assert (found.number, found.counts.listed) == (2, 3 * 2503)
        assert totals(found) == {"overdue": 15, "vanished": 6}
        assert large.read_csv(found, "overdue").height == found.taken_in == 15
        assert len(large.take("scheduled__2", NIGHT)) == 15

    def test_of_two_at_once_one_is_refused_and_the_other_is_whole(
        self, large: Archive, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compare, other = sweeps._compare_frame, list[Any]()

        def overtake(*given: Any) -> None:
            monkeypatch.setattr(sweeps, "_compare_frame", compare)
            other.append(large.sweep())
            compare(*given)

        monkeypatch.setattr(sweeps, "_compare_frame", overtake)
        with pytest.raises(LedgerError, match="another process has gone on"):
            large.sweep()
        assert totals(other[0]) == {"overdue": 15, "vanished": 6}

    def test_a_dry_run_does_not_go_on_with_a_real_one(self, large: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise S3Error("x", "ListObjectsV2", "SlowDown")

        with monkeypatch.context() as patched:
            patched.setattr(sweeps, "_compare_frame", fail)
            with pytest.raises(S3Error):
                large.sweep()
        dry = large.sweep(dry_run=True)
        assert (dry.number, dry.taken_in, dry.overdue) == (3, 0, 15)


def test_the_report_counts_and_the_lists_name(archive: Archive) -> None:
    archive.put("a/3")
    found = archive.sweep()
    assert json.loads(archive.s3.get(S3Uri.parse(found.report_uri))) == json.loads(json.dumps(found.report))
    assert found.report["sites"] == {"": {"young": 0, "overdue": 1, "vanished": 0}}
    assert "in/a/3" not in json.dumps(found.report)
