"""A delivery that is too large for one run is taken by one run after the other; each starts the next."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airlock.ledger.runs import parse_wave
from airlock.records import study_key
from airlock_cli import ledgers, where
from airlock_tasks.run import connect_s3
from tests.chain import Chain, pipeline
from tests.dicom_files import ct, sop_uid, study_uid
from tests.rebuilt_ledger import differences, read_tables, rebuild_into

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chain import Place

pytestmark = pytest.mark.slow

LINE: dict[str, Any] = {"waves": {"objects": 4}}


def begin(place: Place, **changes: Any) -> Chain:
    """Deliver two studies in folders of their own, and one of which each half is in a folder of its own."""
    files = {f"{study}/{number}.dcm": ct(study, 1, number) for study in (1, 2) for number in (1, 2)}
    files |= {f"3/{part}/{number}.dcm": ct(3, 1, 2 * part + number) for part in (0, 1) for number in (1, 2)}
    place.put(files)
    return Chain(place, pipeline(**(LINE | changes)))


def follow(chain: Chain) -> Chain | None:
    """Return the run that a run has started; None if it has started none."""
    found = [Chain(chain.place, chain.pipeline, run_id, asked.conf or {}) for run_id, asked in chain.started.items()]
    assert len(found) <= 1
    return found[0] if found else None


def claim(chain: Chain) -> None:
    """Take a run up to the start of the next wave."""
    chain.until("buffer")
    with suppress(AirflowSkipException):
        chain.stage("next_wave")


def instances(place: Place) -> dict[str, set[str]]:
    """Return the instances of the newest contract of each study."""
    newest: dict[str, dict[str, Any]] = {}
    for contract in place.contracts():
        known = newest.get(contract["study_key"])
        if known is None or known["revision"] < contract["revision"]:
            newest[contract["study_key"]] = contract
    return {
        key: {item["SOPInstanceUID"] for series in contract["series"] for item in series["instances"]}
        for key, contract in newest.items()
    }


def test_each_wave_releases_its_studies_and_nothing_is_taken_twice(place: Place) -> None:
    first = begin(place)
    first.run()
    second = follow(first)
    assert second is not None
    place.put({"1/late.dcm": ct(1, 1, 9)})  # nothing is listed again
    second.run()
    assert follow(second) is None
    reports = [first.report, second.report]
    assert [report["arrivals"] for report in reports] == [4, 4]
    assert [report["wave"] for report in reports] == [
        {"number": number, "of": 2, "run": first.run_id, "split_studies": 0} for number in (1, 2)
    ]
    assert Counter(len(found) for found in instances(place).values()) == Counter([2, 2, 4])


def test_a_study_in_two_waves_is_released_whole_in_the_end(place: Place) -> None:
    first = begin(place, waves={"objects": 2})
    chains = [first]
    first.run()
    while (following := follow(chains[-1])) is not None:
        chains.append(following)
        following.run()
    assert [chain.report["wave"]["split_studies"] for chain in chains] == [0, 0, 0, 1]
    found = instances(place)
    whole = {sop_uid(3, 1, number) for number in (1, 2, 3, 4)}
    assert whole in found.values()
    assert len(found) == 3


def test_a_study_whose_other_part_is_claimed_by_the_next_wave_waits_for_it(place: Place) -> None:
    """The next wave claims before this one ends; so most studies in two waves are released once, and whole."""
    chains = [begin(place, waves={"objects": 2})]
    claim(chains[0])
    while (following := follow(chains[-1])) is not None:
        chains.append(following)
        claim(following)
    for chain in chains:
        chain.stage("parse")
        chain.stage("validate")
    for chain in chains:
        chain.onward("normalize")
    assert len(place.contracts()) == 3
    assert {sop_uid(3, 1, number) for number in (1, 2, 3, 4)} in instances(place).values()


def test_a_killed_buffer_is_cleared_and_no_wave_is_lost(place: Place) -> None:
    first = begin(place, waves={"objects": 2})
    first.until("buffer")
    first.onward("buffer")
    second = follow(first)
    assert second is not None
    second.until("buffer")
    again = Chain(place, second.pipeline, second.run_id, second.params)
    again.run()
    third = follow(again)
    assert third is not None
    third.run()
    assert [first.report["arrivals"], again.report["arrivals"], third.report["arrivals"]] == [2, 2, 2]


HELD = {"waves": {"objects": 2, "hold_split": True}}


class TestHoldSplit:
    """Study 3 has a half in the third wave, and the other half in the fourth."""

    def three(self, place: Place) -> list[Chain]:
        """Take the first three waves to their ends, one after the other; the fourth has not begun."""
        chains = [begin(place, **HELD)]
        for number in range(3):
            chains[number].run()
            if number < 2:
                following = follow(chains[number])
                assert following is not None
                chains.append(following)
        assert [chain.report["reasons"].keys() for chain in chains] == [set(), set(), {"study_in_flight"}]
        assert len(place.contracts()) == 2
        return chains

    def waits(self) -> list[dict[str, Any]]:
        return where.find(study_key(study_uid(3)))["waits_for"]

    def require_released_once(self, place: Place) -> None:
        """Require one contract of each study; that of study 3 names all of it."""
        assert len(place.contracts()) == 3
        assert {sop_uid(3, 1, number) for number in (1, 2, 3, 4)} in instances(place).values()
        assert self.waits() == []

    def test_a_study_in_two_waves_is_released_once(self, place: Place) -> None:
        fourth = follow(self.three(place)[-1])
        assert fourth is not None
        fourth.run()
        self.require_released_once(place)

    def test_a_wave_that_is_read_before_the_others_are_audited_holds_nothing_up(self, place: Place) -> None:
        chains = [begin(place, **HELD)]
        claim(chains[0])
        while (following := follow(chains[-1])) is not None:
            chains.append(following)
            claim(following)
        for chain in reversed(chains):
            chain.stage("parse")
            chain.stage("validate")
        for chain in chains:
            chain.onward("normalize")
        assert [chain.report["dispositions"].get("held", 0) for chain in chains] == [0, 0, 2, 0]
        self.require_released_once(place)

    def test_a_study_waits_no_longer_when_another_run_has_read_the_wave_that_never_begins(self, place: Place) -> None:
        third = self.three(place)[-1]
        (wait,) = self.waits()
        assert (wait["state"], wait["run_id"]) == ("expected", f"wave_0004__{parse_wave(third.run_id)[0]}")
        assert f"has claimed is run {third.run_id}: let it go on" in wait["what_to_do"]
        Chain(place, third.pipeline, "manual__rest", {"prefix": "in/3/1/"}).run()
        self.require_released_once(place)

    def test_what_waits_for_a_wave_that_is_given_up_is_released_by_the_next_run(self, place: Place) -> None:
        third = self.three(place)[-1]
        (wait,) = self.waits()
        lines = ledgers.release(third.pipeline.name, wait["run_id"], jobs_ended=False)
        assert lines[-1].startswith("1 studies wait for this wave no longer")
        place.put({"4/1.dcm": ct(4, 1, 1)})
        Chain(place, third.pipeline, "manual__4", {"prefix": "in/4/"}).run()
        assert {sop_uid(3, 1, number) for number in (1, 2)} in instances(place).values()
        assert self.waits() == []

    def test_a_wave_that_has_failed_gives_its_claims_back_to_the_next_run(self, place: Place) -> None:
        third = self.three(place)[-1]
        fourth = follow(third)
        assert fourth is not None
        fourth.until("parse")
        (wait,) = self.waits()
        assert (wait["state"], wait["run_id"]) == ("running", fourth.run_id)
        assert wait["what_to_do"].startswith("If the run has failed, clear its failed task.")
        ledgers.release(third.pipeline.name, fourth.run_id, jobs_ended=False)
        Chain(place, third.pipeline, "manual__rest", {"prefix": "in/3/1/"}).run()
        self.require_released_once(place)

    def test_a_rebuilt_ledger_knows_what_waits(self, place: Place, tmp_path: Path) -> None:
        third = self.three(place)[-1]
        found = rebuild_into(f"sqlite:///{tmp_path}/rebuilt.db", connect_s3("aws_default"), [third.pipeline])
        assert not found.refused
        assert not differences(read_tables(place.ledger_url), read_tables(f"sqlite:///{tmp_path}/rebuilt.db"))
