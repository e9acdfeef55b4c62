"""What the ledger says is stored is read page by page, and what a data store has lost no longer counts as stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger.columns import ComparisonKind, FindingKind
from airlock.ledger.comparisons import FOUND, UNDECIDED, Comparison
from airlock.records import study_key
from tests.unit.airlock.ledger import samples
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE

if TYPE_CHECKING:
    from airlock.ledger import Ledger

KEY = study_key("1.study")


@pytest.fixture
def stored(ledger: Ledger) -> Ledger:
    """A ledger with a released study of two instances, in one image set."""
    samples.begin(ledger, "one")
    samples.held_after(ledger, "one", samples.arrivals("a", "b"))
    ledger.record_verdicts(STORE, NIGHTLY, "one", samples.verdicts(("a", "1.study"), ("b", "1.study")))
    ledger.record_imported(STORE, "one", samples.imports(("a", "1.a"), ("b", "1.b")), samples.study(), samples.series())
    ledger.settle(NIGHTLY, "one", samples.dispositions("a", "b"))
    return ledger


def reconciliation(ledger: Ledger) -> Comparison:
    return ledger.begin_comparison(
        ComparisonKind.RECONCILE, {}, pipeline=NIGHTLY, datastore_id=STORE, is_dry=False, asked_by="an operator"
    )


def miss(ledger: Ledger, *names: str, image_set: str = "image-set") -> Comparison:
    """Record that a reconciliation misses the instances of these arrivals."""
    rows = [
        (FindingKind.MISSING_IN_STORE.value, f"1.{name}", KEY, samples.id_of(name), image_set, "version 1", None)
        for name in names
    ]
    return ledger.advance_comparison(reconciliation(ledger), {}, {}, pl.DataFrame(rows, FOUND, orient="row"))


def stored_uids(ledger: Ledger) -> list[str]:
    return ledger.stored_instances(STORE, samples.uids("1.study"))["SOPInstanceUID"].to_list()


def test_studies_come_page_by_page(stored: Ledger) -> None:
    assert stored.stored_studies(STORE, "", 10) == ["1.study"]
    assert stored.stored_studies(STORE, "1.study", 10) == []
    assert stored.stored_studies("another", "", 10) == []


def test_a_sample_begins_at_a_study_key(stored: Ledger) -> None:
    assert stored.sampled_studies(STORE, "0" * 16, 10) == ["1.study"]
    assert stored.sampled_studies(STORE, f"{KEY}+", 10) == []
    assert stored.studies_of_key(STORE, KEY) == ["1.study"]


def test_instances_come_with_their_objects_and_dispositions(stored: Ledger) -> None:
    found = stored.stored_instances(STORE, samples.uids("1.study"))
    facts = found.select("SOPInstanceUID", "image_set_id", "image_set_version", "key", "disposition")
    assert facts.rows() == [("1.a", "image-set", 1, "in/a", "released"), ("1.b", "image-set", 1, "in/b", "released")]


def test_a_missed_instance_no_longer_counts_as_stored(stored: Ledger) -> None:
    missed = miss(stored, "a")
    assert stored.count_missing(missed.number) == 1
    assert stored.forget_missing(missed.number) == 1
    assert stored_uids(stored) == ["1.b"]
    assert stored.known_instances(STORE, samples.uids("1.a")).is_empty()
    assert stored.forget_missing(missed.number) == 0


def test_an_instance_that_is_in_another_image_set_by_now_stays(stored: Ledger) -> None:
    assert stored.forget_missing(miss(stored, "a", image_set="an-earlier-set").number) == 0
    assert stored_uids(stored) == ["1.a", "1.b"]


def test_what_was_missed_is_chosen_by_a_redrive_until_it_is_there_again(stored: Ledger) -> None:
    stored.forget_missing(miss(stored, "a").number)
    assert stored.choose_lost(STORE, NIGHTLY, None, None)["arrival_id"].to_list() == [samples.id_of("a")]
    assert stored.choose_lost(STORE, NIGHTLY, None, KEY).height == 1
    assert stored.choose_lost(STORE, NIGHTLY, "another", None).is_empty()
    assert stored.choose_lost("another", NIGHTLY, None, None).is_empty()
    stored.record_imported(STORE, "one", samples.imports(("a", "1.a")), samples.study(), samples.series())
    assert stored.choose_lost(STORE, NIGHTLY, None, None).is_empty()


def test_a_study_that_has_lost_a_file_lacks_it_for_other_runs(stored: Ledger) -> None:
    stored.forget_missing(miss(stored, "a").number)
    samples.begin(stored, "two")
    assert stored.unresolved_files(STORE, NIGHTLY, samples.uids("1.study"), "two") == [("1.study", samples.id_of("a"))]
    assert stored.record_removal(NIGHTLY, STORE, KEY, "an operator", "wrong patient") == 1
    assert stored.unresolved_files(STORE, NIGHTLY, samples.uids("1.study"), "two") == []
    assert stored.find_lost(STORE, samples.uids("1.a", "1.b")) == {"1.a"}


def test_what_is_found_again_is_restored(stored: Ledger) -> None:
    stored.forget_missing(miss(stored, "a").number)
    later = reconciliation(stored)
    lost = stored.find_open_losses(later.number, 10)
    assert lost["subject"].to_list() == ["1.a"]
    facts = {"version": pl.lit(2, pl.Int64), "state": pl.lit("non_primary")}
    assert stored.restore_found(STORE, lost.with_columns(**facts)) == 1
    found = stored.stored_instances(STORE, samples.uids("1.study"))
    assert found.select("image_set_version", "state").rows() == [(2, "non_primary"), (1, "imported")]
    assert stored.restore_found(STORE, lost.with_columns(**facts)) == 0


def test_losses_that_were_imported_again_are_no_longer_looked_for(stored: Ledger) -> None:
    miss(stored, "a", image_set="an-earlier-set")
    assert stored.find_open_losses(reconciliation(stored).number, 10).is_empty()


def test_losses_that_another_pipeline_found_are_left_to_it(stored: Ledger) -> None:
    miss(stored, "a")
    other = stored.begin_comparison(
        ComparisonKind.RECONCILE, {}, pipeline="other", datastore_id=STORE, is_dry=False, asked_by="an operator"
    )
    assert stored.find_open_losses(other.number, 10).is_empty()
    stored.keep_findings(other, FindingKind.MISSING_IN_STORE, study_keys=[KEY])
    assert stored.close_unseen(other, FindingKind.MISSING_IN_STORE, closed_by="an operator", study_keys=[KEY]) == 0
    assert stored.find_open_losses(reconciliation(stored).number, 10).height == 1


def test_findings_of_studies_that_were_left_out_are_kept(stored: Ledger) -> None:
    miss(stored, "a", "b")
    later = reconciliation(stored)
    stored.keep_findings(later, FindingKind.MISSING_IN_STORE, study_keys=[KEY])
    by = {"closed_by": "an operator", "study_keys": [KEY]}
    assert stored.close_unseen(later, FindingKind.MISSING_IN_STORE, **by) == 0
    latest = reconciliation(stored)
    assert stored.close_unseen(latest, FindingKind.MISSING_IN_STORE, **by | {"study_keys": ["another study"]}) == 0
    assert stored.close_unseen(latest, FindingKind.MISSING_IN_STORE, **by) == 2
    (closed,) = stored.find_findings(closed_since=latest.began_at)
    assert set(closed["closed_by"]) == {"an operator"}


def test_findings_about_subjects_that_were_left_out_are_kept(stored: Ledger) -> None:
    miss(stored, "a", "b")
    later = reconciliation(stored)
    stored.keep_findings(later, FindingKind.VANISHED, subjects=["1.b"])
    stored.keep_findings(later, FindingKind.MISSING_IN_STORE, subjects=["1.a", "another"])
    assert stored.close_unseen(later, FindingKind.MISSING_IN_STORE, closed_by="an operator") == 1
    (still,) = stored.find_findings()
    assert still["subject"].to_list() == ["1.a"]


def test_findings_that_another_comparison_adds_meanwhile_are_not_closed(stored: Ledger) -> None:
    first, second = reconciliation(stored), reconciliation(stored)
    row = (FindingKind.MISSING_IN_STORE.value, "1.a", KEY, samples.id_of("a"), "image-set", "version 1", None)
    stored.advance_comparison(first, {}, {}, pl.DataFrame([row], FOUND, orient="row"))
    assert stored.close_unseen(second, FindingKind.MISSING_IN_STORE, closed_by="an operator") == 0


def test_the_grouping_elements_of_what_has_nothing_left_are_forgotten_too(stored: Ledger) -> None:
    new = samples.series("1.a.series")
    stored.record_imported(STORE, "one", samples.imports(("a", "1.a")), samples.NO_STUDIES, new)
    stored.forget_missing(miss(stored, "a").number)
    assert stored.known_series(STORE, new["SeriesInstanceUID"]).is_empty()
    assert stored.known_studies(STORE, samples.uids("1.study")).height == 1
    stored.forget_missing(miss(stored, "b").number)
    assert stored.known_studies(STORE, samples.uids("1.study")).is_empty()


def test_what_could_not_be_judged_is_not_forgotten(stored: Ledger) -> None:
    kind = FindingKind.MISSING_IN_STORE.value
    row = (kind, "1.a", KEY, samples.id_of("a"), "image-set", "version 1", UNDECIDED)
    begun = stored.advance_comparison(reconciliation(stored), {}, {}, pl.DataFrame([row], FOUND, orient="row"))
    assert stored.count_missing(begun.number) == stored.forget_missing(begun.number) == 0


def test_an_unfinished_reconciliation_is_found_by_its_scope(ledger: Ledger) -> None:
    kind, about = ComparisonKind.RECONCILE, {"pipeline": NIGHTLY, "datastore_id": STORE}
    begun = ledger.begin_comparison(kind, {"sample": 3}, is_dry=False, asked_by="an operator", **about)
    assert ledger.last_comparison(kind, has_ended=False, scope={"sample": 3}, **about) == begun
    assert ledger.last_comparison(kind, has_ended=False, scope={"sample": 4}, **about) is None
    ledger.end_comparison(begun, {})
    assert ledger.last_comparison(kind, has_ended=False, scope={"sample": 3}, **about) is None


def test_objects_that_are_arrivals_are_known_whatever_became_of_them(stored: Ledger) -> None:
    objects = samples.arrivals("a", "unknown").select("bucket", "key", "etag")
    assert stored.find_arrived(objects) == {("archive", "in/a", "etag-a")}
