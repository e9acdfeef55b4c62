"""Two sources of one data store with the same objects: each study is released once, whichever run comes when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import DATASTORE, pipeline
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import DAY, HOUR, find_last_night, nightly, put_at, released, slices
from tests.ledger_rows import count_current_arrivals, count_instances

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.pipelines import Pipeline
    from tests.chain import Chain, Place

pytestmark = pytest.mark.slow

MAIN, MIRROR = ("main", "mirror")


def line(source: str) -> Pipeline:
    """Return the pipeline of a source; both send their contracts to the same place."""
    return pipeline(source, source={"uri": f"s3://archive/in/{source}/"})


def deliver(place: Place, source: str, studies: Iterable[int], numbers: Iterable[int] = (1, 2), ago: int = 0) -> None:
    """Store slices of studies below a source, in the evening before the night of so many days ago."""
    files = {f"{source}/{study}/{number}.dcm": ct(study, 1, number) for study in studies for number in numbers}
    put_at(place, find_last_night() - ago * DAY - HOUR, files)


def night(place: Place, source: str, ago: int = 0) -> Chain:
    return nightly(place, ago, line(source))


def dispositions(place: Place) -> dict[str, dict[str, int]]:
    """Return how many files of each source have each disposition."""
    with place.ledger() as ledger:
        return {source: count_current_arrivals(ledger, source) for source in (MAIN, MIRROR)}


def revisions(place: Place) -> dict[str, list[int]]:
    """Return the revisions of each study that were routed, in order."""
    found: dict[str, list[int]] = {}
    for contract in place.contracts():
        found.setdefault(contract["StudyInstanceUID"], []).append(contract["revision"])
    return {study: sorted(numbers) for study, numbers in found.items()}


def test_over_the_nights_each_study_is_released_once_and_its_copies_are_duplicates(place: Place) -> None:
    nights = [  # the studies that each source has in the nights of three, two, one and no days ago
        ({1, 2}, set[int]()),
        ({3}, {1, 2, 4}),
        ({4}, {3, 5}),
        ({5}, set[int]()),
    ]
    for ago, (main, mirror) in zip((3, 2, 1, 0), nights, strict=True):
        deliver(place, MAIN, main, ago=ago)
        deliver(place, MIRROR, mirror, ago=ago)
        for source in (MAIN, MIRROR):
            report = night(place, source, ago).run()
            assert report["balanced"]
            assert "held" not in report["dispositions"]
    assert dispositions(place) == {MAIN: {"released": 6, "duplicate": 4}, MIRROR: {"released": 4, "duplicate": 6}}
    assert revisions(place) == {study_uid(study): [1] for study in range(1, 6)}
    with place.ledger() as ledger:
        assert count_instances(ledger, DATASTORE) == {"imported": 10}


def test_parts_of_a_study_from_both_sources_are_one_study(place: Place) -> None:
    deliver(place, MAIN, [1], [1, 2], ago=1)
    deliver(place, MIRROR, [1], [2, 3], ago=1)
    for source in (MAIN, MIRROR):
        assert "held" not in night(place, source, 1).run()["dispositions"]
    deliver(place, MAIN, [1], [3])
    deliver(place, MIRROR, [1], [1])
    for source in (MIRROR, MAIN):
        assert night(place, source).run()["dispositions"] == {"duplicate": 1}
    assert dispositions(place) == {MAIN: {"released": 2, "duplicate": 1}, MIRROR: {"released": 1, "duplicate": 2}}
    assert released(place) == slices(1, 2, 3)
    assert revisions(place) == {study_uid(1): [1, 2]}


@pytest.mark.parametrize(
    ("last", "then"),
    [("buffer", "parse"), ("validate", "normalize"), ("normalize", "stage"), ("stage", "import"), ("audit", "route")],
)
def test_runs_of_both_sources_at_once_release_each_study_once(place: Place, last: str, then: str) -> None:
    deliver(place, MAIN, [1, 2], ago=1)
    deliver(place, MIRROR, [1, 2, 3], ago=1)
    first = night(place, MAIN, 1)
    first.until(last)
    night(place, MIRROR, 1).run()
    first.onward(then)
    for source in (MAIN, MIRROR):  # the next night takes what the other run had claimed
        night(place, source).run()
    found = dispositions(place)
    assert found[MAIN].keys() | found[MIRROR].keys() == {"released", "duplicate"}
    assert found[MAIN].get("released", 0) + found[MIRROR].get("released", 0) == 6
    assert sum(found[MAIN].values()) + sum(found[MIRROR].values()) == 10
    assert revisions(place) == {study_uid(study): [1] for study in range(1, 4)}
