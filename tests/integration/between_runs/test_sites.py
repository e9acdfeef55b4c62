"""Sites: the totals of a run by site are those of its arrivals, whoever decides, and the brake knows their nights."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput
from sqlalchemy import func, select, update

from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.database import reading, writing
from airlock.ledger.tables import arrivals, run_totals, runs
from tests.chain import Chain, pipeline, questions_to_people
from tests.dicom_files import ct
from tests.integration.between_runs.runs import BAD, by_hand, given, key_of

if TYPE_CHECKING:
    from airlock.pipelines import ImagingPipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow

BY_SITE = {"uri": "s3://archive/in/", "site_pattern": "^in/[a-z0-9]+/(?P<site>[^/]+)/"}
Totals = dict[tuple[str, str, str, str | None], int]


def sited(**audit: Any) -> ImagingPipeline:
    return pipeline(source=BY_SITE, audit={"manifest_wait_seconds": 3, "brake": "off"} | audit)


def read_totals(place: Place) -> Totals:
    """Return the ledger's totals by run, site, disposition and reason, without those that are 0."""
    groups = run_totals.c.run_key, run_totals.c.site, run_totals.c.disposition, run_totals.c.reason
    counted = func.sum(run_totals.c.arrivals)
    with place.ledger() as ledger, reading(ledger._engine) as connection:
        rows = connection.execute(select(*groups, counted).group_by(*groups).having(counted != 0))
        return {(key, site, word, reason): number for key, site, word, reason, number in rows}


def count_words(place: Place) -> Totals:
    """Return the same numbers, counted from the latest words."""
    state, own = arrival_states.c, arrivals.c.arrival_id == arrival_states.c.arrival_id
    groups = state.run_key, arrivals.c.site, state.disposition, state.reason
    query = select(*groups, func.count()).join(arrivals, own).where(state.disposition.is_not(None)).group_by(*groups)
    with place.ledger() as ledger, reading(ledger._engine) as connection:
        return {(key, site, word, reason): number for key, site, word, reason, number in connection.execute(query)}


def test_totals_by_site_balance_when_another_run_releases_siblings(place: Place) -> None:
    place.put({"one/north/1.dcm": ct(1, 1, 1), "one/south/2.dcm": BAD, "one/south/x.dcm": ct(2, 1, 1)})
    first = by_hand(place, "one", "one", sited())
    first.run()
    key = key_of(first)
    assert read_totals(place) == {
        (key, "north", "held", "study_incomplete"): 1,
        (key, "south", "quarantined", "element_too_long"): 1,
        (key, "south", "released", None): 1,
    }
    place.put({"two/south/2.dcm": ct(1, 1, 2)})
    second = by_hand(place, "two", "two", sited())
    second.run()
    found = read_totals(place)
    given((key_of(second), "south", "released", None) in found)
    assert found[key, "north", "released", None] == 1  # said by the second run about the first one's file
    assert found == count_words(place)
    first.stage("audit")
    assert read_totals(place) == found == count_words(place)


def moved_back(chain: Chain, days: int) -> None:
    """Let a run have started on an earlier day."""
    with chain.place.ledger() as ledger, writing(ledger._engine) as connection:
        own = runs.c.run_key == key_of(chain)
        connection.execute(update(runs).where(own).values(started_at=datetime.now(UTC) - timedelta(days=days)))


def test_a_site_whose_nights_were_good_stops_the_run_where_all_sites_together_do_not(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = questions_to_people(monkeypatch)
    line = sited(brake={"least_arrivals": 10, "unread": 0.3, "one_reason": 1})
    for night in range(1, 6):
        place.put({f"n{night}/north/1.dcm": ct(night, 1, 1)})
        chain = by_hand(place, f"n{night}", f"n{night}", line)
        chain.run()
        moved_back(chain, night)
    place.put({f"now/{site}/{number}.dcm": ct(10, 1, number) for site in ("north",) for number in range(1, 9)})
    place.put({f"now/south/{number}.dcm": ct(11, 1, number) for number in range(1, 11)})
    place.put({f"now/north/{number}.dcm": ct(12, 1, number)[:400] for number in range(20, 22)})
    with pytest.raises(TaskAwaitingInput):
        by_hand(place, "now", "now", line).until("validate")
    assert "2 of 10 of site north (20 %) cannot be read; in its last 14 nights the median was 0 %." in asked[0]["body"]
