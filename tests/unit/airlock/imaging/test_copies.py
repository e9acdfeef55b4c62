"""Of several copies of an instance one counts; the others are proven to be it, or a person sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging import gate
from airlock.imaging.copies import (
    decide_among_copies,
    decide_by_owners,
    find_quarantined_uids,
    leave_out_stored,
    move_held_copies,
)
from airlock.imaging.copy_proofs import Copy, Likeness
from airlock.ledger.instances import OWNERS
from airlock.ledger.studies import STUDIES
from airlock.pipelines import Audit, Validate
from airlock.records import ARRIVALS
from tests.unit.airlock.world import Unproven, by_name, dicom, frame, joined, outcomes, verdicts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.imaging.copies import Proofs
    from airlock.imaging.copy_proofs import Pair

ONE = {"SOPInstanceUID": "1.5", "size": 7}
FIRST = dicom("first", **ONE)


class Proven:
    """Proves the same of every pair, and notes the pairs that it was asked about."""

    def __init__(self, likeness: Likeness) -> None:
        self.likeness = likeness
        self.asked: list[Pair] = []

    def compare(self, pairs: Sequence[Pair]) -> list[Likeness]:
        self.asked += pairs
        return [self.likeness] * len(pairs)


PIXELS, CONTENT = Proven(Likeness.SAME_PIXELS), Proven(Likeness.SAME_CONTENT)


def undecided(*files: dict[str, Any]) -> pl.DataFrame:
    word = {"verdict": "accept", "duplicate_of": None}
    return joined(*files).with_columns(**{name: pl.lit(value, pl.String) for name, value in word.items()})


def words(rows: pl.DataFrame) -> dict[str, tuple[str, str | None]]:
    return {key[3:]: (word, why) for key, word, why in rows.select("key", "verdict", "reason").iter_rows()}


def against_owner(
    *files: dict[str, Any], state: str = "imported", proofs: Proofs | None = None, **policy: Any
) -> dict[str, tuple[str, str | None]]:
    """Return verdict and reason of copies of an instance that another run has, or has claimed."""
    owners = frame([FIRST | {"run_key": "r", "state": state}], OWNERS)
    studies = frame([FIRST], STUDIES) if state != "claimed" else STUDIES.to_frame()
    return words(decide_by_owners(undecided(*files), owners, studies, proofs or Unproven(), Validate(**policy)))


def among(*files: dict[str, Any], proofs: Proofs | None = None, **policy: Any) -> pl.DataFrame:
    return decide_among_copies(undecided(*files), proofs or Unproven(), Validate(**policy))


class TestOfWhatTheStoreHas:
    def test_the_same_content_is_a_duplicate(self) -> None:
        assert against_owner(dicom("a", **ONE, etag=FIRST["etag"])) == {"a": ("duplicate", "duplicate_same_content")}
        assert against_owner(dicom("a", **ONE), proofs=CONTENT) == {"a": ("duplicate", "duplicate_same_content")}

    def test_a_size_alone_proves_nothing(self) -> None:
        assert against_owner(dicom("a", **ONE)) == {"a": ("quarantine", "duplicate_other_content")}

    def test_another_header_is_a_duplicate_or_held_as_the_policy_says(self) -> None:
        copy = dicom("a", SOPInstanceUID="1.5")
        assert against_owner(copy, proofs=PIXELS) == {"a": ("duplicate", "header_changed")}
        assert against_owner(copy, proofs=PIXELS, changed_header="hold") == {"a": ("quarantine", "header_changed")}

    @pytest.mark.parametrize(
        "changed",
        [{"PatientID": "P2"}, {"PatientID": None}, {"StudyInstanceUID": "1.2"}, {"SeriesInstanceUID": "1.1.9"}],
    )
    def test_another_identity_is_named_and_nothing_is_asked_of_s3(self, changed: dict[str, Any]) -> None:
        proofs = Proven(Likeness.SAME_PIXELS)
        assert against_owner(dicom("a", **ONE | changed), proofs=proofs) == {"a": ("quarantine", "identity_changed")}
        assert proofs.asked == []

    @pytest.mark.parametrize(("issuer", "code"), [(None, "header_changed"), ("other", "identity_changed")])
    def test_an_issuer_that_one_copy_lacks_is_no_other_identity(self, issuer: str | None, code: str) -> None:
        found = against_owner(dicom("a", **ONE, IssuerOfPatientID=issuer), proofs=PIXELS)
        assert found["a"][1] == code

    def test_a_copy_that_is_still_on_its_way_in_another_run_makes_no_duplicate(self) -> None:
        copies = dicom("a", **ONE, etag=FIRST["etag"]), dicom("b", **ONE, PatientID="P2")
        assert against_owner(*copies, state="claimed", proofs=PIXELS) == dict.fromkeys(
            "ab", ("quarantine", "instance_claimed")
        )
        assert against_owner(dicom("c", **ONE), state="claimed") == {"c": ("quarantine", "duplicate_other_content")}

    def test_each_pair_is_the_first_copy_and_the_new_one(self) -> None:
        proofs = Proven(Likeness.UNPROVEN)
        against_owner(dicom("a", **ONE), dicom("b", SOPInstanceUID="1.6"), proofs=proofs)
        assert proofs.asked == [
            (Copy("archive", "in/first", "etag-first", 7), Copy("archive", "in/a", "etag-a", 7)),
        ]


class TestWithinADelivery:
    def test_another_header_lets_the_first_copy_in(self) -> None:
        rows = among(dicom("b", **ONE), dicom("a", **ONE), dicom("c", **ONE, etag="etag-a"), proofs=PIXELS)
        assert words(rows) == {
            "a": ("accept", None),
            "b": ("duplicate", "header_changed"),
            "c": ("duplicate", "duplicate_same_content"),
        }
        first = rows.filter(pl.col("key") == "in/a")["arrival_id"][0]
        assert by_name(rows, "duplicate_of") == {"a": None, "b": first, "c": first}

    def test_other_pixels_or_identities_stop_all_copies(self) -> None:
        copies = dicom("a", **ONE), dicom("b", **ONE), dicom("c", **ONE, etag="etag-a")
        assert set(words(among(*copies)).values()) == {("quarantine", "duplicate_other_content")}
        found = words(among(*copies, dicom("d", **ONE, PatientID="P2"), proofs=PIXELS))
        assert set(found.values()) == {("quarantine", "identity_changed")}

    def test_a_held_header_does_not_stop_the_first_copy(self) -> None:
        rows = among(dicom("a", **ONE), dicom("b", **ONE), proofs=PIXELS, changed_header="hold")
        assert words(rows) == {"a": ("accept", None), "b": ("quarantine", "header_changed")}


class TestGate:
    """A second copy of an instance that is in the store does not make its study incomplete; a doubt holds it."""

    def judged(
        self, rows: pl.DataFrame, facts: pl.DataFrame, in_store: list[str]
    ) -> tuple[pl.DataFrame, dict[str, tuple[str, str | None]]]:
        marked = gate.flag_blocking(facts, Audit(), [])
        lacking = leave_out_stored(rows, pl.Series(in_store, dtype=pl.String))
        gates = gate.decide_studies(*move_held_copies(lacking, marked), {}, Audit(), balanced=True)
        found = gate.decide_dispositions(rows.select(ARRIVALS.names()), rows, marked, gates)
        return gates, {key[3:]: (word, why) for key, word, why in found.select("key", "disposition", "reason").rows()}

    def copy(self, reason: str, **changes: Any) -> pl.DataFrame:
        return verdicts(dicom("copy", **ONE | changes), verdict="quarantine", reason=reason)

    def test_it_is_released_beside_other_pixels_of_what_is_in_the_store(self) -> None:
        a = dicom("a")
        rows = pl.concat([verdicts(a), self.copy("duplicate_other_content")])
        assert find_quarantined_uids(rows).to_list() == ["1.5"]
        _, words = self.judged(rows, outcomes(a), ["1.5"])
        assert words == {"a": ("released", None), "copy": ("quarantined", "duplicate_other_content")}

    def test_it_is_held_while_no_copy_is_in_the_store(self) -> None:
        a = dicom("a")
        rows = pl.concat([verdicts(a), self.copy("duplicate_other_content")])
        _, words = self.judged(rows, outcomes(a), [])
        assert words["a"] == ("held", "study_incomplete")

    @pytest.mark.parametrize("reason", ["identity_changed", "header_changed"])
    def test_it_waits_for_a_person_who_sees_another_identity(self, reason: str) -> None:
        a = dicom("a")
        rows = pl.concat([verdicts(a), self.copy(reason)])
        gates, words = self.judged(rows, outcomes(a), ["1.5"])
        assert gates["reason"].to_list() == [reason]
        assert words == {"a": ("held", "study_held"), "copy": ("held", reason)}

    def test_a_study_of_which_only_such_a_copy_came_waits_too(self) -> None:
        rows = self.copy("identity_changed", StudyInstanceUID="1.2")
        gates, words = self.judged(rows, outcomes(), [])
        assert gates.select("StudyInstanceUID", "gate", "reason").rows() == [("1.2", "hold", "identity_changed")]
        assert words == {"copy": ("held", "identity_changed")}

    @pytest.mark.parametrize(("first", "word"), [("id-a", "duplicate"), (None, "quarantined")])
    def test_a_person_who_releases_the_study_drops_a_copy_that_has_a_first_one(
        self, first: str | None, word: str
    ) -> None:
        a = dicom("a")
        copy = self.copy("identity_changed").with_columns(duplicate_of=pl.lit(first, pl.String))
        rows = pl.concat([verdicts(a), copy])
        gates, _ = self.judged(rows, outcomes(a), ["1.5"])
        released = gate.release_studies(gates, gates["StudyInstanceUID"])
        marked = gate.flag_blocking(outcomes(a), Audit(), [])
        found = gate.decide_dispositions(rows.select(ARRIVALS.names()), rows, marked, released)
        assert dict(found.select("key", "disposition").rows()) == {"in/a": "released", "in/copy": word}
