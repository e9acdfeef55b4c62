from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError, Resolution
from airlock.ledger.generations import next_generation
from airlock.records import arrival_id, study_key
from tests.ledger_rows import count_instances, read_dispositions
from tests.unit.airlock.ledger.redriven import ASKED, held_in_store, redrive, settled, to_come
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    begin,
    claims,
    dispositions,
    id_of,
    ids,
    ids_of,
    imports,
    uids,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


def studies(files: list[tuple[str, str]]) -> list[str]:
    return sorted({uid for uid, _ in files})


def chosen(ledger: Ledger, run: str | None = "a", *reasons: str, study: str | None = None) -> pl.DataFrame:
    return ledger.choose_arrivals(STORE, NIGHTLY, run, study, reasons)


def again(names: Iterable[str]) -> set[str]:
    return {next_generation(name) for name in ids_of(names)}


def test_only_what_is_held_quarantined_or_failed_can_be_chosen(ledger: Ledger) -> None:
    for word in ("held", "quarantined", "failed", "released", "duplicate", "ignored"):
        settled(ledger, word, word=word)
    assert ids(chosen(ledger)) == ids_of(["held", "quarantined", "failed"])
    assert chosen(ledger, "b").is_empty()


def test_a_choice_by_study_and_reason_must_hold_in_all(ledger: Ledger) -> None:
    settled(ledger, "1", reason="truncated")
    settled(ledger, "2", reason="rejected")
    assert ids(chosen(ledger, None, "rejected", study=study_key("1.study"))) == ids_of("2")
    assert chosen(ledger, None, "rejected", study=study_key("other")).is_empty()


def test_an_unchanged_object_comes_as_a_generation_of_its_own(ledger: Ledger) -> None:
    settled(ledger, "1", "2")
    counts = redrive(ledger, "r", to_come("1"))
    assert counts == {"chosen": 1, "taken": 1, "carried": 0, "in_already": 0}
    assert ids(ledger.held_by(NIGHTLY, "r")) == again("1")
    assert read_dispositions(ledger, NIGHTLY, "a").height == 2
    found = ledger.find_arrivals(STORE, NIGHTLY, uids(*again("1")))
    assert found["generation"].to_list() == [2]


def test_a_fixed_object_comes_under_its_own_id_and_the_next_listing_knows_it(ledger: Ledger) -> None:
    settled(ledger, "1")
    redrive(ledger, "r", to_come("1", etag="fixed"))
    listed = arrivals("1").with_columns(
        arrival_id=pl.lit(arrival_id("archive", "in/1", None, "fixed", 100)), etag=pl.lit("fixed")
    )
    assert ledger.held_by(NIGHTLY, "r").equals(listed)
    begin(ledger, "b")
    assert ledger.claim(NIGHTLY, "b", listed).claimed_elsewhere == 1


def test_what_was_redriven_is_not_listed_anew(ledger: Ledger) -> None:
    settled(ledger, "1", reason="object_gone")
    redrive(ledger, "r", to_come("1"))
    begin(ledger, "b")
    claim = ledger.claim(NIGHTLY, "b", arrivals("1"))
    assert (claim.settled, claim.claimed_elsewhere) == (0, 1)
    assert ledger.held_by(NIGHTLY, "b").is_empty()


def test_what_a_redrive_could_not_get_at_comes_again_by_itself(ledger: Ledger) -> None:
    settled(ledger, "1")
    redrive(ledger, "r", to_come("1"))
    gone = dispositions("1", word="quarantined").with_columns(
        arrival_id=pl.lit(next_generation(id_of("1"))), reason=pl.lit("object_gone")
    )
    ledger.settle(NIGHTLY, "r", gone)
    begin(ledger, "b")
    ledger.claim(NIGHTLY, "b", arrivals("1"))
    assert ids(ledger.held_by(NIGHTLY, "b")) == {next_generation(next_generation(id_of("1")))}


def test_a_run_redrives_once(ledger: Ledger) -> None:
    settled(ledger, "1")
    assert redrive(ledger, "r", to_come("1"))
    assert redrive(ledger, "r", to_come("1")) is None
    assert ledger.held_by(NIGHTLY, "r").height == 1
    told = ledger.find_redrive("r")
    assert told is not None
    assert (told["asked_by"], told["why"], told["choice"], told["counts"]["taken"]) == ("ada", "cured", {"run": "a"}, 1)
    assert ledger.find_redrive("a") is None


def test_of_two_redrives_at_once_one_gets_the_arrivals(url: str, ledger: Ledger) -> None:
    names = [str(number) for number in range(20)]
    settled(ledger, *names)
    begin(ledger, "r", "s")

    def take(run: str) -> str:
        with Ledger.open(url) as own:
            try:
                own.redrive(NIGHTLY, run, to_come(*names), ASKED)
            except LedgerError as error:
                return str(error)
            return "taken"

    with ThreadPoolExecutor(2) as pool:
        ends = sorted(pool.map(take, ("r", "s")))
    assert ends[0].startswith("Another redrive has claimed 20 of these arrivals")
    assert ends[1] == "taken"
    assert sorted(ledger.held_by(NIGHTLY, run).height for run in ("r", "s")) == [0, 20]


def test_what_an_open_run_holds_by_now_refuses_all(ledger: Ledger) -> None:
    settled(ledger, "1", "2")
    begin(ledger, "open")
    fixed = to_come("1", etag="fixed")
    ledger.claim(NIGHTLY, "open", fixed)
    with pytest.raises(LedgerError, match="Run 'open' holds"):
        redrive(ledger, "r", pl.concat([fixed, to_come("2")]))
    assert ledger.held_by(NIGHTLY, "r").is_empty()
    assert ledger.find_redrive("r") is None
    assert chosen(ledger)["superseded_by"].null_count() == 1, "the other is superseded by what came under its key"


def test_an_object_that_came_in_by_itself_is_only_linked(ledger: Ledger) -> None:
    settled(ledger, "1")
    begin(ledger, "b")
    fixed = to_come("1", etag="fixed")
    ledger.claim(NIGHTLY, "b", fixed)
    ledger.settle(NIGHTLY, "b", dispositions("1").with_columns(arrival_id=fixed["arrival_id"]))
    assert redrive(ledger, "r", fixed) == {"chosen": 1, "taken": 0, "carried": 0, "in_already": 1}
    assert ledger.held_by(NIGHTLY, "r").is_empty()
    assert chosen(ledger).is_empty()


def test_a_fixed_object_that_failed_as_well_is_superseded_too(ledger: Ledger) -> None:
    settled(ledger, "1")
    begin(ledger, "b")
    fixed = to_come("1", etag="fixed")
    ledger.claim(NIGHTLY, "b", fixed)
    failed = dispositions("1", word="failed").with_columns(arrival_id=fixed["arrival_id"])
    ledger.settle(NIGHTLY, "b", failed)
    redrive(ledger, "r", fixed)
    assert ids(ledger.held_by(NIGHTLY, "r")) == {next_generation(fixed["arrival_id"].item())}
    found = ledger.find_arrivals(STORE, NIGHTLY, fixed["arrival_id"])
    assert found["superseded_by"].to_list() == [next_generation(fixed["arrival_id"].item())]


class TestAnObjectThatIsPutBack:
    """Its first generation was superseded by what replaced it, and must not stand in that one's place in turn."""

    FIRST, SECOND, THIRD = id_of("1"), to_come("1", etag="fixed")["arrival_id"].item(), next_generation(id_of("1"))

    @staticmethod
    def decided(ledger: Ledger, run: str, arrival: str, word: str, reason: str | None = None) -> None:
        words = dispositions("1", word=word).with_columns(arrival_id=pl.lit(arrival), reason=pl.lit(reason))
        ledger.settle(NIGHTLY, run, words.with_columns(sop_instance_uid=pl.lit("1.1")))
        ledger.close_run(run, "audited", {})

    def replaced(self, ledger: Ledger, word: str) -> None:
        """Let the held object be replaced, and a redrive decide on what replaced it."""
        held_in_store(ledger)
        redrive(ledger, "r", to_come("1", etag="fixed"))
        if word == "held":
            self.owned(ledger, "r", self.SECOND)
        self.decided(ledger, "r", self.SECOND, word)

    def owned(self, ledger: Ledger, run: str, arrival: str) -> None:
        accepted = claims(("1", "1.1")).with_columns(arrival_id=pl.lit(arrival))
        assert ledger.claim_instances(STORE, NIGHTLY, run, accepted).is_empty()

    def put_back(self, ledger: Ledger, run: str = "s") -> None:
        redrive(ledger, run, to_come("1").with_columns(chosen_id=pl.lit(self.SECOND)))

    def places(self, ledger: Ledger) -> dict[str, str | None]:
        found = ledger.find_arrivals(STORE, NIGHTLY, pl.Series([self.FIRST, self.SECOND, self.THIRD]))
        return dict(found.select("arrival_id", "superseded_by").iter_rows())

    def test_comes_as_its_next_generation(self, ledger: Ledger) -> None:
        self.replaced(ledger, "held")
        self.put_back(ledger)
        assert ids(ledger.held_by(NIGHTLY, "s")) == {self.THIRD}
        assert self.places(ledger) == {self.FIRST: self.SECOND, self.SECOND: self.THIRD, self.THIRD: None}

    def test_given_back_leaves_the_instance_to_what_lies_in_the_store(self, ledger: Ledger) -> None:
        self.replaced(ledger, "held")
        self.put_back(ledger)
        self.owned(ledger, "s", self.THIRD)
        ledger.release_claims(NIGHTLY, "s")
        assert self.places(ledger) == {self.FIRST: self.SECOND, self.SECOND: None}
        assert ledger.known_instances(STORE, uids("1.1"))["arrival_id"].to_list() == [self.SECOND]

    def test_has_its_place_back_where_it_lies_in_the_store(self, ledger: Ledger) -> None:
        self.replaced(ledger, "quarantined")
        self.put_back(ledger)
        assert ledger.held_by(NIGHTLY, "s").is_empty()
        assert self.places(ledger) == {self.FIRST: None, self.SECOND: self.FIRST}

    def test_chosen_together_with_what_replaced_it_goes_through_no_circle(self, ledger: Ledger) -> None:
        self.replaced(ledger, "quarantined")
        both = [to_come("1", carried=True), to_come("1").with_columns(chosen_id=pl.lit(self.SECOND))]
        redrive(ledger, "s", pl.concat(both))
        assert self.places(ledger) == {self.FIRST: self.THIRD, self.SECOND: self.FIRST, self.THIRD: None}
        ledger.release_claims(NIGHTLY, "s")
        assert self.places(ledger) == {self.FIRST: None, self.SECOND: self.FIRST}

    def test_that_could_not_be_read_comes_again_by_itself(self, ledger: Ledger) -> None:
        self.replaced(ledger, "held")
        self.put_back(ledger)
        self.decided(ledger, "s", self.THIRD, "failed", "access_denied")
        begin(ledger, "b")
        ledger.claim(NIGHTLY, "b", arrivals("1"))
        assert ids(ledger.held_by(NIGHTLY, "b")) == {next_generation(self.THIRD)}

    def test_waits_for_the_redrive_of_what_replaced_it(self, ledger: Ledger) -> None:
        held_in_store(ledger)
        settled(ledger, "2")
        redrive(ledger, "r", to_come("1", etag="fixed"))
        same = to_come("1").with_columns(chosen_id=pl.lit(id_of("2")))
        with pytest.raises(LedgerError, match="Run 'r' holds the object of a selected arrival and has not decided"):
            redrive(ledger, "s", same)

    def test_given_back_twice_has_the_place_that_it_had(self, ledger: Ledger) -> None:
        """What lies in the store is chosen though another stands in its place, and is superseded by that one still."""
        self.replaced(ledger, "quarantined")
        for run in "st":
            redrive(ledger, run, to_come("1", carried=True))
            assert self.places(ledger)[self.FIRST] == self.THIRD
            ledger.release_claims(NIGHTLY, run)
            assert self.places(ledger) == {self.FIRST: self.SECOND, self.SECOND: None}


def test_what_is_being_redriven_is_shown_as_such(ledger: Ledger) -> None:
    settled(ledger, "1")
    redrive(ledger, "r", to_come("1"))
    (row,) = chosen(ledger).to_dicts()
    assert (row["redriven_by"], row["redriven_at"]) == ("r", None)


def test_an_instance_passes_to_the_generation_that_is_accepted(ledger: Ledger) -> None:
    held_in_store(ledger)
    redrive(ledger, "r", to_come("1", carried=True))
    heir = next_generation(id_of("1"))
    assert ledger.known_instances(STORE, uids("1.1"), except_run="r").is_empty()
    assert ledger.known_instances(STORE, uids("1.1"), except_run="b")["arrival_id"].to_list() == [id_of("1")]
    accepted = claims(("1", "1.1")).with_columns(arrival_id=pl.lit(heir))
    for _ in range(2):
        assert ledger.claim_instances(STORE, NIGHTLY, "r", accepted).is_empty()
    assert ledger.known_instances(STORE, uids("1.1"))["arrival_id"].to_list() == [heir]
    assert count_instances(ledger, STORE) == {"imported": 1}
    carried = ledger.find_carried(STORE, NIGHTLY, "r").to_dicts()
    assert carried == [
        {"arrival_id": heir, "carries": id_of("1"), "run_key": "a", "image_set_id": "image-set", "state": "imported"}
    ]


def test_a_study_waits_until_the_generation_in_its_place_is_decided(ledger: Ledger) -> None:
    settled(ledger, "1")
    begin(ledger, "b")
    redrive(ledger, "r", to_come("1"))

    def waits(run: str) -> bool:
        return bool(studies(ledger.unresolved_files(STORE, NIGHTLY, uids("1.study"), except_run=run)))

    assert waits("b")
    assert not waits("r")
    heir = dispositions("1").with_columns(arrival_id=pl.lit(next_generation(id_of("1"))))
    ledger.settle(NIGHTLY, "r", heir)
    assert not waits("b")


def test_a_held_file_holds_its_study_as_long_as_its_instance_is_its_own(ledger: Ledger) -> None:
    held_in_store(ledger)
    redrive(ledger, "r", to_come("1", etag="another instance"))
    other = dispositions("1", study_uid="2.study").with_columns(
        arrival_id=to_come("1", etag="another instance")["arrival_id"]
    )
    ledger.settle(NIGHTLY, "r", other)
    begin(ledger, "b")
    assert studies(ledger.unresolved_files(STORE, NIGHTLY, uids("1.study"), except_run="b")) == ["1.study"]
    assert ids(chosen(ledger)) == ids_of("1")


def test_an_older_audit_done_again_takes_nothing_back(ledger: Ledger) -> None:
    held_in_store(ledger)
    redrive(ledger, "r", to_come("1", carried=True))
    heir = next_generation(id_of("1"))
    ledger.claim_instances(STORE, NIGHTLY, "r", claims(("1", "1.1")).with_columns(arrival_id=pl.lit(heir)))
    assert ledger.record_imported(STORE, "a", imports(("1", "1.1")), NO_STUDIES, NO_SERIES).is_empty()
    assert ledger.known_instances(STORE, uids("1.1"))["arrival_id"].to_list() == [heir]


def test_a_redrive_that_will_never_go_on_gives_everything_back(ledger: Ledger) -> None:
    held_in_store(ledger)
    settled(ledger, "2")
    redrive(ledger, "r", pl.concat([to_come("1", carried=True), to_come("2")]))
    heir = next_generation(id_of("1"))
    ledger.claim_instances(STORE, NIGHTLY, "r", claims(("1", "1.1")).with_columns(arrival_id=pl.lit(heir)))
    assert ledger.release_claims(NIGHTLY, "r") == 2
    assert ledger.known_instances(STORE, uids("1.1"))["arrival_id"].to_list() == [id_of("1")]
    assert chosen(ledger)["superseded_by"].to_list() == [None, None]
    assert redrive(ledger, "r", to_come("1", carried=True))


def test_companions_are_held_for_nothing_but_the_study(ledger: Ledger) -> None:
    settled(ledger, "1", word="held", reason="study_incomplete")
    settled(ledger, "2", word="held", reason="service_warning")
    settled(ledger, "3", word="quarantined")
    assert ids(ledger.find_companions(STORE, NIGHTLY, uids(study_key("1.study")))) == ids_of("1")


def test_an_image_set_of_which_not_all_was_chosen(ledger: Ledger) -> None:
    settled(ledger, "1", "2", word="held", reason="non_primary")
    ledger.record_imported(STORE, "a", imports(("1", "1.1"), ("2", "1.2"), state="non_primary"), NO_STUDIES, NO_SERIES)
    assert ledger.count_unselected(STORE, uids("image-set"), uids(id_of("1"))) == 1
    assert ledger.count_unselected(STORE, uids("image-set"), uids(*ids_of("12"))) == 0


def test_what_a_redrive_could_not_import_anew_stays_that_of_the_generation_in_the_store(ledger: Ledger) -> None:
    held_in_store(ledger, reason="version_above_one")
    redrive(ledger, "r", to_come("1"))
    heir = next_generation(id_of("1"))
    ledger.claim_instances(STORE, NIGHTLY, "r", claims(("1", "1.1")).with_columns(arrival_id=pl.lit(heir)))
    assert ledger.drop_instances(STORE, "r", uids("1.1")) == 1
    assert ledger.known_instances(STORE, uids("1.1"))["arrival_id"].to_list() == [id_of("1")]
    assert count_instances(ledger, STORE) == {"imported": 1}
    ledger.settle(NIGHTLY, "r", dispositions("1", word="failed").with_columns(arrival_id=pl.lit(heir)))
    begin(ledger, "b")
    assert studies(ledger.unresolved_files(STORE, NIGHTLY, uids("1.study"), except_run="b")) == ["1.study"]
    assert ids(chosen(ledger)) == ids_of("1")


def test_what_has_not_come_to_copy_or_delete_is_given_back_and_another_redrive_resolves_it(ledger: Ledger) -> None:
    held_in_store(ledger, "non_primary", "non_primary")
    redrive(ledger, "r", to_come("1", carried=True))
    ledger.begin_resolution(STORE, "r", "image-set", Resolution.PROMOTE)
    assert ledger.release_claims(NIGHTLY, "r") == 1
    redrive(ledger, "s", to_come("1", carried=True))
    assert ledger.begin_resolution(STORE, "s", "image-set", Resolution.DELETE).run_key == "s"
