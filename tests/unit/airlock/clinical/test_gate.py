"""Release or hold, per patient and per file; and the disposition of every unit and every file."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from airlock.clinical import gate
from airlock.clinical.records import GATES
from airlock.pipelines import ClinicalAudit
from airlock.records import ARRIVALS, subject_key
from airlock.records import DISPOSITIONS as FILE_DISPOSITIONS
from airlock.stages.resources import DISPOSITIONS
from tests.unit.airlock.clinical.books import STORE, outcomes, unit, verdicts
from tests.unit.airlock.world import frame

LENIENT = ClinicalAudit()
WHOLE_PATIENTS = ClinicalAudit(hold_incomplete_patients=True, hold_types=("Observation",))
WHOLE_FILES = ClinicalAudit(hold_incomplete_files=True)
P1, O2, O3 = unit("Patient/p1"), unit("Observation/o2"), unit("Observation/o3")
P4 = unit("Patient/p4", of="Patient/p4", file="b")
ORG = unit("Organization/g5", of=None)
TWIN = unit("Observation/o2", of=None, file="b", line=9)


class Books:
    """A run's verdicts and outcomes; ``of`` gives some of the accepted resources another outcome."""

    def __init__(self, *accepted: dict[str, Any], suspect: tuple[str, ...] = (), **of: tuple[str, str | None]) -> None:
        rows = [
            each | dict(zip(("outcome", "reason"), of.get(each["resource_id"], ("imported", None)), strict=True))
            for each in accepted
        ]
        self.verdicts = verdicts(*accepted)
        self.outcomes = gate.flag_uncertain(outcomes(*rows), list(suspect))

    def and_(self, *others: dict[str, Any]) -> Books:
        """Add verdicts other than accept."""
        self.verdicts = self.verdicts.vstack(verdicts(*others))
        return self

    def gates(self, settings: ClinicalAudit = LENIENT, **state: bool) -> pl.DataFrame:
        books = STORE, self.verdicts, self.outcomes, settings
        state = {"balanced": True} | state
        rows = pl.concat([gate.decide_patients(*books, **state), gate.decide_files(*books, **state)])
        assert rows.schema == GATES
        return rows

    def reasons(self, settings: ClinicalAudit = LENIENT, **state: bool) -> dict[str, str | None]:
        return dict(self.gates(settings, **state).select("subject", "reason").iter_rows())

    def decide_dispositions(self, settings: ClinicalAudit = LENIENT, *more: str, **state: bool) -> pl.DataFrame:
        arrivals = files(*sorted({*self.verdicts["arrival_id"], *more}))
        units = gate.add_copy_reasons(self.verdicts, gate.find_lost(self.outcomes))
        rows = gate.decide_dispositions(arrivals, units, self.outcomes, self.gates(settings, **state))
        assert rows.schema == DISPOSITIONS
        return rows

    def words(self, settings: ClinicalAudit = LENIENT, **state: bool) -> dict[str, tuple[str, str | None]]:
        rows = self.decide_dispositions(settings, **state)
        return {row["resource_id"]: (row["disposition"], row["reason"]) for row in rows.iter_rows(named=True)}


def files(*names: str) -> pl.DataFrame:
    return frame(
        [{"arrival_id": name, "key": f"in/{name}", "size": 1000, "bucket": "archive"} for name in names], ARRIVALS
    )


def stopped(each: dict[str, Any], reason: str = "invalid_resource", verdict: str = "quarantine") -> dict[str, Any]:
    return each | {"verdict": verdict, "reason": reason}


UNACCOUNTED = ("unaccounted", "not_in_manifest")
SERVER_ERROR = ("server_error", "server_error")
REJECTED = ("rejected", "rejected")
WITH_ISSUES = ("imported_with_warning", "stored_with_issues")
RELEASED = ("released", None)


class TestDecide:
    def test_every_patient_and_every_file_has_a_gate(self) -> None:
        rows = Books(P1, O2, P4, ORG).gates()
        assert rows.select("subject", "gate", "reason").rows() == [
            ("Patient/p1", "release", None),
            ("Patient/p4", "release", None),
            ("file/a", "release", None),
            ("file/b", "release", None),
        ]
        assert rows["subject_key"][0] == subject_key(STORE, "Patient/p1")

    @pytest.mark.parametrize("what", [UNACCOUNTED, SERVER_ERROR, ("imported", "read_back_mismatch")])
    def test_an_uncertain_resource_holds_its_patient_and_no_other(self, what: tuple[str, str]) -> None:
        books = Books(P1, O2, P4, o2=what)
        if what[0] == "imported":
            differs = pl.col("resource_id") == "o2"
            books.outcomes = books.outcomes.with_columns(uncertain=differs)
        assert books.reasons() == {"Patient/p1": what[1], "Patient/p4": None, "file/a": None, "file/b": None}

    def test_a_batch_whose_counts_disagree_holds_its_patients(self) -> None:
        books = Books(P1, P4 | {"batch_id": "b2"}, suspect=("b1",))
        assert books.reasons()["Patient/p1"] == "job_counts_disagree"
        assert books.reasons()["Patient/p4"] is None

    def test_a_rejected_or_quarantined_resource_holds_its_patient_if_the_policy_asks(self) -> None:
        rejected = Books(P1, O2, o2=REJECTED)
        quarantined = Books(P1).and_(stopped(O2))
        for books, reason in ((rejected, "rejected"), (quarantined, "invalid_resource")):
            assert books.reasons()["Patient/p1"] is None
            assert books.reasons(WHOLE_PATIENTS)["Patient/p1"] == reason
            assert books.words(WHOLE_PATIENTS)["p1"] == ("held", "patient_held")

    def test_a_duplicate_holds_no_patient(self) -> None:
        books = Books(P1).and_(stopped(O2, "duplicate_same_content", "duplicate"))
        assert set(
            books.reasons(ClinicalAudit(hold_incomplete_patients=True, hold_incomplete_files=True)).values()
        ) == {None}

    @pytest.mark.parametrize("what", [UNACCOUNTED, SERVER_ERROR, REJECTED])
    def test_a_file_is_held_for_one_of_its_resources_if_the_policy_asks(self, what: tuple[str, str]) -> None:
        books = Books(P1, ORG, P4, g5=what)
        assert books.reasons()["file/a"] is None
        assert books.reasons(WHOLE_FILES)["file/a"] == what[1]
        assert books.reasons(WHOLE_FILES)["file/b"] is None

    def test_a_line_that_is_not_json_holds_its_file_if_the_policy_asks(self) -> None:
        books = Books(P1).and_({"arrival_id": "a", "line": 8, "verdict": "quarantine", "reason": "not_json"})
        assert books.reasons(WHOLE_FILES)["file/a"] == "not_json"

    def test_in_an_object_of_parked_resources_none_holds_another(self) -> None:
        books = Books(P1, P4, p4=UNACCOUNTED).and_(stopped(O2))
        known, apart = (STORE, books.verdicts, books.outcomes, WHOLE_FILES), pl.Series(["a"])
        gates = gate.decide_files(*known, balanced=True, apart=apart)
        assert dict(gates.select("subject", "reason").iter_rows()) == {"file/a": None, "file/b": "not_in_manifest"}

    def test_a_patient_without_an_imported_resource_is_held(self) -> None:
        assert Books(P1, p1=REJECTED).reasons() == {"Patient/p1": "rejected", "file/a": "rejected"}

    def test_books_that_do_not_balance_hold_everything(self) -> None:
        books = Books(P1, O2, P4, o2=UNACCOUNTED)
        assert set(books.reasons(balanced=False).values()) == {"run_unbalanced"}

    def test_everything_waits_for_the_review(self) -> None:
        books = Books(P1, O2, P4, o2=UNACCOUNTED)
        waits = {"Patient/p4": "awaiting_review", "file/a": "awaiting_review", "file/b": "awaiting_review"}
        assert books.reasons(reviewed=False) == waits | {"Patient/p1": "not_in_manifest"}

    def test_an_empty_run_has_no_gates(self) -> None:
        assert Books().gates().is_empty()


class TestLastWords:
    def test_an_imported_resource_is_released(self) -> None:
        assert Books(P1, ORG).words() == {"p1": RELEASED, "g5": RELEASED}

    @pytest.mark.parametrize("what", [UNACCOUNTED, SERVER_ERROR])
    def test_an_uncertain_resource_fails_and_its_patients_other_resources_are_held(self, what: tuple[str, str]) -> None:
        books = Books(P1, O2, P4, ORG, o2=what)
        held = {"p1": ("held", "patient_held"), "o2": ("failed", what[1])}
        assert books.words() == held | {"p4": RELEASED, "g5": RELEASED}

    def test_a_rejected_resource_fails_alone(self) -> None:
        assert Books(P1, O2, o2=REJECTED).words() == {"p1": RELEASED, "o2": ("failed", "rejected")}

    def test_a_resource_stored_with_issues_is_held_alone(self) -> None:
        assert Books(P1, O2, o2=WITH_ISSUES).words() == {"p1": RELEASED, "o2": ("held", "stored_with_issues")}

    def test_a_note_holds_nothing_and_hides_no_hold(self) -> None:
        noted = ("imported", "dangling_reference")
        assert Books(P1, O2, o2=noted).words() == {"p1": RELEASED, "o2": ("released", "dangling_reference")}
        held = Books(P1, O2, O3, o2=noted, o3=UNACCOUNTED).words()
        assert held["o2"] == held["p1"] == ("held", "patient_held")

    def test_resources_of_a_batch_whose_counts_disagree_are_held(self) -> None:
        books = Books(P1, O2, O3, suspect=("b1",), o2=WITH_ISSUES, o3=REJECTED)
        disagree = ("held", "job_counts_disagree")
        assert books.words() == {"p1": disagree, "o2": disagree, "o3": ("failed", "rejected")}

    def test_a_held_file_holds_its_other_resources(self) -> None:
        books = Books(P1, unit("Patient/p6", of="Patient/p6"), P4).and_(stopped(O2))
        held = ("held", "file_held")
        assert books.words(WHOLE_FILES) == {
            "p1": held,
            "p6": held,
            "p4": RELEASED,
            "o2": ("quarantined", "invalid_resource"),
        }

    def test_an_unbalanced_run_holds_everything_in_the_data_store(self) -> None:
        books = Books(P1, O2, O3, o2=WITH_ISSUES, o3=REJECTED)
        held = ("held", "run_unbalanced")
        assert books.words(balanced=False) == {"p1": held, "o2": held, "o3": ("failed", "rejected")}

    def test_converted_data_waits_for_its_review(self) -> None:
        books = Books(P1, O2, o2=REJECTED)
        assert books.words(reviewed=False) == {"p1": ("held", "awaiting_review"), "o2": ("failed", "rejected")}

    @pytest.mark.parametrize(
        ("verdict", "reason", "word", "stage"),
        [
            ("quarantine", "not_json", "quarantined", "parse"),
            ("quarantine", "invalid_resource", "quarantined", "validate"),
            ("duplicate", "duplicate_same_content", "duplicate", "validate"),
            ("ignore", "sidecar", "ignored", "parse"),
        ],
    )
    def test_a_verdict_before_import_is_the_disposition(self, verdict: str, reason: str, word: str, stage: str) -> None:
        rows = Books(P1).and_(stopped(O2, reason, verdict)).decide_dispositions()
        row = rows.filter(pl.col("resource_id") == "o2").row(0, named=True)
        assert (row["disposition"], row["reason"], row["stage"]) == (word, reason, stage)

    def test_a_duplicate_of_a_resource_that_was_not_imported_fails(self) -> None:
        twin = stopped(TWIN, "duplicate_same_content", "duplicate")
        for what, expected in ((REJECTED, ("failed", "rejected")), (("imported", None), ("duplicate", twin["reason"]))):
            rows = Books(P1, O2, o2=what).and_(twin).decide_dispositions()
            row = rows.filter(pl.col("arrival_id") == "b").row(0, named=True)
            assert (row["disposition"], row["reason"]) == expected

    def test_a_file_without_a_verdict_has_one_row(self) -> None:
        rows = Books(P1).decide_dispositions(LENIENT, "z")
        row = rows.filter(pl.col("arrival_id") == "z").row(0, named=True)
        assert (row["line"], row["disposition"], row["reason"], row["stage"]) == (None, "failed", "undecided", "audit")

    def test_a_file_that_is_its_own_unit_has_the_files_size(self) -> None:
        whole = {"arrival_id": "e", "line": None, "verdict": "quarantine", "reason": "empty_object"}
        rows = Books(P1).and_(whole).decide_dispositions()
        assert rows.filter(pl.col("arrival_id") == "e").select("line", "size", "stage").row(0) == (None, 1000, "parse")

    def test_an_accepted_resource_without_an_outcome_is_undecided(self) -> None:
        books = Books(P1)
        books.verdicts = verdicts(P1, O2)
        assert books.words()["o2"] == ("failed", "undecided")

    def test_the_rows_are_in_the_order_of_the_files(self) -> None:
        rows = Books(P4, O3, P1, O2).decide_dispositions()
        assert rows.select("key", "line").rows() == [("in/a", 1), ("in/a", 2), ("in/a", 3), ("in/b", 4)]


def word_of(*units: tuple[str, str | None]) -> tuple[str, str | None]:
    """Return the disposition of a file with these units."""
    rows = [
        {"arrival_id": "a", "line": number, "disposition": word, "reason": reason, "stage": "audit", "detail": "said"}
        for number, (word, reason) in enumerate(units)
    ]
    found = gate.decide_file_dispositions(files("a"), gate.sum_dispositions(frame(rows, DISPOSITIONS)))
    assert found.schema == FILE_DISPOSITIONS
    assert (found["detail"][0] == "said") == (len(units) == 1)
    return found.select("disposition", "reason").row(0)


INVALID = ("quarantined", "invalid_resource")
DUPLICATE = ("duplicate", "duplicate_same_content")


class TestFileWords:
    @pytest.mark.parametrize(
        ("units", "word"),
        [
            ([RELEASED], RELEASED),
            ([INVALID], INVALID),
            ([RELEASED, RELEASED], RELEASED),
            ([INVALID, INVALID], INVALID),
            ([INVALID, ("quarantined", "not_json")], ("quarantined", "resources_set_aside")),
            ([RELEASED, INVALID], ("quarantined", "resources_set_aside")),
            ([INVALID, ("held", "patient_held"), RELEASED], ("held", "resources_set_aside")),
            ([("failed", "rejected"), ("held", "patient_held")], ("failed", "resources_set_aside")),
            ([RELEASED, DUPLICATE], RELEASED),
            ([DUPLICATE, DUPLICATE], DUPLICATE),
            ([RELEASED, ("quarantined", "instance_claimed"), INVALID], ("quarantined", "instance_claimed")),
            ([("failed", "rejected"), ("quarantined", "instance_claimed")], ("failed", "instance_claimed")),
            ([RELEASED, ("quarantined", "awaited_reference"), INVALID], ("quarantined", "awaited_reference")),
            ([("parked", "waiting_for_resource"), DUPLICATE], ("parked", "resources_set_aside")),
            ([("parked", "waiting_for_resource")], ("parked", "waiting_for_resource")),
            ([RELEASED, ("parked", "waiting_for_resource"), INVALID], ("quarantined", "resources_set_aside")),
        ],
    )
    def test_a_file_has_the_gravest_disposition_and_the_shared_reason(
        self, units: list[tuple[str, str | None]], word: tuple[str, str | None]
    ) -> None:
        assert word_of(*units) == word
        assert word_of(*reversed(units)) == word
