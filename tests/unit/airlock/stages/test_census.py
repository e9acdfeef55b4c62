"""A sweep counts the source by site and month on its way, once, also if it was interrupted."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Ledger
from airlock.ledger.censuses import NO_MONTH
from airlock.ledger.console import Console
from airlock.pipelines import Source
from airlock.stages import sweep as sweeps
from airlock.stages.census import Census, add_to_census, count_other_files, list_census, month_of
from airlock.storage.listing import LISTED
from tests.servers.ledger import new_ledger
from tests.unit.airlock.stages.test_sweep import Archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def source(**changes: Any) -> Source:
    return Source(**({"uri": "s3://archive/in/"} | changes))


def listed(*keys: str, size: int = 5, at: datetime = datetime(2026, 3, 31, 23, tzinfo=UTC)) -> pl.DataFrame:
    return pl.DataFrame([(key, None, "etag", size, at) for key in keys], schema=LISTED, orient="row")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as ledger:
        yield Archive(ledger)


def test_a_month_is_that_of_the_time_which_assigns_an_object_to_a_run() -> None:
    rows = listed("in/2019/02/28/a", "in/2019/02/30/a", "in/none")
    assert month_of(source(), rows).to_list() == ["2026-03"] * 3
    assert month_of(source(window="key_date"), rows).to_list() == ["2019-02", NO_MONTH, NO_MONTH]


def test_objects_and_bytes_add_up_frame_by_frame() -> None:
    census: Census = {}
    for site in ("north", "south", "north"):
        add_to_census(census, source(), listed("in/a", "in/b").with_columns(site=pl.lit(site)))
    assert [tuple(vars(one).values()) for one in list_census(census)] == [
        ("north", "2026-03", 4, 20),
        ("south", "2026-03", 2, 10),
    ]


def test_files_that_are_no_images_are_counted_by_known_ends_of_names_only() -> None:
    counts: dict[str, int] = {}
    count_other_files(counts, listed("in/a.dcm", "in/1.2.840", "in/none", "in/scan.SMITH", "in/x.PDF", "in/.DS_Store"))
    count_other_files(counts, listed("in/y.pdf", "in/pdf", "in/pdf.d/a"))
    assert counts == {"pdf": 2, "ds_store": 1}


def test_a_sweep_keeps_how_many_files_are_no_images(archive: Archive, tmp_path: Path) -> None:
    console = Console.connect(f"sqlite:///{tmp_path / 'ledger.db'}")
    with console.page() as page:
        assert page.last_sweeps([archive.line.name]) == {}
    archive.put("a", "report.pdf")
    archive.sweep()
    archive.put("photo.jpg")
    archive.sweep()
    with console.page() as page:
        assert page.last_sweeps(["other"]) == {}
        (found,) = page.last_sweeps([archive.line.name]).values()
    console.dispose()
    assert found.others == {"pdf": 1, "jpg": 1}


def test_a_sweep_records_what_it_has_listed(archive: Archive) -> None:
    archive.put("a", "b")
    archive.sweep()
    (row,) = archive.ledger.latest_census([archive.line.name])
    assert (row.objects, row.bytes, row.method) == (2, 2, "listing")
    archive.put("c")
    archive.sweep(dry_run=True)
    assert [one.objects for one in archive.ledger.latest_census([archive.line.name])] == [3]


def test_a_sweep_that_is_killed_before_its_end_records_its_census_once(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.put("a", "b")
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "end_comparison", _die)
        with pytest.raises(KeyboardInterrupt):
            archive.sweep()
    archive.sweep()
    assert [one.objects for one in archive.ledger.latest_census([archive.line.name])] == [2]


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_sweep_that_an_earlier_version_began_records_none(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive.put("a", "b")
    monkeypatch.setattr(sweeps, "add_to_census", lambda *_: None)
    archive.sweep()
    assert archive.ledger.latest_census([archive.line.name]) == []
