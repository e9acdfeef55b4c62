"""Every object is taken by a run, whatever its day, the cron, the nights that failed and the claims given back."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowFailException

from tests.chain import pipeline
from tests.dicom_files import ct
from tests.integration.between_runs.runs import (
    DAY,
    HOUR,
    SECOND,
    by_hand,
    find_last_night,
    give_back,
    given,
    key_of,
    nightly,
    put_at,
)

if TYPE_CHECKING:
    from tests.chain import Chain, Place

pytestmark = pytest.mark.slow

BY_KEY_DATE = pipeline(source={"uri": "s3://archive/in/", "window": "key_date"})
FILE = ct()


def take(chain: Chain) -> set[str]:
    """Run a chain up to buffer and return the keys that it takes, below the source."""
    chain.until("buffer")
    return held(chain)


def held(chain: Chain) -> set[str]:
    with chain.place.ledger() as ledger:
        keys = ledger.held_by(chain.pipeline.name, key_of(chain))["key"]
    return {key.removeprefix("in/") for key in keys}


class TestKeyDates:
    def test_a_file_put_below_its_day_in_the_forenoon_is_taken_by_one_night(self, place: Place) -> None:
        day = find_last_night() - 2 * DAY
        name = f"{day:%Y/%m/%d}/001.dcm"
        take(nightly(place, 2, BY_KEY_DATE))
        put_at(place, day + 8 * HOUR, {name: FILE})
        assert [take(nightly(place, 1, BY_KEY_DATE)), take(nightly(place, 0, BY_KEY_DATE))] == [{name}, set()]

    def test_the_backfill_of_a_day_takes_the_files_below_that_day(self, place: Place) -> None:
        day = find_last_night() - 2 * DAY
        that, next_one = (f"{day + more:%Y/%m/%d}/001.dcm" for more in (0 * DAY, DAY))
        place.put({that: FILE, next_one: FILE})
        backfill = nightly(place, 1, BY_KEY_DATE)  # Airflow's data interval of that day begins on it
        backfill.run_id = f"backfill__{day.isoformat()}"
        assert take(backfill) == {that}


class TestOwed:
    def test_what_an_operator_gives_back_after_days_is_taken_by_the_next_night(self, place: Place) -> None:
        give_back_after_days(place)
        assert take(nightly(place)) == {"001.dcm"}

    def test_a_cleared_run_whose_claims_were_given_back_takes_them_again_or_fails(self, place: Place) -> None:
        chain = give_back_after_days(place)
        with suppress(AirflowFailException):
            chain.onward()
        assert chain.states["buffer"] == "failed" or chain.report["dispositions"] == {"released": 1}

    def test_an_object_out_of_reach_for_two_nights_is_taken_when_it_is_back(self, place: Place) -> None:
        uploaded = find_last_night() - 4 * DAY - HOUR
        for ago in (4, 3):
            put_at(place, uploaded, {"001.dcm": FILE})
            chain = nightly(place, ago)
            chain.until("buffer")
            place.take("archive")
            given(chain.onward("parse")["reasons"].keys() == {"object_gone"})
        put_at(place, uploaded, {"001.dcm": FILE})
        assert {"001.dcm"} in [take(nightly(place, ago)) for ago in (2, 1, 0)]


def give_back_after_days(place: Place) -> Chain:
    """Return a scheduled run that broke off after buffer and, two nights later, gave its claims back."""
    put_at(place, find_last_night() - 3 * DAY - HOUR, {"001.dcm": FILE})
    chain = nightly(place, 3)
    given(take(chain) == {"001.dcm"})
    given(take(nightly(place, 1)) == set())
    give_back(chain)
    return chain


class TestNights:
    def test_the_night_after_two_that_failed_before_listing_takes_what_they_left(self, place: Place) -> None:
        take(nightly(place, 3))
        put_at(place, find_last_night() - 2 * DAY - HOUR, {"001.dcm": FILE})
        for ago in (2, 1):
            with pytest.raises(AirflowFailException, match="buffer has not frozen a delivery"):
                nightly(place, ago).stage("audit")  # it runs whatever became of receive and buffer
        assert take(nightly(place)) == {"001.dcm"}

    def test_a_study_uploaded_across_the_end_of_the_newest_window_is_taken_whole(self, place: Place) -> None:
        put_at(place, find_last_night() - SECOND, {"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)})
        put_at(place, find_last_night() + SECOND, {"003.dcm": ct(1, 1, 3)})
        assert take(nightly(place)) == {"001.dcm", "002.dcm", "003.dcm"}

    def test_the_marker_of_a_delivery_does_not_open_the_next_one(self, place: Place) -> None:
        line = pipeline(receive={"mode": "marker", "poll_seconds": 0.1, "timeout_minutes": 0.001})
        place.put({"s1/001.dcm": ct(1, 1, 1), "_SUCCESS": b""})
        by_hand(place, "one", line=line).until("buffer")
        place.put({"s2/001.dcm": ct(2, 1, 1)})
        early = by_hand(place, "two", line=line)
        with suppress(AirflowFailException):
            early.until("buffer")
        assert held(early) == set()
