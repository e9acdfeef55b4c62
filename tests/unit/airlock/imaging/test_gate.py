"""Release or hold, per study; and from it the last word on every arrival."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.imaging import report
from airlock.imaging.gate import decide_dispositions, decide_studies, flag_blocking
from airlock.imaging.outcomes import account, find_discrepancies
from airlock.pipelines import Audit
from airlock.reasons import SENTENCES, Reason
from airlock.records import ARRIVALS, DISPOSITIONS, GATES, OUTCOMES, VERDICTS, Disposition, Stage, study_key
from airlock.stages.reporting import describe_imbalances
from tests.unit.airlock.job_output import files as batch
from tests.unit.airlock.job_output import output
from tests.unit.airlock.world import dicom, ended_job, frame, outcomes, unread, verdicts

A, B = dicom("a"), dicom("b")
OTHER = dicom("o", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")


def gated(
    arrivals: pl.DataFrame,
    facts: pl.DataFrame,
    *,
    elsewhere: dict[Reason, list[tuple[str, str]]] | None = None,
    balanced: bool = True,
    suspect: list[str] | None = None,
    **policy: Any,
) -> tuple[dict[str, tuple[str, str | None]], dict[str, tuple[str, str | None]]]:
    """Return the gate and its reason by study, and the disposition and its reason by file."""
    marked = flag_blocking(facts, Audit(**policy), suspect or [])
    gates = decide_studies(arrivals, marked, elsewhere or {}, Audit(**policy), balanced=balanced)
    words = decide_dispositions(arrivals.select(ARRIVALS.names()), arrivals, marked, gates)
    return (
        {uid: (gate, why) for uid, gate, why in gates.select("StudyInstanceUID", "gate", "reason").iter_rows()},
        {key[3:]: (word, why) for key, word, why in words.select("key", "disposition", "reason").iter_rows()},
    )


def warned(*types: str, file: dict[str, Any] = A) -> pl.DataFrame:
    return outcomes(file, outcome="imported_with_warning", reason="service_warning", warnings=list(types), detail="x")


class TestGate:
    def test_a_study_that_came_in_whole_is_released(self) -> None:
        gates, words = gated(verdicts(A, B), outcomes(A, B))
        assert gates == {"1.1": ("release", None)}
        assert words == {"a": ("released", None), "b": ("released", None)}

    def test_a_study_has_one_row_with_its_key(self) -> None:
        gates = decide_studies(
            verdicts(A, B, OTHER), flag_blocking(outcomes(A, B, OTHER), Audit(), []), {}, Audit(), balanced=True
        )
        assert gates.schema == GATES
        assert gates.select("StudyInstanceUID", "study_key").rows() == [(uid, study_key(uid)) for uid in ("1.1", "1.2")]

    @pytest.mark.parametrize("harmless", ["COERCION_OF_DATA_ELEMENTS", "ELEMENTS_DISCARDED", "INVALID_UID_FORMAT"])
    def test_a_harmless_warning_releases_and_is_told(self, harmless: str) -> None:
        gates, words = gated(verdicts(A), warned(harmless))
        assert gates == {"1.1": ("release", None)}
        assert words == {"a": ("released", "service_warning")}

    @pytest.mark.parametrize(
        "harmful",
        [
            "SOP_CLASS_DATA_MISMATCH",
            "TRANSCODING_EXCEPTION",
            "FRAMES_EXTRACTION_FAILURE",
            "FRAME_NUMBER_MISMATCH",
            "INVALID_OFFSET_TABLE",
            "UNSUPPORTED_TRANSFER_SYNTAX",
            "INVALID_DICOM_VALUE_LENGTH",
            "OTHER",
            "NEVER_HEARD_OF",
            "",
        ],
    )
    def test_any_other_warning_holds_an_unknown_one_too(self, harmful: str) -> None:
        gates, words = gated(verdicts(A, B), pl.concat([warned("ELEMENTS_DISCARDED", harmful), outcomes(B)]))
        assert gates == {"1.1": ("hold", "service_warning")}
        assert words == {"a": ("held", "service_warning"), "b": ("held", "study_held")}

    def test_which_warnings_are_harmless_is_a_setting(self) -> None:
        assert gated(verdicts(A), warned("OTHER"), harmless_warnings=["OTHER"])[0]["1.1"][0] == "release"
        assert (
            gated(verdicts(A), warned("INVALID_OFFSET_TABLE"), harmless_warnings=["InvalidOffsetTable"])[0]["1.1"][0]
            == "release"
        )
        assert gated(verdicts(A), warned("ELEMENTS_DISCARDED"), harmless_warnings=[])[0]["1.1"][0] == "hold"

    @pytest.mark.parametrize("finding", ["non_primary", "version_above_one"])
    def test_a_conflict_holds(self, finding: str) -> None:
        outcome = "non_primary" if finding == "non_primary" else "imported"
        facts = pl.concat([outcomes(A, outcome=outcome, reason=finding), outcomes(B)])
        gates, words = gated(verdicts(A, B), facts)
        assert gates == {"1.1": ("hold", finding)}
        assert words == {"a": ("held", finding), "b": ("held", "study_held")}

    @pytest.mark.parametrize("outcome", ["rejected", "server_error", "unaccounted"])
    @pytest.mark.parametrize("policy", [True, False])
    def test_a_file_that_did_not_come_in_holds_its_study_and_no_other(self, outcome: str, policy: bool) -> None:
        facts = pl.concat(
            [outcomes(A, outcome=outcome, reason="rejected", detail="x", image_set_id=None), outcomes(B, OTHER)]
        )
        gates, words = gated(verdicts(A, B, OTHER), facts, hold_incomplete_studies=policy)
        assert gates == {"1.1": ("hold", "rejected"), "1.2": ("release", None)}
        assert words == {"a": ("failed", "rejected"), "b": ("held", "study_incomplete"), "o": ("released", None)}

    @pytest.mark.parametrize("code", [Reason.SIBLING_UNREAD, Reason.WAITING_FOR_FILE])
    def test_an_unread_file_that_is_counted_to_a_study_holds_every_file_of_it(self, code: Reason) -> None:
        gates, words = gated(verdicts(A, OTHER), outcomes(A, OTHER), elsewhere={code: [("1.1", "x"), ("1.9", "y")]})
        assert gates == {"1.1": ("hold", code), "1.2": ("release", None)}
        assert words == {"a": ("held", code), "o": ("released", None)}

    def test_a_quarantined_sibling_holds_as_the_policy_says(self) -> None:
        stopped = dicom("b", verdict="quarantine", reason="element_too_long", detail="StudyID")
        gates, words = gated(verdicts(A, stopped), outcomes(A))
        assert gates == {"1.1": ("hold", "element_too_long")}
        assert words == {"a": ("held", "study_incomplete"), "b": ("quarantined", "element_too_long")}
        assert gated(verdicts(A, stopped), outcomes(A), hold_incomplete_studies=False)[0] == {"1.1": ("release", None)}

    def test_a_quarantined_file_of_no_known_study_holds_none(self) -> None:
        stopped = unread("b", "not_dicom") | {"verdict": "quarantine"}
        assert gated(verdicts(A, stopped), outcomes(A))[0] == {"1.1": ("release", None)}

    def test_duplicate_and_ignored_siblings_do_not_hold(self) -> None:
        siblings = (
            dicom("b", verdict="duplicate", reason="duplicate_same_content"),
            dicom("c", verdict="ignore", reason="sidecar"),
        )
        assert gated(verdicts(A, *siblings), outcomes(A))[0] == {"1.1": ("release", None)}

    @pytest.mark.parametrize("policy", [True, False])
    @pytest.mark.parametrize("reason", [Reason.STUDY_HELD, Reason.STUDY_INCOMPLETE])
    def test_an_unresolved_file_of_another_run_holds_its_study_with_its_reason(
        self, reason: Reason, policy: bool
    ) -> None:
        """The ledger selects the unresolved files, by the same policy."""
        found, words = gated(
            verdicts(A, OTHER), outcomes(A, OTHER), elsewhere={reason: [("1.1", "x")]}, hold_incomplete_studies=policy
        )
        assert found == {"1.1": ("hold", reason), "1.2": ("release", None)}
        assert words == {"a": ("held", reason), "o": ("released", None)}

    def test_a_study_whose_only_file_blocks_does_not_wait_for_another(self) -> None:
        gates, words = gated(verdicts(A), warned("INVALID_OFFSET_TABLE"))
        assert gates == {"1.1": ("hold", "service_warning")}
        assert words == {"a": ("held", "service_warning")}
        lost = outcomes(A, outcome="rejected", reason="rejected", image_set_id=None)
        assert gated(verdicts(A), lost)[0] == {"1.1": ("hold", "rejected")}

    def test_of_several_files_that_block_the_gravest_gives_the_gate_its_reason(self) -> None:
        c, stopped = dicom("c"), dicom("d", verdict="quarantine", reason="element_too_long")
        warning, conflict = warned("INVALID_OFFSET_TABLE"), outcomes(B, outcome="non_primary", reason="non_primary")
        lost = outcomes(c, outcome="rejected", reason="rejected", image_set_id=None)
        facts = [lost, warning, conflict]
        for reason in ("non_primary", "service_warning"):
            gates, _ = gated(verdicts(A, B, c, stopped), pl.concat(facts))
            assert gates == {"1.1": ("hold", reason)}
            facts.pop()
        assert gated(verdicts(c, stopped), lost)[0] == {"1.1": ("hold", "element_too_long")}

    def test_a_file_that_did_not_come_in_holds_even_if_nobody_said_why(self) -> None:
        lost = outcomes(A, outcome="rejected", reason=None, image_set_id=None)
        assert gated(verdicts(A), lost)[0] == {"1.1": ("hold", "study_incomplete")}

    def test_a_batch_whose_counts_disagree_holds_all_its_studies(self) -> None:
        facts = pl.concat([outcomes(A, B), outcomes(OTHER, batch_id="b2")])
        gates, words = gated(verdicts(A, B, OTHER), facts, suspect=["b1"])
        assert gates == {"1.1": ("hold", "job_counts_disagree"), "1.2": ("release", None)}
        assert words == {
            "a": ("held", "job_counts_disagree"),
            "b": ("held", "job_counts_disagree"),
            "o": ("released", None),
        }

    def test_in_such_a_batch_a_graver_finding_keeps_its_name(self) -> None:
        facts = pl.concat([outcomes(A, outcome="non_primary", reason="non_primary"), warned("OTHER", file=B)])
        facts = pl.concat([facts, outcomes(dicom("c"), outcome="rejected", reason="rejected", image_set_id=None)])
        _, words = gated(verdicts(A, B, dicom("c")), facts, suspect=["b1"])
        assert words == {
            "a": ("held", "non_primary"),
            "b": ("held", "job_counts_disagree"),
            "c": ("failed", "rejected"),
        }

    def test_a_run_that_does_not_balance_holds_everything(self) -> None:
        gates, words = gated(verdicts(A, OTHER), outcomes(A, OTHER), balanced=False)
        assert gates == dict.fromkeys(("1.1", "1.2"), ("hold", "run_unbalanced"))
        assert set(words.values()) == {("held", "run_unbalanced")}

    def test_of_nothing_there_are_no_gates(self) -> None:
        assert gated(verdicts(), outcomes()) == ({}, {})


class TestLastWords:
    def words(
        self, arrivals: pl.DataFrame, decided: pl.DataFrame, facts: pl.DataFrame, gates: pl.DataFrame
    ) -> dict[str, Any]:
        rows = decide_dispositions(arrivals, decided, flag_blocking(facts, Audit(), []), gates)
        assert rows.schema == DISPOSITIONS
        return {row["key"][3:]: row for row in rows.rows(named=True)}

    @pytest.mark.parametrize(
        ("verdict", "reason", "word", "stage"),
        [
            ("quarantine", "truncated", "quarantined", "parse"),
            ("quarantine", "undecodable_text", "quarantined", "validate"),
            ("quarantine", "patient_id_conflict", "quarantined", "validate"),
            ("duplicate", "duplicate_same_content", "duplicate", "validate"),
            ("ignore", "sidecar", "ignored", "parse"),
        ],
    )
    def test_a_verdict_before_import_is_the_disposition(self, verdict: str, reason: str, word: str, stage: str) -> None:
        decided = verdicts(A | {"verdict": verdict, "reason": reason, "detail": "d"})
        row = self.words(frame([A], ARRIVALS), decided, OUTCOMES.to_frame(), GATES.to_frame())["a"]
        assert (row["disposition"], row["stage"], row["reason"], row["detail"]) == (word, stage, reason, "d")

    def test_a_row_names_the_arrival_and_its_image_set(self) -> None:
        gates = frame([{"StudyInstanceUID": "1.1", "gate": "release"}], GATES)
        row = self.words(frame([A], ARRIVALS), verdicts(A), outcomes(A), gates)["a"]
        assert row == {
            "arrival_id": A["arrival_id"],
            "key": "in/a",
            "size": 1000,
            "sop_instance_uid": A["SOPInstanceUID"],
            "series_instance_uid": "1.1.1",
            "study_instance_uid": "1.1",
            "disposition": "released",
            "stage": "audit",
            "reason": None,
            "detail": None,
            "batch_id": "b1",
            "job_id": "j1",
            "image_set_id": "i1",
        }

    def test_a_finding_that_is_only_noted_is_kept_for_a_released_file(self) -> None:
        noted = A | {"reason": "invalid_uid", "detail": "SOPInstanceUID"}
        gates = frame([{"StudyInstanceUID": "1.1", "gate": "release"}], GATES)
        row = self.words(frame([A], ARRIVALS), verdicts(noted), outcomes(A), gates)["a"]
        assert (row["disposition"], row["reason"], row["detail"]) == ("released", "invalid_uid", "SOPInstanceUID")

    @pytest.mark.parametrize("reason", ["object_changed", "object_gone"])
    def test_a_duplicate_of_a_file_that_could_not_be_staged_fails(self, reason: str) -> None:
        twin = dicom("z", SOPInstanceUID=A["SOPInstanceUID"])
        decided = verdicts(A, twin | {"verdict": "duplicate", "reason": "duplicate_same_content"}).with_columns(
            duplicate_of=pl.when(pl.col("verdict") == "duplicate").then(pl.lit(A["arrival_id"]))
        )
        lost = outcomes(A, outcome="unaccounted", reason=reason, job_id=None, image_set_id=None)
        rows = self.words(frame([A, twin], ARRIVALS), decided, lost, GATES.to_frame())
        assert {(row["disposition"], row["stage"], row["reason"]) for row in rows.values()} == {
            ("failed", "stage", reason)
        }
        assert "the next run takes this file" in rows["z"]["detail"]
        refused = outcomes(A, outcome="rejected", reason="rejected", image_set_id=None)
        rows = self.words(frame([A, twin], ARRIVALS), decided, refused, GATES.to_frame())
        assert rows["z"]["disposition"] == "duplicate", "the same content would be refused again"

    def test_without_verdicts_every_arrival_is_undecided(self) -> None:
        rows = self.words(frame([A, B], ARRIVALS), VERDICTS.to_frame(), OUTCOMES.to_frame(), GATES.to_frame())
        assert {(row["disposition"], row["reason"], row["stage"]) for row in rows.values()} == {
            ("failed", "undecided", "audit")
        }

    def test_accepted_without_an_outcome_is_undecided(self) -> None:
        row = self.words(frame([A], ARRIVALS), verdicts(A), OUTCOMES.to_frame(), GATES.to_frame())["a"]
        assert (row["disposition"], row["reason"]) == ("failed", "undecided")

    def test_imported_without_a_gate_is_held(self) -> None:
        assert (
            self.words(frame([A], ARRIVALS), verdicts(A), outcomes(A), GATES.to_frame())["a"]["disposition"] == "held"
        )


LINE = st.fixed_dictionaries(
    {
        "staged_key": st.sampled_from(["0", "1", "2", "3", "4", "5", "foreign"]),
        "kind": st.sampled_from(["success", "success", "failure", "warning"]),
        "is_primary": st.sampled_from([True, True, True, False, None]),
        "warnings": st.sampled_from([[], [], ["OTHER"], ["ELEMENTS_DISCARDED"]]),
        "exception_type": st.sampled_from([None, "ValidationException", "X"]),
    }
)
COUNTERS = ("scanned", "imported", "customer_errors", "server_errors")
COUNTS = st.fixed_dictionaries({name: st.none() | st.integers(0, 7) for name in COUNTERS})
JOB = st.builds(lambda status: ended_job(status=status), st.sampled_from(["COMPLETED", "FAILED"]))
ENDS = st.none() | st.tuples(JOB, st.lists(LINE, max_size=14), COUNTS, st.booleans())
VERDICTS_DRAWN = st.lists(st.sampled_from(["accept", "accept", "duplicate", "quarantine", "ignore"]), max_size=6)


def sent(each: dict[str, Any], reason: str | None) -> pl.DataFrame:
    """Return an accepted arrival's row of its batch; its name is its staged key."""
    uids = {name: each[name] for name in ("arrival_id", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")}
    return batch(each["key"][3:], reason=reason, **uids)


@settings(max_examples=100)
@given(words=VERDICTS_DRAWN, end=ENDS, policy=st.booleans(), changed=st.booleans())
def test_the_books_balance_whatever_the_job_left(words: list[str], end: Any, policy: bool, changed: bool) -> None:
    named = [
        dicom(f"{n}", StudyInstanceUID=f"1.{n % 2}", verdict=word, reason=None if word == "accept" else "sidecar")
        for n, word in enumerate(words)
    ]
    accepted = [each for each in named if each["verdict"] == "accept"]
    listed = pl.concat(
        [batch(), *(sent(each, "object_gone" if changed and each["key"] == "in/0" else None) for each in accepted)]
    )
    job, lines, counted, found = end or (None, [], {}, False)
    left = None if job is None else output(*lines, found=found, **counted)
    facts = account(listed, job, left)
    suspect = ["b1"] if left is not None and find_discrepancies(listed, left) else []
    marked = flag_blocking(facts, Audit(), suspect)
    arrivals, decided = frame(named, ARRIVALS), verdicts(*named)
    gates = decide_studies(decided, marked, {}, Audit(hold_incomplete_studies=policy), balanced=True)
    rows = decide_dispositions(arrivals, decided, marked, gates)

    books = {"arrivals": arrivals, "verdicts": decided, "outcomes": facts, "dispositions": rows, "held": arrivals}
    assert describe_imbalances(report.imbalances(books)) == []
    assert rows.height == len(words)
    assert facts.height == len(accepted)
    assert rows["disposition"].is_in([*Disposition]).all()
    assert rows["stage"].is_in([*Stage]).all()
    for word, disposition in (("duplicate", "duplicate"), ("quarantine", "quarantined"), ("ignore", "ignored")):
        assert (rows["disposition"] == disposition).sum() == words.count(word)
    assert set(rows["reason"].drop_nulls()) <= set(SENTENCES) - {str(Reason.UNDECIDED)}
    assert rows.filter((pl.col("disposition") != "released") & pl.col("reason").is_null()).is_empty()

    released = rows.filter(pl.col("disposition") == "released")
    contradicted = {line["staged_key"] for line in lines if line["kind"] == "failure" or line["is_primary"] is False}
    proven = {line["staged_key"] for line in lines if line["kind"] != "failure"} - contradicted
    assert {key[3:] for key in released["key"]} <= proven
    assert released.is_empty() or not suspect
    open_studies = set(gates.filter(pl.col("gate") == "release")["StudyInstanceUID"])
    assert set(released["study_instance_uid"]) == open_studies
    for uid in open_studies:
        of_study = rows.filter(
            (pl.col("study_instance_uid") == uid) & ~pl.col("disposition").is_in(["duplicate", "ignored"])
        )
        assert not policy or set(of_study["disposition"]) == {"released"}


def test_counts_that_disagree_are_graver_than_a_warning_of_the_service() -> None:
    """The reason decides whether an edge is told that the data store has the instance."""
    facts = outcomes(A, outcome="imported_with_warning", reason="service_warning", warnings=["Harmful"], batch_id="b1")
    marked = flag_blocking(facts, Audit(), ["b1"])
    assert marked.select("reason", "blocks").rows() == [("job_counts_disagree", True)]
